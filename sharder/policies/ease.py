"""Ease an instance without a cure: every target would exceed its limit, but some are better.

Of whole shards and parts of shards (by learned split keys) near half the gap to the least loaded
instance, it takes the one whose move lowers the expected overload of both sides most. The gain
must exceed the move's cost, so that each such move lowers the expected cost of the whole cluster
and the planner settles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharder.draft import TOLERANCE, Draft
from sharder.operators import Crossing, Operator
from sharder.policies.common import eligible, gain, latest_start_s, over_limits, relief
from sharder.reasons import Reason
from sharder.risk import move_cost
from sharder.view import SplitPoint


@dataclass(frozen=True, slots=True)
class _Option:
    """A shard, or the part of it that a split leaves, with its target and the gain of the move."""

    row: int
    part: float
    cut: SplitPoint | None
    duration_s: float
    target: int = -1
    gain: float = 0.0
    cost: float = 0.0


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Ease `hot` instances that are still over their limit, the worst first."""
    still = [i for i, _ in hot if draft.excess(i).max(initial=0.0) > TOLERANCE]
    for instance in still[: draft.config.ease_instances_max]:
        while (crossing := draft.crossing(instance)) is not None:
            if not _ease(draft, instance, crossing):
                break


def _ease(draft: Draft, instance: int, crossing: Crossing) -> bool:
    best: _Option | None = None
    for option in _options(draft, instance):
        found = _priced(draft, instance, crossing, option)
        if found is not None and (best is None or found.gain - found.cost > best.gain - best.cost):
            best = found
    if best is None:
        return False
    _accept(draft, instance, crossing, best)
    shard = draft.table.shards[best.row].id
    held = draft.refusals.get(instance, [])
    draft.refusals[instance] = [
        r for r in held if r.shard != shard and r.reason is not Reason.PASSES_BY_ITSELF
    ]
    return True


def _options(draft: Draft, instance: int) -> list[_Option]:
    """The `ease_options_max` of nearest size to half the gap, in the worst period."""
    t, config = draft.table, draft.config
    share = draft.upper / t.capacity[:, :, None]
    resource, period = divmod(int(np.argmax(share[instance])), t.horizon)
    others = draft.open.copy()
    others[instance] = False
    if not others.any():
        return []
    wanted = (share[instance, resource, period] - share[others, resource, period].min()) / 2
    found: list[tuple[float, str, _Option]] = []
    for row in eligible(draft, instance)[0].tolist():
        shard = t.shards[row]
        scale = float(t.scale[row, resource])
        size = float(t.mean[row, period]) * scale / float(t.capacity[instance, resource])
        took_s = draft.view.moves.duration_s(shard.bytes)
        parts: list[tuple[float, SplitPoint | None]] = [(1.0, None)]
        if "split" in config.policies:
            for cut in shard.cuts:
                parts += [
                    (p, cut)
                    for p in (cut.below, 1.0 - cut.below)
                    if config.split_part_min <= p <= 1.0 - config.split_part_min
                ]
        for part, whole in parts:
            later = draft.view.period_s if whole is not None else 0.0
            # A whole shard needs no split, so it may be a little further off.
            off = abs(size * part - wanted) * (1.0 if whole is None else 1.25)
            if 0 < size * part < 2 * wanted:
                found.append((off, shard.id, _Option(row, part, whole, took_s + later)))
    found.sort(key=lambda f: (f[0], f[1]))
    return [option for _, _, option in found[: config.ease_options_max]]


def _priced(draft: Draft, instance: int, crossing: Crossing, option: _Option) -> _Option | None:
    """The option with its target, gain and cost, if it may start and its gain exceeds its cost."""
    view, shard = draft.view, draft.table.shards[option.row]
    start = latest_start_s(draft, crossing, option.duration_s)
    due = start < view.now_s + view.period_s
    if over_limits(draft, instance, shard.id, due) is not None:
        return None
    target = draft.least_bad_target(option.row, instance, option.part)
    if target is None:
        return None
    cost = move_cost(
        shard.bytes * option.part, option.duration_s, view.moves.blackout_ms, draft.config.risk
    )
    share = relief(draft, instance, option.row, option.part, option.duration_s)
    end_s = start + option.duration_s
    avoided = gain(draft, instance, target, option.row, end_s, share, option.part)
    if avoided <= cost:
        return None
    return _Option(option.row, option.part, option.cut, option.duration_s, target, avoided, cost)


def _accept(draft: Draft, instance: int, crossing: Crossing, option: _Option) -> None:
    view, shard, f = draft.view, draft.table.shards[option.row], crossing.forecast
    start = latest_start_s(draft, crossing, option.duration_s)
    kind = "move" if option.cut is None else "split"
    target = draft.table.instances[option.target].id
    what = shard.id if option.cut is None else f"{option.part:.0%} of the load of {shard.id}"
    draft.accept(
        option.row,
        instance,
        option.target,
        Operator(
            kind=kind,
            shard=shard.id,
            source=crossing.instance,
            target=target,
            strategy=draft.config.strategy if option.cut is None else "split",
            start_s=start,
            deadline_s=max(crossing.crossing_s, start + option.duration_s),
            due=start < view.now_s + view.period_s,
            bytes=shard.bytes if option.cut is None else 0,
            expected_duration_s=option.duration_s,
            expected_gain=option.gain,
            risk=crossing.overload_cost - option.cost,
            forecast=f,
            trigger=crossing.trigger,
            reason=(
                f"{crossing.instance} is going to need {f.upper:.1f} {f.unit} of {f.limit:.1f} and"
                f" no instance has room enough. Bringing {what} to {target} lowers the expected"
                f" overload of both by {option.gain:.1f} instance-seconds."
            ),
            key=option.cut.key if option.cut is not None else None,
            executable=kind in draft.config.executable,
        ),
        option.part,
    )
