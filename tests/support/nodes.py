"""Real instances in this process: real gRPC, real RocksDB, the metadata's memory twin."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import google_crc32c
import grpc.aio
import msgspec
import pyarrow as pa

from logstore.base.env import Env
from logstore.base.types import ShardStatus
from logstore.client.options import CreateLogOptions, PartitionerName
from logstore.engine.batch import encode_payload, schema_of
from logstore.feed.port import Broker
from logstore.meta.generations import ensure_generation
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Compare, Put
from logstore.meta.records import (
    LogOptions,
    LogRecord,
    Member,
    ShardRecord,
    decode_instance,
    decode_shard,
    encode,
    instance_key,
    log_key,
    shard_key,
)
from logstore.node.config import NodeConfig
from logstore.node.instance.identity import FILE, IdentityFile
from logstore.node.server import NodeServer
from logstore.proto.channel import open_channel
from logstore.proto.v1 import common_pb2, log_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceStub
from sharder.keys import KeyRange

if TYPE_CHECKING:  # the stubs' own name
    from logstore.proto.v1.log_pb2_grpc import LogServiceAsyncStub


class LogChoices(CreateLogOptions, total=False):
    """How the log of a test is kept; the others are as `LogOptions` says."""

    partitioner: PartitionerName


class Nodes:
    """Instances over one metadata store; `kill` is as sudden as a process's end can be here."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = settings
        self.store = MemoryMetadataStore()
        self.broker: Broker | None = None
        self.servers: dict[str, NodeServer] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def start(self, instance: str, **settings: object) -> NodeServer:
        sudden = {"report_interval_s": 3600.0, "stop_hand_over_s": 0.0}
        values = {**sudden, **self.settings, **settings}
        config = NodeConfig(
            instance=instance,
            data=self.folder / instance,
            metadata=["127.0.0.1:1"],
            **values,  # type: ignore[arg-type]
        )
        await ensure_generation(self.store, Env(), "tests")
        server = NodeServer(config, Env(), store=self.store, broker=self.broker)
        await server.start()
        self.servers[instance] = server
        async with asyncio.timeout(10):
            while (found := await self.store.get(instance_key(instance))) is None or (
                decode_instance(found.value).address != server.address
            ):
                await asyncio.sleep(0.01)
        return server

    async def stop(self, instance: str) -> None:
        await self.servers.pop(instance).stop()
        channel = self._channels.pop(instance, None)
        if channel is not None:
            await channel.close()

    def log_stub(self, instance: str) -> "LogServiceAsyncStub":
        if instance not in self._channels:
            self._channels[instance] = open_channel(self.servers[instance].address)
        return LogServiceStub(self._channels[instance])

    async def create(
        self, shard: str, instance: str, keys: KeyRange | None = None, **options: Unpack[LogChoices]
    ) -> None:
        log = shard.split("/")[0]
        member = Member(instance, 0, replica_id=100 + int(shard.split("/")[1]))
        record = ShardRecord(
            shard=shard,
            log=log,
            range=keys or KeyRange(),
            status=ShardStatus.OPEN,
            epoch=1,
            primary_since=1,
            primary=member,
            in_sync=(member,),
        )
        log_record = LogRecord(log, msgspec.convert(options, LogOptions), 1, 0)
        await self.store.txn([], [Put(log_key(log), encode(log_record))])
        await self.store.txn([], [Put(shard_key(shard), encode(record))])

    async def record(self, shard: str) -> ShardRecord:
        found = await self.store.get(shard_key(shard))
        assert found is not None
        return decode_shard(found.value)

    async def change(self, shard: str, **fields: object) -> None:
        """What the coordinator does: write an intent by compare-and-swap."""
        while True:
            found = await self.store.get(shard_key(shard))
            assert found is not None
            record = replace(decode_shard(found.value), **fields)  # type: ignore[arg-type]
            result = await self.store.txn(
                [Compare(found.key, found.revision)], [Put(found.key, encode(record))]
            )
            if result.succeeded:
                return

    async def until(self, shard: str, what: "Predicate", limit_s: float = 10.0) -> ShardRecord:
        """Wait until the shard's record is as `what` says."""
        async with asyncio.timeout(limit_s):
            while not what(record := await self.record(shard)):
                await asyncio.sleep(0.005)
        return record


from collections.abc import Callable  # noqa: E402


def put_back(older: Path, data: Path) -> None:
    """An older copy of a folder, which its identity does not give away: the other members must."""
    shutil.copy(data / FILE, older / FILE)
    shutil.rmtree(data)
    older.rename(data)


def reboot(data: Path) -> None:
    """What a reboot does to a stopped instance: its next start is another incarnation (P6)."""
    kept = IdentityFile(data)
    found = kept.load()
    assert found is not None
    kept.save(msgspec.structs.replace(found, boot_id="an earlier boot"))


Predicate = Callable[[ShardRecord], bool]


@asynccontextmanager
async def nodes(folder: Path, count: int, **settings: object) -> AsyncIterator[Nodes]:
    cluster = Nodes(folder, **settings)
    try:
        for i in range(1, count + 1):
            await cluster.start(f"i{i}")
        yield cluster
    finally:
        for channel in cluster._channels.values():
            await channel.close()
        for instance in list(cluster.servers):
            await cluster.servers.pop(instance).stop()


def payload_of(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    arrays = [pa.array(keys, pa.binary()), pa.array(values, pa.binary())]
    return encode_payload(pa.RecordBatch.from_arrays(arrays, schema=schema_of(0)))


def batch_of(
    shard: str, keys: Sequence[bytes], sequence: int = 0, producer: int = 0, id_: int = 1
) -> log_pb2.AppendBatch:
    payload = payload_of(keys, [b"value of " + k for k in keys])
    return log_pb2.AppendBatch(
        id=id_,
        shard=shard,
        producer_id=producer,
        sequence=sequence,
        count=len(keys),
        crc32c=google_crc32c.value(payload),
        payload=payload,
        caller=common_pb2.Caller(client_group="test"),
    )


async def append(
    stub: "LogServiceAsyncStub", batches: Sequence[log_pb2.AppendBatch]
) -> list[log_pb2.AppendResult]:
    """Send on one stream, gather all results in order of id."""

    async def requests() -> AsyncIterator[log_pb2.AppendBatch]:
        for batch in batches:
            yield batch

    found = [r async for r in stub.AppendStream(requests())]
    return sorted(found, key=lambda r: r.id)
