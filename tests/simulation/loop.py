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
    backlog: deque[asyncio.Handle] = field(default_factory=deque)


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

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, executor_delay_s: Callable[[], float]) -> None:
        super().__init__()
        self.now_s = 0.0
        self.steps = self.steps_all = 0
        self.over = False
        """After the end even what was killed may run, to be cancelled in order."""
        self.tasks: list[asyncio.Task[Any]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
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
        answer_s = self._executor_delay_s()

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
    ) -> asyncio.TimerHandle:
        """A process's timers are no finer than a real loop's, so that waiting makes progress."""
        if context is None and 0.0 < when - self.now_s < RESOLUTION_S:
            when = self.now_s + RESOLUTION_S
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if timers:
                self.now_s = max(self.now_s, timers[0][0])
            elif not self._stopping:
                raise DeadlockError(f"nothing left to run at {self.now_s:.3f} s")
        while timers and timers[0][0] <= self.now_s:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle_ = ready.popleft()
            if handle_._cancelled:
                continue
            process = handle_._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and not self.over:
                if not process.alive:
                    continue
                if process.frozen_until_s > self.now_s or process.backlog:
                    process.backlog.append(handle_)
                    continue
            self.steps += 1
            self.steps_all += 1
            handle_._run()
        if self.steps > STEPS_MAX:
            raise DeadlockError(f"{self.steps} callbacks by {self.now_s:.3f} s: a livelock")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave the heap when their time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There are no threads."""
