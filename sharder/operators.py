"""What a plan is made of: operators, crossings, refused candidates."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec import UNSET, UnsetType

from sharder.config import PlanMode
from sharder.keys import RoutingKey
from sharder.reasons import TEMPLATES, Reason


class Trigger(StrEnum):
    """`reactive`: the instance is over its threshold already; `forecast`: it is forecast to be."""

    FORECAST = "forecast"
    REACTIVE = "reactive"


@dataclass(frozen=True, slots=True)
class ForecastSummary:
    """Load of the source without any move, in the period where its upper bound is worst.

    `lower`, `upper`: 80 % interval, in `unit` like mean, capacity and limit (threshold x
    capacity). `horizon_s`: from the plan to the start of that period.
    """

    mean: float
    lower: float
    upper: float
    horizon_s: float
    model: str
    unit: str
    capacity: float
    limit: float


@dataclass(frozen=True, slots=True)
class Crossing:
    """An instance whose upper bound crosses threshold x capacity in a coming period.

    `crossing_s` is when the first such period starts, `probability` the highest P(load > limit) of
    a period, `overload_cost` the expected cost without a move (overloaded instance-seconds).
    """

    instance: str
    crossing_s: float
    probability: float
    overload_cost: float
    utilisation: float
    trigger: Trigger
    forecast: ForecastSummary


@dataclass(frozen=True, slots=True)
class LatencyGain:
    """Expected p50 of an operation on source and target together, without and with a move.

    `ops_per_s`: operations on both. `saved_s`: how much less all of them wait, over the horizon.
    """

    before_ms: float
    after_ms: float
    ops_per_s: float
    saved_s: float

    @property
    def gain_ms(self) -> float:
        return self.before_ms - self.after_ms

    def sentence(self) -> str:
        """The gain in words."""
        verb = "gain" if self.gain_ms >= 0 else "loss"
        rate = f"{self.ops_per_s:,.0f}" if self.ops_per_s >= 10 else f"{self.ops_per_s:.2g}"
        return (
            f"Expected {verb} {abs(self.gain_ms):.3g} ms p50 over {rate} ops/s"
            f" ({self.before_ms:.3g} to {self.after_ms:.3g} ms on both instances)."
        )


@dataclass(frozen=True, slots=True)
class Operator:
    """One planned change. Times are seconds on the planning clock.

    `start_s` is the latest safe time, or the plan's time if that is past; `due`: it starts before
    the next plan is made. `deadline_s` is when it must be finished to be in time.
    `expected_gain` and `risk` are in overloaded instance-seconds. `key`: the split point; the
    `target` of a split is where one part moves next. `partner`: the upper shard of a merge.
    `executable`: the coordinator carries out this kind (`planner.executable`); else it is advice.
    `latency`: unset where no response time was measured. `duration_range_s`: 80 % of such moves
    take so long; unset before moves were measured, and for a split.
    """

    kind: str
    shard: str
    source: str
    target: str
    strategy: str
    start_s: float
    deadline_s: float
    due: bool
    bytes: int
    expected_duration_s: float
    expected_gain: float
    risk: float
    forecast: ForecastSummary
    trigger: Trigger
    reason: str
    key: RoutingKey | None = None
    partner: str | None = None
    executable: bool = True
    latency: LatencyGain | UnsetType = UNSET
    duration_range_s: tuple[float, float] | UnsetType = UNSET

    def worth(self, latency_weight: float) -> float:
        """What orders a plan: the risk, and the waiting that is saved at this weight."""
        if isinstance(self.latency, UnsetType):
            return self.risk
        return self.risk + latency_weight * self.latency.saved_s


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate (an instance, or a shard on it) that was refused, with the figures behind it."""

    reason: Reason
    instance: str
    shard: str | None = None
    value: float = 0.0
    limit: float = 0.0
    other: str = ""

    def sentence(self) -> str:
        """The reason in words, with its number."""
        text = TEMPLATES[self.reason].format(
            instance=self.instance,
            shard=self.shard,
            value=self.value,
            limit=self.limit,
            other=self.other,
        )
        return f"[{self.reason.value}] {text}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of `plan(view)`: `operators` by falling worth, then gain; refusals by instance.

    In `dry_run` mode operators are only shown; in `forecast_only` there are none. A planned
    operator that is not due is also in `refused`, with reason 9.
    """

    made_at_s: float
    slot: int
    mode: PlanMode
    horizon_s: float
    crossings: tuple[Crossing, ...]
    operators: tuple[Operator, ...]
    refused: tuple[Refusal, ...]

    def startable(self) -> tuple[Operator, ...]:
        """The operators to start before the next plan; none unless the mode is `active`.

        Never one of a kind that `planner.executable` does not name.
        """
        if self.mode is not PlanMode.ACTIVE:
            return ()
        return tuple(op for op in self.operators if op.due and op.executable)


def dump_plan(plan: Plan) -> bytes:
    """`plan` as JSON bytes."""
    return msgspec.json.encode(plan)


def load_plan(data: bytes) -> Plan:
    """The plan that `dump_plan` stored. Raises ValueError on anything else."""
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a stored plan: {error}") from error
