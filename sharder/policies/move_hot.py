"""Move shards off an instance before its forecast load crosses its limit.

If a single shard cures the crossing, the one with the least disturbance per migration weight
moves; with an outlook, the one that avoids the most expected overload for the load that it
carries. Otherwise those that relieve most move, until the crossing is cured or no target has room.
A move starts at the latest safe time (crossing - measured move time - margin), or in a trough
before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharder.draft import TOLERANCE, Draft, relative_excess
from sharder.load import CPU, OPS
from sharder.operators import Crossing, Operator, Refusal
from sharder.outlook import TARGETS_MAX, Outlook
from sharder.policies.common import eligible, gain, latest_start_s, over_limits, start_s
from sharder.reasons import Reason
from sharder.risk import Floats, move_cost, upper_bound

_COMPARED_MAX = 64
"""Shards of an instance that the outlook compares, those of least disturbance first."""
_LOAD_MIN = 0.01
"""Least share of capacity that a shard counts as carrying when gains per load are compared."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The shards of one instance; all arrays run along `rows`."""

    rows: NDArray[np.int64]
    duration_s: Floats
    excess_before: Floats
    excess_after: Floats
    """Summed excess with and without the shard, over the periods that a move from now helps."""
    peak_after: Floats
    relief: Floats
    disturbance: Floats
    present: Floats
    """The shard's present rate as a share of its instance's capacity."""


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Relieve `hot` instances in order; repeat while a move makes room for another one."""
    planned = -1
    while len(draft.operators) > planned:
        planned = len(draft.operators)
        for instance, _ in hot:
            _relieve(draft, instance)


def _relieve(draft: Draft, instance: int) -> None:
    """Plan moves off one instance until it is cured or no candidate is left."""
    while (crossing := draft.crossing(instance)) is not None:
        before = len(draft.operators)
        refused = _step(draft, instance, crossing)
        accepted = len(draft.operators) > before
        cured = any(r.reason is Reason.PASSES_BY_ITSELF for r in refused) and any(
            op.source == crossing.instance for op in draft.operators
        )
        if accepted or not cured:  # the excess left is over before a move ends
            draft.refusals[instance] = refused
        if not accepted:
            return


def _step(draft: Draft, instance: int, crossing: Crossing) -> list[Refusal]:
    """Plan the next move, if there is one; returns why the other shards stay."""
    name = crossing.instance
    rows, refused = eligible(draft, instance)
    if not len(rows):
        return refused
    candidates = _candidates(draft, instance, rows)
    relieving = candidates.relief > TOLERANCE
    if not relieving.any() and not (candidates.excess_after > TOLERANCE).any():
        return [*refused, Refusal(Reason.PASSES_BY_ITSELF, name)]
    order = _order(draft, instance, candidates, relieving)
    nowhere = draft.fits_nowhere(candidates.rows, instance)
    share = draft.config.risk.threshold - draft.config.hysteresis
    chosen, before, full = "", draft.searches, False
    for c in order:
        row = int(candidates.rows[c])
        shard = draft.table.shards[row].id
        if chosen:
            refused.append(_not_chosen(name, shard, candidates, c, chosen))
        elif nowhere[c]:
            refused.append(Refusal(Reason.NO_TARGET, name, shard, 0.0, share))
        elif (tried := draft.searches - before) >= draft.config.target_searches_max:
            refused.append(Refusal(Reason.SEARCH_LIMIT, name, shard, 0.0, float(tried)))
        else:
            why = _try(draft, instance, crossing, candidates, c)
            if why is None:
                chosen = shard
            else:
                if why.reason is Reason.NO_TARGET and not full:  # there may be no room at all
                    full = True
                    nowhere |= draft.fits_nowhere_then(candidates.rows, instance)
                refused.append(why)
    useless = [int(c) for c in np.flatnonzero(~relieving)]
    names = [draft.table.shards[candidates.rows[c]].id for c in useless]
    return refused + [
        Refusal(Reason.WOULD_NOT_CURE, name, shard, float(candidates.peak_after[c]))
        for c, shard in zip(useless, names, strict=True)
    ]


def _order(
    draft: Draft, instance: int, candidates: _Candidates, relieving: NDArray[np.bool_]
) -> list[int]:
    """First the shards that cure alone, by disturbance; then those that relieve, by how much."""
    weight = draft.table.weight[candidates.rows]
    curing = relieving & (candidates.excess_after <= TOLERANCE)
    first = _sorted(np.flatnonzero(curing), candidates.disturbance / weight)
    if draft.outlook is not None and first:
        first = _by_outlook(draft, draft.outlook, instance, candidates, first)
    return [
        *first,
        *_sorted(np.flatnonzero(relieving & ~curing), -candidates.relief * weight),
    ]


def _by_outlook(
    draft: Draft, outlook: Outlook, instance: int, candidates: _Candidates, order: list[int]
) -> list[int]:
    """`order` by the overload that a move to the best target avoids, per load that it disturbs."""
    some = np.array(order[:_COMPARED_MAX])
    rows = candidates.rows[some]
    at = draft.emptiest(instance, TARGETS_MAX)
    net = outlook.spared(instance, rows, at)
    net[~draft.may_fit(rows, at)] = -np.inf
    spared = net.max(axis=1, initial=0.0)
    worth = draft.table.weight[rows] * spared / (_LOAD_MIN + candidates.present[some])
    best = some[np.argsort(-worth, kind="stable")]
    return [*best.tolist(), *order[_COMPARED_MAX:]]


def _not_chosen(name: str, shard: str, candidates: _Candidates, c: int, chosen: str) -> Refusal:
    if candidates.excess_after[c] > TOLERANCE:
        return Refusal(Reason.WOULD_NOT_CURE, name, shard, float(candidates.peak_after[c]))
    return Refusal(Reason.NOT_BEST, name, shard, other=chosen)


def _candidates(draft: Draft, instance: int, rows: NDArray[np.int64]) -> _Candidates:
    t, view, config = draft.table, draft.view, draft.config
    duration = view.moves.fixed_s + t.size[rows] / (view.moves.copy_mb_per_s * 1e6)
    helped = t.starts_after((view.now_s + duration)[:, None])
    ratio = t.scale[rows][:, :, None]
    mean = t.mean[rows][:, None, :] * ratio
    sigma = t.sigma[rows][:, None, :] * ratio
    after = upper_bound(
        np.maximum(t.sum_mean[instance] - mean, 0.0),
        np.maximum(t.sum_squares[instance] - sigma**2, 0.0),
        np.maximum(t.sum_sigma[instance] - sigma, 0.0),
        config.risk,
    )
    limit = draft.limit[instance]
    excess_before = (draft.excess(instance)[None, :] * helped).sum(axis=1)
    still_over = relative_excess(after, limit) * helped
    excess_after = still_over.sum(axis=1)
    # A move disturbs for its duration, and more with a larger share of the source's load.
    taken = np.array([t.shards[r].ops_per_s for r in rows])
    present = taken / t.capacity[instance, OPS]
    if t.capacity.shape[1] > CPU:
        present = np.maximum(present, taken * t.scale[rows, CPU] / t.capacity[instance, CPU])
    return _Candidates(
        rows=rows,
        duration_s=duration,
        excess_before=excess_before,
        excess_after=excess_after,
        peak_after=still_over.max(axis=1),
        relief=excess_before - excess_after,
        disturbance=duration * (1.0 + present),
        present=present,
    )


def _sorted(which: NDArray[np.int64], score: Floats) -> list[int]:
    """Positions by rising score; equal scores keep the order of shard ids."""
    return [int(c) for c in which[np.argsort(score[which], kind="stable")]]


def _try(
    draft: Draft, instance: int, crossing: Crossing, candidates: _Candidates, c: int
) -> Refusal | None:
    """Accept candidate `c` if it has a target, gains enough, and operators are free; else why
    not."""
    view, config = draft.view, draft.config
    row, duration_s = int(candidates.rows[c]), float(candidates.duration_s[c])
    shard = draft.table.shards[row]
    latest_s = latest_start_s(draft, crossing, duration_s)
    soon = latest_s < view.now_s + view.period_s
    if (why := over_limits(draft, instance, shard.id, soon)) is not None:
        return why
    target = draft.find_target(row, instance)
    if target.index is None:
        return target.refusal
    begin_s = start_s(draft, instance, target.index, latest_s, duration_s)
    due = begin_s < view.now_s + view.period_s
    if due and not soon and over_limits(draft, instance, shard.id, due) is not None:
        begin_s, due = latest_s, False
    cost = move_cost(shard.bytes, duration_s, view.moves.blackout_ms, config.risk)
    cures = candidates.excess_after[c] <= TOLERANCE
    share = 0.0 if cures else float(candidates.relief[c] / candidates.excess_before[c])
    gained = gain(draft, instance, target.index, row, begin_s + duration_s, share)
    if gained <= cost:
        return Refusal(Reason.NOT_WORTH_IT, crossing.instance, shard.id, gained, cost)
    operator = Operator(
        kind="move",
        shard=shard.id,
        source=crossing.instance,
        target=draft.table.instances[target.index].id,
        strategy=config.strategy,
        start_s=begin_s,
        deadline_s=max(crossing.crossing_s, begin_s + duration_s),
        due=due,
        bytes=shard.bytes,
        expected_duration_s=duration_s,
        expected_gain=gained,
        risk=crossing.overload_cost - cost,
        forecast=crossing.forecast,
        trigger=crossing.trigger,
        reason="",
        executable="move" in config.executable,
    )
    later = _later(draft, instance, row, target.index)
    draft.accept(row, instance, target.index, _with_reason(operator, crossing, view.now_s, later))
    return None


def _later(draft: Draft, source: int, row: int, target: int) -> str:
    """The outlook's gain of a move, as a sentence; empty without an outlook."""
    if draft.outlook is None:
        return ""
    spared = draft.outlook.spared(source, np.array([row]), np.array([target]))
    seconds = float(spared[0, 0]) * draft.view.period_s
    return (
        f" In the {draft.table.far_mean.shape[1]} periods that are forecast the two instances are"
        f" expected to be over their limits for {abs(seconds):.1f} s"
        f" {'less' if seconds >= 0 else 'more'} in all."
    )


def _with_reason(operator: Operator, crossing: Crossing, now_s: float, later: str) -> Operator:
    f = operator.forecast
    when = (
        "is over its threshold now"
        if crossing.trigger == "reactive"
        else f"is forecast to cross it in {crossing.crossing_s - now_s:.0f} s"
    )
    start = f"in {operator.start_s - now_s:.0f} s" if operator.start_s > now_s else "now"
    reason = (
        f"{operator.source} {when}: up to {f.upper:.1f} {f.unit} (mean {f.mean:.1f}, model"
        f" {f.model}) against a limit of {f.limit:.1f}, P = {crossing.probability:.2f}. Moving"
        f" {operator.shard} ({operator.bytes / 1e6:.1f} MB, {operator.expected_duration_s:.1f} s)"
        f" to {operator.target}, starting {start}, avoids {operator.expected_gain:.1f} overloaded"
        f" instance-seconds.{later}"
    )
    return replace(operator, reason=reason)
