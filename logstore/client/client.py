"""The asynchronous client: `connect`, `Client`, `Log`, `Scan` (design.md, section 10)."""

import contextlib
import dataclasses
import datetime
import importlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa

from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError
from logstore.base.limits import SHARDS_PER_LOG_MAX
from logstore.base.tls import TlsOptions
from logstore.base.types import Ack, Record
from logstore.client import checks
from logstore.client.appender import Appender
from logstore.client.directory import Directory, parse_addresses
from logstore.client.pages import SCAN_SCHEMA, records_of
from logstore.client.read_spec import Order, ReadSpec
from logstore.client.reader import Reader
from logstore.meta.records import LogOptions, encode
from logstore.proto.coordinator_v1 import coordinator_pb2
from sharder.shard_map import ShardMap

TIMEOUT_S = 60.0
"""How long an append or a read that makes no progress is retried, unless `connect` says
otherwise.
"""


def connect(
    addresses: str | Sequence[str],
    *,
    client_group: str = "default",
    tls: TlsOptions | None = None,
    timeout_s: float = TIMEOUT_S,
    env: Env | None = None,
) -> "Client":
    """A client for `async with`. `addresses`: `host:port` of coordinator and/or instances, one,
    several with commas, or a list; it works from any that answers. Nothing is sent before the first
    use.

    `client_group` names who calls, for statistics. `timeout_s`: after it an append that was sent
    ends in OutcomeUnknownError. Raises InvalidArgumentError for an address that is none.
    """
    return Client(
        parse_addresses(addresses),
        client_group=client_group,
        tls=tls,
        timeout_s=timeout_s,
        env=env or Env(),
    )


class Client:
    """A connection to a cluster; all its logs share streams and buffers. Belongs to one event
    loop.
    """

    def __init__(
        self,
        addresses: list[str],
        *,
        client_group: str,
        tls: TlsOptions | None,
        timeout_s: float,
        env: Env,
    ) -> None:
        if not client_group:
            raise InvalidArgumentError("client_group is empty")
        if not timeout_s > 0:
            raise InvalidArgumentError(f"timeout_s is {timeout_s}, expected more than 0 s")
        self._env = env
        self._timeout_s = timeout_s
        self._directory = Directory(addresses, env, client_group=client_group, tls=tls)
        self._appender: Appender | None = None
        self._reader: Reader | None = None

    async def __aenter__(self) -> Self:
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
        """End streams and channels. Appends that nobody acked yet fail."""
        if self._appender is not None:
            await self._appender.close()
        await self._directory.close()

    async def create_log(
        self,
        name: str,
        *,
        partitioner: str = "range",
        shards: int | None = None,
        split_keys: Sequence[bytes] = (),
        instances: Sequence[str] = (),
        **options: Any,
    ) -> "Log":
        """Create a log. `split_keys` cut the routing keys instead of `shards` even ranges;
        default: one, of a balanced log one for each instance. `instances` names the primary of each
        shard instead of the ring. `options` are LogOptions:
        replicas, min_in_sync, durability, compression, key_index, event_time; those not given have
        the cluster's defaults.

        Errors: AlreadyExistsError, InvalidArgumentError.
        """
        checks.log_name(name)
        for field, told in (("split_keys", split_keys), ("instances", instances)):
            if isinstance(told, str | bytes):
                raise InvalidArgumentError(f"{field} is {told[:80]!r}, expected a list of them")
        cuts = [checks.key(cut, "split_keys") for cut in split_keys]
        count = 0 if shards is None else checks.number("shards", shards, 1)
        if cuts and count not in (0, len(cuts) + 1):
            raise InvalidArgumentError(
                f"shards is {count}, {len(cuts)} split_keys make {len(cuts) + 1}: give one of them"
            )
        count = len(cuts) + 1 if cuts else count
        if count > SHARDS_PER_LOG_MAX:
            raise InvalidArgumentError(f"shards is {count}, the limit is {SHARDS_PER_LOG_MAX}")
        unknown = options.keys() - {field.name for field in dataclasses.fields(LogOptions)}
        if unknown:
            raise InvalidArgumentError(f"unknown options of a log: {', '.join(sorted(unknown))}")
        wanted = {"partitioner": partitioner, **options}  # the rest is for the cluster to say
        try:
            msgspec.convert(wanted, LogOptions)
        except msgspec.ValidationError as e:
            raise InvalidArgumentError(f"options of log {name!r}: {e}") from e
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
        """A log that exists, else UnknownLogError."""
        checks.log_name(name)
        if self._appender is None or self._reader is None:
            raise InvalidArgumentError("the client is not open: use `async with connect(...)`")
        await self._directory.refresh(name)
        return Log(name, self._directory, self._appender, self._reader)

    async def list_logs(self) -> list[str]:
        """The names of all logs, sorted."""
        answer = await self._directory.catalog("ListLogs", coordinator_pb2.ListLogsRequest())
        return sorted(info.name for info in answer.logs)

    async def delete_log(self, name: str) -> None:
        """Delete a log with all its records, else UnknownLogError."""
        checks.log_name(name)
        await self._directory.catalog("DeleteLog", coordinator_pb2.DeleteLogRequest(name=name))
        self._directory.forget(name)


