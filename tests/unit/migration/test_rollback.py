"""Rollback at the last moment of the soak, and after the source fell out (`make test-moves`)."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.local.journal import Journal
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MigrationRecord, State
from logstore.base.errors import InvalidArgumentError
from tests.support.sealing import LOG, Sealing, sealing, verdict_of
from tests.unit.seals.test_replicas import QUICK

pytestmark = pytest.mark.moves

SHARD = f"{LOG}/0"
FURTHER = 100_000
PER_CALL = 1_000
TRIES = 4
"""A busy machine may take longer than the second that is left; then the move is done again."""
LIMIT_S = 120.0


async def reach(bench: Sealing, id_: str, state: State) -> MigrationRecord:
    async with asyncio.timeout(LIMIT_S):
        while (record := await bench.moves.ledger.get(id_)).state is not state:
            assert record.active, record.cause
            await asyncio.sleep(0.005)
    return record


async def append(bench: Sealing, journal: Journal, count: int) -> None:
    """So many records over 97 keys, each call's rows in order."""
    log = await bench.db.log(LOG)
    for at in range(0, count, PER_CALL):
        size = min(PER_CALL, count - at)
        keys = [b"key-%02d" % ((at + i) % 97) for i in range(size)]
        numbers = [journal.number(key) for key in keys]
        values = [b"%s-%d" % pair for pair in zip(keys, numbers, strict=True)]
        acks = await log.append_many(keys, values)
        places = [replace(a, offset=a.offset + i, count=1) for a in acks for i in range(a.count)]
        for key, value, n, ack in zip(keys, values, numbers, places, strict=True):
            journal.acked(key, value, n, ack)


async def back_at_the_last_second(bench: Sealing, journal: Journal, source: str) -> float | None:
    """Move away, append, and roll back when less than a second of the soak is left. Returns the
    seconds that were left; None: the machine was too slow, and the move completed."""
    target = "i2" if source == "i1" else "i1"
    options = replace(QUICK, soak_s=10.0)
    begun = await bench.moves.propose(Proposal(SHARD, target, "shadow", options))
    await reach(bench, begun.id, State.SOAKING)
    await append(bench, journal, FURTHER)
    async with asyncio.timeout(LIMIT_S):
        while (record := await bench.moves.ledger.get(begun.id)).soaked_s < options.soak_s - 1.5:
            if record.removing or not record.active:
                return None
            await asyncio.sleep(0.01)
    try:
        await bench.moves.order(begun.id, "rollback", "at the last moment")
    except InvalidArgumentError:  # it is being completed
        async with asyncio.timeout(LIMIT_S):
            await bench.moves.ended(begun.id)
        return None
    async with asyncio.timeout(LIMIT_S):
        record = await bench.moves.ended(begun.id)
    assert record.state is State.ROLLED_BACK, record.cause
    return options.soak_s - record.soaked_s


async def test_rollback_one_second_before_the_end_of_soak_keeps_what_came_since(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data", 2) as bench:
        left_s = None
        with Journal(path, LOG) as journal:
            await append(bench, journal, PER_CALL)
            for _ in range(TRIES):
                source = (await bench.nodes.record(SHARD)).primary.instance
                left_s = await back_at_the_last_second(bench, journal, source)
                if left_s is not None:
                    break
            await append(bench, journal, PER_CALL)
        assert left_s is not None, "the machine was too slow for all tries"
        assert left_s <= 1.5
        record = await bench.nodes.record(SHARD)
        assert record.primary.instance == source
        assert [m.instance for m in record.members()] == [source]
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict
        assert verdict.acked >= FURTHER + 2 * PER_CALL


async def test_a_source_that_fell_out_in_soak_is_repaired_before_it_leads_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data", 2, follower_s=4.0, grace_s=5.0) as bench:
        with Journal(path, LOG) as journal:
            await append(bench, journal, PER_CALL)
            options = replace(QUICK, soak_s=3_600.0)
            begun = await bench.moves.propose(Proposal(SHARD, "i2", "shadow", options))
            await reach(bench, begun.id, State.SOAKING)
            await bench.nodes.stop("i1")
            await bench.nodes.until(
                SHARD, lambda r: {m.instance for m in r.in_sync} == {"i2"}, limit_s=LIMIT_S
            )
            await append(bench, journal, 5 * PER_CALL)  # the source does not have these
            await bench.moves.order(begun.id, "rollback", "second thoughts")
            rolling = await reach(bench, begun.id, State.ROLLING_BACK)
            assert rolling.cause == "second thoughts"
            assert (await bench.nodes.record(SHARD)).primary.instance == "i2", "not before it holds"
            await bench.nodes.start("i1")
            async with asyncio.timeout(LIMIT_S):
                record = await bench.moves.ended(begun.id)
            await append(bench, journal, PER_CALL)
        assert record.state is State.ROLLED_BACK, record.cause
        assert any("repaired and verified first" in note for note in record.notes), record.notes
        assert (await bench.nodes.record(SHARD)).primary.instance == "i1"
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict
        assert verdict.acked == 7 * PER_CALL
