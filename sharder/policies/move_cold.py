"""Move rarely used shards off busy instances.

A cold shard disturbs least: few clients notice the move, and its copy takes little capacity. Two
kinds of instances need it: one that stores too much, and one that is still over its limit after
moves of hot shards and splits. Coldest first, to near targets with low load (draft).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sharder.draft import TOLERANCE, Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.common import eligible, gain, over_limits, relief
from sharder.policies.upkeep import cost_of, operator, peak_use_of
from sharder.reasons import Reason


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """First instances that store too much, the fullest first; then `hot` ones that stay too
    busy."""
    for instance in _full(draft):
        _store_less(draft, instance)
    for instance, _ in hot:
        crossing = draft.crossing(instance)
        if crossing is not None:
            _relieve(draft, instance, crossing)


def _limits(draft: Draft) -> list[float]:
    return [i.capacity_stored_bytes or float("inf") for i in draft.table.instances]


def _full(draft: Draft) -> list[int]:
    share = draft.stored / np.array(_limits(draft))
    over = np.flatnonzero(share > draft.config.risk.threshold)
    live = [int(i) for i in over if draft.table.instances[i].alive]
    return sorted(live, key=lambda i: (-float(share[i]), i))


def _cold(draft: Draft, instance: int) -> tuple[list[int], list[Refusal]]:
    """Rarely used shards, the coldest first; refusals of those used more."""
    name, most = draft.table.instances[instance].id, draft.config.cold_share
    rows, refused = eligible(draft, instance)
    use = {r: peak_use_of(draft, [r], instance) for r in rows.tolist()}
    for row, used in use.items():
        if used >= most:
            shard = draft.table.shards[row].id
            refused.append(Refusal(Reason.NOT_COLD, name, shard, used, most))
    cold = [r for r, used in use.items() if used < most]
    return sorted(cold, key=lambda r: (use[r], draft.table.shards[r].id)), refused


def _store_less(draft: Draft, instance: int) -> None:
    """Move cold shards off until the instance stores less than its limit."""
    state, most = draft.table.instances[instance], _limits(draft)[instance]
    limit = draft.config.risk.threshold
    stays = float(draft.stored[instance])
    rows, refused = _cold(draft, instance)
    over = stays - limit * most
    for row in rows:
        shard = draft.table.shards[row]
        if stays <= limit * most or not shard.bytes:
            break
        if (why := over_limits(draft, instance, shard.id, due=True)) is not None:
            refused.append(why)
            continue
        target = draft.find_target(row, instance)
        if target.index is None:
            refused += [target.refusal] if target.refusal is not None else []
            continue
        # A full disk is a certain and lasting overload; each shard has its part in it.
        horizon_s = draft.table.horizon * draft.view.period_s
        gained = min(shard.bytes / over, 1.0) * horizon_s * draft.config.risk.overload_cost_per_s
        cost = cost_of(draft, row)
        if gained <= cost:
            refused.append(Refusal(Reason.NOT_WORTH_IT, state.id, shard.id, gained, cost))
            continue
        there = draft.table.instances[target.index].id
        reason = (
            f"{state.id} stores {stays / most:.0%} of its {most / 1e9:.1f} GB, above"
            f" {limit:.0%}. {shard.id} ({shard.bytes / 1e6:.1f} MB) is rarely used and can go to"
            f" {there}."
        )
        made = operator(draft, "move", row, instance, target.index, gained, reason)
        draft.accept(row, instance, target.index, made)
        stays -= shard.bytes
    if stays > limit * most:
        refused.append(Refusal(Reason.STORAGE_FULL, state.id, None, stays / most, limit))
    for refusal in refused:
        draft.refuse(instance, refusal)


def _relieve(draft: Draft, instance: int, crossing: Crossing) -> None:
    """Move cold shards off a busy instance, as long as each gains more than it costs."""
    searches = draft.searches
    for row in _cold(draft, instance)[0]:
        if draft.excess(instance).max(initial=0.0) <= TOLERANCE:
            return
        if draft.searches - searches >= draft.config.target_searches_max:
            return
        shard = draft.table.shards[row]
        if over_limits(draft, instance, shard.id, due=True) is not None:
            return  # whichever the shard
        takes_s = draft.view.moves.duration_s(shard.bytes)
        share = relief(draft, instance, row, 1.0, takes_s)
        if share <= TOLERANCE:
            continue
        target = draft.find_target(row, instance)
        if target.index is None:
            continue
        end_s = draft.view.now_s + takes_s
        gained, cost = gain(draft, instance, target.index, row, end_s, share), cost_of(draft, row)
        if gained <= cost:
            continue
        f, there = crossing.forecast, draft.table.instances[target.index].id
        reason = (
            f"{crossing.instance} is going to need {f.upper:.1f} {f.unit} of {f.limit:.1f} and no"
            f" hot shard can leave it. {shard.id} is rarely used: bringing it to {there} disturbs"
            f" little and avoids {gained:.1f} overloaded instance-seconds."
        )
        made = operator(draft, "move", row, instance, target.index, gained, reason)
        made = replace(made, trigger=crossing.trigger, forecast=f)
        draft.accept(row, instance, target.index, made)