class Log:
    """Appends and reads of one log. Made by `Client.log`."""

    def __init__(self, name: str, directory: Directory, appender: Appender, reader: Reader) -> None:
        self.name = name
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

        `timestamp` is in microseconds since 1970 UTC; the primary stamps where it is absent.
        `expected_version`: how many records the key must have, else VersionConflictError.
        Errors: InvalidArgumentError and LimitExceededError before anything is sent;
        OutcomeUnknownError when it was sent and no answer came within the client's `timeout_s`.
        """
        return await self._appender.append(
            self.name, key, value, headers, timestamp, expected_version
        )

    async def append_many(self, keys: Any, values: Any, timestamps: Any = None) -> list[Ack]:
        """Append rows given as columns: sequences of bytes, numpy or Arrow arrays.

        One Ack (first offset and count) per stored batch; rows of one key keep their order. Each
        batch has the client's `timeout_s` from when it entered the buffer. AppendManyError lists
        the rows that are stored, that are not, and of which it is unknown.
        """
        return await self._appender.append_many(self.name, keys, values, timestamps)

    async def read(
        self,
        *,
        key: bytes | None = None,
        start: bytes | None = None,
        end: bytes | None = None,
        since: int | datetime.datetime | None = None,
        shard: str | None = None,
        offset: int | None = None,
        limit: int | None = None,
        order: Order = "any",
    ) -> AsyncGenerator[Record, None]:
        """Records up to the high watermarks at the call: of one key, of keys in [start, end), of a
        shard from an offset on, since a time (µs or datetime). order="any" keeps each key's order
        and is fastest; order="key" gives key, then offset, and holds at most
        ORDERED_READ_BYTES_MAX.
        """
        lists = self.lists(
            tail=False,
            key=key,
            start=start,
            end=end,
            since=since,
            shard=shard,
            offset=offset,
            limit=limit,
            order=order,
        )
        async with contextlib.aclosing(lists):
            async for records in lists:
                for record in records:
                    yield record

    async def tail(
        self,
        *,
        key: bytes | None = None,
        start: bytes | None = None,
        end: bytes | None = None,
        since: int | datetime.datetime | None = None,
        shard: str | None = None,
        offset: int | None = None,
        limit: int | None = None,
        from_start: bool = False,
    ) -> AsyncGenerator[Record, None]:
        """Records that are appended after the call, as they are committed, until the caller leaves.

        With `from_start`, `since` or `offset` what is stored already comes first.
        """
        lists = self.lists(
            tail=True,
            key=key,
            start=start,
            end=end,
            since=since,
            shard=shard,
            offset=offset,
            limit=limit,
            from_start=from_start,
        )
        async with contextlib.aclosing(lists):
            async for records in lists:
                for record in records:
                    yield record

    def scan(
        self,
        *,
        key: bytes | None = None,
        start: bytes | None = None,
        end: bytes | None = None,
        since: int | datetime.datetime | None = None,
        shard: str | None = None,
        offset: int | None = None,
        limit: int | None = None,
        order: Order = "any",
    ) -> "Scan":
        """The records that `read` would give, as columns; see Scan."""
        spec = self._spec(key, start, end, since, shard, offset, limit, order)
        return Scan(self._reader, spec)

    @property
    def trimmed(self) -> dict[str, int]:
        """Shard -> first offset that is kept, of shards that this client's reads found trimmed.

        A read or tail without an offset begins there; an offset below it is OutOfRangeError.
        """
        return {
            shard: base
            for shard, base in self._reader.trimmed.items()
            if shard.rpartition("/")[0] == self.name
        }

    async def shard_map(self) -> ShardMap:
        """The newest map: ranges, primaries, epochs."""
        return (await self._directory.refresh(self.name)).map

    async def lists(
        self, *, tail: bool, from_start: bool = False, **options: Any
    ) -> AsyncGenerator[list[Record], None]:
        """What `read` or `tail` yields, in lists as they come: fewer steps per record."""
        spec = self._spec(**options)
        if from_start and spec.offset is not None:
            raise InvalidArgumentError(
                f"from_start and offset {spec.offset} exclude each other: give one of them"
            )
        if tail and spec.offset is None and (from_start or spec.since_us is not None):
            spec = dataclasses.replace(spec, from_base=True)
        if spec.order == "any":
            async with contextlib.aclosing(self._reader.pages(spec, tail=tail)) as pages:
                async for page in pages:
                    yield page.records()
            return
        async with contextlib.aclosing(self._reader.batches(spec)) as batches:
            async for batch in batches:
                yield records_of(batch)

    def _spec(
        self,
        key: bytes | None = None,
        start: bytes | None = None,
        end: bytes | None = None,
        since: int | datetime.datetime | None = None,
        shard: str | None = None,
        offset: int | None = None,
        limit: int | None = None,
        order: Order = "any",
    ) -> ReadSpec:
        if order not in ("key", "any"):
            raise InvalidArgumentError(f'order is {order!r}, expected "key" or "any"')
        if key is not None and (start is not None or end is not None):
            raise InvalidArgumentError("key is given together with start or end")
        if offset is not None and shard is None:
            raise InvalidArgumentError("offset is given without shard: offsets belong to shards")
        if start is not None:
            checks.key(start, "start")
        if end is not None:
            checks.key(end, "end")
            if end <= (start or b""):
                raise InvalidArgumentError(f"end is {end!r}, it must be above start {start!r}")
        return ReadSpec(
            log=self.name,
            key=None if key is None else checks.key(key),
            start=start or b"",
            end=end,
            since_us=None if since is None else checks.time_us("since", since),
            shard=shard,
            offset=None if offset is None else checks.number("offset", offset),
            limit=None if limit is None else checks.number("limit", limit, 1),
            order=order,
        )


class Scan:
    """The result of a scan, read when asked for. Columns: pages.SCAN_SCHEMA."""

    def __init__(self, reader: Reader, spec: ReadSpec) -> None:
        self._reader = reader
        self._spec = spec

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Arrow batches as they come."""
        async with contextlib.aclosing(self._reader.batches(self._spec)) as batches:
            async for batch in batches:
                yield batch

    async def to_arrow(self) -> pa.Table:
        """Everything as one table."""
        async with contextlib.aclosing(self.batches()) as batches:
            return pa.Table.from_batches([batch async for batch in batches], SCAN_SCHEMA)

    async def to_pandas(self) -> Any:
        """Everything as a pandas DataFrame; needs pandas."""
        return (await self.to_arrow()).to_pandas()

    async def to_polars(self) -> Any:
        """Everything as a polars DataFrame; needs polars."""
        try:
            polars = importlib.import_module("polars")
        except ImportError as e:
            raise InvalidArgumentError("to_polars needs polars: pip install polars") from e
        return polars.from_arrow(await self.to_arrow())
