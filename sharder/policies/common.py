"""What several policies need: which shards may move, what a move gains, and when it starts."""

import math

import numpy as np
from numpy.typing import NDArray

from sharder.draft import TOLERANCE, Draft, relative_excess
from sharder.operators import Crossing, Refusal
from sharder.reasons import Reason
from sharder.risk import Floats, deviation, overload_cost, overload_probability, upper_bound


def eligible(draft: Draft, instance: int) -> tuple[NDArray[np.int64], list[Refusal]]:
    """Rows of the shards of an instance that may move, and the refusals of the others."""
    now, config = draft.view.now_s, draft.config
    in_flight = draft.in_flight
    name = draft.table.instances[instance].id
    rows, refused = [], []
    place = draft.table.rows_of(instance)
    for row in range(place.start, place.stop):
        shard = draft.table.shards[row]
        ago = None if shard.last_moved_s is None else now - shard.last_moved_s
        if row in draft.moved:
            continue
        if shard.migrating or shard.id in in_flight:
            refused.append(Refusal(Reason.ALREADY_MIGRATING, name, shard.id))
        elif shard.migration_weight == 0.0:
            refused.append(Refusal(Reason.PINNED, name, shard.id))
        elif ago is not None and ago < config.cooldown_s:
            refused.append(Refusal(Reason.COOLDOWN, name, shard.id, float(ago), config.cooldown_s))
        else:
            rows.append(row)
    return np.array(rows, dtype=np.int64), refused


def over_limits(draft: Draft, instance: int, shard: str, due: bool) -> Refusal | None:
    """Why no more operators may touch an instance, or start now; None: they may."""
    config, name = draft.config, draft.table.instances[instance].id
    busy = int(draft.busy[instance])
    if busy >= config.operators_per_instance_max:
        most = float(config.operators_per_instance_max)
        return Refusal(Reason.TOO_MANY_OPERATORS, name, shard, float(busy), most)
    if due and draft.at_work >= config.operators_in_flight_max:
        most = float(config.operators_in_flight_max)
        return Refusal(Reason.TOO_MANY_OPERATORS, name, shard, float(draft.at_work), most)
    return None


def latest_start_s(draft: Draft, crossing: Crossing, duration_s: float) -> float:
    """Crossing - move time (of 9 in 10 moves) - margin, or now if that is past."""
    margin_s = draft.config.margin_periods * draft.view.period_s
    margin_s += draft.view.moves.late_s(duration_s)
    return max(crossing.crossing_s - duration_s - margin_s, float(draft.view.now_s))


def start_s(draft: Draft, source: int, target: int, latest_s: float, duration_s: float) -> float:
    """`latest_s`, or the start of an earlier period if source and target are in a trough then.

    Earlier only if the busier of the two has less load by `trough_gain` of its limit during the
    whole move; of equal troughs the last one.
    """
    view, gain = draft.view, draft.config.trough_gain
    periods = int((latest_s - view.now_s) // view.period_s)
    if gain is None or periods < 1:
        return latest_s
    used = (draft.upper[[source, target]] / draft.limit[[source, target]][:, :, None]).max(
        axis=(0, 1)
    )
    width = max(1, math.ceil(duration_s / view.period_s))
    periods = min(periods, len(used) - 1)
    padded = np.concatenate([used, np.full(width, used[-1])])
    worst = np.lib.stride_tricks.sliding_window_view(padded, width)[: periods + 1].max(axis=1)
    first = max(0, periods - draft.config.trough_lead_periods)
    best = periods - int(np.argmin(worst[first:][::-1]))
    if worst[periods] - worst[best] < gain:
        return latest_s
    return float(view.now_s + best * view.period_s)


def gain(
    draft: Draft,
    source: int,
    target: int,
    row: int,
    end_s: float,
    share: float,
    part: float = 1.0,
) -> float:
    """Expected overload cost that a move avoids at the source, less what it adds at the target.

    One of several moves that cure only together may leave the probability unchanged; it counts
    for at least its `share` of the excess. `part`: of the shard that moves.
    """
    t, config = draft.table, draft.config.risk
    mean, sigma = t.shard_load(row)
    gone = t.starts_after(end_s)

    def cost(instance: int, sign: float, when: NDArray[np.bool_]) -> float:
        sign = sign * part
        squares_part = sign * abs(sign) if sign >= 0 else (1.0 + sign) ** 2 - 1.0
        total = np.maximum(t.sum_mean[instance] + mean * sign * when, 0.0)
        squares = np.maximum(t.sum_squares[instance] + sigma**2 * squares_part * when, 0.0)
        sums = np.maximum(t.sum_sigma[instance] + sigma * sign * when, 0.0)
        p = overload_probability(total, deviation(squares, sums, config), draft.limit[instance])
        return overload_cost(p, draft.view.period_s, config)

    always = np.ones(t.horizon, dtype=np.bool_)
    avoided = cost(source, 0.0, gone) - cost(source, -1.0, gone)
    helped = draft.probability(source) * gone
    avoided = max(avoided, share * overload_cost(helped, draft.view.period_s, config))
    added = cost(target, 1.0, always) - cost(target, 0.0, always)
    return avoided - added


def reliefs(draft: Draft, instance: int, rows: NDArray[np.int64], duration_s: float) -> Floats:
    """`relief` of each of the whole shards, [n]; together they cost little more than one."""
    t = draft.table
    helped = t.starts_after(draft.view.now_s + duration_s)
    before = float((draft.excess(instance) * helped).sum())
    if before <= TOLERANCE:
        return np.zeros(len(rows))
    mean, sigma = t.shard_load(rows)
    after = upper_bound(
        np.maximum(t.sum_mean[instance] - mean, 0.0),
        np.maximum(t.sum_squares[instance] - sigma**2, 0.0),
        np.maximum(t.sum_sigma[instance] - sigma, 0.0),
        draft.config.risk,
    )
    still = (relative_excess(after, draft.limit[instance]) * helped).sum(axis=1)
    return np.asarray(1.0 - still / before, dtype=np.float64)


def relief(draft: Draft, instance: int, row: int, part: float, duration_s: float) -> float:
    """Share of the excess that moves away with that part of the shard; 1: it cures."""
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
