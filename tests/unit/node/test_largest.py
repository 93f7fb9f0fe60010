"""What is accepted fits through every path: the largest batches, by all ways on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc.aio
import pyarrow as pa
import pytest

import logstore
from logstore.base.errors import OverloadedError
from logstore.base.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, SHARD_QUEUE_BYTES_MAX
from logstore.base.types import Compression, Durability
from logstore.engine.batch import FLAG_HEADERS, StoredBatch
from logstore.engine.weight import BATCH_FIXED_BYTES, weight
from logstore.feed.memory import MemoryBroker
from logstore.meta.records import Member
from logstore.node.appends.writer import MERGE_BYTES_MAX, ShardWriter, new_future
from logstore.node.intake.appends import PendingAppend
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2
from sharder.keys import Partitioner
from tests.support.largest import (
    KEY_BYTES,
    ROOM,
    SLOW,
    Kind,
    connected,
    create,
    kinds,
    message_of,
    shapes,
)
from tests.support.nodes import Nodes, append, batch_of, nodes

LIMIT_S = 60.0
KINDS = kinds()
TOPIC = "changes"
LARGEST = list(shapes())


@asynccontextmanager
async def cluster_of(folder: Path, kind: Kind) -> AsyncIterator[Nodes]:
    async with nodes(folder, kind.replicas, **SLOW) as n:
        await create(n, kind)
        yield n


async def until_all_have(n: Nodes, shard: str, end: int) -> None:
    """Wait until every copy holds the same log up to `end`, and knows that it is committed."""
    async with asyncio.timeout(LIMIT_S):
        for server in n.servers.values():
            replica = server.instance.replicas.get(shard)
            while replica is not None and replica.high_watermark < end:
                await replica.wait_change(1.0)


def columns(batches: list[pa.RecordBatch]) -> list[pa.Table]:
    return [pa.Table.from_batches([b.select(["key", "value"])]) for b in batches]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, (
    k.partitioner, k.compression, k.durability, k.replicas))))  # fmt: skip
async def test_the_largest_batches_go_through_every_read(tmp_path: Path, kind: Kind) -> None:
    sent = LARGEST[kind.number % 4 :][:1]
    total = sum(batch.num_rows for _, batch in sent)
    async with cluster_of(tmp_path, kind) as n:
        messages = [message_of(kind, flags, b, i) for i, (flags, b) in enumerate(sent, 1)]
        results = await append(n.log_stub("i1"), messages)
        assert [r.error.message for r in results] == [""] * len(sent)
        await until_all_have(n, kind.shard, total)
        stripped = 8 if kind.partitioner == "balanced" else 0
        keys = [k[stripped:] for _, b in sent for k in b.column(0).to_pylist()]
        values = pa.chunked_array([b.column(1) for _, b in sent])
        async with logstore.connect([s.address for s in n.servers.values()], timeout_s=20) as db:
            log = await db.log(kind.log)
            table = await log.scan().to_arrow()
            assert table["key"].to_pylist() == keys
            assert table["value"].combine_chunks() == values.combine_chunks()
            if kind.partitioner != "balanced":
                (found,) = [r async for r in log.read(key=keys[0])]
                assert (found.offset, found.value) == (0, values[0].as_py())
            tailed = 0
            async with aclosing(log.lists(tail=True, from_start=True)) as lists:
                async for records in lists:
                    tailed += len(records)
                    if tailed == total:
                        break
            filtered = await log.scan(start=keys[-1]).to_arrow()
            assert filtered["key"].to_pylist() == [k for k in keys if k >= keys[-1]]


async def test_one_byte_more_is_refused_with_a_clear_error(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        for kind in KINDS[:3]:
            await create(n, Kind(kind.number, kind.partitioner, kind.compression))
            messages = [message_of(kind, f, b, i) for i, (f, b) in enumerate(shapes(over=1), 1)]
            for result in await append(n.log_stub("i1"), messages):
                assert result.error.code == "limit_exceeded"
                assert f"batch is {BATCH_BYTES_MAX + 1} bytes" in result.error.message
            (fine,) = await append(n.log_stub("i1"), [batch_of(kind.shard, [b"k" * 9])])
            assert (fine.error.message, fine.base_offset) == ("", 0)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]], ids=lambda k: k.compression)
async def test_a_copy_learns_the_largest_batches_and_feeds_on(tmp_path: Path, kind: Kind) -> None:
    """Snapshot chunks of what is there, feed messages of what comes, and the change stream."""
    kind = Kind(kind.number, kind.partitioner, kind.compression)
    broker = MemoryBroker()
    async with nodes(tmp_path, 0, **SLOW) as n:
        n.broker = broker
        await n.start("i1")
        await n.start("i2")
        await n.create(kind.shard, "i1", compression=kind.compression, changefeed=TOPIC)
        await n.until(kind.shard, lambda r: r.epoch == 2)
        await connected(n)
        messages = [message_of(kind, f, b, i) for i, (f, b) in enumerate(LARGEST[1:3], 1)]
        await append(n.log_stub("i1"), messages[:1])
        learner = Member("i2", n.servers["i2"].instance.node.incarnation, 777)
        await n.change(kind.shard, learners=(learner,))
        async with asyncio.timeout(LIMIT_S):
            while (copy := n.servers["i2"].instance.replicas.get(kind.shard)) is None or (
                not copy.exists or copy.node.engine.end(777).end < messages[0].count
            ):
                await asyncio.sleep(0.01)
            await append(n.log_stub("i1"), messages[1:])
            total = sum(m.count for m in messages)
            while copy.node.engine.end(777).end < total:
                await asyncio.sleep(0.01)
            while len(broker.changes.get(TOPIC, ())) < total:
                await asyncio.sleep(0.01)
        source = n.servers["i1"].instance.replicas[kind.shard]
        assert copy.node.engine.end(777) == source.node.engine.end(source.member.replica_id)
        keys = [change.key for _, change in broker.changes[TOPIC]]
        assert keys == [k for _, b in LARGEST[1:3] for k in b.column(0).to_pylist()]


def letters(count: int) -> dict[str, bytes]:
    return {chr(0x30 + i): b"" for i in range(count)}


@pytest.mark.parametrize("replicas", [1, 3])
async def test_the_issues_own_append_is_refused_and_blocks_nobody(
    tmp_path: Path, replicas: int
) -> None:
    """65,536 records with 32 headers of one letter each: 15.1 MB sent, more than that stored."""
    kind = Kind(0, replicas=replicas)
    async with cluster_of(tmp_path, kind) as n:
        stub = n.log_stub("i1")
        record = log_pb2.Record(key=b"k", value=b"", headers=letters(32))
        request = log_pb2.AppendRequest(log=kind.log, records=[record] * BATCH_RECORDS_MAX)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Append(request)
        error = from_rpc(caught.value)
        assert error.code == "limit_exceeded"
        assert "with headers and encoding, the limit is 8388608 bytes" in error.message
        after = await stub.Append(
            log_pb2.AppendRequest(log=kind.log, records=[log_pb2.Record(key=b"k", value=b"v")])
        )
        assert after.base_offset == 0, "others go on, and nothing of it was stored"


async def test_the_largest_unary_append_is_replicated(tmp_path: Path) -> None:
    kind = Kind(0, Partitioner.RANGE, Compression.ZSTD, Durability.FSYNC, 3)
    each = weight(1, KEY_BYTES + 32, FLAG_HEADERS, 32)
    count = ROOM // each
    async with cluster_of(tmp_path, kind) as n:
        stub = n.log_stub("i1")
        rows = [log_pb2.Record(key=bytes(KEY_BYTES), headers=letters(32))] * count
        answer = await stub.Append(log_pb2.AppendRequest(log=kind.log, records=rows))
        assert (answer.base_offset, answer.count) == (0, count)
        await until_all_have(n, kind.shard, count)
        with pytest.raises(grpc.aio.AioRpcError, match="batch is"):
            await stub.Append(log_pb2.AppendRequest(log=kind.log, records=[*rows, rows[0]]))


async def test_headers_count_in_the_size_of_a_record_in_bytes_of_utf8(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        kind = Kind(0)
        await create(n, kind)
        stub = n.log_stub("i1")
        value, name = bytes(1024 * 1024 - 10), "é" * 4
        fits = log_pb2.Record(key=b"k", value=value, headers={name: b"1"})
        answer = await stub.Append(log_pb2.AppendRequest(log=kind.log, records=[fits]))
        assert answer.count == 1
        for headers in ({name: b"12"}, {name + "é": b""}):
            over = log_pb2.Record(key=b"k", value=value, headers=headers)
            with pytest.raises(grpc.aio.AioRpcError, match=r"record is 104857[78] bytes"):
                await stub.Append(log_pb2.AppendRequest(log=kind.log, records=[over]))
        long = log_pb2.Record(key=b"k", headers={"é" * 129: b""})
        with pytest.raises(grpc.aio.AioRpcError, match="header name is 258 bytes"):
            await stub.Append(log_pb2.AppendRequest(log=kind.log, records=[long]))


async def test_small_appends_are_merged_by_what_they_weigh(tmp_path: Path) -> None:
    """Empty records with headers have no content at all: counted by that, everything that waits
    became one stored batch."""
    async with nodes(tmp_path, 1) as n:
        kind = Kind(0)
        await create(n, kind)
        replica = n.servers["i1"].instance.replicas[kind.shard]
        rows = [log_pb2.Record(headers=letters(32))] * 32
        empty = [log_pb2.Record()]
        waiting = [of_records(rows) for _ in range(600)] + [of_records(empty) for _ in range(9_000)]
        for append_ in waiting:
            replica.append_gate.submit(append_)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(a.done for a in waiting))
        engine, me = replica.node.engine, replica.member.replica_id
        stored, at = list[StoredBatch](), 0
        while batches := engine.read(me, at, engine.end(me).end, 1 << 30):
            stored += batches
            at = batches[-1].end
        assert sum(b.count for b in stored) == 600 * 32 + 9_000
        assert len(stored) < 300, "they are merged"
        assert max(len(b.payload()) for b in stored) <= MERGE_BYTES_MAX + BATCH_FIXED_BYTES
        assert max(len(b.spans()) for b in stored) < 2**16


async def test_empty_records_that_wait_are_bounded_too(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        kind = Kind(0)
        await create(n, kind)
        writer = n.servers["i1"].instance.replicas[kind.shard].writer
        writer.set_open(False, 0)  # as during a hand-over: what comes waits
        most = SHARD_QUEUE_BYTES_MAX // BATCH_FIXED_BYTES + 1
        refused = waiting_until_refused(writer, of_records([log_pb2.Record()]), most)
        assert refused is not None
        assert "bytes waiting, the limit is" in refused.message
        writer.take_queue()


def waiting_until_refused(
    writer: ShardWriter, append_: PendingAppend, most: int
) -> OverloadedError | None:
    for _ in range(most):
        try:
            writer.submit(append_)
        except OverloadedError as e:
            return e
    return None


def of_records(rows: list[log_pb2.Record]) -> PendingAppend:
    message = log_pb2.AppendBatch(producer_id=0)
    return PendingAppend.of_records(rows, message, new_future(), 0.0)
