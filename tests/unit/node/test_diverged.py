"""A copy whose committed part differs is set aside, reported, and built anew in seconds (P5)."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaWrite
from logstore.engine.rocks import RocksEngine
from tests.support.engine import batch_at
from tests.support.nodes import Nodes, append, batch_of, nodes
from tests.unit.node.test_bit_rot import (
    LIMIT_S,
    OLD,
    PATIENT,
    check_equal,
    fill,
    rebuilt,
    repaired,
    three,
)
from tests.unit.node.test_move_by_intents import SHARD


def forged(at: Position, like: StoredBatch, count: int | None = None) -> StoredBatch:
    """A valid envelope at its place, with other bytes."""
    keys = [b"forged-%d" % i for i in range(like.count if count is None else count)]
    return batch_at(at, keys, value=b"forged ")


def forge(folder: Path, replica_id: int, how: str) -> None:
    """Change a stopped instance's copy; its mark says that all of it is committed."""
    engine = RocksEngine.open(folder)
    batches = engine.read(replica_id, 0, 1 << 62, 1 << 40)
    while batches[-1].end < engine.end(replica_id).end:
        batches += engine.read(replica_id, batches[-1].end, 1 << 62, 1 << 40)
    kept = {"last": len(batches) - 1, "half": len(batches) // 2, "longer": len(batches)}[how]
    if kept < len(batches):
        engine.truncate(replica_id, batches[kept].base_offset)
    for like in batches[kept:] if kept < len(batches) else batches[-1:]:
        batch = forged(engine.end(replica_id), like)
        engine.write([ReplicaWrite(replica_id, [batch], batch.end)], Durability.OS)
    engine.close()


async def demoted(n: Nodes, instance: str) -> None:
    """What the primary writes of one that is silent."""
    record = await n.record(SHARD)
    gone = next(m for m in record.in_sync if m.instance == instance)
    await n.change(
        SHARD,
        in_sync=tuple(m for m in record.in_sync if m != gone),
        learners=(gone,),
        epoch=record.epoch + 1,
    )


@pytest.mark.parametrize("stays", [True, False], ids=["in-sync", "learner"])
@pytest.mark.parametrize("how", ["last", "half", "longer"])
async def test_a_forged_copy_is_set_aside_and_built_anew(
    tmp_path: Path, how: str, stays: bool
) -> None:
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        keys = await fill(n, "table")
        await n.stop("i3")
        forge(tmp_path / "i3", OLD["i3"], how)
        if not stays:
            await demoted(n, "i3")
        with capture_logs() as logs:
            async with repaired(n):
                await n.start("i3")
                record = await rebuilt(n, "i3")
        assert record.primary.instance == "i1"
        await check_equal(n, record, keys)
        if how != "longer":
            assert record.possible_loss == ()
            answer = [e for e in logs if e["event"] == "peer diverged, its copy is set aside"]
            assert len(answer) == 1  # not twice a second
            assert answer[0]["log_level"] == "warning"
            assert answer[0]["shard"] == SHARD
            assert answer[0]["replica_id"] == OLD["i3"]
            assert answer[0]["own_end"] == len(keys)
        joins = [e for e in logs if e["event"] == "repair" and "may join" in e["why"]]
        assert len(joins) <= 1
        (more,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"on"], len(keys), 0)])
        assert not more.HasField("error"), more.error


async def test_where_all_must_ack_a_forged_copy_is_replaced_too(tmp_path: Path) -> None:
    """`min_in_sync` is 3 of 3: nothing is acked meanwhile, and then all is."""
    async with nodes(tmp_path, 3, **PATIENT) as n:
        await three(n)
        await n.change(SHARD, min_in_sync=3)
        keys = await fill(n, "table")
        await n.stop("i2")
        forge(tmp_path / "i2", OLD["i2"], "half")
        waiting = asyncio.create_task(
            append(n.log_stub("i1"), [batch_of(SHARD, [b"on"], len(keys), 0)])
        )
        async with repaired(n):
            await n.start("i2")
            record = await rebuilt(n, "i2")
            (more,) = await asyncio.wait_for(waiting, LIMIT_S)
        assert not more.HasField("error"), more.error
        await check_equal(n, replace(record), [*keys, b"on"])
