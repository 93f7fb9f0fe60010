"""Instances in this process behind real gRPC servers: storage in memory, the protocol's rules of
sequence and epoch in full, and faults that a test puts on a list. Deterministic: no clock, no dice.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc.aio
import pyarrow as pa

from logstore.base.errors import (
    AlreadyExistsError,
    FencedError,
    LogstoreError,
    NotServingError,
    OutOfRangeError,
    OutOfSequenceError,
    ShardSealedError,
    UnavailableError,
    UnknownLogError,
    UnknownShardError,
    VersionConflictError,
    WrongShardError,
)
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_OFFSETS,
    FLAG_TIMES,
    decode_payload,
    encode_payload,
    schema_of,
)
from logstore.meta.records import LogOptions
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1 import coordinator_pb2, coordinator_pb2_grpc
from logstore.proto.status import abort, detail_of, served
from logstore.proto.v1 import common_pb2, log_pb2, log_pb2_grpc
from sharder.keys import KeyRange, Partitioner, even_ranges, ranges_from_cuts, routing_key

STAMP_US = 1_700_000_000_000_000


@dataclass
class Stored:
    key: bytes
    value: bytes
    timestamp: int
    headers: dict[str, bytes]


@dataclass
class Shard:
    """One shard's truth, shared by all instances (as if moves were instant)."""

    id: str
    range: KeyRange
    primary: str
    epoch: int = 1
    status: str = "open"
    shares: dict[str, float] = field(default_factory=dict)
    predecessors: list[str] = field(default_factory=list)
    successors: list[str] = field(default_factory=list)
    records: list[Stored] = field(default_factory=list)
    producers: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)
    appends_by: dict[str, int] = field(default_factory=dict)


Fault = Callable[[log_pb2.AppendBatch], "LogstoreError | str | None"]
"""An error to answer, `lose` (break the stream unstored), `lose_ack` (break it stored), or None."""


class Cluster:
    """The map, the shards and the servers."""

    def __init__(self, partitioner: Partitioner = Partitioner.RANGE) -> None:
        self.partitioner = partitioner
        self.log = "orders"
        self.version = 1
        self.exists = True
        self.created_us = STAMP_US
        self.shards: dict[str, Shard] = {}
        self.addresses: dict[str, str] = {}
        self.instances: dict[str, Instance] = {}
        self.changed = asyncio.Condition()
        self.routes_calls = 0
        self.options = LogOptions(partitioner=partitioner)

    async def start(self, names: list[str], ranges: list[KeyRange]) -> "Cluster":
        for place, keys in enumerate(ranges):
            shard = Shard(f"{self.log}/{place}", keys, names[place % len(names)])
            self.shards[shard.id] = shard
        for name in names:
            self.instances[name] = Instance(self, name)
            self.addresses[name] = await self.instances[name].start()
        return self

    async def stop(self) -> None:
        for instance in self.instances.values():
            await instance.stop()

    async def change(self, **shards: dict[str, Any]) -> None:
        """Set fields of shards (`s0={"primary": "b", "epoch": 2}`) and publish a new map."""
        for name, values in shards.items():
            shard = self.shards[f"{self.log}/{name[1:]}"]
            for key, value in values.items():
                setattr(shard, key, value)
        async with self.changed:
            self.version += 1
            self.changed.notify_all()

    async def delete(self) -> None:
        """The log is gone, and every request for a newer map gets this answer."""
        async with self.changed:
            self.exists = False
            self.changed.notify_all()

    async def remake(self) -> None:
        """Another log of the same name: the same ranges, and nothing in them."""
        old = list(self.shards.values())
        self.shards = {s.id: Shard(s.id, s.range, s.primary) for s in old}
        async with self.changed:
            self.exists = True
            self.created_us += 1_000_000
            self.version += 1
            self.changed.notify_all()

    def routes(self) -> common_pb2.LogRoutes:
        return common_pb2.LogRoutes(
            log=self.log,
            map_version=self.version,
            partitioner=self.partitioner.value,
            created_us=self.created_us,
            options_json=b'{"compression":"%s"}' % self.options.compression.encode(),
            shards=[
                common_pb2.ShardRoute(
                    shard=s.id,
                    range=common_pb2.KeyRange(start=s.range.start, end=s.range.end),
                    status=s.status,
                    epoch=s.epoch,
                    primary=s.primary,
                    addresses=self.addresses,
                    shares=s.shares,
                    predecessors=s.predecessors,
                    successors=s.successors,
                )
                for s in self.shards.values()
            ],
        )

    def all_records(self) -> list[Stored]:
        return [record for shard in self.shards.values() for record in shard.records]


