"""Cells: slices of the shard space, each under one leader (pure; design note 0004).

The count of cells is fixed when a cluster is made. The xxh3-64 of a shard's id names its cell,
so a log of many shards is divided too. Cell "0" has the log-wide work as well, and what crosses
cells.
"""

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass

import xxhash

from coordinator.limits import CELLS_MAX
from logstore.base.errors import InvalidArgumentError
from sharder.ring import place

LOG_WIDE = "0"
"""The cell whose leader creates and deletes logs, and merges shards of two cells."""


def cell_names(count: int) -> tuple[str, ...]:
    """`count` is 1 to CELLS_MAX."""
    if not 1 <= count <= CELLS_MAX:
        raise InvalidArgumentError(f"cells is {count}, the limit is 1 to {CELLS_MAX}")
    return tuple(str(number) for number in range(count))


def cell_of(shard: str, count: int) -> str:
    """The cell of a shard, given how many there are; it never changes."""
    return str(xxhash.xxh3_64_intdigest(shard.encode()) % count)


def cell_of_all(shards: Iterable[str], count: int) -> str:
    """The cell that splits a shard or merges two: theirs, or `LOG_WIDE` when they have two."""
    cells = {cell_of(shard, count) for shard in shards}
    return cells.pop() if len(cells) == 1 else LOG_WIDE


def owners(cells: Iterable[str], live: Collection[str]) -> dict[str, str]:
    """Cell -> the live coordinator that must lead it; empty when none is live.

    Hashing with bounded loads: none gets more than the fair share, rounded up, and every
    coordinator that sees the same live ones computes the same owners.
    """
    names = [f"cell {cell}" for cell in cells]
    if not live or not names:
        return {}
    found = place(names, dict.fromkeys(live, 1.0), bound=1.0)
    return {name.removeprefix("cell "): owner for name, owner in found.items()}


@dataclass(frozen=True, slots=True)
class Duty:
    """One coordinator's next steps about cells: campaign for some, give others back."""

    campaign: frozenset[str] = frozenset()
    give_back: frozenset[str] = frozenset()


def duty(me: str, cells: Iterable[str], live: Collection[str], standing: Set[str]) -> Duty:
    """`standing`: cells that `me` leads or campaigns for.

    A coordinator that is not among the live ones itself (it lost its registration) changes nothing:
    the election's fence decides about what it holds.
    """
    if me not in live:
        return Duty()
    mine = {cell for cell, owner in owners(cells, live).items() if owner == me}
    return Duty(frozenset(mine - standing), frozenset(standing - mine))
