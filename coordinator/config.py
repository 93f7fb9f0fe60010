"""Settings of the coordinator: `LOGSTORE_COORDINATOR_*` in the environment, or arguments."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from coordinator.cells import CELLS_MAX
from logstore.meta.settings import (
    AddressesText,
    AddressText,
    HostText,
    ListenText,
    MetadataSettings,
)
from sharder.config import OUTLOOK_MAX


class Autopilot(StrEnum):
    """What the planning loop does: start moves; only forecast and plan; nothing."""

    ON = "on"
    FORECAST_ONLY = "forecast-only"
    OFF = "off"


class CoordinatorConfig(MetadataSettings):
    """Every field with its unit and bound; a value outside is refused with the field's name."""

    model_config = SettingsConfigDict(env_prefix="LOGSTORE_COORDINATOR_", extra="forbid")

    data: Path = Field(description="folder of this coordinator and its embedded metadata store")
    metadata: str | None = Field(
        default=None, pattern="^etcds?://", description="etcd://HOST:PORT,… instead of embedded"
    )
    cluster: str | None = Field(
        default=None, pattern="^[0-9a-f]{1,16}$",
        description="id of the cluster whose metadata this must be; else it is refused",
    )  # fmt: skip
    host: HostText = Field(default="127.0.0.1", max_length=255, description="address to listen on")
    port: int = Field(default=7400, ge=0, le=65_535, description="port; 0 takes a free one")
    advertise: AddressText | None = Field(
        default=None, max_length=255, description="host:port that others reach us at; default ours"
    )
    cells: int = Field(
        default=1, ge=1, le=CELLS_MAX, description="slices of the shards; fixed once made (etcd)"
    )

    planning_period_s: float = Field(default=300.0, ge=1, le=3600, description="s between plans")
    report_interval_s: float = Field(
        default=1.0, ge=0.1, le=3600, description="s between an instance's reports, also its pulse"
    )
    alive_s: float | None = Field(
        default=None, gt=0, le=3600, description="s of silence; default 3 reports, at least 3 s"
    )
    slot_s: float | None = Field(
        default=None, gt=0, le=86_400,
        description="s of a statistics slot in a log's own time; default the planning period",
    )  # fmt: skip
    wall_s_per_slot: float | None = Field(
        default=None, gt=0, le=86_400,
        description="wall s that a slot takes; differs from slot_s while history is replayed",
    )  # fmt: skip
    seasons_slots: tuple[int, ...] | None = Field(
        default=None, description="seasons in slots, ascending; default a day and a week"
    )
    horizon_slots: int = Field(default=12, ge=1, le=1024, description="slots forecast ahead")
    outlook_slots: int | None = Field(
        default=None, ge=1, le=1024,
        description="slots forecast to choose between moves; default a day, at most 96; at least"
        " horizon_slots are",
    )  # fmt: skip
    history_slots: int = Field(default=336, ge=1, le=10_000, description="slots of statistics kept")
    heatmap_buckets: int = Field(default=256, ge=4, le=4096)

    autopilot: Autopilot = Autopilot.ON
    threshold: float = Field(default=0.8, ge=0.05, le=1, description="share of capacity")
    hysteresis: float = Field(default=0.05, ge=0, le=0.5, description="share of capacity")
    cooldown_s: float | None = Field(
        default=None, ge=0, le=1e9, description="s a moved shard stays; default 3 planning periods"
    )
    flip_back_s: float | None = Field(
        default=None, ge=0, le=1e9, description="s until a shard may return; default 12 periods"
    )
    margin_periods: float = Field(default=1.0, ge=0, le=1e6, description="slots of safety")
    moves_max: int = Field(default=2, ge=0, le=1000, description="moves at once")
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    move: dict[str, int | float | str] = Field(
        default_factory=dict, description="MoveOptions that differ from their defaults, as JSON"
    )

    replicas: int = Field(
        default=1, ge=1, le=7, description="copies of a new log that does not say how many"
    )
    lost_after_s: float = Field(
        default=30.0, ge=1, le=86_400, description="s of silence until copies are made elsewhere"
    )

    kafka: AddressesText | None = Field(
        default=None, validation_alias=AliasChoices("kafka", "LOGSTORE_KAFKA"), max_length=4096,
        description="host:port,… of a Kafka; moves then feed through it, unless told otherwise",
    )  # fmt: skip
    feed_sweep_s: float = Field(
        default=30.0, ge=0.1, le=86_400, description="s between sweeps of orphaned feed topics"
    )

    metrics_listen: ListenText | None = Field(
        default=None, max_length=255, description="host:port of /metrics, /healthz and /readyz"
    )

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _fill(self) -> Self:
        if self.cells > 1 and self.metadata is None:
            raise ValueError(f"cells is {self.cells}, the embedded store has 1: give metadata")
        if self.alive_s is None:
            self.alive_s = max(3.0, 3 * self.report_interval_s)
        if self.slot_s is None:
            self.slot_s = self.planning_period_s
        if self.wall_s_per_slot is None:
            self.wall_s_per_slot = self.slot_s
        if self.cooldown_s is None:
            self.cooldown_s = 3 * self.planning_period_s
        if self.flip_back_s is None:
            self.flip_back_s = 12 * self.planning_period_s
        return self

    @property
    def silence_s(self) -> float:
        """After so long without a report an instance counts as not alive."""
        return self.alive_s or 3.0

    @property
    def event_slot_s(self) -> float:
        return self.slot_s or self.planning_period_s

    @property
    def slots_ahead(self) -> int:
        """Slots that are forecast for a plan: the horizon, and the outlook behind it."""
        day = min(OUTLOOK_MAX, round(86_400.0 / self.event_slot_s))
        return max(self.horizon_slots, self.outlook_slots or day)

    @property
    def slot_wall_s(self) -> float:
        return self.wall_s_per_slot or self.event_slot_s
