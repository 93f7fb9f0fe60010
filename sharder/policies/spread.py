"""Spread replicas: the copies of a shard belong in different zones.

Proposes `replicate` operators: a new copy on `target`, in a zone that holds none, in place of the
one on `source`. The primary stays; the load of followers is not counted.
"""

from collections.abc import Sequence

import numpy as np

from sharder.draft import Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.common import over_limits
from sharder.policies.upkeep import cost_of, may_move, operator
from sharder.reasons import Reason


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """For shards with two copies in one zone, the most used first."""
    zone = {i.id: i.zone for i in draft.table.instances if i.alive}  # repair replaces lost copies
    if len(set(zone.values())) < 2:
        return
    rows = []
    for row, shard in enumerate(draft.table.shards):
        if shard.in_sync and shard.instance in zone:
            zones = [zone[n] for n in (shard.instance, *shard.in_sync) if n in zone]
            if len(set(zones)) < len(zones):
                rows.append(row)
    rows.sort(key=lambda r: (-float(draft.table.mean[r].max()), draft.table.shards[r].id))
    left = draft.config.upkeep_operators_max
    for row in rows:
        if left <= 0:
            return
        why = _spread(draft, row, zone)
        if why is None:
            left -= 1
        else:
            draft.refuse(int(draft.table.home[row]), why)


def _spread(draft: Draft, row: int, zone: dict[str, str]) -> Refusal | None:
    shard, home = draft.table.shards[row], int(draft.table.home[row])
    why = may_move(draft, row, home)
    if why is not None:
        return why
    copies = [n for n in shard.in_sync if n in zone]
    taken = {zone[shard.instance]}
    double = ""
    for name in sorted(copies):
        if zone[name] in taken:
            double = name
        taken.add(zone[name])
    gone = set(shard.in_sync) - zone.keys()  # a dead instance may come back with its copy
    taken |= {i.zone for i in draft.table.instances if i.id in gone}
    fits = draft.open & (draft.stored + shard.bytes <= draft.stored_max)
    fits &= draft.busy < draft.config.operators_per_instance_max
    fits &= np.array([i.zone not in taken for i in draft.table.instances])
    if not fits.any():
        return Refusal(Reason.NO_ZONE, double, shard.id)
    used = (draft.upper / draft.table.capacity[:, :, None]).max(axis=(1, 2))
    target = int(np.argmin(np.where(fits, used, np.inf)))
    source, there = draft.table.index[double], draft.table.instances[target]
    if source != home and (why := over_limits(draft, source, shard.id, due=True)) is not None:
        return why
    reason = (
        f"Two copies of {shard.id} are in {zone[double]}: if that zone fails, both are gone."
        f" {there.id} in {there.zone} takes the one of {double}."
    )
    made = operator(draft, "replicate", row, source, target, cost_of(draft, row), reason)
    draft.stored[target] += shard.bytes
    draft.busy[[source, target]] += 1
    draft.note(row, made)
    return None
