"""The planner's view (pure): records, statistics and forecasts, per second of the wall clock.

Statistics count per slot of a log's own time. A slot takes `wall_s_per_slot` on the wall clock
(the same, unless history is replayed), so ops per slot / that = ops/s at the instances.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import log2
from statistics import median
from types import MappingProxyType

import msgspec

from coordinator.config import CoordinatorConfig
from coordinator.migration.history import move_history
from coordinator.migration.records import MigrationRecord, MoveOptions, State
from coordinator.planning.births import NO_BIRTHS, Births, peak_ops
from coordinator.planning.resources import CpuUse, limits_of
from coordinator.planning.response_times import p50_of
from coordinator.statistics.intake import StatisticsIntake
from logstore.base.types import ShardStatus
from logstore.meta.records import InstanceRecord, ShardRecord, WeightRecord
from profiler.types import DataStoreStatus, Forecast
from sharder.config import PlannerConfig
from sharder.policies.merge import cold_slots
from sharder.view import (
    ForecastView,
    InFlight,
    InstanceView,
    ShardView,
    SplitPoint,
    View,
)

WEIGHT_MIN, WEIGHT_MAX = 1 / 16, 2.0
WEIGHT_HALF_LIFE_S = 86_400.0
BLACKOUT_MS_MIN = 10.0
"""A blackout shorter than twice this does not lower a shard's weight."""
CUT_SHARDS_MAX = 256
"""Shards for which split keys are looked up, those with the most load first."""
CUTS_MAX = 32
OUTLOOK_SHARDS_MAX = 1_000
"""More shards are forecast for the horizon only: 96 slots of one take 0.5 to 1 ms."""
FORETOLD_SLOTS = 6
"""A forecast older than this is not used for the present."""
FUTURE_S = 60.0
"""A time further ahead of the clock comes from a wrong clock."""

_NONE_SET: Mapping[str, WeightRecord] = MappingProxyType({})


def make_view(
    *,
    now_s: float,
    mono_s: float,
    config: CoordinatorConfig,
    planner: PlannerConfig,
    shards: Sequence[ShardRecord],
    instances: Sequence[InstanceRecord],
    alive: Mapping[str, bool],
    intake: StatisticsIntake,
    sizes: Mapping[str, int],
    migrations: Sequence[MigrationRecord],
    set_weights: Mapping[str, WeightRecord] = _NONE_SET,
    births: Births = NO_BIRTHS,
) -> View:
    """All inputs of one plan. `mono_s`: the monotonic clock; `sizes`: shard -> bytes;
    `set_weights`: see `weights_of`."""
    known = {record.instance for record in instances}
    live = [s for s in shards if s.status is ShardStatus.OPEN and s.primary.instance in known]
    per_s = 1.0 / config.wall_s_per_slot
    least = max(config.horizon_slots, planner.horizon_periods or 0)
    ahead = max(config.slots_ahead, least) if len(live) <= OUTLOOK_SHARDS_MAX else least
    forecasts = intake.forecasts([s.shard for s in live], ahead, mono_s, config.wall_s_per_slot)
    moved = _last_moves(migrations, now_s)
    migrating = {m.shard for m in migrations if m.active}
    history = move_history(migrations, msgspec.convert(config.move, MoveOptions, strict=False))
    cuts = _cuts(live, intake)
    weights = migration_weights(migrations, now_s) | {
        shard: record.weight for shard, (_, record) in weights_of(shards, set_weights).items()
    }
    past = intake.history()
    slots = cold_slots(planner, config.wall_s_per_slot)
    statuses = intake.statuses()
    cpu = CpuUse(live, intake, mono_s)
    views = tuple(
        _shard_view(
            s,
            intake,
            forecasts.get(s.shard),
            per_s,
            sizes.get(s.shard, 0),
            moved,
            migrating,
            cuts.get(s.shard, ()),
            weights.get(s.shard, 1.0),
            births,
            peak_ops(past.get(s.shard, ()), slots),
            cpu.s_per_op[s.shard],
        )
        for s in live
    )
    trips_ms = _round_trips(statuses)
    return View(
        now_s=now_s,
        period_s=config.wall_s_per_slot,
        slot=max((f.made_at_slot for f in forecasts.values()), default=0),
        shards=views,
        instances=tuple(
            InstanceView(
                id=i.instance,
                capacity_ops_per_s=i.capacity.ops_per_s,
                **limits_of(i, statuses.get(i.instance), cpu.beside.get(i.instance, 0.0)),
                ops_per_s=sum(v.ops_per_s for v in views if v.instance == i.instance),
                bytes_per_s=sum(v.bytes_per_s for v in views if v.instance == i.instance),
                stored_bytes=statuses[i.instance].stored_bytes if i.instance in statuses else 0,
                alive=alive.get(i.instance, False),
                tier=i.tier,
                zone=i.zone,
                round_trip_ms=trips_ms.get(i.instance, 0.0),
                round_trips_us=_pairs(statuses.get(i.instance)),
                failures_per_day=intake.reliability.failures_per_day(
                    i.instance, round(now_s * 1e6)
                ),
                cpu=cpu.cores(views, i.instance),
            )
            for i in instances
        ),
        moves=history,
        in_flight=tuple(
            InFlight(
                id=m.id,
                kind="switch" if m.strategy == "switch" else "move",
                shard=m.shard,
                source=m.source.instance,
                target=m.target_instance,
                expected_end_s=max(now_s, m.created_us / 1e6 + history.duration_s(m.bytes)),
            )
            for m in migrations
            if m.active and m.source.instance in known and m.target_instance in known
            and m.state not in (State.SOAKING, State.ROLLING_BACK)
        ),
        config=planner,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PastForecast:
    """A view's forecast, ops/s of each shard in the slots after `slot`: the only part that is kept,
    since a view of 100,000 shards takes hundreds of MB."""

    slot: int
    means: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, view: View) -> "PastForecast":
        seen = {
            s.id: s.forecast.mean[:FORETOLD_SLOTS] for s in view.shards if s.forecast is not None
        }
        return cls(view.slot, seen)


