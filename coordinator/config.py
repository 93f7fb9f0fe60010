"""Settings of the coordinator: `LOGSTORE_COORDINATOR_*` in the environment, flags, or arguments."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Interval, MaxLen, Unit
from pydantic import AliasChoices, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from coordinator.limits import CELLS, PLANNING_PERIOD_S, PORT, REPLICAS
from logstore.base.command_line import from_json, json_or
from logstore.meta.settings import (
    AddressesText,
    AddressText,
    HostText,
    ListenText,
    MetadataSettings,
)
from sharder.config import OUTLOOK_MAX, PlannerConfig, RiskConfig
from sharder.settings import limits_of

_RISK, _PLANNER = limits_of(RiskConfig), limits_of(PlannerConfig)


class Autopilot(StrEnum):
    """What the planning loop does: start moves; only forecast and plan; nothing."""

    ON = "on"
    FORECAST_ONLY = "forecast-only"
    OFF = "off"


def _alive_s(given: dict[str, Any]) -> float:
    return max(3.0, 3 * float(given["report_interval_s"]))


def _same_as(name: str) -> Callable[[dict[str, Any]], float]:
    """The value of another setting as the default."""
    return lambda given: float(given[name])


class CoordinatorConfig(MetadataSettings):
    """Settings of a coordinator. A value outside its bound is refused with the field's name."""

    model_config = SettingsConfigDict(env_prefix="LOGSTORE_COORDINATOR_", extra="forbid")

    data: Path
    """Folder of this coordinator and its embedded metadata store."""
    metadata: Annotated[str | None, Field(pattern="^etcds?://")] = None
    """etcd://HOST:PORT,… instead of the embedded store."""
    cluster: Annotated[str | None, Field(pattern="^[0-9a-f]{1,16}$")] = None
    """Id of the cluster that the metadata must belong to; another one is refused."""
    host: Annotated[HostText, MaxLen(255)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, PORT, Unit("port")] = 7400
    """Port to listen on; 0 takes a free one."""
    advertise: Annotated[AddressText | None, MaxLen(255)] = None
    """host:port that others reach this coordinator at; default: the one it listens on."""
    cells: Annotated[int, CELLS, Unit("cells")] = 1
    """Slices of the shards, each led by one coordinator; fixed once made; more need etcd."""

    planning_period_s: Annotated[float, PLANNING_PERIOD_S, Unit("s")] = 300.0
    """Time between two plans."""
    report_interval_s: Annotated[float, Interval(ge=0.1, le=3600), Unit("s")] = 1.0
    """Time between an instance's reports, as its own `report_interval_s` says."""
    alive_s: Annotated[float, Interval(gt=0, le=3600), Unit("s")] = Field(default_factory=_alive_s)
    """An instance without a report for this long is not alive; default: 3 reports, at least 3 s."""
    slot_s: Annotated[float, Interval(gt=0, le=86_400), Unit("s")] = Field(
        default_factory=_same_as("planning_period_s")
    )
    """A statistics slot in a log's own time; default: the planning period."""
    wall_s_per_slot: Annotated[float, Interval(gt=0, le=86_400), Unit("s")] = Field(
        default_factory=_same_as("slot_s")
    )
    """Wall time of a slot; differs from its default `slot_s` while history is replayed."""
    seasons_slots: Annotated[
        tuple[int, ...] | None, Unit("slots"), NoDecode, BeforeValidator(from_json)
    ] = None
    """Seasons, ascending, as JSON; default: a day and a week."""
    horizon_slots: Annotated[int, Interval(ge=1, le=1024), Unit("slots")] = 12
    """Slots that are forecast ahead."""
    outlook_slots: Annotated[int | None, Interval(ge=1, le=1024), Unit("slots")] = None
    """Slots forecast to choose between moves, at least `horizon_slots`; default: a day, at most
    96."""
    history_slots: Annotated[int, Interval(ge=1, le=10_000), Unit("slots")] = 336
    """Slots of statistics that are kept."""
    heatmap_buckets: Annotated[int, Interval(ge=4, le=4096), Unit("buckets")] = 256
    """Key buckets of a log's heatmap."""

    autopilot: Autopilot = Autopilot.ON
    """What the planning loop does: start moves, only forecast and plan, or nothing."""
    threshold: Annotated[float, _RISK["threshold"].interval, Unit("share of capacity")] = (
        RiskConfig().threshold
    )
    """Load should stay under this."""
    hysteresis: Annotated[float, _PLANNER["hysteresis"].interval, Unit("share of capacity")] = (
        PlannerConfig().hysteresis
    )
    """A target must stay this far below the threshold."""
    cooldown_s: Annotated[float | None, _PLANNER["cooldown_s"].interval, Unit("s")] = None
    """A moved shard stays where it is for this long; default: 3 planning periods."""
    flip_back_s: Annotated[float | None, _PLANNER["flip_back_s"].interval, Unit("s")] = None
    """A moved shard does not return for this long; default: 12 planning periods."""
    margin_periods: Annotated[float, _PLANNER["margin_periods"].interval, Unit("slots")] = (
        PlannerConfig().margin_periods
    )
    """A move must end this long before the load crosses the threshold."""
    moves_max: Annotated[int, Interval(ge=0, le=1000), Unit("moves")] = 2
    """Moves at work at once."""
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1), Unit("seed")] = 0
    """Seed of the planner's draws."""
    move: Annotated[dict[str, int | float | str], NoDecode, BeforeValidator(json_or(dict))] = Field(
        default_factory=dict
    )
    """Options of planned moves that differ from their defaults, as JSON."""

    replicas: Annotated[int, REPLICAS, Unit("copies")] = 1
    """Copies of a new log without the option `replicas`."""
    lost_after_s: Annotated[float, Interval(ge=1, le=86_400), Unit("s")] = 30.0
    """Copies of an instance without a report for this long are made elsewhere."""

    kafka: Annotated[
        AddressesText | None,
        Field(
            validation_alias=AliasChoices("kafka", "LOGSTORE_COORDINATOR_KAFKA", "LOGSTORE_KAFKA")
        ),
        MaxLen(4096),
    ] = None
    """host:port,… of a Kafka; moves feed through it by default."""
    feed_sweep_s: Annotated[float, Interval(ge=0.1, le=86_400), Unit("s")] = 30.0
    """Time between two sweeps of orphaned feed topics."""

    metrics_listen: Annotated[ListenText | None, MaxLen(255)] = None
    """host:port of /metrics, /healthz and /readyz; default: none."""

    tls_ca: Path | None = None
    """CA that signed the members' certificates; default: no TLS."""
    tls_cert: Path | None = None
    """This process's certificate."""
    tls_key: Path | None = None
    """The key of `tls_cert`."""

    @model_validator(mode="after")
    def _fill(self) -> Self:
        if self.cells > 1 and self.metadata is None:
            raise ValueError(f"cells is {self.cells}, the embedded store has 1: give metadata")
        if self.cooldown_s is None:
            self.cooldown_s = 3 * self.planning_period_s
        if self.flip_back_s is None:
            self.flip_back_s = 12 * self.planning_period_s
        return self

    @property
    def slots_ahead(self) -> int:
        """Slots that are forecast for a plan: the horizon, and the outlook beyond it."""
        day = min(OUTLOOK_MAX, round(86_400.0 / self.slot_s))
        return max(self.horizon_slots, self.outlook_slots or day)