class Instance(log_pb2_grpc.LogServiceServicer, log_pb2_grpc.RouteServiceServicer):
    """One server. `faults` are asked in order, one an append; `read_faults` one a read call."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.faults: deque[Fault] = deque()
        self.read_faults: deque[tuple[int, LogstoreError]] = deque()
        self.page_rows = 100
        self.gate: asyncio.Event | None = None
        self.messages: list[log_pb2.AppendBatch] = []
        self.reads: list[log_pb2.ReadRequest] = []
        self.routes_fail = False
        self.appended = asyncio.Condition()
        self.received = asyncio.Condition()
        self.asked = asyncio.Condition()
        self.server: grpc.aio.Server | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> str:
        self.server = make_server()
        log_pb2_grpc.add_LogServiceServicer_to_server(self, self.server)
        log_pb2_grpc.add_RouteServiceServicer_to_server(self, self.server)
        catalog = Catalog(self.cluster)  # type: ignore[abstract]  # no client calls the rest
        coordinator_pb2_grpc.add_CatalogServicer_to_server(catalog, self.server)
        self.address = f"127.0.0.1:{listen(self.server, self.address)}"
        await self.server.start()
        return self.address

    async def stop(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    # ---- appends

    async def AppendStream(
        self, request_iterator: AsyncIterator[log_pb2.AppendBatch], context: Any
    ) -> AsyncIterator[log_pb2.AppendResult]:
        async for message in request_iterator:
            async with self.received:
                self.messages.append(message)
                self.received.notify_all()
            if self.gate is not None:
                await self.gate.wait()
            verdict = self.faults.popleft()(message) if self.faults else None
            if verdict == "lose":
                await abort(context, UnavailableError("connection lost"))
            result = log_pb2.AppendResult(id=message.id, shard=message.shard)
            try:
                if isinstance(verdict, LogstoreError):
                    raise verdict
                self._append(message, result)
            except LogstoreError as e:
                result.error.CopyFrom(detail_of(e))
            if verdict == "lose_ack":
                await abort(context, UnavailableError("connection lost"))
            async with self.appended:
                self.appended.notify_all()
            yield result

    def _append(self, message: log_pb2.AppendBatch, result: log_pb2.AppendResult) -> None:
        shard = self.cluster.shards.get(message.shard)
        if shard is None:
            raise UnknownShardError(f"no shard {message.shard}")
        if message.created_us not in (0, self.cluster.created_us):
            raise FencedError("the call means another log of this name")
        if message.epoch < shard.epoch:
            raise FencedError(f"epoch is {message.epoch}, the shard's is {shard.epoch}")
        if shard.primary != self.name and self.name not in shard.shares:
            raise FencedError(f"{self.name} does not lead {shard.id}")
        assert google_crc32c.value(message.payload) == message.crc32c
        assert message.caller.client_group == "tests"
        batch = decode_payload(message.payload, message.flags)
        assert batch.num_rows == message.count
        known = shard.producers.setdefault(message.producer_id, {})
        result.count, result.timestamp_us = message.count, STAMP_US
        if message.sequence in known:
            result.base_offset, result.count = known[message.sequence]
            result.duplicate = True
            return
        if shard.status == "sealed":
            raise ShardSealedError(f"shard {shard.id} is sealed")
        if message.sequence != max(known, default=0) + 1:
            raise OutOfSequenceError(f"sequence {message.sequence}, last {max(known, default=0)}")
        self._store(shard, message, batch, result)
        known[message.sequence] = (result.base_offset, message.count)
        shard.appends_by[self.name] = shard.appends_by.get(self.name, 0) + 1

    def _store(
        self,
        shard: Shard,
        message: log_pb2.AppendBatch,
        batch: pa.RecordBatch,
        result: log_pb2.AppendResult,
    ) -> None:
        rows = batch.to_pylist()
        for row in rows:
            key = routing_key(self.cluster.partitioner, row["key"])
            if key not in shard.range:
                raise WrongShardError(f"key {key!r} is outside {shard.range}")
        if message.HasField("expected_version"):
            version = sum(r.key == rows[0]["key"] for r in shard.records)
            if version != message.expected_version:
                raise VersionConflictError(
                    f"expected_version is {message.expected_version}, the key has {version}"
                )
            result.version = version + 1
        result.base_offset = len(shard.records)
        for row in rows:
            headers = {h["name"]: h["value"] for h in row.get("headers") or ()}
            stamp = row.get("timestamp", STAMP_US)
            shard.records.append(Stored(row["key"], row["value"], stamp, headers))
        if message.flags & FLAG_TIMES:
            result.timestamp_us = rows[0]["timestamp"]

    async def Append(self, request: log_pb2.AppendRequest, context: Any) -> log_pb2.AppendResponse:
        await abort(context, UnavailableError("the client streams"))

    # ---- reads

    async def Read(
        self, request: log_pb2.ReadRequest, context: Any
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        async with served(context):
            async for page in self._read(request, tail=False):
                yield page

    async def Tail(
        self, request: log_pb2.TailRequest, context: Any
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        async with served(context):
            async for page in self._read(request.read, tail=True):
                yield page

    async def _read(
        self, request: log_pb2.ReadRequest, tail: bool
    ) -> AsyncIterator[log_pb2.ReadResponse]:
        async with self.asked:
            self.reads.append(request)
            self.asked.notify_all()
        pages_left, fault = self.read_faults.popleft() if self.read_faults else (1 << 30, None)
        shard = self.cluster.shards.get(request.shard)
        if shard is None:
            raise UnknownShardError(f"no shard {request.shard}")
        if request.created_us not in (0, self.cluster.created_us):
            raise FencedError("the call means another log of this name")
        if request.epoch and request.epoch < shard.epoch:
            raise FencedError("old epoch")
        at, left, end = request.start_offset, request.limit or 1 << 60, len(shard.records)
        if at > end:
            raise OutOfRangeError(f"start_offset is {at}, shard {shard.id} ends at {end}")
        if request.min_high_watermark > end:
            raise NotServingError(f"behind {request.min_high_watermark}")
        while True:
            end = len(shard.records) if tail else end
            stop = min(end, request.stop_offset) if request.HasField("stop_offset") else end
            while at < stop and left:
                if pages_left == 0 and fault is not None:
                    raise fault
                pages_left -= 1
                rows = range(at, min(stop, at + self.page_rows))
                chosen = [o for o in rows if _wanted(request, shard.records[o])][:left]
                left -= len(chosen)
                at = rows.stop
                yield _page(shard, chosen, rows, end)
            if pages_left == 0 and fault is not None:
                raise fault
            if not tail or not left:
                return
            async with self.appended:
                if len(shard.records) == end:
                    await self.appended.wait()

    # ---- routes

    async def Routes(self, request: log_pb2.RoutesRequest, context: Any) -> common_pb2.LogRoutes:
        cluster = self.cluster
        cluster.routes_calls += 1
        async with served(context):
            if self.routes_fail:
                raise UnavailableError("no routes here")
            if request.log != cluster.log or not cluster.exists:
                raise UnknownLogError(f"log {request.log!r} does not exist")
            if request.newer_than:
                async with cluster.changed:
                    try:
                        async with asyncio.timeout(1.0):
                            while cluster.exists and cluster.version <= request.newer_than:
                                await cluster.changed.wait()
                    except TimeoutError:
                        pass
            if not cluster.exists:
                raise UnknownLogError(f"log {request.log!r} does not exist")
            return cluster.routes()
        raise AssertionError


class Catalog(coordinator_pb2_grpc.CatalogServicer):
    """Creates the one log of the cluster with the shards it is asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def CreateLog(
        self, request: coordinator_pb2.CreateLogRequest, context: Any
    ) -> coordinator_pb2.LogInfo:
        import msgspec

        async with served(context):
            if request.name == self.cluster.log and self.cluster.exists:
                raise AlreadyExistsError(f"log {request.name!r} exists")
            options = msgspec.json.decode(request.options_json, type=LogOptions)
            cluster = self.cluster
            cluster.log, cluster.exists, cluster.options = request.name, True, options
            cluster.partitioner = options.partitioner
            cuts = list(request.split_keys)
            ranges = (
                ranges_from_cuts(cuts) if cuts else even_ranges(options.partitioner, request.shards)
            )
            names = list(request.instances) or list(cluster.instances)
            cluster.shards = {
                f"{cluster.log}/{i}": Shard(f"{cluster.log}/{i}", keys, names[i % len(names)])
                for i, keys in enumerate(ranges)
            }
            cluster.created_us += 1_000_000
            cluster.version += 1
        return coordinator_pb2.LogInfo(name=request.name)

    async def DeleteLog(
        self, request: coordinator_pb2.DeleteLogRequest, context: Any
    ) -> coordinator_pb2.DeleteLogResponse:
        async with served(context):
            if request.name != self.cluster.log or not self.cluster.exists:
                raise UnknownLogError(f"log {request.name!r} does not exist")
            await self.cluster.delete()
        return coordinator_pb2.DeleteLogResponse()

    async def ListLogs(
        self, request: coordinator_pb2.ListLogsRequest, context: Any
    ) -> coordinator_pb2.ListLogsResponse:
        names = [self.cluster.log] if self.cluster.exists else []
        return coordinator_pb2.ListLogsResponse(
            logs=[coordinator_pb2.LogInfo(name=name) for name in names]
        )

    async def DescribeLog(
        self, request: coordinator_pb2.DescribeLogRequest, context: Any
    ) -> coordinator_pb2.LogInfo:
        await abort(context, UnavailableError("not asked by this client"))

    async def ListInstances(
        self, request: coordinator_pb2.ListInstancesRequest, context: Any
    ) -> coordinator_pb2.ListInstancesResponse:
        await abort(context, UnavailableError("not asked by this client"))


