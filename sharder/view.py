"""What the planner sees: plain frozen data, stored as JSON so that any plan can be replayed.

Period k (from 0) of a forecast covers [now_s + k x period_s, now_s + (k + 1) x period_s). Times are
seconds on the planning clock (wall time, or event time while history is replayed).
"""

import math
from dataclasses import dataclass, field

import msgspec
import numpy as np

from profiler.types import Forecast
from sharder.config import PlannerConfig
from sharder.keys import RoutingKey


@dataclass(frozen=True, slots=True)
class ForecastView:
    """Forecast of a shard's ops/s, one value per coming period.

    `lower80` and `upper80` bound the 80 % interval. `sigma` (standard deviation, ops/s), where
    given, is used instead of the interval. `model` is the model that made it.
    """

    mean: tuple[float, ...]
    lower80: tuple[float, ...]
    upper80: tuple[float, ...]
    model: str
    sigma: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.mean)
        if n == 0:
            raise ValueError("forecast.mean is empty, it must hold at least one period")
        if len(self.lower80) != n or len(self.upper80) != n:
            raise ValueError(
                f"forecast has {n} means, {len(self.lower80)} lower and {len(self.upper80)} upper"
                " bounds, they must be as many"
            )
        if self.sigma is not None and len(self.sigma) != n:
            raise ValueError(f"forecast has {n} means and {len(self.sigma)} sigmas")


def forecast_view(forecast: Forecast, slot: int, periods: int, period_s: float) -> ForecastView:
    """A profiler's forecast of operations per slot as ops/s of the `periods` coming periods.

    Period 0 is slot `slot` and slots are `period_s` long. Between forecast steps values are
    interpolated, outside them the nearest step counts. The model is that of the last step.
    """
    if periods < 1:
        raise ValueError(f"periods is {periods}, it must be at least 1")
    steps = slot - forecast.made_at_slot + np.arange(periods)

    def rate(values: tuple[float, ...]) -> tuple[float, ...]:
        found = np.interp(steps, forecast.horizon_slots, values) / period_s
        return tuple(float(v) for v in found)

    return ForecastView(
        mean=rate(forecast.mean),
        lower80=rate(forecast.lower80),
        upper80=rate(forecast.upper80),
        model=forecast.model[-1],
    )


@dataclass(frozen=True, slots=True)
class SplitPoint:
    """A routing key at which a shard could be split, and the share of its load below that key.

    Learned from key accesses. A hot key k shows as two of them, k and k + 0x00, with a jump
    between.
    """

    key: RoutingKey
    below: float


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard as statistics show it now.

    `bytes` is what a move must copy. `forecast=None`: no forecast yet, the present ops/s
    stand for the future. `bytes_per_op` (default bytes_per_s / ops_per_s) turns forecast ops into
    bytes. `migration_weight` 1.0 is usual, higher is likelier to be moved, 0 is never moved.
    `cuts`: where it could be split, by rising key; empty: not learned. `start` and `end` bound its
    routing keys (`start` None: unknown, so it is not merged). `in_sync`: the other instances that
    hold it in sync. `related`: shard -> correlation of access with shards used together with it.
    `opened_s`: when a split or the creation of its log made it (None: a merge did, or long ago).
    `peak_ops_per_s`: the highest of the last `merge_cold_s` (None: not known). `log_shards_min`:
    the number of shards that its log was created with (None: not known).
    `expected_ops_per_s`: the forecast for the present (None: there was none). `p50_ms`: of its
    operations now (None: there are none). `cpu_s_per_op`: CPU seconds of one of its operations, on
    the mean (0: not known).
    """

    id: str
    log: str
    instance: str
    bytes: int
    ops_per_s: float
    bytes_per_s: float
    forecast: ForecastView | None = None
    migrating: bool = False
    migration_weight: float = 1.0
    last_moved_s: float | None = None
    last_moved_from: str | None = None
    bytes_per_op: float | None = None
    cuts: tuple[SplitPoint, ...] = ()
    start: RoutingKey | None = None
    end: RoutingKey | None = None
    in_sync: tuple[str, ...] = ()
    related: dict[str, float] = field(default_factory=dict)
    opened_s: float | None = None
    expected_ops_per_s: float | None = None
    p50_ms: float | None = None
    peak_ops_per_s: float | None = None
    log_shards_min: int | None = None
    cpu_s_per_op: float = 0.0


@dataclass(frozen=True, slots=True)
class ResponseTime:
    """A measurement of an instance: the share of its capacity in use, and the p50 of operations."""

    share: float
    p50_ms: float

    def __post_init__(self) -> None:
        for name in ("share", "p50_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"response time: {name} is {getattr(self, name)}, it must be >= 0")


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance: its limits (None: unlimited) and its present load.

    `capacity_cpu`: cores that its shards may use; `cpu`: cores that they use. `load`: the largest
    share of its capacities that it reports, `bound_by` the resource that it is of; what no move
    of a shard changes (memory, say) is among them.
    `round_trips_us`: to each other instance, p50 and p99; `round_trip_ms`: the median of what the
    others measure to it, for pairs without. `failures_per_day` is observed; `draining`: it is to be
    emptied. `response_times`: of the last slots; empty: not measured.
    """

    id: str
    capacity_ops_per_s: float | None = None
    capacity_bytes_per_s: float | None = None
    capacity_stored_bytes: int | None = None
    ops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    stored_bytes: int = 0
    alive: bool = True
    tier: str = "standard"
    zone: str = "zone-a"
    round_trip_ms: float = 0.0
    round_trips_us: dict[str, tuple[float, float]] = field(default_factory=dict)
    failures_per_day: float = 0.0
    draining: bool = False
    response_times: tuple[ResponseTime, ...] = ()
    capacity_cpu: float | None = None
    cpu: float = 0.0
    load: float = 0.0
    bound_by: str = ""

    def __post_init__(self) -> None:
        for name in (
            "capacity_ops_per_s", "capacity_bytes_per_s", "capacity_stored_bytes", "capacity_cpu",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"instance {self.id}: {name} is {value}, it must be above 0")


