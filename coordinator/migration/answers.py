"""Answers about migrations, splits and merges."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from coordinator.answers.base import Answer, Custom
from coordinator.migration.dry_run import DryStep
from coordinator.migration.records import (
    END_STATES,
    ForecastNote,
    HashResult,
    MeasuredWindow,
    MoveOptions,
    Phase,
    State,
)
from coordinator.migration.reshape import ReshapePhase, ReshapeState


class Migration(Answer, frozen=True, kw_only=True):
    """A migration (`coordinator.migration.records.MigrationRecord`) and its progress.

    `source`, `target`: instances. Times are microseconds since 1970 UTC (`_us`) or seconds (`_s`).
    """

    id: str
    log: str
    shard: str
    source: str
    target_instance: str
    created_us: int
    strategy: str
    state: State
    paused: bool
    request: str | None
    cause: str | None
    trigger: str
    reason: str
    risk: float | None
    forecast: ForecastNote | None
    options: MoveOptions
    target: str
    successor: str | None
    since_us: int
    phases: tuple[Phase, ...]
    notes: tuple[str, ...]
    setbacks: int
    soaked_s: float
    removing: bool
    bytes: int
    bytes_copied: int
    copy_mb_per_s: float | None
    blackout_ms: float | None
    hash: HashResult | None
    p99_ms: dict[str, float]
    windows: dict[str, MeasuredWindow]
    hash_equal: bool | None
    """None: the chains were not compared yet."""
    hash_age_s: float | None
    p: float
    """The share of reads that goes to the target, 0 to 1."""
    eta_s: float
    duration_s: float
    phase_s: dict[str, float]
    """Seconds in each state, summed over its visits."""
    waits_for: str
    story: tuple[str, ...]

    @property
    def active(self) -> bool:
        return self.state not in END_STATES


class OddMigration(Answer, frozen=True, kw_only=True):
    """A stored migration that cannot be read, and in `odd` the reason."""

    id: str
    odd: str


class MigrationRows(Custom):
    """Every migration, oldest first, then the entries that cannot be read."""

    def __init__(self, known: tuple[Migration, ...], odd: tuple[OddMigration, ...] = ()) -> None:
        self.known, self.odd = known, odd

    def builtins(self) -> object:
        return [*self.known, *self.odd]

    @classmethod
    def of_builtins(cls, value: Any) -> "MigrationRows":
        rows = msgspec.convert(value, list[dict[str, Any]])
        known = [row for row in rows if "odd" not in row]
        odd = [row for row in rows if "odd" in row]
        return cls(
            msgspec.convert(known, tuple[Migration, ...]),
            msgspec.convert(odd, tuple[OddMigration, ...]),
        )


class DryMove(Answer, frozen=True, kw_only=True):
    """A dry run of a move: `bytes` to copy, estimated time, and steps."""

    dry_run: bool
    shard: str
    source: str
    target: str
    strategy: str
    bytes: int
    seconds: float
    seconds_low: float
    """80 % of such moves take between this and `seconds_high`."""
    seconds_high: float
    blackout_ms: float
    options: MoveOptions
    steps: tuple[DryStep, ...]


class Reshape(Answer, frozen=True, kw_only=True):
    """A split or merge (`coordinator.migration.reshape.ReshapeRecord`) and its duration."""

    dry_run: bool | UnsetType = UNSET
    id: str
    log: str
    kind: str
    parents: tuple[str, ...]
    created_us: int
    at: bytes | None
    """The routing key of a split; None: a merge."""
    state: ReshapeState
    trigger: str
    reason: str
    cause: str | None
    request: str | None
    timeout_s: float
    phases: tuple[ReshapePhase, ...]
    successors: tuple[str, ...]
    sealed_ends: dict[str, int]
    """Parent -> its end in records."""
    stall_ms: dict[str, float]
    """Parent -> how long its primary held appends."""
    duration_s: float
