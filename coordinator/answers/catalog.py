"""Answers about logs, copies, instances and drains."""

from msgspec import UNSET, UnsetType

from coordinator.answers.base import Answer
from logstore.meta.records import CapacityRecord
from profiler.types import Resource


class DeletedLog(Answer, frozen=True, kw_only=True):
    """The size of a deletion; None: an instance does not answer, so the size is unknown."""

    log: str
    shards: int
    copies: int
    keep_s: float
    """How long the log's copies can be brought back; 0: not at all."""
    records: int | None
    size_bytes: int | None
    """Bytes of all copies together."""
    keep_until_us: int
    """Microseconds since 1970 UTC."""


class ShardCount(Answer, frozen=True, kw_only=True):
    """The records of one shard."""

    shard: str
    instance: str
    """Of the primary, which reports them."""
    records: int | None
    """What it stores and has not trimmed, a few that are not acked yet included; None: it does
    not answer, or has no copy yet."""
    cause: str
    """Why there is no number; else empty."""


class LogCount(Answer, frozen=True, kw_only=True):
    """The records of a log's shards, in key order. `records`: the sum of those that are known."""

    log: str
    records: int
    whole: bool
    """Every primary answered: `records` is of the whole log."""
    shards: tuple[ShardCount, ...]


class RecoveryNote(Answer, frozen=True, kw_only=True):
    """One sentence about the result. `kind`: `note`, or the kind of warning."""

    kind: str
    subject: str
    text: str


class RestoredLog(Answer, frozen=True, kw_only=True):
    """A log that is brought back from its kept copies."""

    log: str
    shards: int
    copies: int
    records: int
    told: tuple[RecoveryNote, ...]


class CopyRow(Answer, frozen=True, kw_only=True):
    """A copy of a shard on an instance.

    `state`: member, orphan, retired, missing, or unknown where the instance does not answer; for
    the last two only `cause` is known.
    """

    instance: str
    replica_id: int
    shard: str
    state: str
    base: int | UnsetType = UNSET
    """The first offset that it holds."""
    end: int | UnsetType = UNSET
    """The offset after its last record."""
    size_bytes: int | UnsetType = UNSET
    cause: str
    cluster: str | UnsetType = UNSET
    """The id of the cluster that wrote it."""
    retired_us: int | UnsetType = UNSET
    """Microseconds since 1970 UTC; of a retired copy."""
    keep_until_us: int | UnsetType = UNSET


class RetiredInstance(Answer, frozen=True, kw_only=True):
    """A retired instance, with the number of its entries in the metadata."""

    instance: str
    learners: int
    tombstones: int


class CellRow(Answer, frozen=True, kw_only=True):
    """A cell and what its leader works on."""

    cell: str
    leader: str | None
    """Its address. None: it has no leader now, or the metadata is embedded and its one coordinator
    leads the one cell."""
    shards: int
    migrations: int
    """Unfinished moves of its shards."""
    reshapes: int
    """Unfinished splits and merges that it carries out."""
    log_wide: bool
    """It also creates and deletes logs, and merges shards of two cells."""


class InstanceRow(Answer, frozen=True, kw_only=True):
    """A registered instance (`logstore.meta.records.InstanceRecord`) and its present state."""

    instance: str
    address: str
    incarnation: int
    tier: str
    zone: str
    capacity: CapacityRecord
    started_us: int
    process: int
    alive: bool
    draining: bool
    load: float | None
    """The largest used share of its capacities, 1 is full; None: it has not reported."""
    bound_by: Resource | None
    """The resource that `load` is of."""
    failures_per_day: float
    """Learned from its unclean starts, silences, disk errors, failed writes and slow spells."""
    failures: dict[str, int]
    """Since the coordinator knows it, by kind."""


class DrainProgress(Answer, frozen=True, kw_only=True):
    """The progress of emptying an instance. `state`: draining, drained or cancelled."""

    instance: str
    state: str
    begun_us: int
    """Microseconds since 1970 UTC."""
    copies: int
    """Copies that it held when the drain began, or holds now if those are more."""
    left: int
    primaries: int
    followers: int
    learners: int
    elapsed_s: float
    eta_s: float | None
    """None: no copy has left yet, or none will."""
    dry_run: bool | UnsetType = UNSET
