"""Our planner as a simulated policy: a view per slot, `sharder.plan.plan`, its due operators."""

import numpy as np

from sharder.config import OUTLOOK_MAX, PlannerConfig, RiskConfig
from sharder.operators import Operator
from sharder.plan import plan
from sharder.risk import Floats, upper_bound
from sharder.simulate.cluster import (
    Action,
    Merge,
    MoveShard,
    Settings,
    SimulatedCluster,
    Split,
    Uid,
)
from sharder.simulate.forecasts import Forecasts
from sharder.simulate.series import Series
from sharder.view import InFlight, InstanceView, MoveHistory, ShardView, SplitPoint, View

DAY_S = 86_400.0
HORIZON = 12
"""Slots in which the planner looks for crossings."""


def outlook_slots(series: Series) -> int:
    """Slots that are forecast: a day if the series has days; else the horizon."""
    return max(HORIZON, min(series.season or 0, OUTLOOK_MAX))


def planner_config(settings: Settings, **changes: object) -> PlannerConfig:
    """The one set of parameters for all traces."""
    values: dict[str, object] = {
        "risk": RiskConfig(threshold=0.88, upper_quantile=0.6),
        "seed": settings.seed,
        "horizon_periods": HORIZON,
        "hysteresis": 0.02,
        "cooldown_s": 2 * settings.slot_s,
        "flip_back_s": DAY_S + settings.slot_s,
        "target_searches_max": 64,
        "ease_options_max": 8,
        "margin_periods": 1.0,
        "operators_in_flight_max": settings.operators_max,
        "operators_per_instance_max": settings.operators_per_instance_max,
        "executable": ("move", "split", "merge"),
        "virtual_nodes": 16,
        **changes,
    }
    return PlannerConfig(**values)  # type: ignore[arg-type]


class Planned:
    """Starts the planner's due operators.

    A slot is planned only if some instance's upper bound exceeds its limit so soon that a move
    could be due: otherwise no operator would start, and a year becomes cheap to simulate.
    """

    def __init__(self, series: Series, forecasts: Forecasts, config: PlannerConfig) -> None:
        self._series, self._forecasts, self._config = series, forecasts, config
        self._version = -1
        self._shares = np.zeros((0, 0))
        self._squares = np.zeros((0, 0))
        self._expected: Floats | None = None
        """The forecast for this slot that was made after the slot before it."""
        self.plans = 0

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        mean, sigma = self._forecasts.at(slot)
        expected, self._expected = self._expected, mean[:, 0]
        busiest = cluster.load(self._series.loads[slot]).max()
        over = busiest > self._config.risk.threshold * cluster.settings.capacity
        if not over and not self._crosses(cluster, mean, sigma):
            return []
        self.plans += 1
        view = make_view(self._series, slot, cluster, self._config, expected)
        share = cluster.share[:, None] / cluster.settings.slot_s
        at = cluster.column
        made = plan(view, (mean[at] * share, sigma[at] * share))
        names = {shard_id(uid): uid for uid in cluster.uids}
        return [_action(op, names) for op in made.startable()]

    def _crosses(self, cluster: SimulatedCluster, mean: Floats, sigma: Floats) -> bool:
        """Whether an instance would exceed its limit, with moving shards counted on both sides."""
        if cluster.version != self._version:
            shape = (cluster.settings.instances, len(cluster.weights))
            self._shares, self._squares = np.zeros(shape), np.zeros(shape)
            at = np.flatnonzero(cluster.moving)
            for home, rows in ((cluster.home, slice(None)), (cluster.target[at], at)):
                where = (home, cluster.column[rows])
                np.add.at(self._shares, where, cluster.share[rows])
                np.add.at(self._squares, where, cluster.share[rows] ** 2)
            self._version = cluster.version
        risk = self._config.risk
        upper = upper_bound(
            self._shares @ mean, self._squares @ sigma**2, self._shares @ sigma, risk
        )
        soon = self._config.trough_lead_periods if self._config.trough_gain is not None else 0
        soon += cluster.settings.move_slots + 3 + round(self._config.margin_periods)
        return bool(upper[:, :soon].max() > risk.threshold * cluster.settings.capacity)


def shard_id(uid: Uid) -> str:
    return f"{uid[0]:04}/{uid[1]:02}-{uid[2]:02}"


def make_view(
    series: Series,
    slot: int,
    cluster: SimulatedCluster,
    config: PlannerConfig,
    expected: Floats | None = None,
) -> View:
    """The planner's view after `slot`; forecasts are passed separately. `expected`: their forecast
    for this slot, ops per slot of each column."""
    s = cluster.settings
    slot_s = s.slot_s
    rate = series.loads[slot, cluster.column] * cluster.share / slot_s
    said = None if expected is None else expected[cluster.column] * cluster.share / slot_s
    size = cluster.stored[cluster.column] * cluster.share
    names = [f"i{k:04}" for k in range(s.instances)]
    shards, flying = [], []
    for row, uid in enumerate(cluster.uids):
        moved = int(cluster.moved_at[row])
        moving = bool(cluster.target[row] >= 0)
        shards.append(
            ShardView(
                id=shard_id(uid),
                log=f"{uid[0]:04}",
                instance=names[cluster.home[row]],
                bytes=int(size[row]),
                ops_per_s=float(rate[row]),
                bytes_per_s=0.0,
                migrating=moving,
                last_moved_s=moved * slot_s if moved >= 0 else None,
                last_moved_from=names[cluster.moved_from[row]] if moved >= 0 else None,
                cuts=() if moving else _cuts(cluster, uid),
                start=bytes([uid[1]]),
                end=bytes([uid[2]]),
                expected_ops_per_s=None if said is None else float(said[row]),
            )
        )
        if moving:
            source, target = names[cluster.home[row]], names[cluster.target[row]]
            end_s = float(cluster.ends[row] * slot_s)
            flying.append(InFlight(shard_id(uid), "move", shard_id(uid), source, target, end_s))
    ops = cluster.load(series.loads[slot]) / slot_s
    capacity = s.capacity / slot_s
    return View(
        now_s=(slot + 1) * slot_s,
        period_s=slot_s,
        slot=slot,
        shards=tuple(shards),
        instances=tuple(
            InstanceView(id=name, capacity_ops_per_s=capacity, ops_per_s=float(ops[k]))
            for k, name in enumerate(names)
        ),
        moves=MoveHistory(
            copy_mb_per_s=1e6,
            fixed_s=s.move_slots * slot_s,
            blackout_ms=0.0,
            moves=1,
            load_share=s.copy_share,
        ),
        in_flight=tuple(flying),
        config=config,
    )


def _cuts(cluster: SimulatedCluster, uid: Uid) -> tuple[SplitPoint, ...]:
    column, first, last = uid
    base = cluster.below(column, first)
    whole = cluster.below(column, last) - base
    return tuple(
        SplitPoint(bytes([p]), (cluster.below(column, p) - base) / whole)
        for p in range(first + 1, last)
    )


def _action(operator: Operator, names: dict[str, Uid]) -> Action:
    uid = names[operator.shard]
    if operator.kind == "split":
        assert operator.key is not None
        return Split(uid, operator.key[0])
    if operator.kind == "merge":
        assert operator.partner is not None
        return Merge(uid, names[operator.partner])
    return MoveShard(uid, int(operator.target[1:]))
