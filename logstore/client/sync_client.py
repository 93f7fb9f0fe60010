"""The same client for code without asyncio: one background thread runs the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa

from logstore.base.env import Env
from logstore.base.errors import ClientClosedError, ClientUseError
from logstore.base.tls import TlsOptions
from logstore.base.types import Ack, Record
from logstore.client import bounds
from logstore.client.client import TIMEOUT_S, Client, Log, Scan, connect
from logstore.client.lifetime import CLOSED
from logstore.client.results import Records, Results
from logstore.proto import fork
from sharder.shard_map import ShardMap

T = TypeVar("T")


class _Loop:
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
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
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


class SyncResults(Generic[T]):
    """Mirrors Results: an iterator; leaving `with`, `close` or dropping it ends its calls."""

    def __init__(self, results: Results[T], loop: _Loop) -> None:
        self._results = results
        self._loop = loop

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return _step(self._loop, self._results)

    def close(self) -> None:
        _close(self._loop, self._results)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncRecords:
    """Mirrors Records."""

    def __init__(self, records: Records, loop: _Loop) -> None:
        self._records = records
        self._loop = loop
        self._held: Iterator[Record] = iter(())

    @property
    def ended(self) -> bool:
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
        """
        bounds.seconds("timeout_s", timeout_s, zero=True)
        return list(self._held) or self._loop.run(lambda: self._records.poll(timeout_s))

    def close(self) -> None:
        self._held = iter(())
        _close(self._loop, self._records.lists)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_END: Any = object()


def _step(loop: _Loop, results: AsyncIterator[T]) -> T:
    async def step() -> T:
        return await anext(results, _END)

    item = loop.run(step)
    if item is _END:
        raise StopIteration
    return item


def _close(loop: _Loop, results: Results[Any]) -> None:
    """After the end of the client there is nothing to end."""
    if loop.is_here:
        try:
            loop.run(results.aclose)
        except ClientClosedError:
            return


def connect_sync(
    addresses: str | Sequence[str],
    *,
    client_group: str = "default",
    tls: TlsOptions | None = None,
    timeout_s: float = TIMEOUT_S,
    env: Env | None = None,
) -> "SyncClient":
    """Like `connect`, for `with`; usable from several threads at once, not in a forked child."""
    client = connect(addresses, client_group=client_group, tls=tls, timeout_s=timeout_s, env=env)
    return SyncClient(client)


class SyncClient:
    """Mirrors Client. A call in progress in another thread ends with ClientClosedError when it is
    closed.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop: _Loop | None = None

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise ClientUseError("the client was opened before, it is opened once: connect again")
        self._loop = _Loop()
        try:
            self._loop.run(self._client.__aenter__)
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
            loop.run(self._client.close)
        except ClientClosedError:
            return
        finally:
            loop.stop()

    def create_log(self, name: str, **options: Any) -> "SyncLog":
        return SyncLog(self._run(lambda: self._client.create_log(name, **options)), self._open())

    def log(self, name: str) -> "SyncLog":
        return SyncLog(self._run(lambda: self._client.log(name)), self._open())

    def list_logs(self) -> list[str]:
        return self._run(self._client.list_logs)

    def delete_log(self, name: str, *, now: bool = False) -> None:
        self._run(lambda: self._client.delete_log(name, now=now))

    def _open(self) -> _Loop:
        if self._loop is None:
            raise ClientUseError("the client is not open: use `with connect_sync(...)`")
        return self._loop

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._open().run(work)


class SyncLog:
    """Mirrors Log."""

    def __init__(self, log: Log, loop: _Loop) -> None:
        self._log = log
        self._loop = loop
        self.name = log.name

    def append(self, key: bytes, value: bytes, **options: Any) -> Ack:
        return self._loop.run(lambda: self._log.append(key, value, **options))

    def append_many(self, keys: Any, values: Any, timestamps: Any = None) -> list[Ack]:
        return self._loop.run(lambda: self._log.append_many(keys, values, timestamps))

    def read(self, **options: Any) -> SyncRecords:
        return SyncRecords(self._log.read(**options), self._loop)

    def tail(self, **options: Any) -> SyncRecords:
        return SyncRecords(self._log.tail(**options), self._loop)

    def scan(self, **options: Any) -> "SyncScan":
        return SyncScan(self._log.scan(**options), self._loop)

    @property
    def trimmed(self) -> dict[str, int]:
        return self._log.trimmed

    def shard_map(self) -> ShardMap:
        return self._loop.run(self._log.shard_map)


class SyncScan:
    """Mirrors Scan."""

    def __init__(self, scan: Scan, loop: _Loop) -> None:
        self._scan = scan
        self._loop = loop

    def batches(self) -> SyncResults[pa.RecordBatch]:
        return SyncResults(self._scan.batches(), self._loop)

    def to_arrow(self) -> pa.Table:
        return self._loop.run(self._scan.to_arrow)

    def to_pandas(self) -> Any:
        return self._loop.run(self._scan.to_pandas)

    def to_polars(self) -> Any:
        return self._loop.run(self._scan.to_polars)
