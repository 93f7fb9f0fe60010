"""Weights, thresholds and limits of the planner, each with its unit and bound.

Costs are in overloaded instance-seconds: 1.0 is what one second of one instance over its threshold
costs when `overload_cost_per_s` is 1.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from annotated_types import Interval, Unit

from sharder.settings import OneOf, complaint

OUTLOOK_MAX = 96
"""Periods of the outlook beyond a shorter horizon: a day of them, at most this many."""


class PlanMode(StrEnum):
    """What a plan may lead to: moves; moves that are only shown; forecasts without moves."""

    ACTIVE = "active"
    DRY_RUN = "dry_run"
    FORECAST_ONLY = "forecast_only"


Cost = Annotated[float, Interval(ge=0.0, le=1e9), Unit("overloaded instance-seconds")]


@dataclass(frozen=True, slots=True)
class RiskConfig:
    """How a forecast becomes a risk. Bounds are checked at construction."""

    threshold: Annotated[float, Interval(ge=0.05, le=1.0), Unit("of capacity")] = 0.8
    """Share of capacity that load should stay under."""
    near_capacity: Annotated[float, Interval(ge=0.0, le=0.99), Unit("of capacity")] = 0.8
    """Share of capacity above which the present use adds to the risk."""
    near_capacity_weight: Cost = 1.0
    """Cost added when an instance is at its whole capacity now; falls linearly to 0."""
    upper_quantile: Annotated[float, Interval(ge=0.5, le=0.9999), Unit("(probability)")] = 0.9
    """Quantile of the load that counts as its upper bound (0.9: top of the 80 % interval)."""
    error_correlation: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(correlation)")] = 0.1
    """Correlation of the forecast errors of shards on one instance: a busy day hits all of them."""
    overload_cost_per_s: Cost = 1.0
    """What a second of one instance over its threshold costs."""
    move_cost_fixed: Cost = 0.1
    """What every move costs, however small it is."""
    move_cost_per_gib: Cost = 1.0
    """What each GiB that a move copies costs."""
    move_cost_per_s: Cost = 0.05
    """What each second that a move takes costs."""
    latency_weight: Annotated[
        float, Interval(ge=0.0, le=1e6), Unit("overloaded instance-seconds per s")
    ] = 0.01
    """What a second that operations wait less, summed over them, counts in the order of a plan."""

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ValueError(f"risk.{said}")


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """All settings of `plan`. Bounds are checked at construction."""

    mode: PlanMode = PlanMode.ACTIVE
    """What a plan may lead to."""
    risk: RiskConfig = field(default_factory=RiskConfig)
    """How forecasts become risks and costs."""
    seed: Annotated[int, Interval(ge=0, le=2**63), Unit("(seed)")] = 0
    """Seed of the ring that breaks ties between targets."""
    horizon_periods: Annotated[int | None, Interval(ge=1, le=10_000), Unit("periods")] = None
    """Coming periods in which crossings are looked for; None: as many as the longest forecast has.
    Periods beyond them (the outlook) decide between moves that cure."""
    outlook_error: Annotated[float, Interval(ge=1e-6, le=1.0), Unit("of the limit")] = 0.08
    """Least uncertainty of an instance's load, as a share of its limit, where moves are compared by
    the outlook."""
    hysteresis: Annotated[float, Interval(ge=0.0, le=0.5), Unit("of capacity")] = 0.05
    """A target must stay this share of capacity below the threshold, so that it does not cross
    next."""
    cooldown_s: Annotated[float, Interval(ge=0.0, le=1e9), Unit("s")] = 900.0
    """A shard does not move again for this long after a move."""
    surprise: Annotated[float | None, Interval(ge=1.0, le=1e9), Unit("times the forecast")] = 2.5
    """An instance over its threshold with this many times the load that was forecast for now is
    expected to keep its present load: a forecast that missed a rise does not know its end either.
    None: forecasts are always used."""
    flip_back_s: Annotated[float, Interval(ge=0.0, le=1e9), Unit("s")] = 3600.0
    """A shard does not return to the instance that it left for this long."""
    margin_periods: Annotated[float, Interval(ge=0.0, le=1e6), Unit("periods")] = 1.0
    """A move must end this many planning periods before the crossing."""
    operators_in_flight_max: Annotated[int, Interval(ge=0, le=100_000), Unit("operators")] = 16
    """Operators at work at once: those in flight and those that start before the next plan."""
    operators_per_instance_max: Annotated[int, Interval(ge=0, le=10_000), Unit("operators")] = 4
    """Operators in flight and planned that touch one instance."""
    target_searches_max: Annotated[int, Interval(ge=1, le=100_000), Unit("shards")] = 8
    """Shards of one hot instance for which a target is looked for, per planned move."""
    headroom_step: Annotated[float, Interval(ge=1e-6, le=1.0), Unit("of capacity")] = 0.05
    """Targets whose headroom differs by less than this share of capacity count as equal."""
    policies: tuple[str, ...] = (
        "switch", "move_hot", "split", "move_cold", "ease", "drain", "spread", "tier", "co_locate",
        "merge",
    )  # fmt: skip
    """The policies that are used, in this order; `sharder.plan.POLICIES` names all."""
    executable: tuple[str, ...] = ("move", "switch")
    """Kinds of operators that the coordinator carries out; others are planned as advice only."""
    trough_gain: Annotated[float | None, Interval(ge=0.0, le=10.0), Unit("of the limit")] = 0.25
    """A move starts before its latest time if source and target then have less load by this share
    of their limit; None: always at the latest safe time."""
    split_part_min: Annotated[float, Interval(ge=0.0, le=0.5), Unit("of the shard's load")] = 0.05
    """A split leaves each side at least this share of the shard's load."""
    split_cuts_max: Annotated[int, Interval(ge=1, le=10_000), Unit("cuts")] = 32
    """Split points of one shard for which a target is looked for, per plan."""
    trough_lead_periods: Annotated[int, Interval(ge=0, le=10_000), Unit("periods")] = 4
    """A move starts at most this many periods before its latest time."""
    ease_instances_max: Annotated[int, Interval(ge=0, le=100_000), Unit("instances")] = 64
    """Instances without a cure that are eased in one plan, those with the highest cost first."""
    ease_options_max: Annotated[int, Interval(ge=0, le=10_000), Unit("shards")] = 2
    """Shards, or parts of them, that are priced for an instance without a cure, per move."""
    cold_share: Annotated[float, Interval(ge=0.0, le=1.0), Unit("of capacity")] = 0.02
    """A shard is rarely used if it uses less than this of its instance's capacity in every
    period."""
    merge_share: Annotated[float, Interval(ge=0.0, le=1.0), Unit("of capacity")] = 0.05
    """Neighbours are joined if both together use less of their instance's capacity than this."""
    merge_bytes_max: Annotated[int, Interval(ge=0, le=2**62), Unit("bytes")] = 1 << 30
    """Neighbours that store more than this together stay apart."""
    merge_age_s: Annotated[float, Interval(ge=0.0, le=1e9), Unit("s")] = 86_400.0
    """A shard that a split or the creation of its log opened less than this long ago is not
    merged."""
    merge_cold_s: Annotated[float, Interval(ge=0.0, le=1e9), Unit("s")] = 1_800.0
    """Neighbours are joined after so long a time without more load than `merge_share`."""
    merge_shards_min: Annotated[int, Interval(ge=1, le=1_000_000), Unit("shards")] = 4
    """A log keeps at least the shards that it was created with; this many where that is not
    known."""
    tiers: tuple[str, ...] = ("slow", "standard", "fast")
    """Tiers from the slowest to the fastest; a tier that is not named counts as `standard`."""
    tier_gain_per_s: Annotated[
        float, Interval(ge=0.0, le=1e3), Unit("overloaded instance-seconds per s")
    ] = 1e-3
    """Gain of one tier faster for a shard that uses a whole instance, per second."""
    failover_s: Annotated[float, Interval(ge=0.0, le=1e6), Unit("s")] = 3.0
    """How long a shard does not answer when its instance fails."""
    colocate_correlation_min: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(correlation)")] = (
        0.8
    )
    """Shards with at least this correlation of access belong on one instance."""
    colocate_gain_per_s: Annotated[
        float, Interval(ge=0.0, le=1e3), Unit("overloaded instance-seconds per s")
    ] = 1e-3
    """Gain of keeping shards together that use a whole instance, per second."""
    payback_s: Annotated[float, Interval(ge=0.0, le=1e9), Unit("s")] = 86_400.0
    """A change that cures no overload must pay for its move within this time."""
    upkeep_operators_max: Annotated[int, Interval(ge=0, le=10_000), Unit("operators")] = 4
    """Operators that cure no overload (spread, tier, co-locate, merge) in one plan, of each."""
    strategy: Annotated[str, OneOf(("auto", "shadow", "log-shipping", "copy-on-write"))] = "shadow"
    """How planned moves are made (`coordinator.migration`)."""
    virtual_nodes: Annotated[int, Interval(ge=1, le=4096), Unit("points")] = 64
    """Points of each instance on the ring."""

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ValueError(f"planner.{said}")
        if self.hysteresis >= self.risk.threshold:
            raise ValueError(
                f"planner.hysteresis is {self.hysteresis}, it must be below"
                f" risk.threshold {self.risk.threshold}"
            )
