"""I9: a coordinator's write is fenced by the cell that it is of."""

import pytest

from coordinator.cells.assignment import cell_of, cell_of_all
from coordinator.migration.reshape import RESHAPES, ReshapeRecord
from logstore.base.types import ShardStatus
from logstore.meta.records import (
    LeaderRecord,
    Member,
    ShardRecord,
    cell_leader_key,
    encode,
    shard_key,
)
from sharder.keys import KeyRange
from tests.support.checkers import i9_compare_and_swap
from tests.support.checkers.history import MetadataTxn

CELLS = 4
NAMES = [f"log/{n}" for n in range(20)]
LEFT = next(n for n in NAMES if cell_of(n, CELLS) != "0")
SAME = next(n for n in NAMES if n != LEFT and cell_of(n, CELLS) == cell_of(LEFT, CELLS))
OTHER = next(n for n in NAMES if cell_of(n, CELLS) not in (cell_of(LEFT, CELLS), "0"))


def shard(name: str) -> bytes:
    home = Member("n1", 1, 1)
    return encode(ShardRecord(name, "log", KeyRange(), ShardStatus.OPEN, 1, 1, home, (home,)))


def found(cell: str, written: dict[str, bytes | None]) -> list[str]:
    """What is wrong with a write under that cell's leadership, in the words of the checker."""
    leader = cell_leader_key(cell)
    elected = MetadataTxn(
        0.0, "c1", {leader: 0}, {leader: encode(LeaderRecord("c1", "c1:1", 1))}, 1
    )
    compared = {leader: 1, **dict.fromkeys(written, 0)}
    txn = MetadataTxn(1.0, "c1", compared, written, 2)
    return [v.text for v in i9_compare_and_swap.check([elected, txn], frozenset({"n1"}), CELLS)]


def merge(*parents: str) -> dict[str, bytes | None]:
    """A merge that opens a successor of whichever cell."""
    record = ReshapeRecord("r1", "log", "merge", parents, 1)
    return {f"{RESHAPES}r1": encode(record), shard_key("log/77"): shard("log/77")}


def test_the_cell_of_both_parents_merges_them() -> None:
    cell = cell_of(LEFT, CELLS)
    assert found(cell, merge(LEFT, SAME)) == []
    assert any("without being the leader" in text for text in found("0", merge(LEFT, SAME)))


def test_the_log_wide_cell_merges_across_cells() -> None:
    assert cell_of_all([LEFT, OTHER], CELLS) == "0"
    assert found("0", merge(LEFT, OTHER)) == []
    assert found(cell_of(LEFT, CELLS), merge(LEFT, OTHER)) != []


@pytest.mark.parametrize("cell", ["0", "1", "2", "3"])
def test_a_shard_is_written_by_its_cell_or_the_log_wide_one(cell: str) -> None:
    allowed = cell in ("0", cell_of(OTHER, CELLS))
    assert (found(cell, {shard_key(OTHER): shard(OTHER)}) == []) is allowed
