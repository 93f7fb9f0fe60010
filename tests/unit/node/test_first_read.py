"""After a start no read shows less than was committed (P4), nor by an older disk (P11)."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from logstore.base.types import Durability, ShardStatus
from logstore.engine.batch import decode_payload
from logstore.engine.port import ReplicaWrite
from logstore.engine.rocks import RocksEngine
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2
from logstore.replication.events import Role
from tests.support.nodes import Nodes, append, batch_of, nodes, put_back
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_bit_rot import OLD, PATIENT, engine_of, three
from tests.unit.node.test_large_reads import WAYS, Way, one_log
from tests.unit.node.test_move_by_intents import SHARD

LIMIT_S = 30.0


async def first_read(n: Nodes, instance: str) -> tuple[int, list[str]]:
    """Records of the first read that `instance` answers, and how it refused before."""
    refused: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        while True:
            rows = 0
            try:
                call = n.log_stub(instance).Read(log_pb2.ReadRequest(shard=SHARD))
                async for answer in call:
                    rows += decode_payload(answer.payload, answer.flags).num_rows
            except grpc.aio.AioRpcError as e:
                error = from_rpc(e)
                assert error.retriable, error
                refused.append(error.code)
                await asyncio.sleep(0.002)
            else:
                return rows, refused


async def fill(n: Nodes, batches: int, per_batch: int = 50) -> int:
    """Appends one by one, acked; the disk's high watermark is one batch behind."""
    for i in range(batches):
        keys = [b"%d-%d" % (i, j) for j in range(per_batch)]
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, keys, i + 1, 7)])
        assert not result.HasField("error"), result.error
    return batches * per_batch


async def killed(n: Nodes, instance: str, replica_id: int, mark: int = 50) -> None:
    """Stop it as a kill would: its disk knows an older high watermark."""
    await n.stop(instance)
    engine = RocksEngine.open(n.folder / instance)
    engine.write([ReplicaWrite(replica_id, (), mark)], Durability.OS)
    engine.close()


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_the_first_read_after_a_restart_shows_all(tmp_path: Path, way: Way) -> None:
    async with one_log(tmp_path, way) as (n, _):
        records = await fill(n, 120)
        record = await n.record(SHARD)
        names = sorted(n.servers)
        for member in record.members():
            await killed(n, member.instance, member.replica_id)
        await asyncio.gather(*(n.start(name) for name in names))
        found = await asyncio.gather(*(first_read(n, name) for name in names))
        assert [rows for rows, _ in found] == [records] * way.replicas


@pytest.mark.parametrize("instance", ["i1", "i2"])
async def test_one_that_restarts_alone_shows_all_or_nothing(tmp_path: Path, instance: str) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        records = await fill(n, 30)
        await killed(n, instance, OLD[instance])
        await n.start(instance)
        assert (await first_read(n, instance))[0] == records


async def test_a_restarted_primary_is_silent_until_its_followers_are_there(tmp_path: Path) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        records = await fill(n, 30)
        for name in ("i1", "i2", "i3"):
            await killed(n, name, OLD[name])
        await n.start("i1")
        await n.start("i2")
        replica = n.servers["i1"].instance.replicas[SHARD]
        await n.until(SHARD, lambda r: r.epoch > 4)
        async with asyncio.timeout(LIMIT_S):
            while not any(p.known for p in replica.machine.peers.values()):
                await asyncio.sleep(0.01)
        assert not replica.serving()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(n.log_stub("i1"), log_pb2.ReadRequest(shard=SHARD))
        assert from_rpc(refused.value).retriable
        assert "what was committed is not known yet" in str(refused.value.details())
        await n.start("i3")
        for name in ("i1", "i2", "i3"):
            assert (await first_read(n, name))[0] == records


