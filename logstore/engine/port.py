"""The Engine port: a replica's interface to a disk. Adapters: `rocks`, and the `memory` twin.

All methods are synchronous and may block on the disk; the edge calls writes from a worker thread.
Offsets count records; ranges are half-open. Returned bytes are immutable and owned by the caller.
A stored batch is opaque here except for the envelope (`logstore.engine.batch`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from logstore.base.types import START, Durability, Position
from logstore.engine.batch import StoredBatch


@dataclass(frozen=True, slots=True)
class ReplicaMeta:
    """Durable facts of one copy, written with `open_replica` and `write`.

    `high_watermark` is what the disk knows (it may be behind the truth, never ahead of it).
    `base_*` describe the anchor: where this copy's data starts (trim offset) and the chain there.
    """

    replica_id: int
    shard: str
    base: Position = START
    high_watermark: int = 0
    snapshot_target: int | None = None
    """A learner's snapshot offset while it is being copied; None once it was reached."""
    damage: str = ""
    """Why this copy is not whole, as found at open: reads of the damaged part raise."""
    tail_lost: bool = False
    """The WAL was damaged: the stored records are whole, but acked ones may be missing at the
    end."""
    feed_cursor: int | None = None
    """A learner's place in its feed's topic at its last write; only a start (F3)."""
    known_end: int | None = None
    """Where the log is known to have ended, when the disk returned less of it at open. With
    `damage` the log still ends there, and reads of the missing part raise; with `tail_lost` it ends
    where the disk says."""
    missing_from: int | None = None
    """With `damage`: the first offset that cannot be read, as found at open."""


@dataclass(frozen=True, slots=True)
class ReplicaWrite:
    """One replica's part of a group: consecutive batches and/or a new high watermark."""

    replica_id: int
    batches: Sequence[StoredBatch] = ()
    high_watermark: int | None = None
    feed_cursor: int | None = None
    """Written with the batches that were read up to it, or not at all."""


