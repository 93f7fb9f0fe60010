"""Inputs of the migration machine (Facts) and its outputs (effects)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.migration.ramp import RampState
from coordinator.migration.records import MigrationRecord
from coordinator.migration.windows import RampStatistics, SideWindow
from logstore.meta.records import LogRecord, Member, ShardRecord


@dataclass(frozen=True, slots=True)
class CopyReport:
    """One copy by its instance's last answer (ReplicaStatus)."""

    replica_id: int
    role: str
    end: int
    chain: bytes
    high_watermark: int
    learner_phase: str = ""
    bytes_stored: int = 0
    bytes_copied: int = 0
    copy_seconds: float = 0.0
    blackout_ms: float = 0.0
    error: str = ""
    feed_down_s: float = 0.0
    """How long the learner's feed has been away (a broker that does not answer)."""
    feed_error: str = ""
    records_per_s: float = 0.0
    """The rate at which the learner applies; with the lag it gives the time left."""
    recent: SideWindow | None = None
    """The calls of the last seconds, if they were asked for."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a verification of `replica_id` at `end`. `error`: the copy failed it."""

    replica_id: int
    end: int
    chain: bytes = b""
    expected: bytes = b""
    error: str | None = None
    where: str = ""
    """Unequal chains: the first stored batches that differ, by offsets and bytes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Observed for one decision. The shard record was read before the statuses were asked.

    `source` and `target`: the copies of the record's members; None while their instance is silent
    or does not hold that copy yet. `incarnations`: of registered instances. `next_replica_id`: the
    counter's value, the next id to draw. `source_silent_s`, `target_silent_s`: how long that
    instance gave no answer.
    `soaking_since_us`: since when this leader has seen S in sync; None: it is not.
    """

    now_us: int
    shard: ShardRecord | None
    source: CopyReport | None = None
    target: CopyReport | None = None
    target_heard: bool = True
    incarnations: Mapping[str, int] = field(default_factory=dict)
    next_replica_id: int = 1
    verified: Verified | None = None
    ramp: RampState = field(default_factory=RampState)
    figures: RampStatistics = field(default_factory=RampStatistics)
    source_silent_s: float = 0.0
    target_silent_s: float = 0.0
    soaking_since_us: int | None = None
    log: LogRecord | None = None
    successor: ShardRecord | None = None
    feed_prefix: str = ""
    """This cluster's feed topics; empty: no broker is configured."""


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """One transaction that compares the revisions of both records as they were read (G1).

    `shard=None`: the shard record stays as it is. `draws`: the replica id it takes from the
    counter, if any. `ramp`: the ramp's state once the transaction succeeded.
    """

    record: MigrationRecord
    shard: ShardRecord | None
    why: str
    draws: int | None = None
    ramp: RampState | None = None
    successor: ShardRecord | None = None
    """Copy-on-write: the successor's record to write, and compared."""
    created: ShardRecord | None = None
    log: LogRecord | None = None
    """The log's record with the next shard's number drawn."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Recompute `copy`'s chain up to `end` from its disk; ask `against` for its stored value."""

    copy: Member
    against: Member
    end: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after `seconds`, or when woken."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """An end state: all is done."""


Effect = RecordWrite | Verify | Wait | Finished