def with_expected(view: View, before: PastForecast | None) -> View:
    """`view`, with the forecast that was made at an earlier slot for the present one."""
    later = view.slot - before.slot if before is not None else 0
    if before is None or not 1 <= later <= FORETOLD_SLOTS:
        return view
    said = {shard: mean[later - 1] for shard, mean in before.means.items() if len(mean) >= later}
    shards = (replace(s, expected_ops_per_s=said.get(s.id)) for s in view.shards)
    return replace(view, shards=tuple(shards))


def _shard_view(
    shard: ShardRecord,
    intake: StatisticsIntake,
    forecast: Forecast | None,
    per_s: float,
    size: int,
    moved: Mapping[str, tuple[float, str]],
    migrating: Set[str],
    cuts: tuple[SplitPoint, ...],
    weight: float,
    births: Births,
    peak: float,
    cpu_s_per_op: float,
) -> ShardView:
    load = intake.load(shard.shard)
    ops, moved_bytes = (load.ops, load.bytes_moved) if load is not None else (0.0, 0.0)
    at_s, source = moved.get(shard.shard, (None, None))
    return ShardView(
        id=shard.shard,
        log=shard.log,
        instance=shard.primary.instance,
        bytes=size,
        ops_per_s=ops * per_s,
        bytes_per_s=moved_bytes * per_s,
        forecast=_forecast_view(forecast, per_s) if forecast is not None else None,
        migrating=shard.shard in migrating,
        migration_weight=weight,
        last_moved_s=at_s,
        last_moved_from=source,
        cuts=cuts,
        start=shard.range.start,
        end=shard.range.end,
        in_sync=tuple(m.instance for m in shard.in_sync if m.instance != shard.primary.instance),
        related=dict(intake.correlations.related(shard.shard)),
        opened_s=births.opened_s(shard.shard, shard.log),
        peak_ops_per_s=peak * per_s,
        log_shards_min=births.shards_created.get(shard.log),
        p50_ms=p50_of(intake.newest(shard.shard)),
        cpu_s_per_op=cpu_s_per_op,
    )


def _cuts(
    shards: Sequence[ShardRecord], intake: StatisticsIntake
) -> dict[str, tuple[SplitPoint, ...]]:
    """Split points of the busiest shards, learned from the keys in their log's heatmap
    (routing keys, as the instances sample them)."""

    def ops(shard: ShardRecord) -> float:
        load = intake.load(shard.shard)
        return load.ops if load is not None else 0.0

    found: dict[str, tuple[SplitPoint, ...]] = {}
    for shard in sorted(shards, key=lambda s: (-ops(s), s.shard))[:CUT_SHARDS_MAX]:
        heatmap = intake.heatmap(shard.log)
        if heatmap is not None and ops(shard) > 0:
            points = heatmap.cuts(shard.range.start, shard.range.end, CUTS_MAX)
            found[shard.shard] = tuple(SplitPoint(key, below) for key, below in points)
    return found


