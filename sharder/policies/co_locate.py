"""Bring shards together that are used together, if their common instance stays under its limit.

A query over both then asks one instance instead of two. But shards used together peak together:
the target must have room for the worst period, else they stay apart (reason 26). The target is
never of a lower tier, so that this policy does not work against `tier`.
"""

from collections.abc import Sequence

import numpy as np

from sharder.draft import Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.tier import grade
from sharder.policies.upkeep import cost_of, may_move, operator, use_of
from sharder.reasons import Reason


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Pairs by falling correlation; the shard that is cheaper to move goes to the other's
    instance."""
    left = draft.config.upkeep_operators_max
    for correlation, a, b in _pairs(draft):
        if left <= 0:
            return
        apart = draft.table.home[a] != draft.table.home[b]
        if not apart or a in draft.moved or b in draft.moved:
            continue
        cheap, dear = sorted((a, b), key=lambda r: (cost_of(draft, r), draft.table.shards[r].id))
        why = _bring(draft, cheap, dear, correlation)
        if why is not None and _bring(draft, dear, cheap, correlation) is not None:
            draft.refuse(int(draft.table.home[cheap]), why)
        else:
            left -= 1


def _pairs(draft: Draft) -> list[tuple[float, int, int]]:
    """(correlation, row, row) of shards that belong together, the strongest first."""
    some = [r for r, s in enumerate(draft.table.shards) if s.related]
    if not some:
        return []
    row_of = {s.id: r for r, s in enumerate(draft.table.shards)}
    found: dict[tuple[int, int], float] = {}
    for row in some:
        for other, value in draft.table.shards[row].related.items():
            at = row_of.get(other, row)
            if at != row and value >= draft.config.colocate_correlation_min:
                pair = (min(row, at), max(row, at))
                found[pair] = max(value, found.get(pair, 0.0))
    return sorted(((v, a, b) for (a, b), v in found.items()), key=lambda p: (-p[0], p[1], p[2]))


def _bring(draft: Draft, row: int, to: int, correlation: float) -> Refusal | None:
    home, there = int(draft.table.home[row]), int(draft.table.home[to])
    shard, other = draft.table.shards[row], draft.table.shards[to]
    name, target = draft.table.instances[home], draft.table.instances[there]
    why = may_move(draft, row, home)
    if why is not None:
        return why
    use = min(use_of(draft, row, home), use_of(draft, to, there))
    gained = correlation * use * draft.config.colocate_gain_per_s * draft.config.payback_s
    cost = cost_of(draft, row)
    worse = grade(target, draft.config) < grade(name, draft.config)
    if gained <= cost or worse:
        return Refusal(Reason.NOT_WORTH_IT, name.id, shard.id, 0.0 if worse else gained, cost)
    among = np.zeros(len(draft.table.instances), dtype=np.bool_)
    among[there] = True
    found = draft.find_target(row, home, among=among)
    if found.index is None:
        if found.refusal is not None and found.refusal.reason is not Reason.NO_TARGET:
            return found.refusal
        limit = draft.config.risk.threshold - draft.config.hysteresis
        return Refusal(Reason.PEAKS_COINCIDE, name.id, shard.id, correlation, limit, other.id)
    reason = (
        f"{shard.id} is used together with {other.id} (correlation {correlation:.2f}), and"
        f" {target.id} has room for both at their common peak: a query over both asks one instance."
    )
    draft.accept(row, home, there, operator(draft, "move", row, home, there, gained, reason))
    return None
