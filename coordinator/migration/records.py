"""What a migration is: its state, options and record. Plain data, stored as JSON in the metadata.

Times are microseconds since 1970 UTC (`_us`) or seconds (`_s`).
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum

import msgspec

from logstore.base.errors import InvalidArgumentError
from logstore.meta.records import Member

NOTES_MAX = 64
"""Remarks a migration keeps; the oldest go first."""


class State(StrEnum):
    """States of a move; `table.py` says what each means and what may follow it."""

    PLANNED = "planned"
    PREPARING = "preparing"
    SNAPSHOT = "snapshot"
    CATCHING_UP = "catching-up"
    VERIFYING = "verifying"
    SHADOWING = "shadowing"
    RAMPING = "ramping"
    CUTOVER = "cutover"
    SOAKING = "soaking"
    COMPLETED = "completed"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    ABORTED = "aborted"


END_STATES = frozenset({State.COMPLETED, State.ROLLED_BACK, State.ABORTED})


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How one move goes about it. Each field has its unit as a suffix and a bound in `BOUNDS`."""

    shadow_s: float = 1.0
    """The target is in sync this long before reads go to it."""
    soak_s: float = 10.0
    """The source stays in sync this long after the cutover (H4)."""
    ramp_step: float = 0.01
    """Share of reads that each step adds."""
    ramp_interval_s: float = 0.1
    ramp_back: float = 0.1
    """Share that a breach of a guard rail takes back; the second one rolls the move back."""
    lag_records_max: int = 20_000
    """The target is caught up, and fit for reads, within this many records of the source."""
    error_rate_max: float = 0.01
    p99_ratio_max: float = 3.0
    """The target's p99 over the source's."""
    p99_floor_ms: float = 20.0
    """A p99 below this is never a breach, whatever the source's."""
    samples_min: int = 100
    """Reads that a period must hold on both sides before their rates and p99 say anything."""
    throttle_bytes_per_s: float = 0.0
    """Bound of the snapshot copy; 0: the instance's own."""
    setbacks_max: int = 5
    """Falls back to an earlier state before the move is rolled back."""
    preparing_timeout_s: float = 30.0
    snapshot_timeout_s: float = 3_600.0
    catching_up_timeout_s: float = 600.0
    verifying_timeout_s: float = 600.0
    shadowing_timeout_s: float = 60.0
    ramping_timeout_s: float = 600.0
    cutover_timeout_s: float = 60.0
    target_dead_after_s: float = 60.0
    """Before the cutover: the move is rolled back once its target is silent this long."""
    source_dead_after_s: float = 300.0
    """Before the cutover: the move is rolled back once its source is silent this long. After it: a
    source that is silent this long, and not in sync, is given up."""
    feed: str = "direct"
    """How batches after the snapshot reach the target: `direct` or `kafka`."""
    feed_fallback: str = "direct"
    """A broker away for `feed_deadline_s`: go on with the `direct` feed, or `rollback`."""
    feed_deadline_s: float = 30.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise InvalidArgumentError(
                    f"{name} is {given!r}, it must be one of {', '.join(known)}"
                )
        for name, (low, high, unit) in BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                text = f"{name} is {value}, it must be within {low:g}..{high:g} {unit}"
                raise InvalidArgumentError(text.rstrip())