def _pairs(status: DataStoreStatus | None) -> dict[str, tuple[float, float]]:
    """p50 and p99 of the round trips (µs) from one instance to each other."""
    if status is None:
        return {}
    return {peer: (p50, p99) for peer, (p50, _, p99) in status.round_trips_us.items()}


def _round_trips(statuses: Mapping[str, DataStoreStatus]) -> dict[str, float]:
    """Instance -> median of the round trips (ms) that its peers measure to it."""
    heard: dict[str, list[float]] = {}
    for status in statuses.values():
        for peer, took_ms in status.round_trip_ms.items():
            heard.setdefault(peer, []).append(took_ms)
    return {peer: median(took) for peer, took in heard.items()}


def _forecast_view(forecast: Forecast, per_s: float) -> ForecastView:
    return ForecastView(
        mean=tuple(max(0.0, v * per_s) for v in forecast.mean),
        lower80=tuple(max(0.0, v * per_s) for v in forecast.lower80),
        upper80=tuple(max(0.0, v * per_s) for v in forecast.upper80),
        model=forecast.model[0],
    )


def _last_moves(
    migrations: Sequence[MigrationRecord], now_s: float
) -> dict[str, tuple[float, str]]:
    """Shard -> when its primary last moved (s) and where from; migrations are oldest first.

    A move in the future, by a wrong clock, would keep its shard in place until then.
    """
    found: dict[str, tuple[float, str]] = {}
    for m in migrations:
        for phase in m.phases:
            if phase.at_us / 1e6 > now_s + FUTURE_S:
                continue
            if phase.state is State.SOAKING:
                found[m.shard] = (phase.at_us / 1e6, m.source.instance)
            if phase.state is State.ROLLED_BACK:
                found[m.shard] = (phase.at_us / 1e6, m.target_instance)
    return found


def migration_weights(migrations: Sequence[MigrationRecord], now_s: float) -> dict[str, float]:
    """Shard -> migration weight by the results of its moves; others have 1.

    A move that was rolled back by itself halves it; one that held appends for more than twice the
    usual blackout takes a quarter off; one that held them for no more than the usual adds a tenth.
    It returns to 1 with WEIGHT_HALF_LIFE_S: the cause of a failed move does not last for ever.
    `migrations` are oldest first.
    """
    held = [m.blackout_ms for m in migrations if m.blackout_ms is not None]
    usual_ms = median(held) if held else 0.0
    logs: dict[str, tuple[float, float]] = {}
    for m in migrations:
        if m.active or not m.phases:
            continue
        factor = 1.0
        if m.state is State.ROLLED_BACK and m.request is None:
            factor = 0.5
        elif m.state is State.COMPLETED and m.blackout_ms is not None:
            slow = m.blackout_ms > 2 * max(usual_ms, BLACKOUT_MS_MIN)
            factor = 0.75 if slow else 1.1 if m.blackout_ms <= usual_ms else 1.0
        at_s = m.phases[-1].at_us / 1e6
        if at_s > now_s + FUTURE_S:
            continue
        before, then_s = logs.get(m.shard, (0.0, at_s))
        faded = before * 0.5 ** (max(0.0, at_s - then_s) / WEIGHT_HALF_LIFE_S)
        logs[m.shard] = (faded + log2(factor), at_s)
    return {
        shard: min(max(2.0 ** (w * 0.5 ** (max(0.0, now_s - at_s) / WEIGHT_HALF_LIFE_S)),
                       WEIGHT_MIN), WEIGHT_MAX)
        for shard, (w, at_s) in logs.items()
    }  # fmt: skip


def weights_of(
    shards: Sequence[ShardRecord], given: Mapping[str, WeightRecord]
) -> dict[str, tuple[str, WeightRecord]]:
    """Shard -> the weight that a person set, and for which shard: for itself, else for one that it
    came from by a split or merge. Of several the lowest counts, so that what is pinned stays so."""
    if not given:
        return {}
    found: dict[str, tuple[str, WeightRecord]] = {}
    for shard in sorted(shards, key=lambda s: int(s.shard.rpartition("/")[2])):  # parents first
        own = given.get(shard.shard)
        if own is not None:
            found[shard.shard] = shard.shard, own
            continue
        parents = [found[p] for p in shard.predecessors if p in found]
        if parents:
            found[shard.shard] = min(parents, key=lambda parent: parent[1].weight)
    return found
