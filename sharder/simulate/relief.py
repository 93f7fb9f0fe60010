"""Relief for all rules but the planner: relieve an instance by moves and splits, greedily.

The rules differ in the load that they expect. The same sensible moves for all of them keep the
comparison about foresight.
"""

import numpy as np
from numpy.typing import NDArray

from sharder.risk import Floats
from sharder.simulate.cluster import Action, MoveShard, SimulatedCluster, Split


def relieve(
    cluster: SimulatedCluster,
    believed: Floats,
    limit: float,
    room: float,
    *,
    midpoint: bool = False,
) -> list[Action]:
    """Moves off the instances that `believed` [n, H] (load of each shard) puts over `limit`.

    A target stays under `room`. The smallest shard that cures moves; else the largest that fits
    on a target; else the largest is split at half of its load (`midpoint`: half of its key range).
    """
    s = cluster.settings
    total = np.zeros((s.instances, believed.shape[1]))
    where = np.where(cluster.target >= 0, cluster.target, cluster.home)
    np.add.at(total, where, believed)
    if total.max() <= limit:
        return []
    busy = cluster.busy()
    free = ~cluster.moving
    actions: list[Action] = []
    for instance in np.argsort(-total.max(axis=1), kind="stable"):
        while total[instance].max() > limit and busy[instance] < s.operators_per_instance_max:
            mine = np.flatnonzero(free & (where == instance))
            found = _one_move(total, believed, mine, instance, limit, room, busy, cluster)
            if found is None:
                cut = _split(cluster, believed, mine, midpoint)
                actions += [cut] if cut is not None else []
                break
            row, target = found
            total[instance] -= believed[row]
            total[target] += believed[row]
            where[row], free[row] = target, False
            busy[instance] += 1
            busy[target] += 1
            actions.append(MoveShard(cluster.uids[row], target))
    return actions


def _one_move(
    total: Floats,
    believed: Floats,
    mine: NDArray[np.int64],
    instance: int,
    limit: float,
    room: float,
    busy: NDArray[np.int64],
    cluster: SimulatedCluster,
) -> tuple[int, int] | None:
    size = believed[mine].max(axis=1)
    cures = (total[instance] - believed[mine]).max(axis=1) <= limit
    order = np.lexsort((np.where(cures, size, -size), ~cures))
    for i in order[:16]:
        row = int(mine[i])
        if size[i] <= 0:
            continue
        peak = (total + believed[row]).max(axis=1)
        peak[busy >= cluster.settings.operators_per_instance_max] = np.inf
        peak[instance] = np.inf
        target = int(peak.argmin())
        if peak[target] <= room:
            return row, target
    return None


def _split(
    cluster: SimulatedCluster, believed: Floats, mine: NDArray[np.int64], midpoint: bool
) -> Split | None:
    for row in mine[np.argsort(-believed[mine].max(axis=1), kind="stable")]:
        column, first, last = cluster.uids[row]
        if last - first > 1:
            return Split(cluster.uids[row], cut_of(cluster, column, first, last, midpoint))
    return None


def cut_of(cluster: SimulatedCluster, column: int, first: int, last: int, midpoint: bool) -> int:
    """Where to split [first, last) of a column: in its middle, or nearest to half of the load."""
    if midpoint:
        return (first + last) // 2
    base, whole = cluster.below(column, first), cluster.below(column, last)
    middle = (base + whole) / 2
    return min(range(first + 1, last), key=lambda p: abs(cluster.below(column, p) - middle))
