"""Where one client lives, the tasks that it runs there, and its end.

The rule against endless waits: every background task is started by `Lifetime.spawn`, which reports
its end, however it ended, to the waiters for its result. Each waiter
is listed in `Lifetime.hold` (readers, see funnel.py) or is failed by what `close` ends (lanes).
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from logstore.base.background import Background, end
from logstore.base.errors import ClientClosedError, ClientUseError, LogstoreError
from logstore.proto import fork

CLOSED = "the client is closed"
_OTHER_LOOP = (
    "a client belongs to the loop in which it was opened: open one client in each loop, or use"
    " connect_sync, whose clients may be used from any thread"
)

_KEEPERS = Background("open clients")
"""Of all open clients. A loop does not hold its tasks, and a client that was dropped is to be
closed with its loop too."""

T = TypeVar("T")
Tell = Callable[[LogstoreError], None]


def as_ours(error: BaseException) -> LogstoreError:
    """The error itself if it is one of ours, else an internal error with it as the cause."""
    if isinstance(error, LogstoreError):
        return error
    if isinstance(error, asyncio.CancelledError):
        found = LogstoreError("a background task of the client was cancelled from outside")
    else:
        found = LogstoreError(f"internal error: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _pass_over_late_answers(loop: asyncio.AbstractEventLoop) -> None:
    """All loops of a process share gRPC's queue. One may take the answer to a call of another loop
    that has closed since: it has no waiter, and gRPC's traceback of it helps no reader.
    """
    before = loop.get_exception_handler()
    if getattr(before, "passes_over_late_answers", False):
        return

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        late = isinstance(context.get("exception"), RuntimeError) and (
            "PollerCompletionQueue._handle_events" in repr(context.get("handle"))
        )
        if late:
            return
        if before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    handle.passes_over_late_answers = True  # type: ignore[attr-defined]
    loop.set_exception_handler(handle)


class Lifetime:
    """Not open, open, closed; the same in that order for good."""

    def __init__(self, name: str) -> None:
        """`name`: the client's name in errors."""
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ""
        self._process = 0
        self._closed = False
        self._tasks = Background(name)
        self._tells: dict[Tell, None] = {}
        self._keeper: asyncio.Task[None] | None = None

    def open(self, close: Callable[[], Awaitable[None]]) -> None:
        """The running loop becomes the client's. `close` is called when that loop ends first (as
        asyncio.run ends it: by cancelling what is left in it).
        """
        if self._loop is not None:
            raise ClientUseError(
                f"{self._name} was opened before, it is opened once: connect again"
            )
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread().name
        self._process = fork.generation()
        _pass_over_late_answers(self._loop)
        self._keeper = _KEEPERS.answer(self._keep(close))

    def check(self) -> None:
        """Raise unless the client is open and this is its process and its loop."""
        if self._loop is None:
            raise ClientUseError("the client is not open: use `async with connect(...)`")
        if self._closed and fork.is_here(self._process):
            raise ClientClosedError(CLOSED)
        self.check_place()

    def check_place(self) -> None:
        """Raise unless this is the client's process and its loop; it may be closed."""
        fork.check(self._process)
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            if self._closed:
                raise ClientClosedError(CLOSED)
            raise ClientUseError(
                f"{self._name} was opened in the event loop {id(self._loop):#x} of thread"
                f" {self._thread}{', which has ended' if self._loop.is_closed() else ''}; this is"
                f" loop {id(asyncio.get_running_loop()):#x} of thread"
                f" {threading.current_thread().name}: {_OTHER_LOOP}"
            )

    def is_over(self) -> bool:
        """Whether nothing of the client runs any more: its loop was closed, or stayed in the
        parent of a forked process. ClientUseError where it runs in another loop than this.
        """
        if self._loop is None or not fork.is_here(self._process) or self._loop.is_closed():
            return True
        self.check_place()
        return False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The client's loop; it must be open."""
        assert self._loop is not None
        return self._loop

    @property
    def process(self) -> int:
        """The generation (fork.py) of the process in which it was opened."""
        return self._process

    @property
    def closed(self) -> bool:
        return self._closed

    def spawn(
        self,
        work: Coroutine[Any, Any, Any],
        ended: Callable[["asyncio.Task[Any]", LogstoreError | None], None],
    ) -> "asyncio.Task[Any]":
        """Run in the background; `ended` hears of the end, with the error if there was one.

        Called in the loop's turn after the end. A task that was cancelled ended with an error too:
        its canceller knows, and other waiters must not wait on.
        """
        task = self._tasks.answer(work)

        def done(task: "asyncio.Task[Any]") -> None:
            if task.cancelled():
                closed = ClientClosedError(CLOSED) if self._closed else None
                ended(task, closed or as_ours(asyncio.CancelledError()))
            else:
                error = task.exception()
                ended(task, None if error is None else as_ours(error))

        task.add_done_callback(done)
        return task

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Run in the background. The future gets the result or, however it ended, an error of
        ours; its waiter shields it."""
        future: asyncio.Future[T] = self.loop.create_future()

        def ended(task: "asyncio.Task[T]", error: LogstoreError | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(task.result())
            else:
                future.set_exception(error)
                future.exception()  # also without a waiter

        self.spawn(work, ended)
        return future

    def hold(self, tell: Tell) -> None:
        """`tell` is called with the error when the client ends."""
        self.check()
        self._tells[tell] = None

    def let_go(self, tell: Tell) -> None:
        self._tells.pop(tell, None)

    def end(self) -> bool:
        """No more calls; waiters are notified now. False: it had ended before."""
        if self._closed:
            return False
        self._closed = True
        over = self.is_over()
        for tell in [] if over else list(self._tells):
            tell(ClientClosedError(f"{CLOSED}: it was closed during this call"))
        self._tells.clear()
        return True

    async def finish(self) -> None:
        """Cancel the tasks that are left, and wait for them."""
        await end(*self._tasks, *([self._keeper] if self._keeper is not None else []))

    async def _keep(self, close: Callable[[], Awaitable[None]]) -> None:
        try:
            await self.loop.create_future()
        except asyncio.CancelledError:
            if not self._closed:
                await close()
            raise
