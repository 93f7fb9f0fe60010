"""An asyncio loop in virtual time, whose processes can be killed or frozen between two callbacks.

Every callback belongs to the process in whose context it was scheduled (`PROCESS`). A killed
process runs nothing any more, not even its `finally` blocks: that is what kill -9 does. A frozen
one (SIGSTOP, or a disk that blocks the loop) runs what it missed when it thaws.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Process:
    """One simulated operating system process."""

    name: str
    alive: bool = True
    frozen_until_s: float = 0.0
    backlog: "deque[_Handle]" = field(default_factory=deque)
    slow_disk: Callable[[], bool] = lambda: False
    """What its threads do takes long, now and then."""
    stall_s: float = 0.0
    """Its next call in a thread takes so much longer."""
    hang_s: float = 0.0
    """Its next write in a thread takes so much longer."""


def die(process: Process) -> None:
    """kill -9: nothing of the process runs again."""
    process.alive = False
    process.backlog.clear()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)

RESOLUTION_S = 1e-5

STEPS_MAX = 1_500_000
"""Callbacks of one seed; more is a livelock."""


class DeadlockError(Exception):
    """Nothing is scheduled and the run has not ended."""


class _Handle:
    """What is scheduled: asyncio's own handles cost a third of a run."""

    __slots__ = ("args", "call", "context")
    _source_traceback = None

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self.call: Callable[..., Any] | None = call
        self.args = args
        self.context = context

    def cancel(self) -> None:
        """It will not run."""
        self.call = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.call is None


class _Task(asyncio.Task[Any]):
    """Hashes by its number, so that sets of tasks have the same order in every run."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_Task.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.BaseEventLoop):
    """Time jumps to the next timer; no thread, no socket, no real clock."""

    _ready: "deque[_Handle]"
    _stopping: bool
    _closed: bool

    def __init__(self, executor_delay_s: Callable[[Process | None], float]) -> None:
        super().__init__()
        self.now_s = 0.0
        self.steps = 0
        self.over = False
        """After the end even what was killed may run, to be cancelled in order."""
        self.tasks: list[asyncio.Task[Any]] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._sequence = 0
        """Orders timers of one moment as they were set."""
        self._executor_delay_s = executor_delay_s
        _Task.numbers = itertools.count()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.now_s

    def spawn_in(
        self, process: Process | None, work: Coroutine[Any, Any, Any], name: str
    ) -> asyncio.Task[Any]:
        """A task of `process`."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, name=name, context=context)

    def freeze(self, process: Process, seconds: float) -> None:
        """The process runs nothing for so long."""
        until_s = self.now_s + seconds
        if until_s <= process.frozen_until_s:
            return
        process.frozen_until_s = until_s
        self.call_at(until_s, self._thaw, process, context=Context())

    def _thaw(self, process: Process) -> None:
        if self.now_s >= process.frozen_until_s:
            self._ready.extend(process.backlog)
            process.backlog.clear()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = _Task(work, loop=loop, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 20_000:
            self.tasks = [t for t in self.tasks if not t.done()]
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """The call happens at one moment between now and the answer."""
        future = self.create_future()
        process = PROCESS.get()
        answer_s = self._executor_delay_s(process)
        if process is not None and process.hang_s and getattr(func, "__name__", "") == "write":
            answer_s, process.hang_s = answer_s + process.hang_s, 0.0

        def answer(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def work() -> None:
            try:
                result = func(*args)
            except Exception as e:
                self.call_later(answer_s / 2, answer, None, e)
            else:
                self.call_later(answer_s / 2, answer, result, None)

        self.call_later(answer_s / 2, work)
        return future

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        """A process's timers are no finer than a real loop's, so that waiting makes progress."""
        if context is None:
            context = copy_context()
            if 0.0 < when - self.now_s < RESOLUTION_S:
                when = self.now_s + RESOLUTION_S
        timer = _Handle(callback, args, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        if self._closed:
            raise RuntimeError("the loop is closed")
        handle = _Handle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].call is None:
                heapq.heappop(timers)
            if timers:
                self.now_s = max(self.now_s, timers[0][0])
            elif not self._stopping:
                raise DeadlockError(f"nothing left to run at {self.now_s:.3f} s")
        now_s = self.now_s
        while timers and timers[0][0] <= now_s:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            call, context = handle.call, handle.context
            if call is None:
                continue
            process = context.get(PROCESS)
            if process is not None and not self.over:
                if not process.alive:
                    continue
                if process.frozen_until_s > now_s or process.backlog:
                    process.backlog.append(handle)
                    continue
            self.steps += 1
            try:
                context.run(call, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as e:
                self.call_exception_handler({"message": f"exception in {call}", "exception": e})
        if self.steps > STEPS_MAX:
            raise DeadlockError(f"{self.steps} callbacks by {self.now_s:.3f} s: a livelock")

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There are no threads."""
