"""Join rarely used neighbours of one log.

Fewer shards mean less to report, plan and keep in memory; the load stays where it is. The bound
(`merge_share`) is far below the threshold at which shards are split. Both have used less than it
for `merge_cold_s` and will in the horizon, and what a split opened is older than `merge_age_s`, so
none is split and joined in turns. A neighbour elsewhere comes over first, if it may move.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sharder.config import PlannerConfig
from sharder.draft import Draft
from sharder.load import CPU
from sharder.operators import Crossing, Refusal
from sharder.policies.upkeep import may_move, operator, peak_use_of
from sharder.reasons import Reason
from sharder.view import ShardView

IDLE_OPS_PER_S = 1.0
"""Where no capacity is known, a shard with less is rarely used."""


def cold_slots(config: PlannerConfig, period_s: float) -> int:
    """The slots of the past in which neighbours must have been rarely used."""
    return math.ceil(config.merge_cold_s / period_s)


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Pairs of rarely used neighbours, by log and key."""
    count = Counter(s.log for s in draft.table.shards)
    left = draft.config.upkeep_operators_max
    for a, b in _neighbours(draft):
        if left <= 0:
            return
        if a in draft.moved or b in draft.moved:
            continue
        why = _merge(draft, a, b, count[draft.table.shards[a].log])
        if why is None:
            left -= 1
            count[draft.table.shards[a].log] -= 1  # also where the two only come together now
        else:
            draft.refuse(int(draft.table.home[a]), why)


def _neighbours(draft: Draft) -> list[tuple[int, int]]:
    """(lower, upper) rows of adjoining ranges that both use less than `merge_share`."""
    t, share = draft.table, draft.config.merge_share
    known = [s.peak_ops_per_s or 0.0 for s in t.shards]
    peak = np.maximum(t.mean.max(axis=1), np.array(known, dtype=np.float64))
    ops_per_s, bytes_per_s = t.capacity[t.home, 0], t.capacity[t.home, 1]
    cold = peak < np.where(np.isinf(ops_per_s), IDLE_OPS_PER_S, share * ops_per_s)
    cold &= peak * t.ratio < share * bytes_per_s
    if t.capacity.shape[1] > CPU:
        cold &= peak * t.scale[:, CPU] < share * t.capacity[t.home, CPU]
    rows = [r for r in cold.nonzero()[0].tolist() if t.shards[r].start is not None]
    starts = {(t.shards[r].log, t.shards[r].start): r for r in rows}
    found = []
    for row in rows:
        end = t.shards[row].end
        upper = starts.get((t.shards[row].log, end)) if end is not None else None
        if upper is not None:
            found.append((row, upper))
    return sorted(found, key=lambda ab: (t.shards[ab[0]].log, t.shards[ab[0]].start or b""))


def _merge(draft: Draft, a: int, b: int, shards: int) -> Refusal | None:
    t, config, home = draft.table, draft.config, int(draft.table.home[a])
    low, high, name = t.shards[a], t.shards[b], t.instances[home].id
    least = low.log_shards_min or config.merge_shards_min
    if shards <= least:
        return Refusal(Reason.FEW_SHARDS, name, low.id, float(shards), float(least))
    for row in (a, b):
        why = may_move(draft, row, int(t.home[row]))
        if why is not None and why.reason is not Reason.COOLDOWN:  # a merge copies nothing
            return why
    opened = [s.opened_s for s in (low, high) if s.opened_s is not None]
    young = draft.view.now_s - max(opened, default=-1e18)
    if young < config.merge_age_s:
        return Refusal(Reason.TOO_YOUNG, name, low.id, float(young), config.merge_age_s, high.id)
    used = peak_use_of(draft, [a, b], home)
    lately = (low.peak_ops_per_s or 0.0) + (high.peak_ops_per_s or 0.0)
    used = max(used, float(lately / t.capacity[home, 0]))
    if used >= config.merge_share or low.bytes + high.bytes > config.merge_bytes_max:
        return Refusal(Reason.TOO_BIG_TOGETHER, name, low.id, used, config.merge_share, high.id)
    if _members(low) != _members(high) or t.home[b] != home:
        return _bring(draft, a, b)
    reason = (
        f"{low.id} and {high.id} adjoin on {name} and use {used:.1%} of it together: one shard is"
        " enough for both."
    )
    made = operator(draft, "merge", a, home, home, 0.0, reason, copied=False, partner=high.id)
    draft.note(a, made)
    draft.moved.add(b)
    return None


def _members(shard: ShardView) -> frozenset[str]:
    return frozenset((shard.instance, *shard.in_sync))


def _bring(draft: Draft, a: int, b: int) -> Refusal | None:
    """Bring the neighbour with fewer bytes over: a later plan joins them."""
    t = draft.table
    moving, staying = sorted((a, b), key=lambda r: (t.shards[r].bytes, -r))
    shard, other = t.shards[moving], t.shards[staying]
    home, there = int(t.home[moving]), int(t.home[staying])
    refusal = Refusal(Reason.NEIGHBOUR_APART, t.instances[home].id, shard.id, other=other.id)
    same = _members(shard) == _members(other)
    if not same and (shard.in_sync or other.in_sync):
        return refusal  # a move takes one copy; repair and spread bring the others together
    if draft.moved & {a, b}:
        return refusal
    why = may_move(draft, moving, home)
    if why is not None:
        return why
    among = np.zeros(len(t.instances), dtype=np.bool_)
    among[there] = True
    found = draft.find_target(moving, home, among=among, copied=not same)
    if found.index is None:
        return refusal
    reason = (
        f"{shard.id} and its neighbour {other.id} are rarely used: on one instance"
        f" ({other.instance}) they can be joined."
    )
    made = operator(
        draft, "switch" if same else "move", moving, home, there, 0.0, reason, copied=not same
    )
    draft.accept(moving, home, there, made)
    draft.moved.add(staying)
    return None
