"""The same client for code without asyncio: one background thread runs the event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa

from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError, UnavailableError
from logstore.base.tls import TlsOptions
from logstore.base.types import Ack, Record
from logstore.client.client import TIMEOUT_S, Client, Log, Scan, connect
from sharder.shard_map import ShardMap

T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="logstore-client", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the loop, wait here."""
        if self._loop.is_closed() or threading.current_thread() is self._thread:
            work.close()
            raise UnavailableError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, iterator: AsyncGenerator[T, None]) -> Iterator[T]:
        """Step an async iterator from here; leaving closes it."""
        try:
            while (item := self.run(_next(iterator))) is not None:
                yield item
        finally:
            if not self._loop.is_closed():
                self.run(_close(iterator))

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


async def _next(iterator: AsyncGenerator[T, None]) -> T | None:
    return await anext(iterator, None)


async def _close(iterator: AsyncGenerator[T, None]) -> None:
    await iterator.aclose()


def connect_sync(
    addresses: str | Sequence[str],
    *,
    client_group: str = "default",
    tls: TlsOptions | None = None,
    timeout_s: float = TIMEOUT_S,
    env: Env | None = None,
) -> "SyncClient":
    """Like `connect`, for `with`; usable from several threads at once."""
    client = connect(addresses, client_group=client_group, tls=tls, timeout_s=timeout_s, env=env)
    return SyncClient(client)


class SyncClient:
    """Mirrors Client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop: _Loop | None = None

    def __enter__(self) -> Self:
        self._loop = _Loop()
        self._loop.run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End streams, channels and the background thread."""
        if self._loop is not None:
            loop, self._loop = self._loop, None
            try:
                loop.run(self._client.close())
            finally:
                loop.stop()

    def create_log(self, name: str, **options: Any) -> "SyncLog":
        return SyncLog(self._run(self._client.create_log(name, **options)), self._open())

    def log(self, name: str) -> "SyncLog":
        return SyncLog(self._run(self._client.log(name)), self._open())

    def list_logs(self) -> list[str]:
        return self._run(self._client.list_logs())

    def delete_log(self, name: str) -> None:
        self._run(self._client.delete_log(name))

    def _open(self) -> _Loop:
        if self._loop is None:
            raise InvalidArgumentError("the client is not open: use `with connect_sync(...)`")
        return self._loop

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
        return self._open().run(work)


class SyncLog:
    """Mirrors Log."""

    def __init__(self, log: Log, loop: _Loop) -> None:
        self._log = log
        self._loop = loop
        self.name = log.name

    def append(self, key: bytes, value: bytes, **options: Any) -> Ack:
        return self._loop.run(self._log.append(key, value, **options))

    def append_many(self, keys: Any, values: Any, timestamps: Any = None) -> list[Ack]:
        return self._loop.run(self._log.append_many(keys, values, timestamps))

    def read(self, **options: Any) -> Iterator[Record]:
        for records in self._loop.iterate(self._log.lists(tail=False, **options)):
            yield from records

    def tail(self, **options: Any) -> Iterator[Record]:
        for records in self._loop.iterate(self._log.lists(tail=True, **options)):
            yield from records

    def scan(self, **options: Any) -> "SyncScan":
        return SyncScan(self._log.scan(**options), self._loop)

    @property
    def trimmed(self) -> dict[str, int]:
        return self._log.trimmed

    def shard_map(self) -> ShardMap:
        return self._loop.run(self._log.shard_map())


class SyncScan:
    """Mirrors Scan."""

    def __init__(self, scan: Scan, loop: _Loop) -> None:
        self._scan = scan
        self._loop = loop

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._loop.iterate(self._scan.batches())

    def to_arrow(self) -> pa.Table:
        return self._loop.run(self._scan.to_arrow())

    def to_pandas(self) -> Any:
        return self._loop.run(self._scan.to_pandas())

    def to_polars(self) -> Any:
        return self._loop.run(self._scan.to_polars())
