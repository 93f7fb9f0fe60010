"""The whole way of a copy by metadata intents alone, under live appends (H1-H3, note 0001)."""

import asyncio
from pathlib import Path

from logstore.meta.records import Member, ShardRecord
from logstore.proto.v1 import log_pb2
from tests.support.nodes import Nodes, append, batch_of, nodes
from tests.unit.node.test_append_read import read_all

SHARD = "orders/0"
TARGET = 777


class Loader:
    """Appends one batch after another with a producer, by whichever instance answers."""

    def __init__(self, cluster: Nodes) -> None:
        self.cluster = cluster
        self.acked: list[tuple[int, int]] = []
        self.via = "i1"
        self._stop = False

    async def run(self) -> None:
        sequence, unknown = 1, False
        while not self._stop or unknown:  # what may be stored is sent until it is known
            keys = [b"key-%d" % (sequence * 10 + j) for j in range(10)]
            (result,) = await append(
                self.cluster.log_stub(self.via), [batch_of(SHARD, keys, sequence, 42)]
            )
            unknown = result.HasField("error")
            if unknown:
                assert result.error.retriable, result.error
                self.via = "i2" if self.via == "i1" else "i1"
                await asyncio.sleep(0.01)
                continue
            self.acked.append((result.base_offset, sequence))
            sequence += 1

    def stop(self) -> None:
        self._stop = True


def in_sync_ids(record: ShardRecord) -> set[int]:
    return {m.replica_id for m in record.in_sync}


async def learn(n: Nodes) -> Member:
    target = Member("i2", n.servers["i2"].instance.node.incarnation, TARGET)
    await n.change(SHARD, learners=(target,))
    async with asyncio.timeout(10):
        while (replica := n.servers["i2"].instance.replicas.get(SHARD)) is None or (
            replica.catch_up.newest is None or replica.catch_up.newest.phase != "feed"
        ):
            await asyncio.sleep(0.01)
    return target


async def check_everything(n: Nodes, loader: Loader, instance: str) -> None:
    rows = await read_all(n.log_stub(instance), log_pb2.ReadRequest(shard=SHARD))
    assert [o for o, _ in rows] == list(range(len(rows)))
    assert len(rows) == 10 * len(loader.acked)
    by_offset = dict(rows)
    for offset, sequence in loader.acked:
        assert by_offset[offset] == b"key-%d" % (sequence * 10)


async def test_move_and_back_under_load(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        loader = Loader(n)
        running = asyncio.create_task(loader.run())
        await learn(n)
        await n.change(SHARD, admit=(TARGET,))
        record = await n.until(SHARD, lambda r: TARGET in in_sync_ids(r))
        assert len(record.in_sync) == 2
        assert record.learners == ()
        source = record.primary.replica_id
        await n.change(SHARD, hand_over=TARGET)
        await n.until(SHARD, lambda r: r.primary.replica_id == TARGET)
        before = len(loader.acked)
        async with asyncio.timeout(10):
            while len(loader.acked) < before + 20:
                await asyncio.sleep(0.01)
        await n.change(SHARD, hand_over=source)  # rollback after the cutover
        await n.until(SHARD, lambda r: r.primary.replica_id == source)
        await n.change(SHARD, remove=(TARGET,))
        await n.until(SHARD, lambda r: in_sync_ids(r) == {source})
        async with asyncio.timeout(10):
            while SHARD in n.servers["i2"].instance.replicas:
                await asyncio.sleep(0.01)
        loader.stop()
        await running
        await check_everything(n, loader, "i1")
        assert [m.replica_id for m in n.servers["i2"]._engine.replicas()] == []


async def test_target_restarts_while_in_sync(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2, follower_timeout_s=0.5) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        loader = Loader(n)
        running = asyncio.create_task(loader.run())
        await learn(n)
        await n.change(SHARD, admit=(TARGET,))
        await n.until(SHARD, lambda r: TARGET in in_sync_ids(r))
        await n.stop("i2")
        record = await n.until(SHARD, lambda r: TARGET not in in_sync_ids(r))
        assert [m.replica_id for m in record.learners] == [TARGET]
        await n.start("i2")
        await n.change(SHARD, admit=(TARGET,))
        await n.until(SHARD, lambda r: TARGET in in_sync_ids(r))
        await n.change(SHARD, hand_over=TARGET)
        await n.until(SHARD, lambda r: r.primary.replica_id == TARGET)
        await n.change(SHARD, remove=(record.primary.replica_id,))
        await n.until(SHARD, lambda r: in_sync_ids(r) == {TARGET})
        loader.stop()
        await running
        await check_everything(n, loader, "i2")


async def test_source_restarts_while_target_is_in_sync(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2, follower_timeout_s=5.0) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        loader = Loader(n)
        await learn(n)
        await n.change(SHARD, admit=(TARGET,))
        record = await n.until(SHARD, lambda r: TARGET in in_sync_ids(r))
        await append(n.log_stub("i1"), [batch_of(SHARD, [b"k"] * 10)])
        await n.stop("i1")
        await n.start("i1")
        await n.until(SHARD, lambda r: r.epoch == record.epoch + 1)
        running = asyncio.create_task(loader.run())
        await n.change(SHARD, hand_over=TARGET)
        await n.until(SHARD, lambda r: r.primary.replica_id == TARGET)
        loader.stop()
        await running
        rows = await read_all(n.log_stub("i2"), log_pb2.ReadRequest(shard=SHARD))
        assert len(rows) == 10 * len(loader.acked) + 10
