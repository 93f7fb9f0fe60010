"""The asynchronous client: `connect`, `Client`, `Log`, `Scan`.

`sync_client` is made from this file: run `python -m logstore.client.generate` after a change.
"""

import asyncio
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import pyarrow as pa

from logstore.base.address import parse_addresses
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError, UnknownLogError
from logstore.base.limits import SHARDS_PER_LOG_MAX
from logstore.base.names import checked_name
from logstore.base.public import public
from logstore.base.tls import TlsOptions
from logstore.base.types import Ack, Placed, Record
from logstore.client import bounds, checks
from logstore.client.appender import Appender
from logstore.client.directory import Directory, another, replaced
from logstore.client.lifetime import Lifetime
from logstore.client.options import (
    READ,
    TAIL,
    CreateLogOptions,
    PartitionerName,
    PlaceOptions,
    ReadOptions,
    TailOptions,
    check_log,
    refuse_unknown,
)
from logstore.client.pages import SCAN_SCHEMA
from logstore.client.placing import place_request
from logstore.client.read_spec import ReadSpec, spec_of
from logstore.client.reader import Reader
from logstore.client.results import Records, Results, idle_timeout
from logstore.client.router import Router
from logstore.meta.records import encode
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.transport import GrpcTransport, Transport
from sharder.shard_map import ShardMap

TIMEOUT_S = 60.0
"""How long an append or a read that makes no progress is retried, unless `connect` says
otherwise.
"""


@public
def connect(
    addresses: str | Sequence[str],
    *,
    client_group: str = "default",
    tls: TlsOptions | None = None,
    timeout_s: float = TIMEOUT_S,
    env: Env | None = None,
) -> "Client":
    """A client for `async with`; nothing is sent before the first use.

    addresses: `host:port` of coordinator and/or instances: one, several with commas, or a list; it
        works from any that answers.
    client_group: the caller's name in statistics: at most 200 bytes, printable.
    tls: keys and certificates; None: plain text.
    timeout_s: seconds after which a call that makes no progress ends; an append that was sent then
        ends in OutcomeUnknownError.
    env: clock and random generator, for tests.

    Errors: InvalidArgumentError for an invalid address.

    Example:
        async with logstore.connect("127.0.0.1:7400") as db:
            print(await db.list_logs())
    """
    return Client(
        parse_addresses(addresses),
        client_group=client_group,
        timeout_s=timeout_s,
        env=env or Env(),
        transport=GrpcTransport(tls),
    )


