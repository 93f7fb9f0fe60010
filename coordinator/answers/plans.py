"""Answers about plans: those of `sharder.operators`, with None for unlimited."""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from coordinator.answers.base import Answer
from logstore.meta.records import SettingValue
from sharder.config import PlanMode
from sharder.operators import Plan, Trigger
from sharder.reasons import Reason


class PlannedLoad(Answer, frozen=True, kw_only=True):
    """The load by which a candidate is judged (`sharder.operators.ForecastSummary`)."""

    mean: float
    lower: float
    upper: float
    horizon_s: float
    model: str
    unit: str
    capacity: float | None
    limit: float | None


class PlannedCrossing(Answer, frozen=True, kw_only=True):
    """An instance that is forecast to cross its limit (`sharder.operators.Crossing`)."""

    instance: str
    crossing_s: float
    probability: float
    overload_cost: float | None
    utilisation: float | None
    trigger: Trigger
    forecast: PlannedLoad


class PlannedLatency(Answer, frozen=True, kw_only=True):
    """The expected p50 on source and target (`sharder.operators.LatencyGain`)."""

    before_ms: float
    after_ms: float
    ops_per_s: float
    saved_s: float


class PlannedOperator(Answer, frozen=True, kw_only=True):
    """One planned change (`sharder.operators.Operator`), in seconds of the wall clock."""

    kind: str
    shard: str
    source: str
    target: str
    strategy: str
    start_s: float
    deadline_s: float | None
    due: bool
    bytes: int
    expected_duration_s: float
    expected_gain: float | None
    risk: float | None
    forecast: PlannedLoad
    trigger: Trigger
    reason: str
    key: str | None
    """The routing key of a split, in base64."""
    partner: str | None
    executable: bool
    latency: PlannedLatency | UnsetType = UNSET
    """Absent where no response time was measured."""
    duration_range_s: tuple[float, float] | UnsetType = UNSET
    """80 % of such moves take so long; absent before moves were measured."""


class RefusedCandidate(Answer, frozen=True, kw_only=True):
    """A candidate that was refused, and why (`sharder.operators.Refusal`)."""

    reason: Reason
    instance: str
    shard: str | None
    value: float | None
    limit: float | None
    other: str


class PlanFields(Answer, frozen=True, kw_only=True):
    """A plan (`sharder.operators.Plan`)."""

    made_at_s: float
    slot: int
    mode: PlanMode
    horizon_s: float
    crossings: tuple[PlannedCrossing, ...]
    operators: tuple[PlannedOperator, ...]
    refused: tuple[RefusedCandidate, ...]


def plan_fields(plan: Plan) -> PlanFields:
    """A plan in an answer."""
    return msgspec.convert(msgspec.to_builtins(plan), PlanFields)


class MadePlan(PlanFields, frozen=True, kw_only=True):
    """A plan of the loop with a sentence for each candidate."""

    explain: list[str]


class PlanningRound(Answer, frozen=True, kw_only=True):
    """One period of the planning loop: the migrations it started, or why it made no plan."""

    at_us: int
    """Microseconds since 1970 UTC."""
    plan: MadePlan | None
    started: tuple[str, ...]
    skipped: str


class PlanAnswer(Answer, frozen=True, kw_only=True):
    """The plan for now and, on request, its sentences, its view and earlier rounds.

    `autopilot`: on, forecast-only or off.
    """

    autopilot: str
    made_at_s: float
    slot: int
    mode: PlanMode
    horizon_s: float
    crossings: tuple[PlannedCrossing, ...]
    operators: tuple[PlannedOperator, ...]
    refused: tuple[RefusedCandidate, ...]
    explain: list[str] | UnsetType = UNSET
    view: Raw | UnsetType = UNSET
    """In the form that `sharder.view.load_view` reads."""
    history: list[PlanningRound] | UnsetType = UNSET
    """Oldest first."""


class AutopilotMode(Answer, frozen=True, kw_only=True):
    """`autopilot`: on, forecast-only or off."""

    autopilot: str


class PlannerSetting(Answer, frozen=True, kw_only=True):
    """A setting of the planner as it acts now.

    `source`: `live` (by `planner set`), `start` (the coordinator's own settings) or `default`.
    `at_start`: the value without what was set live.
    """

    name: str
    value: SettingValue
    unit: str
    bounds: str
    source: str
    at_start: SettingValue
    by: str
    """Who set it live; empty: it is not set."""
    at_us: int | None


class PlannerChange(Answer, frozen=True, kw_only=True):
    """A change of one setting while the planner ran (`logstore.meta.records.SettingChange`)."""

    at_us: int
    by: str
    name: str
    old: SettingValue
    new: SettingValue
    reset: bool


class PlannerSettings(Answer, frozen=True, kw_only=True):
    """Settings of the planner and, on request, their changes, oldest first.

    `problem`: why what was set live does not count; empty: it does.
    """

    settings: list[PlannerSetting]
    problem: str
    changes: list[PlannerChange] | UnsetType = UNSET


class ShardWeight(Answer, frozen=True, kw_only=True):
    """How likely the planner is to move a shard: 1 is usual, 0 is never.

    `learned`: from how its moves turned out. `set_weight`: by a person, and acts instead.
    """

    shard: str
    weight: float
    """The one that acts."""
    learned: float
    set_weight: float | None
    by: str
    """Who set it; empty: it is not set."""
    at_us: int | None
    inherited_from: str
    """The shard that it was set for, before a split or merge; empty: this one."""
