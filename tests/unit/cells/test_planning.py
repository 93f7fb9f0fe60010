"""Each cell draws the plan of all shards and begins its own part; none takes what another took."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator.cells.assignment import LOG_WIDE, cell_names, cell_of, cell_of_all
from coordinator.cells.listing import list_cells
from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Ledger, Proposal
from coordinator.migration.nodes import GrpcNodes
from coordinator.planning.loop import PlanningLoop
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.model_trainer import ModelTrainer
from logstore.base.env import Env
from logstore.base.errors import RefusedError
from logstore.base.types import ShardStatus
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Put
from logstore.meta.records import (
    CapacityRecord,
    InstanceRecord,
    Member,
    ShardRecord,
    encode,
    instance_key,
    shard_key,
)
from logstore.proto.transport import GrpcTransport
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics
from sharder.keys import KeyRange
from tests.support.yielding import YieldingStore

CELLS = 4
SHARDS = 16
SLOT_S = 60.0
INSTANCES = ("i1", "i2", "i3", "i4")
OPS_PER_S = 12.0
"""Of each shard, all on i1: 192 of the 100 ops/s that an instance has."""


async def found(store: MemoryMetadataStore) -> None:
    puts = [
        Put(instance_key(name), encode(InstanceRecord(
            name, "127.0.0.1:1", n, capacity=CapacityRecord(ops_per_s=100.0)
        )))
        for n, name in enumerate(INSTANCES, 1)
    ]  # fmt: skip
    for n in range(SHARDS):
        shard, home = f"orders/{n}", Member("i1", 1, n + 1)
        keys = KeyRange(b"%02d" % n if n else b"", b"%02d" % (n + 1) if n < SHARDS - 1 else None)
        record = ShardRecord(shard, "orders", keys, ShardStatus.OPEN, 1, 1, home, (home,))
        puts.append(Put(shard_key(shard), encode(record)))
    await store.txn([], puts)


def busy(env: Env) -> ModelTrainer:
    """60 slots of even load over the shards."""
    intake = StatisticsIntake(SLOT_S, settle_s=0.0, alive_s=1e6, seasons_slots=())
    now_s, ops = env.clock.monotonic_s(), round(OPS_PER_S * SLOT_S)
    for slot in range(60):
        rows = [
            ShardStatistics(f"orders/{n}", "i1", slot, SLOT_S, {OpType.APPEND: ops}, ops, ops, 0,
                            1.0, 1.0, 2.0)
            for n in range(SHARDS)
        ]  # fmt: skip
        intake.take("i1", 1, rows, None, now_s, 0)
    for name in INSTANCES:
        intake.take(name, 1, [], DataStoreStatus(name, 0.5, Capacity(100.0)), now_s, 0)
    learner = ModelTrainer(intake, env)
    while intake.learn(env.clock.monotonic_s() + 10.0):
        pass
    return learner


def _is_of(cell: str, shard: str) -> bool:
    return cell_of(shard, CELLS) == cell


@asynccontextmanager
async def loops(folder: Path, moves_max: int) -> AsyncIterator[dict[str, PlanningLoop]]:
    """The loop of each cell, as leaders on several coordinators have them."""
    store, env, transport = MemoryMetadataStore(), Env(), GrpcTransport()
    await found(store)
    nodes, learner = GrpcNodes(store, transport), busy(env)
    config = CoordinatorConfig(
        data=folder, slot_s=SLOT_S, planning_period_s=60, seasons_slots=(), moves_max=moves_max
    )
    drivers = {
        cell: MigrationDriver(store, nodes, env, owns=partial(_is_of, cell), cluster="c")
        for cell in cell_names(CELLS)
    }
    made = {c: PlanningLoop(config, env, store, learner, d, nodes) for c, d in drivers.items()}
    for loop in made.values():
        await loop.round()  # learns that history came; plans nothing on it
    try:
        yield made
    finally:
        for cell, loop in made.items():
            await loop.close()
            await drivers[cell].close()
        await learner.close()
        await transport.close()


async def test_each_cell_begins_its_own_part_of_one_plan(tmp_path: Path) -> None:
    async with loops(tmp_path, moves_max=SHARDS) as cells:
        plans = {cell: await loop.plan() for cell, loop in cells.items()}
        parts = {
            cell: [op.shard for op in made.startable() if cell_of(op.shard, CELLS) == cell]
            for cell, made in plans.items()
        }
        assert len({tuple(op.shard for op in made.startable()) for made in plans.values()}) == 1
        assert sum(map(bool, parts.values())) > 1, parts
        first = next(cell for cell in cells if parts[cell])
        note = await cells[first].round()
        ledger = cells[first]._driver.ledger
        assert sorted(m.shard for m in await ledger.all()) == sorted(parts[first])
        assert len(note.started) == len(parts[first])
        counted = sum(cells[first].counts.operators.values())
        assert counted == len(parts[first])


async def test_two_cells_that_plan_at_once_keep_to_the_limit_of_moves(tmp_path: Path) -> None:
    async with loops(tmp_path, moves_max=2) as cells:
        notes = await asyncio.gather(*(loop.round() for loop in cells.values()))
        started = [m for note in notes for m in note.started]
        assert 1 <= len(started) <= 2, started


async def test_room_that_another_cell_took_is_not_taken_again(tmp_path: Path) -> None:
    async with loops(tmp_path, moves_max=2) as cells:
        ledger = cells["0"]._driver.ledger
        one, two, three = (f"orders/{n}" for n in range(3))
        begun = await ledger.propose(Proposal(one, "i2", seen=()))
        with pytest.raises(RefusedError, match=f"{begun.id} took room on i2 after this plan"):
            await ledger.propose(Proposal(two, "i2", seen=()))
        other = await ledger.propose(Proposal(two, "i2", seen=(begun.id,)))
        with pytest.raises(
            RefusedError, match="2 moves are under way since m1 began, moves_max is"
        ):
            await ledger.propose(Proposal(three, "i3", seen=(other.id,), in_flight_max=2))
        by_hand = await ledger.propose(Proposal(three, "i2"))  # asked for: the person decides
        assert by_hand.target_instance == "i2"


@pytest.mark.parametrize("kind", [MemoryMetadataStore, YieldingStore])
async def test_of_moves_proposed_at_once_no_more_begin_than_may(
    kind: type[MemoryMetadataStore],
) -> None:
    store = kind()
    await found(store)
    ledgers = [Ledger(store, Env()) for _ in range(3)]
    proposals = [
        Proposal(f"orders/{n}", target, seen=(), in_flight_max=1)
        for n, target in enumerate(("i2", "i3", "i2"))
    ]
    ended = await asyncio.gather(
        *(ledger.propose(proposal) for ledger, proposal in zip(ledgers, proposals, strict=True)),
        return_exceptions=True,
    )
    assert [type(e) for e in ended].count(RefusedError) == 2, ended
    assert len(await ledgers[0].all()) == 1


async def test_the_autopilot_is_switched_for_every_cell(tmp_path: Path) -> None:
    async with loops(tmp_path, moves_max=2) as cells:
        await cells["0"].set_mode(Autopilot.OFF)
        for loop in cells.values():
            assert (await loop.round()).skipped == "the autopilot is off"


async def test_the_cells_are_listed_with_what_is_theirs(tmp_path: Path) -> None:
    async with loops(tmp_path, moves_max=2) as cells:
        store = cells["0"]._store
        await cells["0"]._driver.ledger.propose(Proposal("orders/3", "i2"))
        rows = {row.cell: row for row in await list_cells(store, CELLS)}
        assert sum(row.shards for row in rows.values()) == SHARDS
        assert {c for c, row in rows.items() if row.migrations} == {cell_of("orders/3", CELLS)}
        assert [c for c, row in rows.items() if row.log_wide] == [LOG_WIDE]
        assert rows["1"].leader is None


def test_what_crosses_cells_is_of_the_log_wide_one() -> None:
    names = [f"orders/{n}" for n in range(50)]
    for left, right in pairwise(names):
        cell = cell_of(left, CELLS)
        expected = cell if cell == cell_of(right, CELLS) else LOG_WIDE
        assert cell_of_all([left, right], CELLS) == cell_of_all([right, left], CELLS) == expected
        assert cell_of_all([left], CELLS) == cell