@dataclass(frozen=True, slots=True)
class ProducerEntry:
    """An append that a replica remembers for dedupe: sequence -> first offset and count."""

    sequence: int
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """The state that a copy needs to start at `base`, as trimmed batches left it.

    `producers`: last appends per producer below the base. `key_counts`: records per key below it.
    """

    base: Position = START
    producers: Mapping[int, tuple[ProducerEntry, ...]] = field(default_factory=dict)
    key_counts: Mapping[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """The records that a copy's owner last acted on, kept with the copy to rebuild lost metadata.

    `shard_record`, `log_record`: as `logstore.meta.records.encode` makes them; opaque here.
    `generation`, `revision`: the metadata's, when the shard's record was read.
    """

    cluster: str
    generation: str
    revision: int
    shard_record: bytes
    log_record: bytes


@dataclass(frozen=True, slots=True)
class Retired:
    """Why and when a copy was retired. `revision`: of the tombstone that ordered it."""

    cause: str
    revision: int
    retired_us: int
    keep_until_us: int


@dataclass(frozen=True, slots=True)
class RetiredCopy:
    """A retired copy: its bytes are kept, it is not served, and it is deleted when its time is
    over."""

    meta: ReplicaMeta
    retired: Retired
    end: Position
    bytes_stored: int


class Snapshot(Protocol):
    """A point in time of one replica; later writes and trims do not show. Close it."""

    anchor: Anchor
    end: Position

    def batches(self, start: int) -> Iterator[StoredBatch]:
        """Batches from the one that holds `start`, up to `end`."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """One instance's disk. Errors: `StorageFullError`, `CorruptStorageError`, `StorageError`."""

    def replicas(self) -> list[ReplicaMeta]:
        """Every copy on this disk."""
        ...

    def create_replica(
        self, meta: ReplicaMeta, anchor: Anchor | None = None, key_index: bool = True
    ) -> None:
        """Durably create an empty copy that starts at the anchor; an existing one raises."""
        ...

    def set_meta(self, meta: ReplicaMeta) -> None:
        """Durably replace the facts of a copy; its base stays (only `trim` moves it)."""
        ...

    def drop_replica(self, replica_id: int) -> None:
        """Delete the copy, retired or not, with its index, and free the space; unknown ids are
        ignored. It cannot be undone."""
        ...

    def set_facts(self, replica_id: int, facts: CopyFacts) -> None:
        """Keep the records that the copy's owner acted on; written without a sync of its own, in
        the order of all writes."""
        ...

    def facts(self, replica_id: int) -> CopyFacts | None:
        """The last facts that `set_facts` kept of a copy, retired or not; None: none."""
        ...

    def retire_replica(self, replica_id: int, retired: Retired) -> None:
        """Durably take the copy out of `replicas` and into `retired`, bytes and facts kept.

        Every other call on it raises as for an unknown id. A retired or unknown id is ignored.
        """
        ...

    def retired(self) -> list[RetiredCopy]:
        """Every retired copy on this disk."""
        ...

    def restore_replica(self, replica_id: int) -> None:
        """Durably bring a retired copy back into `replicas`; `StorageError` for another id."""
        ...

    def write(self, writes: Sequence[ReplicaWrite], durability: Durability) -> None:
        """One atomic WAL write for all parts; with FSYNC it is on the disk at return.

        Checks that each replica's batches are consecutive from its end and that chains link;
        a violation raises `DivergedError` and writes nothing.
        """
        ...

    def end(self, replica_id: int) -> Position:
        """Log end and chain there (base when empty)."""
        ...

    def base(self, replica_id: int) -> Position:
        """Where the copy begins: lower offsets were trimmed, or never copied."""
        ...

    def position_at(self, replica_id: int, offset: int) -> Position | None:
        """The chain at `offset` if a batch ends exactly there (or it is the base), else None."""
        ...

    def read(self, replica_id: int, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        """Consecutive batches that overlap [start, stop), at least one if any, ~max_bytes.

        It may end sooner: read on from the last one's end until the answer is empty. Below the base
        raises `OutOfRangeError`; the checksum of each is verified.
        """
        ...

    def read_key(
        self, replica_id: int, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        """The batches in [start, stop) that may hold `key`, in offset order (index + tail).

        Trimmed ones are left out. With `max_bytes`: at least one if any, ~max_bytes; read on
        from the last one's end until the answer is empty.
        """
        ...

    def count_key(self, replica_id: int, key: bytes, stop: int) -> int:
        """How many records `key` has below `stop`, trimmed ones included (the key's version).

        `stop` below the base raises `OutOfRangeError`.
        """
        ...

    def offset_at_time(self, replica_id: int, timestamp_us: int) -> int:
        """The first offset of the first batch whose largest timestamp is >= `timestamp_us`."""
        ...

    def producers(self, replica_id: int) -> dict[int, tuple[ProducerEntry, ...]]:
        """Last PRODUCER_WINDOW appends of every producer, ascending by sequence."""
        ...

    def truncate(
        self, replica_id: int, offset: int, durability: Durability = Durability.OS
    ) -> None:
        """Remove everything from `offset` (a batch end) on; index, producers follow (P5).

        With `os` a power loss may bring it back, as long as nothing was synced since.
        """
        ...

    def trim(self, replica_id: int, offset: int) -> Position:
        """Delete everything below the last batch end <= `offset`; returns the new base (F4)."""
        ...

    def snapshot(self, replica_id: int, stop: int) -> Snapshot:
        """A point in time of the copy up to the last batch end <= `stop` (F1)."""
        ...

    def verify_chain(self, replica_id: int, start: Position, stop: int) -> Position:
        """Recompute every link from what the disk returns, from `start` to `stop` (F4).

        Returns the last batch end <= `stop` and the chain there.

        Raises `CorruptStorageError` naming the offsets of the first batch that does not hold.
        """
        ...

    def index_backlog(self, replica_id: int) -> int:
        """Records between the key index and the log end."""
        ...

    def index_step(self, max_records: int) -> int:
        """Index up to `max_records` of the waiting ones, over all replicas; returns how many.

        Upkeep of the index counts too: 0 means that all is done. One caller at a time.
        """
        ...

    def bytes_stored(self, replica_id: int) -> int:
        """Bytes of live batches of this copy."""
        ...

    def close(self) -> None:
        """Flush and close; the next open continues from here."""
        ...