@dataclass(frozen=True, slots=True)
class MoveHistory:
    """Measurements of past moves, from which the planner estimates how long the next one takes."""

    copy_mb_per_s: float = 20.0
    """Copy rate in 10^6 bytes/s."""
    fixed_s: float = 15.0
    """Seconds of a move that do not depend on its bytes (verify, ramp, cutover)."""
    blackout_ms: float = 50.0
    moves: int = 0
    """How many moves these figures come from; 0: they are the defaults."""
    load_share: float = 0.0
    """Share of the shard's load that a move adds to its source and its target while it lasts."""
    switch_s: float | None = None
    """Seconds that a switch of the primary takes; None: as long as a move of no bytes."""
    scheduled_s: float = 0.0
    """The part of `fixed_s` that options prescribe, which does not spread."""
    spread: float = 1.0
    """80 % of moves take between expected / spread and expected * spread; 1: it is not known."""
    rate_spread: float = 1.0
    """The same of the part that the bytes take."""
    switch_spread: float = 1.0
    """The same of a switch."""

    @property
    def switching_s(self) -> float:
        """Expected seconds from the start of a switch to the end of its cutover."""
        return self.fixed_s if self.switch_s is None else self.switch_s

    def __post_init__(self) -> None:
        if not 0 < self.copy_mb_per_s < math.inf:
            raise ValueError(f"moves.copy_mb_per_s is {self.copy_mb_per_s}, it must be above 0")
        for name in ("spread", "rate_spread", "switch_spread"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"moves.{name} is {getattr(self, name)}, it must be at least 1")
        for name in ("fixed_s", "blackout_ms", "switching_s", "scheduled_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"moves.{name} is {getattr(self, name)}, it must be at least 0")
        if not 0 <= self.load_share <= 1:
            raise ValueError(f"moves.load_share is {self.load_share}, it must be within 0..1")

    def duration_s(self, size_bytes: float) -> float:
        """Expected seconds from the start of a move of `size_bytes` to the end of its cutover."""
        return self.fixed_s + size_bytes / (self.copy_mb_per_s * 1e6)

    def range_s(self, size_bytes: float, *, copied: bool = True) -> tuple[float, float]:
        """Between which seconds 80 % of such moves (not `copied`: switches) take."""
        if not copied:
            return self.switching_s / self.switch_spread, self.switching_s * self.switch_spread
        bytes_s = size_bytes / (self.copy_mb_per_s * 1e6)
        free_s = max(0.0, self.fixed_s - self.scheduled_s)
        known_s = self.fixed_s - free_s
        return (
            known_s + free_s / self.spread + bytes_s / self.rate_spread,
            known_s + free_s * self.spread + bytes_s * self.rate_spread,
        )

    def late_s(self, duration_s: float) -> float:
        """By how many seconds 1 of 10 moves takes longer than `duration_s`, as expected of it."""
        return max(0.0, duration_s - self.scheduled_s) * (self.spread - 1)


@dataclass(frozen=True, slots=True)
class InFlight:
    """An operator under way. Its influence: the shard's load counts at the target in every period,
    and at the source until `expected_end_s`."""

    id: str
    kind: str
    shard: str
    source: str
    target: str
    expected_end_s: float


@dataclass(frozen=True, slots=True)
class View:
    """All inputs of one plan. Raises ValueError that names what does not fit together."""

    now_s: float
    period_s: float
    slot: int
    shards: tuple[ShardView, ...]
    instances: tuple[InstanceView, ...]
    moves: MoveHistory = field(default_factory=MoveHistory)
    in_flight: tuple[InFlight, ...] = ()
    config: PlannerConfig = field(default_factory=PlannerConfig)

    def __post_init__(self) -> None:
        if not 0 < self.period_s < math.inf:
            raise ValueError(f"view.period_s is {self.period_s}, it must be above 0 s")
        names = {i.id for i in self.instances}
        if len(names) != len(self.instances):
            raise ValueError("view.instances holds an instance id twice")
        shards = {s.id for s in self.shards}
        if len(shards) != len(self.shards):
            raise ValueError("view.shards holds a shard id twice")
        for shard in self.shards:
            if shard.instance not in names:
                raise ValueError(f"shard {shard.id} is on unknown instance {shard.instance}")
        for op in self.in_flight:
            if op.shard in shards and (op.source not in names or op.target not in names):
                raise ValueError(f"operator {op.id} names an unknown instance")


def dump_view(view: View) -> bytes:
    """`view` as JSON bytes; `load_view` gives back an equal view."""
    return msgspec.json.encode(view)


def load_view(data: bytes) -> View:
    """The view that `dump_view` stored. Raises ValueError on anything else."""
    try:
        return msgspec.json.decode(data, type=View)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a stored view: {error}") from error
