"""The end state that a plan works towards: the sums of loads with all accepted operators applied.

Policies read it, ask it for targets, and accept or refuse candidates on it.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sharder.config import PlannerConfig
from sharder.latency import LatencyModel
from sharder.load import RESOURCE_NAMES, LoadTable
from sharder.operators import Crossing, ForecastSummary, Operator, Refusal, Trigger
from sharder.outlook import Outlook
from sharder.reasons import Reason
from sharder.ring import Ring
from sharder.risk import (
    Z80,
    Floats,
    deviation,
    overload_cost,
    overload_probability,
    upper_bound,
    utilisation_cost,
)
from sharder.round_trips import RoundTripTable, far_steps, near
from sharder.view import View

TOLERANCE = 1e-9
"""Relative excess that counts as zero: sums of floats in another order differ by less."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a shard: an instance's index, or the reason why there is none."""

    index: int | None
    refusal: Refusal | None = None


@dataclass(slots=True)
class Draft:
    """Mutable working state of one `plan` call. `limit` is threshold x capacity, [I, R]."""

    view: View
    table: LoadTable
    config: PlannerConfig = field(init=False)
    limit: Floats = field(init=False)
    upper: Floats = field(init=False)
    operators: list[Operator] = field(init=False, default_factory=list)
    refusals: dict[int, list[Refusal]] = field(init=False, default_factory=dict)
    also: dict[int, list[Refusal]] = field(init=False, default_factory=dict)
    """Refusals by policies that answer no crossing, or that come before those that do."""
    moved: set[int] = field(init=False, default_factory=set)
    busy: NDArray[np.int64] = field(init=False)
    """Operators, in flight and planned, that touch each instance."""
    at_work: int = field(init=False)
    """Operators in flight and due."""
    stored: Floats = field(init=False)
    searches: int = field(init=False, default=0)
    """How many times a target was looked for."""
    outlook: Outlook | None = field(init=False, default=None)
    """Set only if forecasts go beyond the horizon."""
    latency: LatencyModel | None = field(init=False)
    """None where no response time is known."""
    trips: RoundTripTable = field(init=False)
    in_flight: frozenset[str] = field(init=False)
    """Shards with an operator in flight."""
    open: NDArray[np.bool_] = field(init=False)
    """Instances that may be targets: alive and not draining."""
    stored_max: Floats = field(init=False)
    """Bytes that an instance may store and still be a target."""
    _target_limit: Floats = field(init=False)
    _spare: Floats = field(init=False)
    """Room of a target below threshold - hysteresis, [I, R, H]."""
    _ring: Ring | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        table, config = self.table, self.view.config
        self.config = config
        self.limit = table.capacity * config.risk.threshold
        share = config.risk.threshold - config.hysteresis
        self._target_limit = table.capacity * share
        self.upper = upper_bound(table.sum_mean, table.sum_squares, table.sum_sigma, config.risk)
        self._spare = self._target_limit[:, :, None] - self.upper
        if table.farther:
            self.outlook = Outlook(table, self.limit, config)
        self.latency = LatencyModel.of(table)
        self.open = np.array([i.alive and not i.draining for i in table.instances], dtype=np.bool_)
        self.stored = np.array([i.stored_bytes for i in table.instances], dtype=np.float64)
        self.stored_max = share * np.array(
            [i.capacity_stored_bytes or np.inf for i in table.instances], dtype=np.float64
        )
        self.trips = RoundTripTable(table.instances)
        self.busy = np.zeros(len(table.instances), dtype=np.int64)
        self.at_work = len(self.view.in_flight)
        self.in_flight = frozenset(op.shard for op in self.view.in_flight)
        for op in self.view.in_flight:
            for name in (op.source, op.target):
                if name in table.index:
                    self.busy[table.index[name]] += 1
            if op.target in table.index:
                row = table.row_of.get(op.shard)
                copied = op.kind != "switch"
                if copied and row is not None and table.shards[row].instance != op.target:
                    self.stored[table.index[op.target]] += table.size[row]

    def excess(self, instance: int) -> Floats:
        """How far the upper bound exceeds the limit, per period [H], as a share of the limit."""
        return relative_excess(self.upper[instance], self.limit[instance])

    def probability(self, instance: int) -> Floats:
        """P(load > limit) per period [H], with all accepted operators applied."""
        t = self.table
        sd = deviation(t.sum_squares[instance], t.sum_sigma[instance], self.config.risk)
        return overload_probability(t.sum_mean[instance], sd, self.limit[instance])

    def crossing(self, instance: int) -> Crossing | None:
        """When and how the instance will exceed its limit; None if it will not."""
        over = np.flatnonzero(self.excess(instance) > TOLERANCE)
        if not over.size:
            return None
        used = float(self.table.used[instance])
        reactive = used > self.config.risk.threshold and over[0] == 0
        p = self.probability(instance)
        return Crossing(
            instance=self.table.instances[instance].id,
            crossing_s=(
                float(self.view.now_s) if reactive else float(self.table.period_start_s[over[0]])
            ),
            probability=float(p.max()),
            overload_cost=overload_cost(p, self.view.period_s, self.config.risk)
            + utilisation_cost(used, self.config.risk),
            utilisation=used,
            trigger=Trigger.REACTIVE if reactive else Trigger.FORECAST,
            forecast=self.summary(instance),
        )

    def summary(self, instance: int) -> ForecastSummary:
        """Load of the instance in its busiest period."""
        t = self.table
        share = self.upper[instance] / t.capacity[instance][:, None]
        resource, period = divmod(int(np.argmax(share)), t.horizon)
        mean = float(t.sum_mean[instance, resource, period])
        sd = float(
            deviation(
                t.sum_squares[instance, resource, period],
                t.sum_sigma[instance, resource, period],
                self.config.risk,
            )
        )
        rows = t.rows_of(instance)
        model = "none"
        if rows.stop > rows.start:  # the model of the shard with the largest part of that load
            heaviest = t.shards[rows.start + int(np.argmax(t.mean[rows, period]))]
            model = heaviest.forecast.model if heaviest.forecast else "present rate"
            if t.surprised[instance]:
                model = "present rate, which no forecast had foreseen"
        return ForecastSummary(
            mean=mean,
            lower=max(mean - Z80 * sd, 0.0),
            upper=mean + Z80 * sd,
            horizon_s=float(period * self.view.period_s),
            model=model,
            unit=RESOURCE_NAMES[resource],
            capacity=float(t.capacity[instance, resource]),
            limit=float(self.limit[instance, resource]),
        )

    def fits_nowhere(self, rows: NDArray[np.int64], source: int) -> NDArray[np.bool_]:
        """Shards whose mean load alone exceeds the room of every other instance in some period.

        A cheap necessary test, so that a full cluster does not cost a search per shard.
        """
        others = self.open.copy()
        others[source] = False
        if not others.any():
            return np.ones(len(rows), dtype=np.bool_)
        spare = self._spare[others].max(axis=0)
        mean = self.table.mean[rows]
        too_much = (mean > spare[0] * (1 + TOLERANCE)).any(axis=1)
        too_much |= (mean * self.table.ratio[rows][:, None] > spare[1] * (1 + TOLERANCE)).any(
            axis=1
        )
        return np.asarray(too_much, dtype=np.bool_)

    def fits_nowhere_then(self, rows: NDArray[np.int64], source: int) -> NDArray[np.bool_]:
        """Shards without room on any other instance in the period in which room is scarcest.

        Exact for that one period, so another necessary test; it costs more than `fits_nowhere`.
        """
        t = self.table
        others = self.open.copy()
        others[source] = False
        at = np.flatnonzero(others)
        used = (self.upper[at] / self._target_limit[at][:, :, None]).min(axis=0)
        resource, period = divmod(int(np.argmax(used)), t.horizon)
        scale = t.scale[rows, resource]
        mean, sigma = t.mean[rows, period] * scale, t.sigma[rows, period] * scale
        after = upper_bound(
            t.sum_mean[at, resource, period] + mean[:, None],
            t.sum_squares[at, resource, period] + sigma[:, None] ** 2,
            t.sum_sigma[at, resource, period] + sigma[:, None],
            self.config.risk,
        )
        room = self._target_limit[at, resource] * (1 + TOLERANCE)
        return np.asarray((after > room).all(axis=1), dtype=np.bool_)

    def emptiest(self, source: int, count: int) -> NDArray[np.int64]:
        """The `count` other open instances with the lowest use in their worst period."""
        others = self.open.copy()
        others[source] = False
        at = np.flatnonzero(others)
        used = (self.upper[at] / self._target_limit[at][:, :, None]).max(axis=(1, 2))
        return at[np.argsort(used, kind="stable")[:count]]

    def may_fit(self, rows: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the mean load of each shard has room on each instance, [n, m]: necessary only."""
        mean, _ = self.table.shard_load(rows)
        room = self._spare[at] * (1 + TOLERANCE)
        return np.asarray((mean[:, None] <= room).all(axis=(2, 3)), dtype=np.bool_)

    def find_target(
        self,
        row: int,
        source: int,
        part: float = 1.0,
        among: NDArray[np.bool_] | None = None,
        *,
        copied: bool = True,
    ) -> Target:
        """The instance with room where the shard adds the least overload over the outlook; without
        an outlook, or if equal, the one with the most headroom over the horizon with the shard
        added.

        Headroom counts in steps (`headroom_step`), less one for each quadrupling of the round
        trips; then the round trips decide, then the ring. `part`:
        only that share of the shard, as after a split. `among`: only these instances.
        `copied=False`: the target holds the bytes already, as in a switch.
        """
        self.searches += 1
        t, config, shard = self.table, self.config, self.table.shards[row]
        mean, sigma = (values * part for values in t.shard_load(row))
        # Cheap first: the upper bound grows by at least the mean, whatever the spread adds.
        fits = self.open & (self._spare >= mean * (1 - TOLERANCE)).all(axis=(1, 2))
        if copied:
            fits &= self.stored + shard.bytes * part <= self.stored_max
            self._keep_apart(fits, row, source)
        if among is not None:
            fits &= among
        some = np.flatnonzero(fits)
        after = upper_bound(
            t.sum_mean[some] + mean,
            t.sum_squares[some] + sigma**2,
            t.sum_sigma[some] + sigma,
            config.risk,
        )
        share = np.full(len(fits), np.inf)
        share[some] = (after / t.capacity[some][:, :, None]).max(axis=(1, 2))
        fits &= share <= config.risk.threshold - config.hysteresis
        fits[source] = False
        if not fits.any():
            return Target(None, self._no_target(Reason.NO_TARGET, row, source))
        back = t.index.get(shard.last_moved_from or "")
        ago = self.view.now_s - (shard.last_moved_s or 0.0)
        if back is not None and shard.last_moved_s is not None and ago < config.flip_back_s:
            fits[back] = False
            if not fits.any():
                return Target(None, self._no_target(Reason.FLIP_BACK, row, source, ago))
        fits &= self.busy < config.operators_per_instance_max
        if not fits.any():
            return Target(None, self._no_target(Reason.TOO_MANY_OPERATORS, row, source))
        if self.outlook is not None:
            fits = self.outlook.best_of(row, fits, 1.0 - share, part)
        trips_us = self.trips.of_target(source, [t.index[m] for m in shard.in_sync if m in t.index])
        steps = np.floor((1.0 - share) / config.headroom_step) - far_steps(trips_us, fits)
        fits &= steps == steps[fits].max()
        fits &= near(trips_us, fits)
        if self._ring is None:
            names = {i.id: 1.0 for i in t.instances}
            self._ring = Ring(names, virtual_nodes=config.virtual_nodes, seed=config.seed)
        return Target(self._ring.first(shard.id, fits))

    def least_bad_target(self, row: int, source: int, part: float = 1.0) -> int | None:
        """The instance with the lowest use in its worst period with the shard (or `part` of it)
        added.

        It may exceed its limit, but must stay better than the source is now.
        """
        t, config, shard = self.table, self.config, self.table.shards[row]
        mean, sigma = (values * part for values in t.shard_load(row))
        after = upper_bound(
            t.sum_mean + mean, t.sum_squares + sigma**2, t.sum_sigma + sigma, config.risk
        )
        share = (after / t.capacity[:, :, None]).max(axis=(1, 2))
        fits = self.open & (self.busy < config.operators_per_instance_max)
        fits &= self.stored + shard.bytes * part <= self.stored_max
        self._keep_apart(fits, row, source)
        fits[source] = False
        back = t.index.get(shard.last_moved_from or "")
        if back is not None and shard.last_moved_s is not None:
            fits[back] &= self.view.now_s - shard.last_moved_s >= config.flip_back_s
        worst = float((self.upper[source] / t.capacity[source][:, None]).max())
        fits &= share < worst - config.hysteresis
        if not fits.any():
            return None
        return int(np.argmin(np.where(fits, share, np.inf)))

    def _keep_apart(self, fits: NDArray[np.bool_], row: int, source: int) -> None:
        """Remove instances that hold another copy, and their zones unless copies share one
        already."""
        held = [
            self.table.index[n] for n in self.table.shards[row].in_sync if n in self.table.index
        ]
        held = [i for i in held if i != source]
        if not held:
            return
        fits[held] = False
        zones = [self.table.instances[i].zone for i in held]
        if len({*zones, self.table.instances[source].zone}) == len(zones) + 1:
            fits &= np.array([i.zone not in zones for i in self.table.instances])

    def _no_target(self, reason: Reason, row: int, source: int, ago: float = 0.0) -> Refusal:
        shard, config = self.table.shards[row], self.config
        name = self.table.instances[source].id
        if reason is Reason.FLIP_BACK:
            left = shard.last_moved_from or ""
            return Refusal(reason, name, shard.id, float(ago), config.flip_back_s, left)
        if reason is Reason.TOO_MANY_OPERATORS:
            most = config.operators_per_instance_max
            return Refusal(reason, name, shard.id, float(most), float(most))
        return Refusal(reason, name, shard.id, 0.0, config.risk.threshold - config.hysteresis)

    def accept(
        self,
        row: int,
        source: int,
        target: int,
        operator: Operator,
        part: float = 1.0,
        *,
        copied: bool = True,
    ) -> None:
        """Apply a move (of the `part` that a split makes) to the end state.

        `copied=False`: the target holds the bytes already, as in a switch. A move takes longer by
        the round trips between the two.
        """
        waits_s = self.trips.move_s(source, target) if operator.kind == "move" else 0.0
        expected_s = operator.expected_duration_s + waits_s
        operator = replace(operator, expected_duration_s=expected_s)
        end_s = operator.start_s + operator.expected_duration_s
        if self.latency is not None:
            gained = self.latency.gain(row, source, target, end_s, part)
            reason = f"{operator.reason} {gained.sentence()}"
            operator = replace(operator, latency=gained, reason=reason)
        if operator.kind != "split" and self.view.moves.moves:
            low_s, high_s = self.view.moves.range_s(operator.bytes, copied=copied)
            took_s = (low_s + waits_s, high_s + waits_s)
            operator = replace(operator, duration_range_s=took_s)
        self.table.shift(row, source, target, end_s, part)
        if self.outlook is not None:
            self.outlook.shift(row, source, target, part)
        t = self.table
        for i in (source, target):
            self.upper[i] = upper_bound(
                t.sum_mean[i], t.sum_squares[i], t.sum_sigma[i], self.config.risk
            )
            self._spare[i] = self._target_limit[i][:, None] - self.upper[i]
            self.busy[i] += 1
        if copied:
            self.stored[target] += t.size[row] * part
        self.at_work += operator.due
        self.moved.add(row)
        self.operators.append(operator)

    def refuse(self, instance: int, refusal: Refusal) -> None:
        """Add a refusal of one more candidate on an instance."""
        self.also.setdefault(instance, []).append(refusal)

    def note(self, row: int, operator: Operator) -> None:
        """Add an operator that leaves the load where it is to the plan."""
        self.at_work += operator.due
        self.moved.add(row)
        self.operators.append(operator)


def relative_excess(upper: Floats, limit: Floats) -> Floats:
    """Excess of the worse resource over its limit: `upper` [..., R, H], `limit` [R] -> [..., H]."""
    over = upper / limit[:, None] - 1.0
    return np.asarray(np.maximum(over, 0.0).max(axis=-2), dtype=np.float64)
