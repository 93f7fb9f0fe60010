"""Split a shard of an instance that moves of whole shards do not cure.

The split point is a learned key. Of those whose part cures the instance when it leaves, the one
nearest to half of the load is taken, else of all the one nearest to half. So a single hot key is
split off on one side, and the next plan splits its other side. A later plan moves the part, when
the two shards exist; this plan reserves its room.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from sharder.draft import TOLERANCE, Draft
from sharder.operators import Crossing, Operator, Refusal
from sharder.policies.common import eligible, gain, latest_start_s, over_limits, relief
from sharder.reasons import Reason
from sharder.risk import move_cost
from sharder.view import SplitPoint

HOT_KEY_SHARE = 0.5
"""A range between two learned keys that has this share of a shard's load is called a hot key."""


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
    dear: Refusal | None = None
    for cut, part in _parts(draft, instance, row, duration_s):
        target = draft.find_target(row, instance, part)
        if target.index is None:
            continue
        cost = move_cost(shard.bytes * part, duration_s, view.moves.blackout_ms, config.risk)
        share = relief(draft, instance, row, part, duration_s)
        avoided = gain(draft, instance, target.index, row, start + duration_s, share, part)
        if avoided <= cost:
            dear = dear or Refusal(Reason.NOT_WORTH_IT, crossing.instance, shard.id, avoided, cost)
            continue
        operator = _operator(draft, crossing, row, cut, part, target.index, start)
        operator = replace(operator, expected_gain=avoided, risk=crossing.overload_cost - cost)
        draft.accept(row, instance, target.index, operator, part)
        return None
    if dear is None and (halves := _too_big(draft, instance, row)) is not None:
        draft.note(row, _operator(draft, crossing, row, halves, halves.below, instance, start))
        return None
    return dear or Refusal(Reason.NO_PART, crossing.instance, shard.id, float(len(shard.cuts)))


def _too_big(draft: Draft, instance: int, row: int) -> SplitPoint | None:
    """The key that halves a shard which is too much for any instance; else None.

    The next plans can split the halves again if no instance has room for them yet.
    """
    t, least = draft.table, draft.config.split_part_min
    mean, _ = t.shard_load(row)
    if not (mean > draft.limit[instance][:, None]).any():
        return None
    cuts = [c for c in t.shards[row].cuts if least <= c.below <= 1.0 - least]
    return min(cuts, key=lambda c: (abs(c.below - 0.5), c.key), default=None)


def _operator(
    draft: Draft,
    crossing: Crossing,
    row: int,
    cut: SplitPoint,
    part: float,
    target: int,
    start: float,
) -> Operator:
    view, shard = draft.view, draft.table.shards[row]
    duration_s = view.moves.duration_s(shard.bytes) + view.period_s
    return Operator(
        kind="split",
        shard=shard.id,
        source=crossing.instance,
        target=draft.table.instances[target].id,
        strategy="split",
        start_s=start,
        deadline_s=max(crossing.crossing_s, start + duration_s),
        due=start < view.now_s + view.period_s,
        bytes=0,
        expected_duration_s=duration_s,
        expected_gain=0.0,
        risk=crossing.overload_cost,
        forecast=crossing.forecast,
        trigger=crossing.trigger,
        reason=_reason(draft, crossing, row, cut, part, target),
        key=cut.key,
        executable="split" in draft.config.executable,
    )


def _parts(
    draft: Draft, instance: int, row: int, duration_s: float
) -> list[tuple[SplitPoint, float]]:
    """Split points and the share of the part that would move, the best first."""
    least = draft.config.split_part_min
    options = [
        (cut, part)
        for cut in draft.table.shards[row].cuts
        for part in (cut.below, 1.0 - cut.below)
        if least <= part <= 1.0 - least
    ]
    left = [relief(draft, instance, row, part, duration_s) for _, part in options]
    order = sorted(
        range(len(options)),
        key=lambda n: (left[n] < 1.0 - 1e-9, abs(options[n][1] - 0.5), options[n][0].key),
    )
    return [options[n] for n in order[: draft.config.split_cuts_max] if left[n] > 0]


def _reason(
    draft: Draft, crossing: Crossing, row: int, cut: SplitPoint, part: float, target: int
) -> str:
    shard, f = draft.table.shards[row], crossing.forecast
    below = [0.0, *(c.below for c in shard.cuts), 1.0]
    hottest = max(b - a for a, b in pairwise(below))
    why = "cuts off a hot key" if hottest >= HOT_KEY_SHARE else "is the learned key"
    there = draft.table.instances[target].id
    then = (
        f"a part with {part:.0%} of its load can go to {there}"
        if there != crossing.instance
        else "alone it is too much for any instance, its halves can be cut and moved next"
    )
    return (
        f"{crossing.instance} is going to need {f.upper:.1f} {f.unit} of {f.limit:.1f} and no move"
        f" of whole shards cures it. Splitting {shard.id} at {cut.key!r} {why}: {then}."
    )