def _wanted(request: log_pb2.ReadRequest, record: Stored) -> bool:
    if request.HasField("key") and record.key != request.key:
        return False
    if request.HasField("since_us") and record.timestamp < request.since_us:
        return False
    if not request.HasField("range"):
        return True
    end = request.range.end if request.range.HasField("end") else None
    return request.range.start <= record.key and (end is None or record.key < end)


def _page(shard: Shard, chosen: list[int], rows: range, end: int) -> log_pb2.ReadResponse:
    """Dense pages come as stored (no offsets, no times), others with both columns."""
    records = [shard.records[o] for o in chosen]
    flags = FLAG_HEADERS if any(r.headers for r in records) else 0
    if len(chosen) < len(rows):
        flags |= FLAG_OFFSETS | FLAG_TIMES
    elif any(r.timestamp != STAMP_US for r in records):
        flags |= FLAG_TIMES
    columns = {
        "offset": chosen,
        "key": [r.key for r in records],
        "value": [r.value for r in records],
        "timestamp": [r.timestamp for r in records],
        "headers": [[{"name": n, "value": v} for n, v in r.headers.items()] for r in records],
    }
    schema = schema_of(flags)
    batch = pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name], f.type) for f in schema], schema=schema
    )
    return log_pb2.ReadResponse(
        shard=shard.id,
        base_offset=chosen[0] if chosen else rows.start,
        count=len(chosen),
        append_time_us=STAMP_US,
        flags=flags,
        payload=encode_payload(batch) if chosen else b"",
        high_watermark=end,
        next_offset=rows.stop,
    )
