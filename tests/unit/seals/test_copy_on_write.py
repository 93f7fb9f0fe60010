"""Copy-on-write: write relief in one cutover, the history follows; the way back loses nothing
(S1, I8)."""

import asyncio
from pathlib import Path

import pytest

from coordinator.local.journal import Journal
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.table import PATHS
from logstore.base.types import ShardStatus
from tests.support.sealing import LOG, Sealing, Tail, Writers, sealing, verdict_of
from tests.unit.seals.test_replicas import QUICK


async def reach(bench: Sealing, id_: str, state: State) -> MigrationRecord:
    async with asyncio.timeout(30):
        while (record := await bench.moves.ledger.get(id_)).state is not state:
            await asyncio.sleep(0.005)
    return record


async def test_writes_go_to_the_target_before_the_history_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data", 2) as bench:
        with Journal(path, LOG) as journal:
            async with Tail(bench) as tail:
                async with Writers(bench, journal) as writers:
                    await writers.more(100)
                    proposal = Proposal(f"{LOG}/0", "i2", "copy-on-write", QUICK)
                    begun = await bench.moves.propose(proposal)
                    async with asyncio.timeout(30):
                        record = await bench.moves.ended(begun.id)
                    assert record.state is State.COMPLETED, record.cause
                    way = [p.state for p in record.phases]
                    assert way == [*PATHS["copy-on-write"], State.COMPLETED]
                    await writers.more(100)
                await tail.reach(writers.acked)
                assert tail.faults() == []
        assert writers.failed == []
        shards = await bench.shards()
        assert record.hash is not None
        assert record.hash.equal
        assert record.blackout_ms is not None
        assert shards[f"{LOG}/0"].status is ShardStatus.SEALED
        assert {m.instance for s in shards.values() for m in s.members()} == {"i2"}
        assert {s.migration for s in shards.values()} == {None}
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict


@pytest.mark.parametrize("state", [State.CUTOVER, State.SNAPSHOT, State.SOAKING])
async def test_rollback_seals_the_successor_and_opens_one_at_the_source(
    tmp_path: Path, state: State
) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data", 2) as bench:
        with Journal(path, LOG) as journal:
            async with Writers(bench, journal, keys=12) as writers:
                await writers.more(50)
                proposal = Proposal(f"{LOG}/0", "i2", "copy-on-write", QUICK)
                begun = await bench.moves.propose(proposal)
                await reach(bench, begun.id, state)
                await bench.moves.order(begun.id, "rollback", "second thoughts")
                async with asyncio.timeout(30):
                    record = await bench.moves.ended(begun.id)
                assert record.state is State.ROLLED_BACK
                await writers.more(50)
        assert writers.failed == []
        (open_,) = await bench.open_shards()
        assert open_.primary.instance == "i1"
        assert {s.migration for s in (await bench.shards()).values()} == {None}
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict
