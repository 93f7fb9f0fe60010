"""RocksEngine: the Engine port on one RocksDB directory.

Threads. One lock, `_lock`, orders everything that changes a copy's state: `write` (held over the
disk's flush with FSYNC), `set_meta`, each step of a trim, `truncate`, `drop_replica`,
`retire_replica`. A second one, `_structure_lock`, is held around whole trims, truncates, creates,
drops, retirements and restorations, so that those do not meet; it is taken first. Reads take no
lock: RocksDB gives each a point in time, and a read that a trim or truncate raced with is done
again (`_consistently`). A read never goes past `ReplicaState.end`, which moves only after a write
succeeded. The key index has its own locks, taken last.
"""

import contextlib
import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from logstore.base.env import SystemClock
from logstore.base.errors import CorruptStorageError, OutOfRangeError, StorageError
from logstore.base.types import Durability, Position
from logstore.engine.port import ReplicaWrite
from logstore.engine.rocks import salvage, state, truncation
from logstore.engine.rocks.copies import CopyOperations
from logstore.engine.rocks.key_index import KeyIndex
from logstore.engine.rocks.layout import ANCHOR, data_key, data_value
from logstore.engine.rocks.snapshot import RocksSnapshot
from logstore.engine.rocks.state import ReplicaState
from logstore.engine.rocks.store import (
    BLOCK_CACHE_BYTES,
    DATA,
    WRITE_BUFFER_BYTES,
    Batch,
    Store,
)
from logstore.engine.rocks.upkeep import index_step
from logstore.engine.rules import check_next, check_not_below_base

RECLAIM_BYTES = WRITE_BUFFER_BYTES
"""Least trimmed bytes for a compaction."""

MARKS_FLUSH_S = 1.0
"""How far the marks on the disk may be behind, with `fsync`: one more fsync a group would halve
the groups a second."""


