"""Appends of one client: which lane a record takes, and the state that all lanes share.

Each shard has one main lane, which joins one-by-one appends and carries `append_many`.
Conditional appends take lanes of their own, by key, with one batch in flight each: a version
conflict consumes no sequence (lane.py, rule 2), so on the main lane it would send every later batch
twice. So a conditional append and an unconditional one of the same key are ordered only if the
caller awaits the first.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.env import Env
from logstore.base.errors import (
    ClientClosedError,
    LogstoreError,
    UnavailableError,
    UnknownLogError,
)
from logstore.base.types import Ack
from logstore.client import checks, columns
from logstore.client.batching import Gathering, ManyJob, chunks, make_entry
from logstore.client.directory import Directory, another, replaced
from logstore.client.lane import LaneEntry
from logstore.client.placing import Placer
from logstore.client.router import Router, take
from logstore.client.sender import Sender
from logstore.client.stream import AppendStream
from logstore.engine.batch import FLAG_TIMES, KEY
from sharder.shard_map import Shard

BUFFER_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of records that a client holds until they are acked; above it, appends wait their turn."""

CONDITIONAL_LANES = 16
"""Conditional appends in flight per shard."""


class Buffer:
    """A bounded budget of bytes, first come first served. One larger request passes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def try_take(self, size: int) -> bool:
        if self._waiting or (self._used and self._used + size > self._limit):
            return False
        self._used += size
        return True

    async def take(self, size: int, deadline: float) -> None:
        """Wait for room; past the deadline it is UnavailableError, and nothing was sent."""
        if self.try_take(size):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, size))
        try:
            async with asyncio.timeout_at(deadline):
                await future
        except (TimeoutError, asyncio.CancelledError) as e:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(size)
            else:
                self._waiting = deque(item for item in self._waiting if item[0] is not future)
                self._admit()
            if isinstance(e, TimeoutError):
                raise UnavailableError(
                    f"not stored: {self._used} bytes of earlier appends are still unacked"
                ) from None
            raise

    def release(self, size: int) -> None:
        self._used -= size
        self._admit()

    def close(self, error: LogstoreError) -> None:
        """End all waits for room."""
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting:
            future, size = self._waiting[0]
            if self._used and self._used + size > self._limit:
                return
            self._waiting.popleft()
            if not future.done():
                self._used += size
                future.set_result(None)


class Appender:
    """The lanes, the streams, the buffer, and the offsets this client must be shown (P8)."""

    def __init__(
        self, directory: Directory, env: Env, *, timeout_s: float, placer: Placer | None = None
    ) -> None:
        """`placer`: the virtual shard keys of balanced logs."""
        self.directory = directory
        self.env = env
        self.placer = placer or Placer(directory, timeout_s)
        self.session: dict[str, int] = {}
        self._timeout_s = timeout_s
        self._buffer = Buffer(BUFFER_BYTES_MAX)
        self._streams: dict[str, AppendStream] = {}
        self._senders: dict[tuple[str, int], Sender] = {}
        self._stale: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        directory.on_change = self._on_change
        directory.on_gone = self._on_gone

    async def append(
        self,
        log: str,
        key: bytes,
        value: bytes,
        headers: Mapping[str, bytes] | None,
        timestamp: int | None,
        expected_version: int | None,
    ) -> Ack:
        """One record; resolves when it is stored."""
        headers = checks.header_copy(headers)
        size = checks.record(key, value, headers, timestamp)
        if expected_version is not None:
            checks.number("expected_version", expected_version)
        deadline = self._loop.time() + self._timeout_s
        router = self.directory.cached(log) or await self.directory.router(log)
        if router.balanced:
            key = await self.placer.place(log, key, size)
        if not self._buffer.try_take(size):
            await self._buffer.take(size, deadline)
            router = self._newest(log, router)
        shard = router.find(key)
        if expected_version is None:
            sender = self._sender(shard, 0)
            return await sender.gather(key, value, headers, timestamp, size, deadline)
        single = Gathering(timestamp is not None, deadline)
        single.keys, single.values, single.bytes = [key], [value], size
        single.times = [] if timestamp is None else [timestamp]
        if headers:
            single.headers[0] = headers
        future: asyncio.Future[Ack] = self._loop.create_future()
        single.futures.append(future)
        entry = single.build(router.compression)
        entry.expected_version = expected_version
        self._sender(shard, 1 + zlib.crc32(key) % CONDITIONAL_LANES).put(entry)
        return await future

    async def append_many(self, log: str, keys: Any, values: Any, timestamps: Any) -> list[Ack]:
        """Many records, one batch per shard and chunk; see Log.append_many."""
        rows = columns.batch_of(keys, values, timestamps)
        flags = FLAG_TIMES if timestamps is not None else 0
        router = await self.directory.router(log)
        if router.balanced:
            rows = await self._rows_placed(log, rows)
        job = ManyJob(rows.num_rows)
        parts = [_numbered(part.shard, rows, part.rows) for part in router.split(rows.column(0))]
        first_error: LogstoreError | None = None
        for shard, numbers, batch, size in chain.from_iterable(zip_longest(*parts, fillvalue=_END)):
            if shard is None:
                continue
            sink = job.sink(numbers)
            deadline = self._loop.time() + self._timeout_s
            if first_error is None and not self._buffer.try_take(size):
                try:
                    await self._buffer.take(size, deadline)
                except UnavailableError as e:
                    first_error = e
            if first_error is not None:
                sink.failed(first_error)
                continue
            entry = make_entry(
                batch,
                flags,
                sink,
                deadline=deadline,
                charge=size,
                compression=router.compression,
            )
            try:
                newest = self._newest(log, router).map.get(shard.id) or shard
                self._sender(newest, 0).put(entry)
            except LogstoreError as e:
                first_error = e
                self.release(size)
                sink.failed(e)
                continue
            if rows.num_rows > batch.num_rows:
                await asyncio.sleep(0)
        job.settled()
        await job.done
        return job.result()

    def stream(self, address: str) -> AppendStream:
        """The live stream to an address, opened when needed."""
        self.directory.lifetime.check()
        stream = self._streams.get(address)
        if stream is None or stream.closed:
            stream = AppendStream(self.directory.channel(address), address, self.directory.lifetime)
            self._streams[address] = stream
        return stream

    def shown(self, shard: str, end: int) -> None:
        if end > self.session.get(shard, 0):
            self.session[shard] = end

    def release(self, size: int) -> None:
        self._buffer.release(size)

    def stale(self, log: str) -> None:
        """Refresh in the background, without a failure."""
        if not self._stale:
            self._stale.add(
                self.directory.lifetime.spawn(
                    self._refresh(log), lambda task, error: self._stale.discard(task)
                )
            )

    async def _refresh(self, log: str) -> None:
        try:
            await self.directory.refresh(log)
        except UnknownLogError as e:
            self.directory.ended(log, e)
        except LogstoreError:
            return  # the next call that needs the map reports it

    def reroute(self, sender: Sender, entries: list[LaneEntry]) -> None:
        """Split batches of a shard that is no longer open over the shards that are.

        Only batches that are surely not stored come here: the sealed shard decided each batch whole
        (S2, note 0005). They go before later appends; then the successors' senders go on.
        """
        self._senders = {key: s for key, s in self._senders.items() if s is not sender}
        router = self.directory.cached(sender.shard.log)
        parts: dict[tuple[str, int], tuple[Shard, list[LaneEntry]]] = {}
        for entry in entries:
            if router is None:
                self.release(entry.charge)
                entry.sink.failed(UnknownLogError(f"log {sender.shard.log!r} is gone"))
                continue
            self.release(entry.charge)
            for part in router.split(entry.rows.column(0)):
                again = make_entry(
                    take(entry.rows, part.rows),
                    entry.flags,
                    entry.sink.part(part.rows),
                    deadline=entry.deadline,
                    charge=0,
                    compression=router.compression,
                    expected_version=entry.expected_version,
                )
                again.retry = entry.retry
                key = (part.shard.id, sender.number)
                parts.setdefault(key, (part.shard, []))[1].append(again)
        for (_, number), (shard, again_) in parts.items():
            self._sender(shard, number).put_first(again_)
        for other in list(self._senders.values()):
            other.go_on()

    def waits_for(self, sender: Sender) -> bool:
        """S2: a producer's new appends wait until the senders of all ancestors are resolved."""
        if not sender.shard.predecessors:
            return False
        router = self.directory.cached(sender.shard.log)
        todo, seen = list(sender.shard.predecessors), set[str]()
        while todo:
            name = todo.pop()
            if (name, sender.number) in self._senders:
                return True
            shard = router.map.get(name) if router is not None else None
            if shard is not None and name not in seen:
                seen.add(name)
                todo.extend(shard.predecessors)
        return False

    def close(self) -> None:
        """Fail all unacked appends."""
        for sender in list(self._senders.values()):
            sender.end(ClientClosedError("the client was closed"))
        self._buffer.close(ClientClosedError("not stored: the client was closed"))

    def discard(self, sender: Sender) -> None:
        """The next append of its lane gets a new sender; others may have waited for this one."""
        key = (sender.shard.id, sender.number)
        if self._senders.get(key) is sender:
            del self._senders[key]
            for other in list(self._senders.values()):
                other.go_on()

    def _newest(self, log: str, router: Router) -> Router:
        """The log's newest map after a wait; UnknownLogError if its name is another log's now."""
        newest = self.directory.cached(log) or router
        if another(router.created_us, newest.created_us):
            raise replaced(log, newest.created_us)
        return newest

    def _sender(self, shard: Shard, lane: int) -> Sender:
        self.directory.lifetime.check()
        key = (shard.id, lane)
        sender = self._senders.get(key)
        if sender is None:
            sender = Sender(self, shard, number=lane)
            self._senders[key] = sender
        return sender

    def _on_change(self, router: Router) -> None:
        for (shard, _), sender in list(self._senders.items()):
            if sender.shard.log == router.map.log:
                sender.on_route(router.map.get(shard))

    async def _rows_placed(self, log: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows under their virtual shard keys."""
        keys, values = rows.column(0), rows.column(1)
        sizes = pc.add(pc.binary_length(keys), pc.binary_length(values)).to_pylist()
        placed = await self.placer.place_many(log, keys.to_pylist(), sizes)
        return rows.set_column(0, KEY, pa.array(placed, pa.binary()))

    def _on_gone(self, log: str, error: LogstoreError) -> None:
        self.placer.forget(log)
        for sender in list(self._senders.values()):
            if sender.shard.log == log:
                sender.end(error)
        # A new log of this name starts its shards at offset 0.
        self._forget_session(log)

    def _forget_session(self, log: str) -> None:
        for shard in [shard for shard in self.session if shard.rpartition("/")[0] == log]:
            del self.session[shard]


_END: tuple[Shard | None, Any, Any, int] = (None, None, None, 0)


def _numbered(shard: Shard, rows: pa.RecordBatch, numbers: Any) -> Any:
    """(shard, row numbers, batch, bytes) of each chunk of a part."""
    for at, batch, size in chunks(take(rows, numbers)):
        stop = at + batch.num_rows
        yield shard, range(at, stop) if numbers is None else numbers[at:stop], batch, size
