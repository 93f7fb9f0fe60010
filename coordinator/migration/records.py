"""A migration's state, options and record. Plain data, stored as JSON in the metadata.

Times are microseconds since 1970 UTC (`_us`) or seconds (`_s`).
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated

import msgspec
from annotated_types import Interval, Unit

from logstore.base.errors import InvalidArgumentError
from logstore.base.limits import SHARD_QUEUE_BYTES_MAX
from logstore.meta.records import Member
from sharder.settings import OneOf, complaint

_DAY_S = 86_400.0

NOTES_MAX = 64
"""Remarks that a migration keeps; the oldest are dropped."""


class State(StrEnum):
    """States of a move; `table.py` says what each means and which may follow it."""

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
    """Options of one move. Bounds are checked at construction."""

    shadow_s: Annotated[float, Interval(ge=0.0, le=_DAY_S), Unit("s")] = 1.0
    """The target is in sync this long before reads go to it."""
    soak_s: Annotated[float, Interval(ge=0.0, le=7 * _DAY_S), Unit("s")] = 10.0
    """The source stays in sync this long after the cutover (H4)."""
    ramp_step: Annotated[float, Interval(ge=0.001, le=1.0), Unit("(share)")] = 0.01
    """Share of reads that each step adds."""
    ramp_interval_s: Annotated[float, Interval(ge=0.01, le=3_600.0), Unit("s")] = 0.1
    """Time between two steps of the ramp."""
    ramp_back: Annotated[float, Interval(ge=0.001, le=1.0), Unit("(share)")] = 0.1
    """Share that a breach of a guard rail takes back; the second one rolls the move back."""
    lag_records_max: Annotated[int, Interval(ge=0, le=10_000_000), Unit("records")] = 20_000
    """The target is caught up, and fit for reads, within this many records of the source."""
    guard_window_s: Annotated[float, Interval(ge=1.0, le=15.0), Unit("s")] = 5.0
    """Guard rails judge what both sides served in the last seconds."""
    error_rate_max: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.01
    """A guard rail is broken above this share of calls that the target fails or refuses."""
    p99_ratio_max: Annotated[float, Interval(ge=1.0, le=1_000.0), Unit("(ratio)")] = 3.0
    """The target's p99 over the source's."""
    p99_floor_ms: Annotated[float, Interval(ge=0.0, le=60_000.0), Unit("ms")] = 20.0
    """A p99 below this is never a breach, whatever the source's."""
    queue_bytes_max: Annotated[int, Interval(ge=1, le=SHARD_QUEUE_BYTES_MAX), Unit("bytes")] = (
        SHARD_QUEUE_BYTES_MAX // 2
    )
    """Appends that may wait at the target."""
    samples_min: Annotated[int, Interval(ge=1, le=1_000_000), Unit("calls")] = 100
    """Calls from which the target's errors and p99 are taken as counted; of fewer, a guard rail
    is broken when that is 95 % sure."""
    ramp_quiet: Annotated[str, OneOf(("time", "wait"))] = "time"
    """With too little traffic to judge the target by: the ramp goes on by `time`, or it must
    `wait` for more until `ramping_timeout_s`."""
    throttle_bytes_per_s: Annotated[float, Interval(ge=0.0, le=1e12), Unit("bytes/s")] = 0.0
    """Bound of the snapshot copy; 0: the instance's own."""
    setbacks_max: Annotated[int, Interval(ge=0, le=100), Unit("setbacks")] = 5
    """Falls back to an earlier state before the move is rolled back."""
    preparing_timeout_s: Annotated[float, Interval(ge=0.1, le=_DAY_S), Unit("s")] = 30.0
    """How long a move may stay in state `preparing`."""
    snapshot_timeout_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 3_600.0
    """How long a move may stay in state `snapshot`."""
    catching_up_timeout_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 600.0
    """How long a move may stay in state `catching-up`."""
    verifying_timeout_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 600.0
    """How long a move may stay in state `verifying`."""
    shadowing_timeout_s: Annotated[float, Interval(ge=0.1, le=_DAY_S), Unit("s")] = 60.0
    """How long a move may stay in state `shadowing`."""
    ramping_timeout_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 600.0
    """How long a move may stay in state `ramping`."""
    cutover_timeout_s: Annotated[float, Interval(ge=0.1, le=_DAY_S), Unit("s")] = 60.0
    """How long a move may stay in state `cutover`."""
    target_dead_after_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 60.0
    """Before the cutover: the move is rolled back once its target is silent this long."""
    source_dead_after_s: Annotated[float, Interval(ge=0.1, le=7 * _DAY_S), Unit("s")] = 300.0
    """Before the cutover: the move is rolled back once its source is silent this long. After it: a
    source that is silent this long, and not in sync, is given up."""
    feed: Annotated[str, OneOf(("direct", "kafka"))] = "direct"
    """How batches after the snapshot reach the target: `direct` or `kafka`."""
    feed_fallback: Annotated[str, OneOf(("direct", "rollback"))] = "direct"
    """A broker away for `feed_deadline_s`: go on with the `direct` feed, or `rollback`."""
    feed_deadline_s: Annotated[float, Interval(ge=0.1, le=_DAY_S), Unit("s")] = 30.0
    """How long a move waits for its broker."""

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise InvalidArgumentError(said)


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
class MeasuredWindow:
    """Calls in some seconds of a move; those that failed, the refused ones among them, are part
    of `calls`. None: no such call was answered."""

    seconds: float = 0.0
    calls: int = 0
    failed: int = 0
    refused: int = 0
    p99_ms: float | None = None
    read_p99_ms: float | None = None
    append_p99_ms: float | None = None


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
    """Of the shard when the move began; once it is copied, of the copy."""
    bytes_copied: int = 0
    copy_mb_per_s: float | None = None
    """10^6 bytes a second over the snapshot copy."""
    blackout_ms: float | None = None
    """How long the source held appends at the hand-over."""
    hash: HashResult | None = None
    p99_ms: dict[str, float] = field(default_factory=dict)
    """`before`, `during` and `after`, as far as calls were answered."""
    windows: dict[str, MeasuredWindow] = field(default_factory=dict)
    """`before` at the source, `during` at both sides, `after` at the target."""

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
