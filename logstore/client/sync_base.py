"""Parts of the synchronous client: a background thread that runs the event loop, the
iterators, and the bases of the classes that are generated into `sync_client`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from logstore.base.background import end
from logstore.base.errors import ClientClosedError, ClientUseError
from logstore.base.public import public
from logstore.base.types import Record
from logstore.client import bounds
from logstore.client.client import Client
from logstore.client.lifetime import CLOSED
from logstore.client.results import Records, Results
from logstore.proto import fork

T = TypeVar("T")
A = TypeVar("A")


class CallLoop:
    """An event loop in a daemon thread. A call waits only while the thread runs: what is still
    under way when the loop ends, is cancelled then.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = fork.generation()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._main, name="logstore-client", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with self._lock:
                self._stopped = True
            self._loop.run_until_complete(end(*asyncio.all_tasks(self._loop)))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run in the loop, wait here. An exception here, as Ctrl-C, cancels it there."""
        fork.check(self._process)
        if threading.current_thread() is self._thread:
            raise ClientUseError("a synchronous client is used in its own background thread")
        with self._lock:
            if self._stopped:
                raise ClientClosedError(CLOSED)
            call = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return call.result()
        except (CancelledError, ClientClosedError):
            raise ClientClosedError(f"{CLOSED}: it was closed during this call") from None
        except BaseException:
            call.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread. In a forked child there is none."""
        with self._lock:
            if self._stopped or not fork.is_here(self._process):
                return
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def is_here(self) -> bool:
        return fork.is_here(self._process)


@public
class SyncResults(Generic[T]):
    """Results for code without asyncio: an iterator over lists or batches.

    It begins with the first step. `close`, the end of `with`, or dropping it ends its calls.

    Example:
        with log.scan().batches() as batches:
            for batch in batches:
                print(batch.num_rows)
    """

    def __init__(self, results: Results[T], loop: CallLoop) -> None:
        self._results = results
        self._loop = loop

    @property
    def ended(self) -> bool:
        """Whether all is over: everything was given, the idle time passed, or it was closed."""
        return self._results.ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return _step(self._loop, self._results)

    def close(self) -> None:
        """End the calls of this read; the next step says that it has ended."""
        _close(self._loop, self._results)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@public
class SyncRecords:
    """Records for code without asyncio: an iterator, of `SyncLog.read` and `SyncLog.tail`.

    `poll` is the step with a time-out. `close`, the end of `with`, or dropping it ends its calls.

    Example:
        with log.tail(from_start=True) as tail:
            first = next(tail)
            more = tail.poll(timeout_s=0.1)
    """

    def __init__(self, records: Records, loop: CallLoop) -> None:
        self._records = records
        self._loop = loop
        self._held: Iterator[Record] = iter(())

    @property
    def ended(self) -> bool:
        """Whether all is over: the limit was reached, the idle time passed, or `close`."""
        return self._records.ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        while True:
            for record in self._held:
                return record
            self._held = iter(_step(self._loop, self._records.lists))

    def poll(self, timeout_s: float) -> list[Record]:
        """The records that are there, or the next that come within `timeout_s` seconds (0: now);
        an empty list when none came. When it will always be empty, `ended` is true.

        Example:
            records = log.tail(from_start=True).poll(timeout_s=0.5)
        """
        bounds.seconds("timeout_s", timeout_s, zero=True)
        return list(self._held) or self._loop.run(lambda: self._records.poll(timeout_s))

    def close(self) -> None:
        """End the calls of this read; the next step says that it has ended."""
        self._held = iter(())
        _close(self._loop, self._records.lists)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_END: Any = object()


def _step(loop: CallLoop, results: AsyncIterator[T]) -> T:
    async def step() -> T:
        return await anext(results, _END)

    item = loop.run(step)
    if item is _END:
        raise StopIteration
    return item


def _close(loop: CallLoop, results: Results[Any]) -> None:
    """After the end of the client there is nothing to end."""
    if loop.is_here:
        try:
            loop.run(results.aclose)
        except ClientClosedError:
            return


class SyncBase(Generic[A]):
    """A synchronous object over an asynchronous one, whose calls run in the client's loop."""

    def __init__(self, target: A, loop: CallLoop | None = None) -> None:
        self._target = target
        self._loop = loop

    def _open(self) -> CallLoop:
        if self._loop is None:
            raise ClientUseError("the client is not open: use `with connect_sync(...)`")
        return self._loop

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._open().run(work)


class SyncClientBase(SyncBase[Client]):
    """Opening and closing."""

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise ClientUseError("the client was opened before, it is opened once: connect again")
        self._loop = CallLoop()
        try:
            self._loop.run(self._target.__aenter__)
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End streams, channels and the background thread. Closing again does nothing; in a forked
        child it leaves the parent's connections alone.
        """
        loop = self._loop
        if loop is None or not loop.is_here:
            return
        try:
            loop.run(self._target.close)
        except ClientClosedError:
            return
        finally:
            loop.stop()
