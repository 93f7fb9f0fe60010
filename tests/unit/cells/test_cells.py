"""The pure part: which cell a shard is in, who must lead which, and what one does about it."""

import pytest

from coordinator.cells.assignment import Duty, cell_names, cell_of, duty, owners
from coordinator.limits import CELLS_MAX
from logstore.base.errors import InvalidArgumentError

ADDRESSES = [f"10.0.0.{n}:7400" for n in range(1, 6)]


def test_a_shard_has_one_cell_for_ever() -> None:
    shards = [f"orders/{n}" for n in range(4_000)]
    cells = [cell_of(shard, 8) for shard in shards]
    assert set(cells) == set(cell_names(8))
    assert all(400 < cells.count(cell) < 600 for cell in cell_names(8))
    assert cell_of("orders/0", 8) == cell_of("orders/0", 8)
    assert {cell_of(shard, 1) for shard in shards} == {"0"}


def test_the_count_of_cells_is_bounded() -> None:
    for count in (0, CELLS_MAX + 1):
        with pytest.raises(InvalidArgumentError, match=f"cells is {count}"):
            cell_names(count)


@pytest.mark.parametrize("live", range(1, 6))
@pytest.mark.parametrize("cells", [1, 4, 16])
def test_cells_are_spread_evenly_and_everyone_agrees(cells: int, live: int) -> None:
    found = owners(cell_names(cells), ADDRESSES[:live])
    assert found == owners(cell_names(cells), ADDRESSES[:live][::-1])
    assert set(found) == set(cell_names(cells))
    each = [list(found.values()).count(a) for a in ADDRESSES[:live]]
    assert max(each) <= -(-cells // live)


def test_nobody_owns_a_cell_when_nobody_lives() -> None:
    assert owners(cell_names(4), []) == {}


def test_when_one_leaves_the_others_stand_for_its_cells_and_all_cells_have_one() -> None:
    cells = cell_names(16)
    before = owners(cells, ADDRESSES[:3])
    live = ADDRESSES[1:3]
    after: list[str] = []
    for me in live:
        held = {cell for cell, owner in before.items() if owner == me}
        change = duty(me, cells, live, held)
        after += (held | change.campaign) - change.give_back
    assert sorted(after) == sorted(cells)


def test_when_one_joins_it_gets_its_share_and_the_others_give_it_back() -> None:
    cells = cell_names(16)
    newcomer = duty(ADDRESSES[2], cells, ADDRESSES[:3], set())
    before = owners(cells, ADDRESSES[:2])
    given: set[str] = set()
    for me in ADDRESSES[:2]:
        held = {cell for cell, owner in before.items() if owner == me}
        given |= duty(me, cells, ADDRESSES[:3], held).give_back
    assert 5 <= len(newcomer.campaign) <= 6
    assert newcomer.campaign <= given
    assert not newcomer.give_back


def test_one_that_is_not_among_the_live_ones_changes_nothing() -> None:
    assert duty("lost:1", cell_names(4), ADDRESSES, {"2"}) == Duty()