class RocksEngine(CopyOperations):
    """See `logstore.engine.port.Engine`. Make one with `open`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._closed = False
        self._since_checkpoint_bytes = 0
        self._trimmed_bytes = 0
        self._index_turn = 0
        self._clock = SystemClock()
        self._marks_flushed_s = float("-inf")
        self._snapshots: weakref.WeakSet[RocksSnapshot] = weakref.WeakSet()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        block_cache_bytes: int = BLOCK_CACHE_BYTES,
    ) -> "RocksEngine":
        """Open or create the directory; one with damaged files is rebuilt first (`salvage`).

        A torn tail of the WAL, which was never acked, is fine. A log that is shorter than it was
        known to be is marked `tail_lost`, as is every copy when the WAL was damaged; a copy with a
        hole is marked `damage`. Damaged files are kept aside in the directory.
        Raises DirectoryInUseError, CorruptStorageError (nothing can be read, or the database is
        gone), StorageFullError or StorageError, each naming the path.
        """
        directory = Path(path)
        sizes = write_buffer_bytes, block_cache_bytes
        engine = None
        if not salvage.is_asked_for(directory):
            try:
                engine = cls._open(directory, *sizes)
            except CorruptStorageError:
                if not salvage.is_asked_for(directory):
                    raise
            if engine is not None and engine.needs_rebuild:
                engine.close()  # damage was met while the copies were loaded
                engine = None
        engine = engine or cls._open(directory, *sizes)
        salvage.settle(directory, engine._lost_tail)
        return engine

    @classmethod
    def _open(cls, path: Path, *sizes: int) -> "RocksEngine":
        store = salvage.open_store(path, *sizes)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    # --- append

    def write(self, writes: Sequence[ReplicaWrite], durability: Durability) -> None:
        with self._lock:
            batch = self._store.batch()
            checkpoint = self._since_checkpoint_bytes >= state.CHECKPOINT_BYTES
            if checkpoint:
                self._put_checkpoints(batch)
            ends: dict[int, Position] = {}
            for part in writes:
                replica = self._replica(part.replica_id)
                self._put_part(batch, replica, part, ends)
            self._commit(batch, durability)
            if checkpoint:
                self._checkpoints_written()
            for part in writes:
                replica = self._replicas[part.replica_id]
                for stored in part.batches:
                    replica.add(stored)
                    self._recent.add(part.replica_id, stored)
                    self._since_checkpoint_bytes += len(stored.data)
                if part.high_watermark is not None:
                    replica.meta = replace(replica.meta, high_watermark=part.high_watermark)
                if part.feed_cursor is not None:
                    replica.meta = replace(replica.meta, feed_cursor=part.feed_cursor)
            for replica_id, end in ends.items():
                self._replicas[replica_id].end = end
                self._marks.set_end(replica_id, end.end)
            if durability is Durability.FSYNC:
                self._flush_marks()

    def _put_part(
        self, batch: Batch, replica: ReplicaState, part: ReplicaWrite, ends: dict[int, Position]
    ) -> None:
        replica_id = part.replica_id
        if part.batches:
            end = ends.get(replica_id, replica.end)
            ends[replica_id] = check_next(replica.who, end, part.batches)
            time_max_us = replica.time_max_us
            for stored in part.batches:
                time_max_us = max(time_max_us, stored.time_max_us)
                batch.put(
                    DATA,
                    data_key(replica_id, stored.base_offset),
                    data_value(stored, time_max_us),
                )
        if part.high_watermark is not None:
            state.put_high_watermark(batch, replica_id, part.high_watermark)
        if part.feed_cursor is not None:
            state.put_feed_cursor(batch, replica_id, part.feed_cursor)

    def _flush_marks(self) -> None:
        """Sync the marks to the disk, at most once in MARKS_FLUSH_S: they protect against files
        that rot, and the log itself is on the disk already."""
        now_s = self._clock.monotonic_s()
        if now_s - self._marks_flushed_s >= MARKS_FLUSH_S:
            self._marks_flushed_s = now_s
            with contextlib.suppress(StorageError):  # the write itself is done
                self._marks.flush()

    def _put_checkpoints(self, batch: Batch) -> None:
        for r in self._replicas.values():
            if r.meta.damage:
                continue  # the state of the disk is unknown
            state.put_checkpoint(batch, r.replica_id, r.end.end, r.stored_bytes, r.producers)

    def _checkpoints_written(self) -> None:
        for replica in self._replicas.values():
            replica.producers.dirty.clear()
        self._since_checkpoint_bytes = 0

    # --- snapshot and cut

    def snapshot(self, replica_id: int, stop: int) -> RocksSnapshot:
        with self._lock:
            replica = self._replica(replica_id)
            check_not_below_base(replica.meta, stop, "stop")
            snapshot = RocksSnapshot(self._store, replica.meta, replica.end)
            self._snapshots.add(snapshot)
        snapshot.load(stop)
        return snapshot

    def truncate(
        self, replica_id: int, offset: int, durability: Durability = Durability.OS
    ) -> None:
        with self._structure_lock, self._lock:
            replica = self._replica(replica_id)
            if offset == replica.end.end:
                return
            if offset > replica.end.end:
                raise OutOfRangeError(
                    f"{replica.who}: offset is {offset}, the log ends at {replica.end.end}"
                )
            end = replica.end.end
            self._marks.set_end(replica_id, offset)
            try:
                self._marks.flush()  # before the log is shortened: a log below its mark is a loss
                self._cut(
                    replica, lambda b: truncation.put_truncate(b, self._store, replica, offset)
                )
            except BaseException:
                self._marks.set_end(replica_id, end)
                raise
        if durability is Durability.FSYNC:
            self._sync()

    def trim(self, replica_id: int, offset: int) -> Position:
        with self._structure_lock:
            replica = self._replica(replica_id)
            before = replica.meta.base.end
            anchor = state.load_producers(self._store, replica_id, ANCHOR)
            read = partial(truncation.read_trim_step, self._store, replica, offset, anchor)
            while (step := read()) is not None:
                put = partial(truncation.put_trim, replica=replica, step=step, anchor=anchor)
                with self._lock:
                    self._cut(replica, put)
                self._trimmed_bytes += step.stored_bytes
            base = replica.meta.base
            if base.end > before:
                self._delete_below_base(replica.meta)
                with self._lock:
                    self._marks.put(replica.meta, replica.index is not None, replica.end.end)
        if self._trimmed_bytes >= RECLAIM_BYTES:
            self._trimmed_bytes = 0
            self._reclaimer.reclaim(data_key(replica_id, before), data_key(replica_id, base.end))
        return base

    def _cut(self, replica: ReplicaState, put: Callable[[Batch], Callable[[], None]]) -> None:
        """One atomic change of a log's extent, while no index and no read relies on it."""
        with replica.index.paused() if replica.index else contextlib.nullcontext():
            replica.cuts += 1
            try:
                batch = self._store.batch()
                apply = put(batch)
                self._commit(batch, Durability.OS)
                apply()
                self._recent.forget(replica.replica_id)
            finally:
                replica.cuts += 1

    # --- key index

    def index_backlog(self, replica_id: int) -> int:
        replica = self._replica(replica_id)
        return 0 if replica.index is None else max(replica.end.end - replica.index.end, 0)

    def index_step(self, max_records: int) -> int:
        indexed = [
            (r.end.end, r.index)
            for r in list(self._replicas.values())
            if r.index is not None and not r.meta.damage
        ]
        self._index_turn += 1
        return index_step(indexed, max_records, self._index_turn, self._index_damaged)

    def _index_damaged(self, index: KeyIndex, error: CorruptStorageError) -> None:
        """A copy whose log or index cannot be read is left out; the others go on."""
        self._store.contain(error.message)
        with self._lock:
            for replica in self._replicas.values():
                if replica.index is index:
                    known = replica.meta.missing_from
                    missing_from = error.offset if known is None else known
                    replica.meta = replace(
                        replica.meta, damage=error.message, missing_from=missing_from
                    )

    # --- upkeep

    @property
    def needs_rebuild(self) -> bool:
        """Contain damaged files: compactions stop until the next open rebuilds."""
        return self._store.contained

    def close(self) -> None:
        self._reclaimer.close()
        with self._structure_lock, self._lock:
            if self._closed:
                return
            self._closed = True
            if self._broken is None:
                with contextlib.suppress(StorageError):  # a full disk: the next open replays more
                    batch = self._store.batch()
                    self._put_checkpoints(batch)
                    self._commit(batch, Durability.FSYNC)
            for snapshot in list(self._snapshots):
                snapshot.close()
            if any(r.meta.damage for r in self._replicas.values()):
                gc.collect()  # frames of errors may hold a cursor, and so the database open
            self._replicas.clear()
            self._store.close()
            with contextlib.suppress(StorageError):
                self._marks.flush()
            self._marks.close()
