"""Bytes flip on a disk: noticed by checksum, never served, the copy leaves and is built again."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from coordinator.catalog.catalog import Catalog
from coordinator.replicas.repair import RepairLoop
from logstore.base.env import Env
from logstore.engine.batch import decode_payload
from logstore.engine.rocks import RocksEngine
from logstore.engine.rocks.store import DATA
from logstore.meta.records import Member, ShardRecord
from logstore.proto.channel import open_channel
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2, node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from logstore.replication.events import Role
from tests.support.engine import flip
from tests.support.nodes import Nodes, append, batch_of, nodes, reboot
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_move_by_intents import SHARD, in_sync_ids

LIMIT_S = 60.0
PATIENT = {
    "follower_timeout_s": 8.0,
    "lease_s": 8.0,
    "grace_s": 10.0,
    "follower_read_stale_s": 8.0,
}
"""A busy machine is no failed one; nothing here waits for these."""
OLD = {"i1": 100, "i2": 200, "i3": 201}


@asynccontextmanager
async def repaired(n: Nodes) -> AsyncIterator[None]:
    """The coordinator's repair over these nodes, all of them heard."""
    catalog = Catalog(n.store, Env(), "c")
    repair = RepairLoop(n.store, catalog, lambda names: dict.fromkeys(names, 0.0), 3600.0)
    repair.start()
    try:
        yield
    finally:
        await repair.close()


async def three(n: Nodes) -> None:
    """Three in-sync copies, those of OLD."""
    await n.create(SHARD, "i1", replicas=3)
    await n.until(SHARD, lambda r: r.epoch == 2)
    learners = tuple(
        Member(i, n.servers[i].instance.node.incarnation, OLD[i]) for i in ("i2", "i3")
    )
    await n.change(SHARD, learners=learners, admit=(200, 201))
    await n.until(SHARD, lambda r: len(r.in_sync) == 3)


async def fill(n: Nodes, what: str) -> list[bytes]:
    """Appended keys: small batches, which lie in tables, or large ones, in blob files."""
    count, per_batch, size = (24, 20, 400) if what == "blob" else (100, 10, 20)
    keys = [os.urandom(size).hex().encode()[:size] for _ in range(count * per_batch)]
    batches = [
        batch_of(SHARD, keys[at : at + per_batch], 1 + at // per_batch, 7, 1 + at // per_batch)
        for at in range(0, len(keys), per_batch)
    ]
    for batch in batches:  # one by one, or they become one stored batch
        (result,) = await append(n.log_stub("i1"), [batch])
        assert not result.HasField("error"), result.error
    return keys


def engine_of(n: Nodes, instance: str) -> RocksEngine:
    engine = n.servers[instance]._engine
    assert isinstance(engine, RocksEngine)
    return engine


def largest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda p: p.stat().st_size)


def rot_in_place(n: Nodes, instance: str, pattern: str) -> None:
    """Flip bytes of a file that the running instance has open; nothing of it is in memory."""
    engine = engine_of(n, instance)
    engine._store.flush(DATA)
    engine._recent.forget(OLD[instance])
    flip(largest(n.folder / instance, pattern), 0.4)


async def rebuilt(n: Nodes, instance: str) -> ShardRecord:
    return await n.until(
        SHARD,
        lambda r: len(r.in_sync) == 3 and OLD[instance] not in {m.replica_id for m in r.members()},
        LIMIT_S,
    )


async def check_equal(n: Nodes, record: ShardRecord, keys: list[bytes]) -> None:
    """All copies have the same chain, recomputed from their disks, and give every record."""
    chains = set()
    for member in record.in_sync:
        async with open_channel(n.servers[member.instance].address) as channel:
            found = await NodeAdminStub(channel).VerifyChain(
                node_pb2.VerifyChainRequest(
                    shard=SHARD,
                    replica_id=member.replica_id,
                    stop_offset=len(keys),
                    recompute=True,
                )
            )
        chains.add((found.base, found.end, found.chain))
        query = log_pb2.ReadRequest(shard=SHARD, min_high_watermark=len(keys))
        rows = await read_all(n.log_stub(member.instance), query)
        assert [k for _, k in rows] == keys
    assert len(chains) == 1


async def read_until_refused(n: Nodes, instance: str, keys: list[bytes]) -> str:
    """Read at one instance: what comes is right, then a retriable error; returns its code."""
    rows: list[bytes] = []

    async def read() -> None:
        call = n.log_stub(instance).Read(log_pb2.ReadRequest(shard=SHARD))
        async for answer in call:
            batch = decode_payload(answer.payload, answer.flags)
            rows.extend(batch.column("key").to_pylist())

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read()
    assert rows == keys[: len(rows)]
    error = from_rpc(refused.value)
    assert error.retriable
    return error.code


@pytest.mark.parametrize("instance", ["i2", "i1"])
@pytest.mark.parametrize(("what", "pattern"), [("table", "*.sst"), ("blob", "*.blob")])
async def test_rot_in_a_file_is_noticed_by_a_read(
    tmp_path: Path, instance: str, what: str, pattern: str
) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        keys = await fill(n, what)
        rot_in_place(n, instance, pattern)
        replica = n.servers[instance].instance.replicas[SHARD]
        async with asyncio.timeout(LIMIT_S):
            while not replica.copy.damage:  # a late heartbeat refuses reads as well
                assert await read_until_refused(n, instance, keys) == "not_serving"
        assert "Corruption" in replica.copy.damage
        assert not replica.serving()
        async with repaired(n):
            record = await rebuilt(n, instance)
            if instance == "i1":
                assert record.primary.instance != "i1"
            assert record.possible_loss == ()
            await check_equal(n, record, keys)
            (more,) = await append(
                n.log_stub(record.primary.instance), [batch_of(SHARD, [b"on"], len(keys), 0)]
            )
            assert not more.HasField("error"), more.error


