"""Split a shard of an instance that moves of whole shards do not cure.

The cut is a learned key: of those that let a part go whose loss cures the instance, the one nearest
to half of the load, else the one nearest to half. A single hot key is thereby cut off at its side,
and the next plan cuts its other side. The part is moved by a later plan, when the two shards exist;
this plan reserves its room, so that nothing else takes it.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sharder.draft import TOLERANCE, Draft, relative_excess
from sharder.operators import Crossing, Operator, Refusal
from sharder.policies.common import eligible, gain, latest_start_s, over_limits
from sharder.reasons import Reason
from sharder.risk import move_cost, upper_bound
from sharder.view import Cut

HOT_KEY_SHARE = 0.5
"""A stretch between two learned cuts that has this much of a shard's load is called a hot key."""


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Split shards of `hot` instances in order, until each is cured or no split helps."""
    for instance, _ in hot:
        while (crossing := draft.crossing(instance)) is not None:
            if not _split_one(draft, instance, crossing):
                break


def _split_one(draft: Draft, instance: int, crossing: Crossing) -> bool:
    rows = [r for r in eligible(draft, instance)[0].tolist() if draft.table.shards[r].cuts]
    if not rows:
        return False
    table = draft.table
    over = draft.excess(instance) > TOLERANCE
    weight = [float((table.mean[r] * over).sum() * table.weight[r]) for r in rows]
    for at in np.argsort(-np.array(weight), kind="stable"):
        if weight[at] <= 0:
            break
        why = _try(draft, instance, crossing, rows[at])
        if why is None:
            return True
        held = draft.refusals.get(instance, [])
        draft.refusals[instance] = [r for r in held if r.shard != why.shard] + [why]
    return False


def _try(draft: Draft, instance: int, crossing: Crossing, row: int) -> Refusal | None:
    """Accept the best split of one shard, or say why there is none."""
    view, config, shard = draft.view, draft.config, draft.table.shards[row]
    duration_s = view.moves.duration_s(shard.bytes) + view.period_s  # the part moves a plan later
    start = latest_start_s(draft, crossing, duration_s)
    due = start < view.now_s + view.period_s
    if (why := over_limits(draft, instance, shard.id, due)) is not None:
        return why
    for cut, part in _parts(draft, instance, row, duration_s):
        target = draft.find_target(row, instance, part)
        if target.index is None:
            continue
        cost = move_cost(shard.bytes * part, duration_s, view.moves.blackout_ms, config.risk)
        share = _relief(draft, instance, row, part, duration_s)
        avoided = gain(draft, instance, target.index, row, start + duration_s, share, part)
        if avoided <= cost:
            return Refusal(Reason.NOT_WORTH_IT, crossing.instance, shard.id, avoided, cost)
        operator = Operator(
            kind="split",
            shard=shard.id,
            source=crossing.instance,
            target=draft.table.instances[target.index].id,
            strategy="split",
            start_s=start,
            deadline_s=max(crossing.crossing_s, start + duration_s),
            due=due,
            bytes=0,
            expected_duration_s=duration_s,
            expected_gain=avoided,
            risk=crossing.overload_cost - cost,
            forecast=crossing.forecast,
            trigger=crossing.trigger,
            reason=_reason(draft, crossing, row, cut, part, target.index),
            key=cut.key,
            executable="split" in config.executable,
        )
        draft.accept(row, instance, target.index, operator, part)
        return None
    return Refusal(Reason.NO_PART, crossing.instance, shard.id, float(len(shard.cuts)))


def _parts(draft: Draft, instance: int, row: int, duration_s: float) -> list[tuple[Cut, float]]:
    """Cuts and the share of the part that would go, the best first."""
    least = draft.config.split_part_min
    options = [
        (cut, part)
        for cut in draft.table.shards[row].cuts
        for part in (cut.below, 1.0 - cut.below)
        if least <= part <= 1.0 - least
    ]
    left = [_relief(draft, instance, row, part, duration_s) for _, part in options]
    order = sorted(
        range(len(options)),
        key=lambda n: (left[n] < 1.0 - 1e-9, abs(options[n][1] - 0.5), options[n][0].key),
    )
    return [options[n] for n in order[: draft.config.split_cuts_max] if left[n] > 0]


def _relief(draft: Draft, instance: int, row: int, part: float, duration_s: float) -> float:
    """Share of the excess that goes with that part of the shard; 1: it cures."""
    t = draft.table
    helped = t.starts_after(draft.view.now_s + duration_s)
    mean, sigma = t.shard_load(row)
    after = upper_bound(
        np.maximum(t.sum_mean[instance] - mean * part, 0.0),
        np.maximum(t.sum_squares[instance] - sigma**2 * (1.0 - (1.0 - part) ** 2), 0.0),
        np.maximum(t.sum_sigma[instance] - sigma * part, 0.0),
        draft.config.risk,
    )
    before = float((draft.excess(instance) * helped).sum())
    still = float((relative_excess(after, draft.limit[instance]) * helped).sum())
    return 1.0 - still / before if before > TOLERANCE else 0.0


def _reason(draft: Draft, crossing: Crossing, row: int, cut: Cut, part: float, target: int) -> str:
    shard, f = draft.table.shards[row], crossing.forecast
    below = [0.0, *(c.below for c in shard.cuts), 1.0]
    hottest = max(b - a for a, b in pairwise(below))
    why = "cuts off a hot key" if hottest >= HOT_KEY_SHARE else "is the learned key"
    return (
        f"{crossing.instance} is going to need {f.upper:.1f} {f.unit} of {f.limit:.1f} and no move"
        f" of whole shards cures it. Splitting {shard.id} at {cut.key!r} {why}: a part with"
        f" {part:.0%} of its load can go to {draft.table.instances[target].id}."
    )
