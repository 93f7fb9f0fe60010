"""Hot ranges on fast and reliable instances.

The gain of a better instance for a shard, per second: `tier_gain_per_s` for each tier faster, and
the time that it would not answer after a failure (observed failures per day x `failover_s`), each
times the share of an instance that the shard uses. It must exceed the cost of the move within
`payback_s`.
"""

from collections.abc import Sequence

import numpy as np

from sharder.config import PlannerConfig
from sharder.draft import Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.upkeep import cost_of, may_move, operator, use_of
from sharder.reasons import Reason
from sharder.risk import Floats
from sharder.view import InstanceView

_DAY_S = 86_400.0


def grade(instance: InstanceView, config: PlannerConfig) -> float:
    """Worth of an instance per second to a shard that uses the whole of one; higher is better."""
    rank = instance.tier if instance.tier in config.tiers else "standard"
    place = config.tiers.index(rank) if rank in config.tiers else 0
    failing = instance.failures_per_day / _DAY_S * config.failover_s
    return place * config.tier_gain_per_s - failing * config.risk.overload_cost_per_s


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Where instances differ: hot shards of the worse ones to better ones with room."""
    grades = np.array([grade(i, draft.config) for i in draft.table.instances])
    if not draft.open.any() or grades.min() == grades.max():
        return
    found = []
    best = float(grades[draft.open].max())
    for row, home in enumerate(draft.table.home.tolist()):
        worth = use_of(draft, row, home) * draft.config.payback_s
        cost = cost_of(draft, row)
        if worth * (best - grades[home]) > cost and draft.table.instances[home].alive:
            found.append((-worth * (best - float(grades[home])), row))
    left = draft.config.upkeep_operators_max
    for _, row in sorted(found):
        if left <= 0:
            return
        why = _raise(draft, row, grades)
        if why is None:
            left -= 1
        else:
            draft.refuse(int(draft.table.home[row]), why)


def _raise(draft: Draft, row: int, grades: Floats) -> Refusal | None:
    home = int(draft.table.home[row])
    shard, name = draft.table.shards[row], draft.table.instances[home].id
    why = may_move(draft, row, home)
    if why is not None:
        return why
    worth = use_of(draft, row, home) * draft.config.payback_s
    cost = cost_of(draft, row)
    pays = worth * (grades - grades[home]) > cost
    for level in sorted(set(grades[pays & draft.open].tolist()), reverse=True):
        target = draft.find_target(row, home, among=pays & (grades == level))
        if target.index is not None:
            break
    else:
        return Refusal(Reason.NO_BETTER_TIER, name, shard.id)
    there, here = draft.table.instances[target.index], draft.table.instances[home]
    gained = worth * float(grades[target.index] - grades[home])
    reason = (
        f"{shard.id} is hot and {there.id} ({there.tier}, {there.failures_per_day:.2f} failures a"
        f" day) serves it better than {here.id} ({here.tier}, {here.failures_per_day:.2f}): worth"
        f" {gained:.1f} instance-seconds in {draft.config.payback_s:.0f} s."
    )
    draft.accept(
        row, home, target.index, operator(draft, "move", row, home, target.index, gained, reason)
    )
    return None