@pytest.mark.parametrize("instance", ["i3", "i1"])
async def test_rot_in_a_wal_is_noticed_at_the_restart(tmp_path: Path, instance: str) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        keys = await fill(n, "table")
        folder, crashed = tmp_path / instance, tmp_path / "crashed"
        shutil.copytree(folder, crashed)  # as a kill -9 would leave it: a close flushes the WAL
        await n.stop(instance)
        shutil.rmtree(folder)
        crashed.rename(folder)
        flip(largest(folder, "wal/*.log"), 0.4)
        await n.start(instance)
        engine = engine_of(n, instance)
        damaged = {m.replica_id: m for m in engine.replicas()}[OLD[instance]]
        assert damaged.tail_lost
        replica = n.servers[instance].instance.replicas.get(SHARD)
        assert replica is None or not replica.serving()
        async with repaired(n):
            record = await rebuilt(n, instance)
            assert record.possible_loss == ()
            await check_equal(n, record, keys)


async def test_the_scrub_finds_cold_rot(tmp_path: Path) -> None:
    async with nodes(tmp_path, 3, **PATIENT, scrub_interval_s=0.2, scrub_bytes_per_s=1e9) as n:
        await three(n)
        keys = await fill(n, "blob")
        replica = n.servers["i2"].instance.replicas[SHARD]
        async with asyncio.timeout(LIMIT_S):
            while replica.integrity.scrub_result != "whole":
                await asyncio.sleep(0.05)
        async with open_channel(n.servers["i2"].address) as channel:
            answer = await NodeAdminStub(channel).Status(node_pb2.StatusRequest(shard=SHARD))
        assert answer.replicas[0].scrub_result == "whole"
        assert 0 <= answer.replicas[0].scrub_age_s < LIMIT_S
        async with asyncio.timeout(LIMIT_S):
            while engine_of(n, "i2").index_backlog(OLD["i2"]):
                await asyncio.sleep(0.05)
        rot_in_place(n, "i2", "*.blob")  # without a read
        async with repaired(n):
            record = await rebuilt(n, "i2")
            assert "Corruption" in replica.integrity.scrub_result
            await check_equal(n, record, keys)


async def test_an_only_copy_serves_what_is_whole_and_says_what_is_not(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        keys = await fill(n, "blob")
        rot_in_place(n, "i1", "*.blob")
        stub = n.log_stub("i1")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(stub, log_pb2.ReadRequest(shard=SHARD))
        assert from_rpc(refused.value).code == "corrupt_storage"
        whole = await read_all(stub, log_pb2.ReadRequest(shard=SHARD, limit=20))
        assert [k for _, k in whole] == keys[:20]
        (result,) = await append(stub, [batch_of(SHARD, [b"k"])])
        assert result.error.code == "corrupt_storage"
        assert (await n.record(SHARD)).in_sync[0].replica_id == 100
        await n.stop("i1")
        await n.start("i1")  # rebuilt around the hole: the answers stay
        stub = n.log_stub("i1")
        instance = n.servers["i1"].instance
        async with asyncio.timeout(LIMIT_S):
            while SHARD not in instance.replicas or not instance.replicas[SHARD].serving():
                await asyncio.sleep(0.05)
        whole = await read_all(stub, log_pb2.ReadRequest(shard=SHARD, limit=20))
        assert [k for _, k in whole] == keys[:20]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_all(stub, log_pb2.ReadRequest(shard=SHARD))
        error = from_rpc(refused.value)
        assert error.code == "corrupt_storage"
        assert "offset" in error.message


async def test_all_incarnations_changed_the_longest_leads_and_the_loss_is_recorded(
    tmp_path: Path,
) -> None:  # P6
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        keys = await fill(n, "table")
        for instance in OLD:
            await n.stop(instance)
        for instance, lost in (("i1", 200), ("i3", 40)):  # power went: i2 had written back most
            engine = RocksEngine.open(tmp_path / instance)
            engine.truncate(OLD[instance], len(keys) - lost)
            engine.close()
        for instance in OLD:
            reboot(tmp_path / instance)
        await n.start("i1")
        await n.start("i3")
        first = n.servers["i1"].instance
        async with asyncio.timeout(LIMIT_S):
            while SHARD not in first.replicas or not first.replicas[SHARD].machine.suspect:
                await asyncio.sleep(0.02)
        await first.replicas[SHARD].integrity._ask_all()  # i2 is not heard: no copy leads
        assert {r.replica_id for r in (await n.record(SHARD)).in_sync} == set(OLD.values())
        await n.start("i2")
        record = await n.until(SHARD, lambda r: bool(r.possible_loss), LIMIT_S)
        assert record.primary.replica_id == OLD["i2"]
        assert record.possible_loss[0].offset == len(keys)
        assert record.possible_loss[0].epoch == record.primary_since
        async with repaired(n):
            record = await n.until(SHARD, lambda r: len(r.in_sync) == 3, LIMIT_S)
            await check_equal(n, record, keys)


async def test_a_copy_of_another_incarnation_leaves_when_another_vouches(tmp_path: Path) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:  # P6
        await three(n)
        keys = await fill(n, "table")
        await n.stop("i3")
        reboot(tmp_path / "i3")
        await n.start("i3")
        await n.until(SHARD, lambda r: OLD["i3"] not in in_sync_ids(r), LIMIT_S)
        async with repaired(n):
            record = await n.until(SHARD, lambda r: len(r.in_sync) == 3, LIMIT_S)
            assert record.possible_loss == ()
            await check_equal(n, record, keys)
        assert n.servers["i3"].instance.replicas[SHARD].role is Role.FOLLOWER
