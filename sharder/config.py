"""Weights, thresholds and limits of the planner, each with its unit and bound.

Costs are in overloaded instance-seconds: 1.0 is what one second of one instance over its threshold
costs when `overload_cost_per_s` is 1.
"""

from dataclasses import dataclass, field
from enum import StrEnum

OUTLOOK_MAX = 96
"""Periods that are forecast behind a shorter horizon: a day of them, but at most so many."""


class Mode(StrEnum):
    """What a plan may lead to: moves; moves that are only shown; forecasts without moves."""

    ACTIVE = "active"
    DRY_RUN = "dry_run"
    FORECAST_ONLY = "forecast_only"


def _check(owner: str, values: object, bounds: dict[str, tuple[float, float, str]]) -> None:
    for name, (low, high, unit) in bounds.items():
        value = getattr(values, name)
        if value is not None and not low <= value <= high:
            raise ValueError(
                f"{owner}.{name} is {value}, it must be within {low:g}..{high:g} {unit}"
            )


@dataclass(frozen=True, slots=True)
class RiskConfig:
    """How a forecast becomes a risk. Bounds are checked at construction."""

    threshold: float = 0.8
    """Share of capacity that load should stay under."""
    near_capacity: float = 0.8
    """Share of capacity above which the present use adds to the risk."""
    near_capacity_weight: float = 1.0
    """Cost added when an instance is at its whole capacity now; falls linearly to 0."""
    upper_quantile: float = 0.9
    """Quantile of the load that counts as its upper bound (0.9: top of the 80 % interval)."""
    error_correlation: float = 0.1
    """Correlation of the forecast errors of shards on one instance (a busy day is one for all)."""
    overload_cost_per_s: float = 1.0
    move_cost_fixed: float = 0.1
    move_cost_per_gib: float = 1.0
    move_cost_per_s: float = 0.05

    def __post_init__(self) -> None:
        cost = (0.0, 1e9, "overloaded instance-seconds")
        _check(
            "risk",
            self,
            {
                "threshold": (0.05, 1.0, "of capacity"),
                "near_capacity": (0.0, 0.99, "of capacity"),
                "near_capacity_weight": cost,
                "upper_quantile": (0.5, 0.9999, "(probability)"),
                "error_correlation": (0.0, 1.0, "(correlation)"),
                "overload_cost_per_s": cost,
                "move_cost_fixed": cost,
                "move_cost_per_gib": cost,
                "move_cost_per_s": cost,
            },
        )


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """All that steers `plan`. Bounds are checked at construction."""

    mode: Mode = Mode.ACTIVE
    risk: RiskConfig = field(default_factory=RiskConfig)
    seed: int = 0
    horizon_periods: int | None = None
    """In how many coming periods crossings are looked for; None: as many as the longest forecast
    has. Periods that are forecast behind them (the outlook) decide between moves that cure."""
    outlook_error: float = 0.08
    """Share of its limit that an instance's load is always reckoned to be unsure by, where moves
    are compared by what is forecast behind the horizon too."""
    hysteresis: float = 0.05
    """A target must stay this share of capacity below the threshold, so that it is not next."""
    cooldown_s: float = 900.0
    """A shard that moved stays where it is for so long."""
    surprise: float | None = 2.5
    """An instance that is over its threshold with so many times the load that was forecast for now
    is reckoned to keep what it has: a forecast that missed a rise knows no more of its end. None:
    forecasts are always believed."""
    flip_back_s: float = 3600.0
    """For so long a shard does not return to the instance that it left."""
    margin_periods: float = 1.0
    """A move shall end this many planning periods before the crossing."""
    operators_in_flight_max: int = 16
    """Operators at work at once: those in flight and those that start before the next plan."""
    operators_per_instance_max: int = 4
    """Operators in flight and planned that touch one instance."""
    target_searches_max: int = 8
    """Shards of one hot instance for which a target is looked for, per planned move."""
    headroom_step: float = 0.05
    """Targets whose headroom differs by less than this share of capacity count as equal."""
    policies: tuple[str, ...] = (
        "switch", "move_hot", "split", "move_cold", "ease", "drain", "spread", "tier", "co_locate",
        "merge",
    )  # fmt: skip
    """Which policies speak, in this order; `sharder.plan.POLICIES` names all."""
    executable: tuple[str, ...] = ("move", "switch")
    """Kinds of operators that the coordinator carries out; others are planned as advice only."""
    trough_gain: float | None = 0.25
    """A move starts earlier than it must if source and target are then used less by this share of
    their limit; None: always at the latest safe time."""
    split_part_min: float = 0.05
    """A split leaves each side at least this share of the shard's load."""
    split_cuts_max: int = 32
    """Cuts of one shard for which a target is looked for, per plan."""
    trough_lead_periods: int = 4
    """A move starts at most this many periods earlier than it must."""
    ease_instances_max: int = 64
    """Instances that nothing cures that are eased in one plan, the dearest first."""
    ease_options_max: int = 2
    """Shards, or parts of them, that are priced for an instance that nothing cures, per move."""
    cold_share: float = 0.02
    """A shard that uses less of its instance's capacity in every period is rarely used."""
    merge_share: float = 0.05
    """Neighbours are joined if both together use less of their instance's capacity than this."""
    merge_bytes_max: int = 1 << 30
    """Neighbours that store more than this together stay apart."""
    merge_age_s: float = 86_400.0
    """A shard that was opened or moved less than this long ago is not merged."""
    merge_shards_min: int = 4
    """A log keeps at least so many shards."""
    tiers: tuple[str, ...] = ("slow", "standard", "fast")
    """Tiers from the slowest to the fastest; a tier that is not named counts as `standard`."""
    tier_gain_per_s: float = 1e-3
    """What one tier faster is worth to a shard that uses a whole instance, per second."""
    failover_s: float = 3.0
    """How long a shard answers nothing when its instance fails."""
    colocate_correlation_min: float = 0.8
    """Shards used together at least so much belong on one instance."""
    colocate_gain_per_s: float = 1e-3
    """What it is worth to have shards together that use a whole instance, per second."""
    payback_s: float = 86_400.0
    """A change that cures no overload must pay for its move within this time."""
    upkeep_operators_max: int = 4
    """Operators that cure no overload (spread, tier, co-locate, merge) in one plan, of each."""
    strategy: str = "shadow"
    virtual_nodes: int = 64

    def __post_init__(self) -> None:
        _check(
            "planner",
            self,
            {
                "seed": (0, 2**63, "(seed)"),
                "horizon_periods": (1, 10_000, "periods"),
                "outlook_error": (1e-6, 1.0, "of the limit"),
                "hysteresis": (0.0, 0.5, "of capacity"),
                "cooldown_s": (0.0, 1e9, "s"),
                "surprise": (1.0, 1e9, "times the forecast"),
                "flip_back_s": (0.0, 1e9, "s"),
                "margin_periods": (0.0, 1e6, "periods"),
                "operators_in_flight_max": (0, 100_000, "operators"),
                "operators_per_instance_max": (0, 10_000, "operators"),
                "target_searches_max": (1, 100_000, "shards"),
                "headroom_step": (1e-6, 1.0, "of capacity"),
                "virtual_nodes": (1, 4096, "points"),
                "trough_gain": (0.0, 10.0, "of the limit"),
                "split_part_min": (0.0, 0.5, "of the shard's load"),
                "split_cuts_max": (1, 10_000, "cuts"),
                "trough_lead_periods": (0, 10_000, "periods"),
                "ease_instances_max": (0, 100_000, "instances"),
                "ease_options_max": (0, 10_000, "shards"),
                "cold_share": (0.0, 1.0, "of capacity"),
                "merge_share": (0.0, 1.0, "of capacity"),
                "merge_bytes_max": (0, 2**62, "bytes"),
                "merge_age_s": (0.0, 1e9, "s"),
                "merge_shards_min": (1, 1_000_000, "shards"),
                "tier_gain_per_s": (0.0, 1e3, "overloaded instance-seconds per s"),
                "failover_s": (0.0, 1e6, "s"),
                "colocate_correlation_min": (0.0, 1.0, "(correlation)"),
                "colocate_gain_per_s": (0.0, 1e3, "overloaded instance-seconds per s"),
                "payback_s": (0.0, 1e9, "s"),
                "upkeep_operators_max": (0, 10_000, "operators"),
            },
        )
        if self.hysteresis >= self.risk.threshold:
            raise ValueError(
                f"planner.hysteresis is {self.hysteresis}, it must be below"
                f" risk.threshold {self.risk.threshold}"
            )
