"""The planning loop splits a shard that no move can help, at the key it learned; then it moves."""

import asyncio
from dataclasses import replace
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.planning.loop import PlanningLoop
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.model_trainer import ModelTrainer
from logstore.base.env import Env
from logstore.meta.port import Put
from logstore.meta.records import (
    CapacityRecord,
    decode_instance,
    encode,
    instance_key,
)
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics
from tests.support.sealing import LOG, Sealing, sealing

KEYS = [b"k%03d" % n for n in range(60)]
SLOT_S = 60.0


def busy(intake: StatisticsIntake, env: Env) -> None:
    """60 slots in which i1 carries 95 ops/s, evenly over the keys; both instances are alive."""
    now_s = env.clock.monotonic_s()
    keys = tuple((key, 95.0) for key in KEYS)
    ops = round(95.0 * SLOT_S)
    for slot in range(60):
        answer = ShardStatistics(
            f"{LOG}/0", "i1", slot, SLOT_S, {OpType.APPEND: ops}, ops, 100 * ops, 0,
            1.0, 1.0, 2.0, sampled_keys=keys,
        )  # fmt: skip
        intake.take("i1", 1, [answer], None, now_s, 0)
    for name in ("i1", "i2"):
        status = DataStoreStatus(name, 0.5, Capacity(ops_per_s=100.0))
        intake.take(name, 1, [], status, now_s, 0)


async def bounded(bench: Sealing) -> None:
    """Both instances can do 100 ops/s."""
    for name in ("i1", "i2"):
        found = await bench.nodes.store.get(instance_key(name))
        assert found is not None
        held = decode_instance(found.value)
        bound = replace(held, capacity=CapacityRecord(ops_per_s=100.0))
        await bench.nodes.store.txn([], [Put(instance_key(name), encode(bound))])


async def test_the_loop_splits_at_the_learned_key(tmp_path: Path) -> None:
    async with sealing(tmp_path / "data", 2, replicas=1) as bench:
        log = await bench.db.log(LOG)
        for key in KEYS:
            await log.append(key, b"v")
        await bounded(bench)
        config = CoordinatorConfig(
            data=tmp_path / "c", slot_s=SLOT_S, planning_period_s=60, seasons_slots=()
        )
        intake = StatisticsIntake(SLOT_S, settle_s=0.0, alive_s=1e6, seasons_slots=())
        learner = ModelTrainer(intake, bench.env)
        loop = PlanningLoop(
            config, bench.env, bench.nodes.store, learner, bench.moves, bench.grpc, bench.reshapes
        )
        busy(intake, bench.env)
        try:
            while intake.learn(bench.env.clock.monotonic_s() + 10.0):
                await asyncio.sleep(0)
            made = await loop.plan()
            assert [(op.kind, op.shard) for op in made.startable()] == [("split", f"{LOG}/0")]
            await loop.round()  # learns that history came; plans nothing on it
            note = await loop.round()
            assert len(note.started) == 1, note
            async with asyncio.timeout(30):
                record = await bench.reshapes.ended(note.started[0])
        finally:
            await loop.close()
            await learner.close()
        assert record.cause is None
        assert record.at == made.operators[0].key
        assert "learned key" in record.reason
        shards = await bench.open_shards()
        assert [s.range.start for s in shards] == [b"", record.at]
        assert [r.key async for r in log.read(order="key")] == KEYS