CHOICES = {"feed": ("direct", "kafka"), "feed_fallback": ("direct", "rollback")}
_DAY_S = 86_400.0
BOUNDS: dict[str, tuple[float, float, str]] = {
    "shadow_s": (0.0, _DAY_S, "s"),
    "soak_s": (0.0, 7 * _DAY_S, "s"),
    "ramp_step": (0.001, 1.0, "(share)"),
    "ramp_interval_s": (0.01, 3_600.0, "s"),
    "ramp_back": (0.001, 1.0, "(share)"),
    "lag_records_max": (0, 10_000_000, "records"),
    "error_rate_max": (0.0, 1.0, "(share)"),
    "p99_ratio_max": (1.0, 1_000.0, "(ratio)"),
    "p99_floor_ms": (0.0, 60_000.0, "ms"),
    "samples_min": (1, 1_000_000, "reads"),
    "throttle_bytes_per_s": (0.0, 1e12, "bytes/s"),
    "setbacks_max": (0, 100, "setbacks"),
    "preparing_timeout_s": (0.1, _DAY_S, "s"),
    "snapshot_timeout_s": (0.1, 7 * _DAY_S, "s"),
    "catching_up_timeout_s": (0.1, 7 * _DAY_S, "s"),
    "verifying_timeout_s": (0.1, 7 * _DAY_S, "s"),
    "shadowing_timeout_s": (0.1, _DAY_S, "s"),
    "ramping_timeout_s": (0.1, 7 * _DAY_S, "s"),
    "cutover_timeout_s": (0.1, _DAY_S, "s"),
    "target_dead_after_s": (0.1, 7 * _DAY_S, "s"),
    "source_dead_after_s": (0.1, 7 * _DAY_S, "s"),
    "feed_deadline_s": (0.1, _DAY_S, "s"),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """The move entered `state` at `at_us`."""

    state: State
    at_us: int


@dataclass(frozen=True, slots=True)
class HashResult:
    """Both chains at offset `end`: the target's recomputed from its disk, the source's stored."""

    end: int
    source_chain: str
    target_chain: str
    equal: bool
    at_us: int = 0
    """When they were compared; 0: an earlier version wrote it."""


@dataclass(frozen=True, slots=True)
class ForecastNote:
    """The forecast that a move was started for, in ops/s, `horizon_s` ahead."""

    mean: float
    lower: float
    upper: float
    horizon_s: float


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """One move of a shard's primary from `source` to `target_instance`.

    `target` is the copy, known from `snapshot` on. `request` is what a person asked for and the
    machine has yet to do (rollback, complete). `since_us`: when the state's clock started (entry,
    or the last resume). `removing`: the source is being removed, there is no way back.
    """

    id: str
    log: str
    shard: str
    source: Member
    target_instance: str
    created_us: int
    strategy: str = "shadow"
    state: State = State.PLANNED
    paused: bool = False
    request: str | None = None
    cause: str | None = None
    trigger: str = "manual"
    reason: str = ""
    risk: float | None = None
    forecast: ForecastNote | None = None
    options: MoveOptions = MoveOptions()
    target: Member | None = None
    successor: str | None = None
    """Copy-on-write: the shard that was opened at the target."""
    since_us: int = 0
    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()
    setbacks: int = 0
    soaked_s: float = 0.0
    removing: bool = False
    bytes: int = 0
    copy_mb_per_s: float | None = None
    """10^6 bytes a second over the snapshot copy."""
    blackout_ms: float | None = None
    """How long the source held appends at the hand-over."""
    hash: HashResult | None = None
    p99_ms: dict[str, float] = field(default_factory=dict)
    """`before`, `during` and `after`, as far as there were statistics."""

    @property
    def active(self) -> bool:
        return self.state not in END_STATES


def encode_migration(record: MigrationRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_migration(value: bytes) -> MigrationRecord:
    return msgspec.json.decode(value, type=MigrationRecord)


def parse_options(data: bytes, base: MoveOptions | None = None) -> MoveOptions:
    """Options from a JSON object; absent fields come from `base`, unknown ones are refused."""
    defaults = msgspec.to_builtins(base or MoveOptions())
    if not data:
        return msgspec.convert(defaults, MoveOptions)
    try:
        given = msgspec.json.decode(data, type=dict[str, object])
        known = {f.name for f in fields(MoveOptions)}
        for name in given:
            if name not in known:
                raise InvalidArgumentError(f"options.{name} is not known; known: {sorted(known)}")
        return msgspec.convert({**defaults, **given}, MoveOptions)
    except msgspec.DecodeError as e:
        raise InvalidArgumentError(f"options: {e}") from None
