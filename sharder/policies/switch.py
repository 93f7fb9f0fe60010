"""Make an in-sync follower the primary of a shard: relief without a copy.

It comes before moves, because it costs no bytes and takes one cutover. It is used only where
switches are carried out (`planner.executable`): as advice it would hide the move that can be made.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sharder.draft import TOLERANCE, Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.common import eligible, gain, over_limits, reliefs
from sharder.policies.upkeep import operator
from sharder.reasons import Reason
from sharder.risk import move_cost


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Relieve `hot` instances by switches, as long as one helps."""
    if "switch" not in draft.config.executable:
        return
    for instance, _ in hot:
        while (crossing := draft.crossing(instance)) is not None:
            if not _switch_one(draft, instance, crossing):
                break


def _switch_one(draft: Draft, instance: int, crossing: Crossing) -> bool:
    """The switch that relieves most; of two that cure, the one of the smaller shard."""
    rows = [r for r in eligible(draft, instance)[0].tolist() if draft.table.shards[r].in_sync]
    if not rows:
        draft.also[instance] = []
        return False
    at = np.array(rows, dtype=np.int64)
    gone = reliefs(draft, instance, at, draft.view.moves.switching_s)
    share = dict(zip(rows, gone.tolist(), strict=True))
    size = dict(zip(rows, draft.table.mean[at].max(axis=1).tolist(), strict=True))
    refused: list[Refusal] = []
    for row in sorted(rows, key=lambda r: (-share[r], size[r], draft.table.shards[r].id)):
        if share[row] <= TOLERANCE:
            break
        why = _try(draft, instance, crossing, row, share[row])
        if why is None:
            draft.also[instance] = []
            return True
        refused.append(why)
    draft.also[instance] = refused
    return False


def _try(draft: Draft, instance: int, crossing: Crossing, row: int, share: float) -> Refusal | None:
    view, config, shard = draft.view, draft.config, draft.table.shards[row]
    start = max(
        crossing.crossing_s - view.moves.switching_s - config.margin_periods * view.period_s,
        float(view.now_s),
    )
    due = start < view.now_s + view.period_s
    if (why := over_limits(draft, instance, shard.id, due)) is not None:
        return why
    among = holders(draft, row)
    target = draft.find_target(row, instance, among=among, copied=False)
    if target.index is None:
        if target.refusal is not None and target.refusal.reason is not Reason.NO_TARGET:
            return target.refusal
        limit = config.risk.threshold - config.hysteresis
        held = float(among.sum())
        return Refusal(Reason.NO_SWITCH, crossing.instance, shard.id, held, limit)
    takes_s = view.moves.switching_s
    cost = move_cost(0.0, takes_s, view.moves.blackout_ms, config.risk)
    gained = gain(draft, instance, target.index, row, start + takes_s, share)
    if gained <= cost:
        return Refusal(Reason.NOT_WORTH_IT, crossing.instance, shard.id, gained, cost)
    f, there = crossing.forecast, draft.table.instances[target.index].id
    reason = (
        f"{crossing.instance} is going to need {f.upper:.1f} {f.unit} of {f.limit:.1f}. {there}"
        f" holds {shard.id} in sync: making it the primary copies nothing and avoids {gained:.1f}"
        " overloaded instance-seconds."
    )
    made = operator(draft, "switch", row, instance, target.index, gained, reason, copied=False)
    made = replace(
        made,
        start_s=start,
        due=due,
        deadline_s=max(crossing.crossing_s, start + takes_s),
        expected_duration_s=takes_s,
        risk=crossing.overload_cost - cost,
        trigger=crossing.trigger,
        forecast=f,
    )
    draft.accept(row, instance, target.index, made, copied=False)
    return None


def holders(draft: Draft, row: int) -> NDArray[np.bool_]:
    """Which other instances hold the shard in sync, [I]."""
    names = draft.table.shards[row].in_sync
    return np.array([i.id in names for i in draft.table.instances], dtype=np.bool_)
