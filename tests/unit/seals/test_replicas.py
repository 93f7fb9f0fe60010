"""Seals with followers: failover between the steps, sealed shards that are moved and trimmed."""

import asyncio
from dataclasses import replace
from pathlib import Path

from coordinator.local.journal import Journal
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MoveOptions, State
from coordinator.migration.reshape import ReshapeState, advance, reshape_key
from logstore.base.types import ShardStatus
from logstore.engine.rocks.engine import RocksEngine
from logstore.meta.port import Put
from logstore.meta.records import encode
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.support.sealing import LOG, Sealing, Tail, Writers, follow, sealing, verdict_of

QUICK = MoveOptions(shadow_s=0.0, soak_s=0.1, ramp_step=0.5, ramp_interval_s=0.02)


def in_sync(bench: Sealing, shard: str) -> set[str]:
    record = bench.nodes.servers["i1"].instance.metadata_view.shards[shard][0]
    return {m.instance for m in record.in_sync}


async def move(bench: Sealing, shard: str, target: str, strategy: str = "auto") -> State:
    proposal = Proposal(shard, target, strategy, QUICK)
    record = await bench.moves.propose(proposal)
    async with asyncio.timeout(30):
        return (await bench.moves.ended(record.id)).state


async def test_successors_start_with_the_parents_in_sync_set(tmp_path: Path) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data", 2) as bench:
        await follow(bench, f"{LOG}/0", "i2")
        with Journal(path, LOG) as journal:
            async with Tail(bench) as tail:
                async with Writers(bench, journal) as writers:
                    await writers.more(100)
                    split = await bench.split(f"{LOG}/0", b"k025")
                    assert split.state is ReshapeState.COMPLETED
                    await writers.more(200)
                    for shard in split.successors:
                        record = await bench.nodes.record(shard)
                        assert {m.instance for m in record.in_sync} == {"i1", "i2"}
                        assert len(record.first_members) == 2
                    assert (
                        await move(bench, split.successors[0], "i2") is State.COMPLETED
                    )  # a switch
                    await writers.more(200)
                    assert await move(bench, split.successors[1], "i2") is State.COMPLETED
                    merge = await bench.merge(*split.successors)
                    assert merge.state is ReshapeState.COMPLETED, merge.cause
                    await writers.more(200)
                await tail.reach(writers.acked)
                assert tail.faults() == []
        assert writers.failed == []
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict


async def test_a_follower_finishes_what_a_dead_primary_sealed(tmp_path: Path) -> None:
    """The primary dies when it has sealed; the coordinator dies, too; both are followed."""
    async with sealing(tmp_path, 2, grace_s=22.0) as bench:
        await follow(bench, f"{LOG}/0", "i2")
        for server in bench.nodes.servers.values():  # from here on a silence is a death
            replica = server.instance.replicas[f"{LOG}/0"]
            replica.machine.timing = replace(replica.machine.timing, lease_s=2.0, grace_s=2.6)
        log = await bench.db.log(LOG)
        for i in range(20):
            await log.append(b"a%d" % i, b"v")
        draft = await bench.reshapes.draft([f"{LOG}/0"], b"a5")
        record = replace(draft, id="r9")
        store = bench.nodes.store
        await bench.nodes.change(f"{LOG}/0", migration="r9", seal="r9")  # as step 1 does
        sealed = await bench.nodes.until(f"{LOG}/0", lambda r: r.status is ShardStatus.SEALING)
        assert sealed.sealed_end == 20
        await bench.nodes.stop("i1")
        await bench.nodes.until(f"{LOG}/0", lambda r: r.primary.instance == "i2", 20)
        sealing_record = advance(record, ReshapeState.SEALING, bench.env.clock.wall_us())
        await store.txn([], [Put(reshape_key("r9"), encode(sealing_record))])
        await bench.reshapes.start()
        done = await bench.reshapes.ended("r9")
        assert done.state is ReshapeState.COMPLETED, done.cause
        ack = await log.append(b"a9", b"w", expected_version=1)
        assert ack.version == 2
        assert len([r async for r in log.read()]) == 21


async def test_a_successors_copy_that_an_old_disk_lacks_learns_again(tmp_path: Path) -> None:
    """The disk has the sealed parent and not the successor: it may be older than the records that
    were acked there, so the copy that begins empty counts only once it has caught up (P6)."""
    async with sealing(tmp_path, 2, grace_s=22.0) as bench:
        await follow(bench, f"{LOG}/0", "i2")
        split = await bench.split(f"{LOG}/0", b"a5")
        log = await bench.db.log(LOG)
        for i in range(20):
            await log.append(b"a1", b"%d" % i)
        shard = split.successors[0]
        assert await move(bench, shard, "i2") is State.COMPLETED
        record = await bench.nodes.record(shard)
        lost = record.member_on("i1")
        assert record.epoch > 1
        assert lost in record.in_sync
        data = bench.nodes.servers["i1"].instance.node.config.data
        await bench.nodes.stop("i1")
        engine = RocksEngine.open(data)
        engine.drop_replica(lost.replica_id)
        engine.close()
        await bench.nodes.start("i1")
        left = await bench.nodes.until(shard, lambda r: lost not in r.in_sync)
        assert left.primary.instance == "i2"
        assert left.possible_loss == ()
        assert [r.value async for r in log.read(key=b"a1")] == [b"%d" % i for i in range(20)]


async def test_a_seal_that_nobody_follows_up_is_given_up(tmp_path: Path) -> None:
    async with sealing(tmp_path) as bench:
        log = await bench.db.log(LOG)
        await log.append(b"a", b"0")
        replica = bench.nodes.servers["i1"].instance.replicas[f"{LOG}/0"]
        replica.machine.timing = replace(replica.machine.timing, seal_timeout_s=0.3)
        await bench.nodes.change(f"{LOG}/0", migration="r9", seal="r9")
        await bench.nodes.until(f"{LOG}/0", lambda r: r.status is ShardStatus.SEALING)
        ack = await log.append(b"a", b"1")  # held, then admitted
        assert ack.offset == 1
        record = await bench.nodes.record(f"{LOG}/0")
        assert (record.status, record.seal, record.sealed_end) == (ShardStatus.OPEN, None, None)


async def test_a_sealed_shard_is_moved_trimmed_and_read(tmp_path: Path) -> None:  # S5
    async with sealing(tmp_path, 2) as bench:
        log = await bench.db.log(LOG)
        for i in range(30):
            await log.append(b"a%d" % (i % 3), b"%d" % i)
        await bench.split(f"{LOG}/0", b"a1")
        assert await move(bench, f"{LOG}/0", "i2") is State.COMPLETED
        record = await bench.nodes.record(f"{LOG}/0")
        assert (record.status, record.sealed_end) == (ShardStatus.SEALED, 30)
        assert [m.instance for m in record.in_sync] == ["i2"]
        values = [r.value async for r in log.read(key=b"a2")]
        assert values == [b"%d" % i for i in range(2, 30, 3)]
        ack = await log.append(b"a2", b"30", expected_version=10)  # its version is asked of i2
        assert ack.version == 11
        stub = NodeAdminStub(bench.transport.channel(bench.nodes.servers["i2"].address))
        answer = await stub.Trim(node_pb2.TrimRequest(shard=f"{LOG}/0", offset=12))
        assert answer.base == 12
        ack = await log.append(b"a1", b"31", expected_version=10)  # counted through the trim
        assert ack.version == 11