@public
class Client:
    """A connection to a cluster, made by `connect`; all its logs share streams and buffers.

    It lives in the event loop and the process in which it was opened: in others every call is a
    ClientUseError, after the end of its `async with` a ClientClosedError. asyncio.run closes open
    clients when it ends.

    Example:
        log = await db.create_log("orders", shards=2)
        print(await db.list_logs())
        await db.delete_log("orders")
    """

    def __init__(
        self,
        addresses: list[str],
        *,
        client_group: str,
        timeout_s: float,
        env: Env,
        transport: Transport,
    ) -> None:
        """`transport`: closed with the client."""
        checked_name("client_group", client_group)
        self._env = env
        self._timeout_s = bounds.seconds("timeout_s", timeout_s)
        self._lifetime = Lifetime(f"the client of {', '.join(addresses)[:200]}")
        self._directory = Directory(
            addresses, env, self._lifetime, client_group=client_group, transport=transport
        )
        self._closed = asyncio.Event()
        self._appender: Appender | None = None
        self._reader: Reader | None = None

    async def __aenter__(self) -> Self:
        self._lifetime.open(self.close)
        self._appender = Appender(self._directory, self._env, timeout_s=self._timeout_s)
        self._reader = Reader(
            self._directory,
            self._env,
            self._appender.session,
            timeout_s=self._timeout_s,
            placer=self._appender.placer,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End streams and channels. Unacked appends fail; reads and tails in progress end with
        ClientClosedError. Closing again does nothing, nor does closing a parent's client in a
        forked child.
        """
        if self._lifetime.is_over():
            self._lifetime.end()
            return
        if not self._lifetime.end():
            await self._closed.wait()
            return
        try:
            if self._appender is not None:
                self._appender.close()
            await self._lifetime.finish()
            await self._directory.close()
        finally:
            self._closed.set()

    async def create_log(
        self,
        name: str,
        *,
        partitioner: PartitionerName = "range",
        shards: int | None = None,
        split_keys: Sequence[bytes] = (),
        instances: Sequence[str] = (),
        **options: Unpack[CreateLogOptions],
    ) -> "Log":
        """Create a log, and open it.

        partitioner: "range" (shards are ranges of keys), "hash" (of their hashes), or "balanced"
            (keys go where there is room).
        shards: how many even ranges; None: one, of a balanced log one for each instance.
        split_keys: where the ranges are cut, instead of `shards`.
        instances: the primary of each shard, instead of the ring.
        options: replicas, durability and so on, see CreateLogOptions.

        Errors: AlreadyExistsError; InvalidArgumentError names the field and the value.

        Example:
            log = await db.create_log("orders", split_keys=[b"m"], compression="lz4")
        """
        self._lifetime.check()
        checks.log_name(name)
        for field, value in (("split_keys", split_keys), ("instances", instances)):
            if isinstance(value, str | bytes):
                raise InvalidArgumentError(f"{field} is {value[:80]!r}, expected a list of them")
        cuts = [checks.key(cut, "split_keys") for cut in split_keys]
        count = 0 if shards is None else bounds.whole("shards", shards, 1)
        if cuts and count not in (0, len(cuts) + 1):
            raise InvalidArgumentError(
                f"shards is {count}, {len(cuts)} split_keys make {len(cuts) + 1}: give one of them"
            )
        count = len(cuts) + 1 if cuts else count
        if count > SHARDS_PER_LOG_MAX:
            raise InvalidArgumentError(f"shards is {count}, the limit is {SHARDS_PER_LOG_MAX}")
        wanted = {"partitioner": partitioner, **options}
        check_log(name, wanted)
        request = coordinator_pb2.CreateLogRequest(
            name=name,
            options_json=encode(wanted),
            shards=count,
            split_keys=cuts,
            instances=list(instances),
        )
        await self._directory.catalog("CreateLog", request)
        return await self.log(name)

    async def log(self, name: str) -> "Log":
        """Open a log that exists, else UnknownLogError.

        Example:
            log = await db.log("orders")
        """
        self._lifetime.check()
        checks.log_name(name)
        assert self._appender is not None
        assert self._reader is not None
        router = await self._directory.refresh(name)
        return Log(name, router, self._directory, self._appender, self._reader)

    async def list_logs(self) -> list[str]:
        """The names of all logs, sorted.

        Example:
            print(await db.list_logs())
        """
        self._lifetime.check()
        answer = await self._directory.catalog("ListLogs", coordinator_pb2.ListLogsRequest())
        return sorted(info.name for info in answer.logs)

    async def delete_log(self, name: str, *, now: bool = False) -> None:
        """Delete a log with all its records, else UnknownLogError. Its reads, tails and appends in
        progress end with UnknownLogError, in this client now and in others within a second.

        For 24 h `logstore log restore` can bring it back; with `now` its space is freed at
        once, and it cannot be restored.

        Example:
            await db.delete_log("orders", now=True)
        """
        self._lifetime.check()
        checks.log_name(name)
        request = coordinator_pb2.DeleteLogRequest(name=name, now=now)
        await self._directory.catalog("DeleteLog", request)
        self._directory.ended(name, UnknownLogError(f"log {name!r} was deleted"))


@public
class Log:
    """Appends and reads of one log, made by `Client.log`.

    It stays the log that it was made for: once that log is deleted every call is UnknownLogError,
    also when there is a new log of the same name, which the error then names.

    Example:
        log = await db.log("orders")
        await log.append(b"user-1", b"12 apples")
        async for record in log.read(key=b"user-1"):
            print(record.offset, record.value)
    """

    name: str
    """The log's name."""

    def __init__(
        self,
        name: str,
        router: Router,
        directory: Directory,
        appender: Appender,
        reader: Reader,
    ) -> None:
        self.name = name
        self._router = router
        self._directory = directory
        self._appender = appender
        self._reader = reader

    async def append(
        self,
        key: bytes,
        value: bytes,
        *,
        headers: Mapping[str, bytes] | None = None,
        timestamp: int | None = None,
        expected_version: int | None = None,
    ) -> Ack:
        """Append one record; appends that run at the same time share batches.

        key, value: bytes, 4 KiB and (with key and headers) 1 MiB at most.
        headers: up to 32, taken as they are now; they count in the record's size, names in UTF-8.
        timestamp: int64 microseconds since 1970 UTC; None: the primary stamps.
        expected_version: how many records the key must have, else VersionConflictError.

        Errors: InvalidArgumentError and LimitExceededError before anything is sent;
        OutcomeUnknownError when it was sent and no answer came within the client's `timeout_s`.
        Whether a call that is cancelled was stored is not known either.

        Example:
            ack = await log.append(b"user-1", b"12 apples", headers={"by": b"web"})
            print(ack.shard, ack.offset)
        """
        self._directory.lifetime.check()
        if self._directory.cached(self.name) is not self._router:
            await self._follow()
        return await self._appender.append(
            self.name, key, value, headers, timestamp, expected_version
        )

    async def append_many(self, keys: Any, values: Any, timestamps: Any = None) -> list[Ack]:
        """Append rows given as columns of one length.

        keys, values: sequences of bytes, numpy or Arrow arrays, pandas or polars Series. Every byte
            is stored as given, or the column is refused by name (see logstore.client.columns).
        timestamps: int64 microseconds since 1970 UTC, one a row; None: the primary stamps.

        One Ack (first offset and count) per stored batch; rows of one key keep their order. Each
        batch has the client's `timeout_s` from when it entered the buffer.

        Errors: InvalidArgumentError, LimitExceededError; AppendManyError lists the rows that are
        stored, that are not, and of which it is unknown.

        Example:
            acks = await log.append_many([b"user-1", b"user-2"], [b"12 apples", b"7 pears"])
            print(sum(ack.count for ack in acks))
        """
        self._directory.lifetime.check()
        if self._directory.cached(self.name) is not self._router:
            await self._follow()
        return await self._appender.append_many(self.name, keys, values, timestamps)

    async def place(self, key: bytes, **options: Unpack[PlaceOptions]) -> Placed:
        """The place of a key of a balanced log before its first write: drawn by predicted headroom,
        remembered, and the same ever after, whatever the options are then; see PlaceOptions.

        Errors: InvalidArgumentError, also of a log that is not balanced; UnavailableError.

        Example:
            log = await db.create_log("carts", partitioner="balanced")
            print((await log.place(b"user-1", size=1_000)).instance)
        """
        self._directory.lifetime.check()
        if self._directory.cached(self.name) is not self._router:
            await self._follow()
        return await self._appender.placer.partition(place_request(self.name, key, options))

    def read(self, **options: Unpack[ReadOptions]) -> Records:
        """Records up to the high watermarks at the first step: of one key, of keys in [start, end),
        of a shard from an offset on, since a time; see ReadOptions.

        order="any" keeps each key's order and is fastest; order="key" gives key, then offset, and
        holds at most ORDERED_READ_BYTES_MAX. Errors: InvalidArgumentError at once for an option
        that there is not, or that is out of range.

        Example:
            async for record in log.read(start=b"user-", end=b"user.", limit=10):
                print(record.key, record.value)
        """
        refuse_unknown("read", options, READ)
        return Records(self.lists(tail=False, **options))

    def tail(self, **options: Unpack[TailOptions]) -> Records:
        """Records that are appended after the tail has begun, as they are committed, until the
        caller leaves; see TailOptions.

        It begins with the first step, once each shard has returned its end. With
        `from_start`, `since` or `offset` stored records come first. With `idle_timeout_s`
        it also ends, without an error, when a step has waited this long for a record; to wait for
        some time and go on later, use `poll`.

        Errors: InvalidArgumentError at once; it ends with UnknownLogError when the log is deleted,
        with ClientClosedError when the client is closed.

        Example:
            async for record in log.tail(from_start=True, idle_timeout_s=0.2):
                print(record.key, record.value)
        """
        refuse_unknown("tail", options, TAIL)
        return Records(self.lists(tail=True, **options))

    def scan(self, **options: Unpack[ReadOptions]) -> "Scan":
        """The records that `read` would give, as columns; see `Scan` and `ReadOptions`.

        Errors: InvalidArgumentError at once, as `read`.

        Example:
            table = await log.scan(since=1_700_000_000_000_000).to_arrow()
            print(table.num_rows)
        """
        refuse_unknown("scan", options, READ)
        spec = spec_of(self.name, self._router.created_us, **options)
        return Scan(self._reader, spec)

    @property
    def trimmed(self) -> dict[str, int]:
        """Shard -> first kept offset, of shards that this client's reads found trimmed.

        A read or tail without an offset begins there; an offset below it is OutOfRangeError.
        """
        return {
            shard: base
            for shard, base in self._reader.trimmed.items()
            if shard.rpartition("/")[0] == self.name
        }

    async def shard_map(self) -> ShardMap:
        """The newest map: ranges, primaries, epochs.

        Example:
            shard_map = await log.shard_map()
            print([shard.id for shard in shard_map.open_shards])
        """
        self._directory.lifetime.check()
        return self._mine(await self._directory.refresh(self.name)).map

    def lists(
        self,
        *,
        tail: bool,
        from_start: bool = False,
        idle_timeout_s: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> Results[list[Record]]:
        """What `read` (or with `tail` a tail) yields, in lists as they come: fewer steps a record.

        Example:
            async for records in log.lists(tail=False, key=b"user-1"):
                print(len(records))
        """
        refuse_unknown("lists", options, READ)
        spec = spec_of(self.name, self._router.created_us, **options)
        if from_start and spec.offset is not None:
            raise InvalidArgumentError(
                f"from_start and offset {spec.offset} exclude each other: give one of them"
            )
        if tail and spec.offset is None and (from_start or spec.since_us is not None):
            spec = dataclasses.replace(spec, from_base=True)
        return self._reader.lists(spec, tail=tail, idle_timeout_s=idle_timeout(idle_timeout_s))

    async def _follow(self) -> None:
        """Take the newest map; UnknownLogError if it is not this log's."""
        self._router = self._mine(await self._directory.router(self.name))

    def _mine(self, router: Router) -> Router:
        if another(self._router.created_us, router.created_us):
            raise replaced(self.name, router.created_us)
        return router


@public
class Scan:
    """The result of `Log.scan`, read on request.

    Columns: key, value (binary), timestamp (int64 µs, UTC), headers, shard, offset; the schema is
    logstore.client.pages.SCAN_SCHEMA.

    Example:
        table = await log.scan(start=b"user-", end=b"user.").to_arrow()
    """

    def __init__(self, reader: Reader, spec: ReadSpec) -> None:
        self._reader = reader
        self._spec = spec

    def batches(self) -> Results[pa.RecordBatch]:
        """Arrow batches as they come.

        Example:
            async with log.scan().batches() as batches:
                async for batch in batches:
                    print(batch.num_rows)
        """
        return self._reader.batches(self._spec)

    async def to_arrow(self) -> pa.Table:
        """Everything as one Arrow table.

        Example:
            table = await log.scan(key=b"user-1").to_arrow()
        """
        async with self.batches() as batches:
            return pa.Table.from_batches([batch async for batch in batches], SCAN_SCHEMA)

    async def to_pandas(self) -> Any:
        """Everything as a pandas DataFrame; needs pandas (ImportError)."""
        return (await self.to_arrow()).to_pandas()

    async def to_polars(self) -> Any:
        """Everything as a polars DataFrame; needs polars (InvalidArgumentError)."""
        try:
            polars = importlib.import_module("polars")
        except ImportError as e:
            raise InvalidArgumentError("to_polars needs polars: pip install polars") from e
        return polars.from_arrow(await self.to_arrow())
