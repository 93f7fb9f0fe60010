"""Three replicas: take-over, the old primary's return, reads of the latest under a lease."""

import asyncio
from pathlib import Path

import grpc.aio
import pytest

from logstore.meta.records import Member
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2
from tests.support.nodes import Nodes, append, batch_of, nodes
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_move_by_intents import SHARD, in_sync_ids

FAST = {"follower_timeout_s": 0.5, "lease_s": 0.6, "grace_s": 0.8, "heartbeat_interval_s": 0.05}


async def three(n: Nodes) -> None:
    await n.create(SHARD, "i1")
    await n.until(SHARD, lambda r: r.epoch == 2)
    learners = tuple(
        Member(i, n.servers[i].instance.node.incarnation, 200 + k)
        for k, i in enumerate(("i2", "i3"))
    )
    await n.change(SHARD, learners=learners, admit=(200, 201))
    await n.until(SHARD, lambda r: len(r.in_sync) == 3)


async def test_follower_takes_over_and_loses_nothing(tmp_path: Path) -> None:  # P4, I3
    async with nodes(tmp_path, 3, **FAST) as n:
        await three(n)
        for i in range(1, 11):
            (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"k%d" % i], i, 7)])
            assert not result.HasField("error")
        await n.stop("i1")
        record = await n.until(SHARD, lambda r: r.primary.instance != "i1")
        assert [m.instance for m in record.learners] == ["i1"]
        leader = record.primary.instance
        again, more = await append(
            n.log_stub(leader),
            [batch_of(SHARD, [b"k10"], 10, 7, 1), batch_of(SHARD, [b"k11"], 11, 7, 2)],
        )
        assert (again.duplicate, again.base_offset) == (True, 9)
        assert (more.duplicate, more.base_offset) == (False, 10)
        await n.start("i1")
        await n.change(SHARD, admit=(100,))
        await n.until(SHARD, lambda r: 100 in in_sync_ids(r))
        await n.change(SHARD, hand_over=100)
        await n.until(SHARD, lambda r: r.primary.instance == "i1")
        rows = await read_all(
            n.log_stub("i1"), log_pb2.ReadRequest(shard=SHARD, min_high_watermark=11)
        )
        assert [k for _, k in rows] == [b"k%d" % i for i in range(1, 12)]


async def test_every_in_sync_replica_serves_reads(tmp_path: Path) -> None:  # P8
    async with nodes(tmp_path, 3, **FAST) as n:
        await three(n)
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"a", b"b"])])
        assert result.base_offset == 0
        for instance in ("i1", "i2", "i3"):
            rows = await read_all(
                n.log_stub(instance), log_pb2.ReadRequest(shard=SHARD, min_high_watermark=2)
            )
            assert [k for _, k in rows] == [b"a", b"b"]


async def test_latest_reads_need_the_lease(tmp_path: Path) -> None:
    """P7: both followers gone and not yet removed: what the primary knows may not be the latest."""
    async with nodes(tmp_path, 3, **(FAST | {"follower_timeout_s": 20.0})) as n:
        await three(n)
        latest = log_pb2.ReadRequest(shard=SHARD, primary_only=True)
        assert await read_all(n.log_stub("i1"), latest) == []
        for follower in ("i2", "i3"):
            n.servers[follower].instance.node.config.grace_s = 60.0
            await n.stop(follower)
        replica = n.servers["i1"].instance.replicas[SHARD]
        async with asyncio.timeout(10):
            while replica.machine.lease_valid(replica.node.now_s()):
                await replica.wait_change(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(n.log_stub("i1"), latest)
        assert "lease" in from_rpc(refused.value).message


@pytest.mark.parametrize("end", ["leaves", "fails"])
async def test_an_append_under_way_when_the_copy_ends_is_not_refused(
    tmp_path: Path, end: str
) -> None:
    """A peer may hold it and lead next: "not stored" would be a lie, and its number used again."""
    patient = {"follower_timeout_s": 20.0, "lease_s": 20.0, "grace_s": 26.0}
    async with nodes(tmp_path, 3, **patient) as n:
        await three(n)
        record = await n.record(SHARD)
        for follower in ("i2", "i3"):
            await n.stop(follower)
        answer = asyncio.create_task(append(n.log_stub("i1"), [batch_of(SHARD, [b"a"], 1, 7)]))
        replica = n.servers["i1"].instance.replicas[SHARD]
        async with asyncio.timeout(10):
            while replica.machine.end.end < 1:
                await replica.wait_change(0.05)
        if end == "leaves":
            heir, epoch = record.in_sync[1], record.epoch + 1
            await n.change(
                SHARD, epoch=epoch, primary_since=epoch, primary=heir, in_sync=(heir,), learners=()
            )
        else:
            replica.fail("its disk is gone")
        async with asyncio.timeout(10):
            (result,) = await answer
        assert result.error.code == "unavailable"
        assert result.error.message.endswith("outcome unknown")
