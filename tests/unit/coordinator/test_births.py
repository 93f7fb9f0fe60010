"""How old shards are, and how busy they were lately."""

from dataclasses import replace

from coordinator.migration.reshape import ReshapePhase, ReshapeRecord, ReshapeState
from coordinator.planning.births import Births, peak_ops
from logstore.meta.records import LogOptions, LogRecord
from profiler.types import OpType, ShardStatistics

LOG = LogRecord("x", LogOptions(), 9, 5_000_000, 2)
SPLIT = ReshapeRecord(
    "s1", "x", "split", ("x/0",), 7_000_000, at=b"m", state=ReshapeState.COMPLETED,
    successors=("x/2", "x/3"), phases=(ReshapePhase(ReshapeState.COMPLETED, 8_000_000),),
)  # fmt: skip
MERGE = replace(SPLIT, id="s2", kind="merge", parents=("x/2", "x/1"), successors=("x/4",))


def test_a_split_makes_young_shards_and_a_merge_does_not() -> None:
    births = Births.of([LOG, replace(LOG, name="old", shards_created=None)], [SPLIT, MERGE])
    assert births.opened_s("x/2", "x") == 8.0
    assert births.opened_s("x/1", "x") == 5.0
    assert births.opened_s("x/4", "x") is None
    assert births.shards_created == {"x": 2}


def row(slot: int, ops: int) -> ShardStatistics:
    return ShardStatistics(
        "x/0", "a", slot, 1.0, {OpType.APPEND: ops}, ops, 0, 0, mean_ms=0.0, p50_ms=0.0, p99_ms=0.0
    )


def test_the_peak_is_of_the_last_slots_over_all_copies() -> None:
    rows = [row(1, 90), row(2, 10), row(3, 5), row(3, 7), row(4, 1)]
    assert peak_ops(rows, 2) == 12.0
    assert peak_ops(rows, 3) == 12.0
    assert peak_ops(rows, 4) == 90.0
    assert peak_ops([], 4) == 0.0
