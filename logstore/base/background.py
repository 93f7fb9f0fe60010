"""Tasks that run beside their owner: named, ended together, and none of them ends unseen.

No other module creates tasks (`tests/test_tidy.py`). An owner that is an object has a `Background`;
a block that needs help while it runs uses `alongside` or `first_of`, which are an
asyncio.TaskGroup.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import structlog

CANCEL_AGAIN_S = 30.0
"""A task that is still running so long after it was cancelled is logged and cancelled again."""

T = TypeVar("T")
U = TypeVar("U")
Work = Coroutine[Any, Any, T]
Failed = Callable[[str, BaseException], None]
_log = structlog.get_logger(__name__)


class Background:
    """The tasks of one owner: `start` any number of them at any time, `stop` ends them all.

    A task that fails ends alone, the others go on: what the owner does about it is in `failed`.
    An asyncio.TaskGroup would cancel the others, and it begins and ends in one block of one task.
    A task belongs to the context (`contextvars`) of the call that starts it.
    """

    def __init__(self, owner: str, failed: Failed | None = None) -> None:
        """`failed(name, error)` is called once for each unexpected end, which is an exception or
        a cancellation that was not requested; without it the end is logged as an error."""
        self._owner = owner
        self._failed = failed or self._log_failure
        self._tasks: dict[asyncio.Task[Any], None] = {}
        """In the order of their start."""

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def start(self, work: Work[T], name: str = "") -> asyncio.Task[T]:
        """Run `work`; an unforeseen end is reported. `name`: else that of the function."""
        task = self.answer(work, name)
        task.add_done_callback(self._report)
        return task

    def answer(self, work: Work[T], name: str = "") -> asyncio.Task[T]:
        """Run `work` for a caller that awaits the task and handles its error."""
        task = asyncio.create_task(work, name=name or _name(work))
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    async def stop(self) -> None:
        """Cancel all, and wait until they have ended, also those that they start meanwhile.

        One of the tasks may call it: it goes on by itself. A task may be started again later.
        """
        while left := [task for task in self._tasks if task is not asyncio.current_task()]:
            await end(*left)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # seen, also without a waiter

    def _report(self, task: "asyncio.Task[Any]") -> None:
        error = _unforeseen(task)
        if error is not None:
            self._failed(task.get_name(), error)

    def _log_failure(self, name: str, error: BaseException) -> None:
        _log.error("task failed", owner=self._owner, task=name, exc_info=error)


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel `tasks` and wait until they have ended, however they do; not the one that runs."""
    left = [task for task in tasks if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    again = asyncio.get_running_loop().call_later(CANCEL_AGAIN_S, _cancel_again, left)
    try:
        await asyncio.gather(*left, return_exceptions=True)
    finally:
        again.cancel()


async def first_of(
    one: Work[T], other: Work[U], *, timeout_s: float | None = None
) -> tuple[T | None, U | None]:
    """Run both until one has ended or the time is over, and cancel what runs then.

    Returns the results; None of what did not end. The first error is raised.
    """
    with _plain_errors():
        async with asyncio.TaskGroup() as group:
            left, right = group.create_task(one), group.create_task(other)
            await asyncio.wait(
                (left, right), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            left.cancel()
            right.cancel()
    return _result(left), _result(right)


@asynccontextmanager
async def alongside(*works: Work[None]) -> AsyncIterator[None]:
    """Run `works` while the body runs. The first failure, here or there, ends all and is raised."""
    with _plain_errors():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=_name(work)) for work in works]
            yield
            for task in tasks:
                task.cancel()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the first error of a group as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def _name(work: Work[Any]) -> str:
    """What its function is called."""
    return getattr(work, "__qualname__", "")


def _result(task: asyncio.Task[T]) -> T | None:
    return None if task.cancelled() else task.result()


def _unforeseen(task: "asyncio.Task[Any]") -> BaseException | None:
    if not task.cancelled():
        return task.exception()
    if task.cancelling():
        return None
    return asyncio.CancelledError("what the task waited for was cancelled")


def _cancel_again(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        if not task.done():
            _log.warning("task did not end when cancelled", task=task.get_name())
            task.cancel()