async def test_a_sealed_shard_shows_its_end_at_once(tmp_path: Path) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        records = await fill(n, 30)
        await n.change(SHARD, seal="r1")
        await n.until(SHARD, lambda r: r.status is ShardStatus.SEALING)
        await n.change(SHARD, status=ShardStatus.SEALED, seal=None)
        for name in ("i1", "i2", "i3"):
            await killed(n, name, OLD[name])
        for name in ("i1", "i2", "i3"):  # each alone: nothing newer will ever be
            await n.start(name)
            assert (await first_read(n, name))[0] == records
            await n.stop(name)


@pytest.mark.parametrize("lacking", [20, 1])
@pytest.mark.parametrize("count", [2, 3])
async def test_an_older_disk_never_leads(tmp_path: Path, count: int, lacking: int) -> None:
    """Yesterday's copy of the primary's folder is put back (P11)."""
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        if count == 2:
            record = await n.record(SHARD)
            kept = tuple(m for m in record.in_sync if m.instance != "i3")
            await n.stop("i3")
            await n.change(SHARD, in_sync=kept, epoch=record.epoch + 1)
        names = [f"i{i}" for i in range(1, count + 1)]
        await fill(n, 20)
        await n.stop("i1")
        shutil.copytree(tmp_path / "i1", tmp_path / "yesterday")
        await n.start("i1")
        assert (await first_read(n, "i1"))[0] == 1_000
        for i in range(lacking):
            batch = batch_of(SHARD, [b"%d-%d" % (i, j) for j in range(50)])
            (result,) = await append(n.log_stub("i1"), [batch])
            assert not result.HasField("error"), result.error
        for name in names:
            await n.stop(name)
        put_back(tmp_path / "yesterday", tmp_path / "i1")
        await asyncio.gather(*(n.start(name) for name in names))
        record = await n.until(SHARD, lambda r: r.primary.instance != "i1", LIMIT_S)
        assert record.possible_loss == ()
        for name in names[1:]:
            assert (await first_read(n, name))[0] == 1_000 + 50 * lacking
            assert OLD[name] in {m.replica_id for m in record.in_sync}
        replica = n.servers["i1"].instance.replicas[SHARD]
        async with asyncio.timeout(LIMIT_S):  # it learns what it lacks
            while replica.role is not Role.LEARNER or (
                engine_of(n, "i1").end(OLD["i1"]).end < 1_000 + 50 * lacking
            ):
                await asyncio.sleep(0.01)


async def test_an_only_copy_that_lost_its_end_asks_who_left_the_set(tmp_path: Path) -> None:
    """Its follower left the set as it stopped; then a disk of yesterday was put back, and known
    for one."""
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        await fill(n, 20)
        await n.stop("i1")
        shutil.copytree(tmp_path / "i1", tmp_path / "yesterday")
        await n.start("i1")
        await first_read(n, "i1")
        for i in range(20):
            batch = batch_of(SHARD, [b"%d-%d" % (i, j) for j in range(50)])
            (result,) = await append(n.log_stub("i1"), [batch])
            assert not result.HasField("error"), result.error
        for name in ("i3", "i2", "i1"):
            await n.stop(name)
        record = await n.record(SHARD)
        alone = tuple(m for m in record.in_sync if m.instance == "i1")
        left = tuple(m for m in record.in_sync if m.instance == "i2")
        await n.change(SHARD, in_sync=alone, learners=left, epoch=record.epoch + 2)
        shutil.rmtree(tmp_path / "i1")
        (tmp_path / "yesterday").rename(tmp_path / "i1")
        engine = RocksEngine.open(tmp_path / "i1")
        (meta,) = [m for m in engine.replicas() if m.replica_id == OLD["i1"]]
        engine.set_meta(replace(meta, tail_lost=True))
        engine.close()
        await asyncio.gather(n.start("i1"), n.start("i2"))
        record = await n.until(SHARD, lambda r: r.primary.instance == "i2", LIMIT_S)
        assert [loss.offset for loss in record.possible_loss] == [2_000]
        assert (await first_read(n, "i2"))[0] == 2_000
