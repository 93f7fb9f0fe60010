"""Weighted consistent hashing with bounded load.

Each instance owns `virtual_nodes x weight` points on a ring of 64-bit xxh3 hashes; a shard goes to
the first point clockwise of its own hash whose instance still has room. Room is bound x the fair
share (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, SODA 2018). An
instance's points depend only on its own id and weight, so adding one of N moves about 1/N.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

VIRTUAL_NODES = 128
WEIGHT_MAX = 64.0
_POINT_BITS = 64


class Ring:
    """The points of a set of instances. `weights`: instance -> weight in (0, 64], 1.0 is usual."""

    def __init__(
        self, weights: Mapping[str, float], *, virtual_nodes: int = VIRTUAL_NODES, seed: int = 0
    ) -> None:
        if not weights:
            raise ValueError("a ring needs at least one instance")
        if not 1 <= virtual_nodes <= 4096:
            raise ValueError(f"virtual_nodes is {virtual_nodes}, it must be within 1..4096")
        self.instances: tuple[str, ...] = tuple(sorted(weights))
        self._index = {name: i for i, name in enumerate(self.instances)}
        self._seed = seed
        points: list[int] = []
        owners: list[int] = []
        for index, name in enumerate(self.instances):
            count = max(1, round(virtual_nodes * _checked_weight(name, weights[name])))
            prefix = name.encode() + b"\x00"
            points += [
                xxhash.xxh3_64_intdigest(prefix + k.to_bytes(4, "big"), seed) for k in range(count)
            ]
            owners += [index] * count
        unsorted = np.array(points, dtype=np.uint64)
        order = np.lexsort((np.array(owners), unsorted))
        self._points: NDArray[np.uint64] = unsorted[order]
        self._owners: NDArray[np.int64] = np.array(owners, dtype=np.int64)[order]

    def _position(self, shard: str) -> int:
        point = np.uint64(xxhash.xxh3_64_intdigest(shard.encode(), self._seed))
        return int(np.searchsorted(self._points, point, side="left")) % len(self._points)

    def targets(self, shard: str, count: int | None = None) -> list[str]:
        """The instances in the order in which the ring offers them to `shard` (all, or `count`)."""
        walk = np.roll(self._owners, -self._position(shard))
        _, first = np.unique(walk, return_index=True)
        order = walk[np.sort(first)][:count]
        return [self.instances[i] for i in order]

    def owner(self, shard: str) -> str:
        """The first instance on the ring for `shard`, ignoring the load."""
        return self.instances[int(self._owners[self._position(shard)])]

    def first(self, shard: str, allowed: NDArray[np.bool_]) -> int | None:
        """Index in `instances` of the first one the ring offers to `shard` with allowed[i] set."""
        at, size, step = self._position(shard), len(self._owners), 64
        seen = 0
        while seen < size:
            chunk = self._owners.take(range(at + seen, at + min(seen + step, size)), mode="wrap")
            hits = np.flatnonzero(allowed[chunk])
            if hits.size:
                return int(chunk[hits[0]])
            seen, step = seen + step, step * 4
        return None

    def place(
        self,
        loads: Mapping[str, float],
        room: Sequence[float],
        order: Sequence[str],
        overrides: Mapping[str, str],
    ) -> dict[str, str]:
        """Shard -> instance; instance i takes shards in `order` while its load is below room[i].

        Overridden shards are placed first and count as load.
        """
        filled = np.zeros(len(self.instances))
        placed: dict[str, str] = {}
        for shard, name in overrides.items():
            placed[shard] = name
            filled[self._index[name]] += loads[shard]
        rooms = np.asarray(room, dtype=np.float64)
        open_ = filled < rooms
        for shard in order:
            if shard in placed:
                continue
            index = self.first(shard, open_)
            if index is None:  # overrides used all room: the least filled one takes it
                index = int(np.argmin(filled / rooms))
            filled[index] += loads[shard]
            open_[index] = filled[index] < rooms[index]
            placed[shard] = self.instances[index]
        return placed


def place(
    shards: Mapping[str, float] | Sequence[str],
    weights: Mapping[str, float],
    bound: float = 1.25,
    *,
    migration_weights: Mapping[str, float] | None = None,
    overrides: Mapping[str, str] | None = None,
    virtual_nodes: int = VIRTUAL_NODES,
    seed: int = 0,
) -> dict[str, str]:
    """Where each shard goes: shard -> instance.

    `shards`: shard -> load in any one unit, or just the ids (each counts 1). `weights`: instance ->
    weight. No instance gets more than bound x its fair share of the load plus one shard (equal
    loads: at most ceil(bound x fair share)), unless `overrides` (shard -> instance) require it.
    Shards of low `migration_weights` (default 1) choose first, so one of higher weight is likelier
    to move on to a further instance. Raises ValueError that names the field and its bound.
    """
    if not 1.0 <= bound <= 100.0:
        raise ValueError(f"bound is {bound}, it must be within 1..100 (times the fair share)")
    loads = dict(shards) if isinstance(shards, Mapping) else dict.fromkeys(shards, 1.0)
    for shard, load in loads.items():
        if not (math.isfinite(load) and load >= 0):
            raise ValueError(f"load of shard {shard} is {load}, it must be finite and at least 0")
    fixed = {s: i for s, i in (overrides or {}).items() if s in loads}
    for shard, name in fixed.items():
        if name not in weights:
            raise ValueError(f"override of shard {shard} names unknown instance {name}")
    ring = Ring(weights, virtual_nodes=virtual_nodes, seed=seed)
    total_weight = sum(weights.values())
    total_load = max(sum(loads.values()), 1e-300)
    room = [bound * total_load * weights[name] / total_weight for name in ring.instances]
    return ring.place(loads, room, _choosing_order(loads, migration_weights or {}, seed), fixed)


def _choosing_order(
    loads: Mapping[str, float], weights: Mapping[str, float], seed: int
) -> list[str]:
    """Shards by falling -ln(u)/weight, u from the hash: weight w is last with probability ~ w."""

    def clock(shard: str) -> float:
        weight = weights.get(shard, 1.0)
        if not 0.0 <= weight <= 1e6:
            raise ValueError(
                f"migration weight of shard {shard} is {weight}, it must be within 0..1e6"
            )
        draw = (xxhash.xxh3_64_intdigest(b"order\x00" + shard.encode(), seed) + 1) / 2**_POINT_BITS
        return -math.log(draw) / weight if weight else math.inf

    return sorted(loads, key=lambda shard: (-clock(shard), shard))


def _checked_weight(name: str, weight: float) -> float:
    if not 0.0 < weight <= WEIGHT_MAX:
        raise ValueError(f"weight of instance {name} is {weight}, it must be in (0, {WEIGHT_MAX}]")
    return weight
