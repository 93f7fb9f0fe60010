"""RocksEngine: the Engine port on one RocksDB directory.

Threads. One lock, `_lock`, orders everything that changes a copy's state: `write` (held over the
disk's flush with FSYNC), `set_meta`, each step of a trim, `truncate`, `drop_replica`. A second one,
`_structure_lock`, is held around whole trims, truncates, creates and drops, so that those do not
meet; it is taken first. Reads take no lock: RocksDB gives each a point in time, and a read that a
trim or truncate raced with is done again (`_consistently`). A read never goes past `Replica.end`,
which moves only after a write succeeded. The key index has its own locks, taken last.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from logstore.base.errors import (
    AlreadyExistsError,
    CorruptStorageError,
    OutOfRangeError,
    StorageError,
)
from logstore.base.types import Durability, Position
from logstore.engine.port import Anchor, ReplicaMeta, ReplicaWrite
from logstore.engine.producers import ProducerTable
from logstore.engine.rocks import cut, reader, salvage, state
from logstore.engine.rocks.key_index import KeyIndex
from logstore.engine.rocks.layout import (
    ANCHOR,
    data_key,
    data_value,
    replica_range,
)
from logstore.engine.rocks.reads import Reads
from logstore.engine.rocks.snapshot import RocksSnapshot
from logstore.engine.rocks.state import Replica
from logstore.engine.rocks.store import (
    BLOCK_CACHE_BYTES,
    DATA,
    WRITE_BUFFER_BYTES,
    Batch,
    Store,
)
from logstore.engine.rocks.upkeep import Reclaimer, index_step
from logstore.engine.rules import (
    check_next,
    check_not_below_base,
    name_of,
)

RECLAIM_BYTES = WRITE_BUFFER_BYTES
"""Trimmed bytes that are worth a compaction."""


class RocksEngine(Reads):
    """See `logstore.engine.port.Engine`. Make one with `open`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._structure_lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._broken: str | None = None
        self._closed = False
        self._since_checkpoint_bytes = 0
        self._trimmed_bytes = 0
        self._index_turn = 0
        self._snapshots: weakref.WeakSet[RocksSnapshot] = weakref.WeakSet()
        self._reclaimer = Reclaimer(store)
        for stored in state.load_metas(store):
            try:
                replica = state.load_replica(store, stored, self._make_index)
            except CorruptStorageError as e:  # the other copies of this disk are served on
                if not stored.meta.damage:
                    store.contain(e.message)
                replica = state.load_damaged(store, stored, e.message)
            self._replicas[replica.replica_id] = replica
            if replica.meta.base.end and not replica.meta.damage:
                self._delete_below_base(replica.meta)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        block_cache_bytes: int = BLOCK_CACHE_BYTES,
    ) -> "RocksEngine":
        """Open or create the directory; one with damaged files is rebuilt first (`salvage`).

        A torn tail of the WAL, which was never acked, is fine. A damaged WAL marks every copy
        `tail_lost`; a copy with a hole is marked `damage`.
        Raises DirectoryInUseError, CorruptStorageError (nothing can be read), StorageFullError or
        StorageError, each naming the path.
        """
        store = salvage.open_store(Path(path), write_buffer_bytes, block_cache_bytes)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    # --- copies

    def replicas(self) -> list[ReplicaMeta]:
        return [r.meta for r in list(self._replicas.values())]

    def create_replica(
        self, meta: ReplicaMeta, anchor: Anchor | None = None, key_index: bool = True
    ) -> None:
        anchor = anchor or Anchor(meta.base)
        meta = replace(meta, base=anchor.base)
        with self._structure_lock:
            with self._lock:
                if meta.replica_id in self._replicas:
                    raise AlreadyExistsError(f"{name_of(meta)} is on this disk already")
                batch = self._store.batch()
                state.put_new(batch, meta, anchor, key_index)
                self._put(batch)
            self._sync()  # others write meanwhile
            with self._lock:
                self._replicas[meta.replica_id] = Replica(
                    meta=meta,
                    end=meta.base,
                    time_max_us=reader.TIME_NONE,
                    stored_bytes=0,
                    producers=ProducerTable(anchor.producers),
                    index=self._make_index(meta) if key_index else None,
                    who=name_of(meta),
                )

    def set_meta(self, meta: ReplicaMeta) -> None:
        with self._lock:
            replica = self._replica(meta.replica_id)
            meta = replace(meta, base=replica.meta.base)
            batch = self._store.batch()
            state.put_meta(batch, meta, replica.index is not None)
            self._put(batch)
            replica.meta = meta
            replica.who = name_of(meta)
        self._sync()  # others write meanwhile

    def drop_replica(self, replica_id: int) -> None:
        with self._structure_lock, self._lock:
            replica = self._replicas.get(replica_id)
            if replica is None:
                return
            with replica.index.paused() if replica.index else contextlib.nullcontext():
                batch = self._store.batch()
                state.delete_all(batch, replica_id)
                replica.cuts += 1  # it stays odd: a read that runs beside this finds no copy
                try:
                    self._commit(batch, Durability.OS)
                except BaseException:
                    replica.cuts += 1
                    raise
                del self._replicas[replica_id]
                self._recent.forget(replica_id)
                if replica.index:
                    replica.index.close()
        self._reclaimer.reclaim(*replica_range(replica_id))

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

    def _put_part(
        self, batch: Batch, replica: Replica, part: ReplicaWrite, ends: dict[int, Position]
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

    def _commit(self, batch: Batch, durability: Durability) -> None:
        """Write, and with FSYNC put it on the disk."""
        self._put(batch)
        if durability is Durability.FSYNC:
            self._sync()

    def _put(self, batch: Batch) -> None:
        if self._broken is not None:
            raise StorageError(self._broken)
        self._store.write(batch)

    def _sync(self) -> None:
        """Put on the disk what was written.

        After a failed fsync nobody knows what the disk holds, and a second one would say yes
        (the kernel forgets): no write is taken until the directory was opened again.
        """
        with self._sync_lock:
            if self._broken is not None:
                raise StorageError(self._broken)
            try:
                self._store.sync()
            except StorageError as e:
                self._broken = f"{self._store.path}: an fsync failed, restart: {e.message}"
                raise

    def _put_checkpoints(self, batch: Batch) -> None:
        for r in self._replicas.values():
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
            self._cut(replica, lambda b: cut.put_truncate(b, self._store, replica, offset))
        if durability is Durability.FSYNC:
            self._sync()

    def trim(self, replica_id: int, offset: int) -> Position:
        with self._structure_lock:
            replica = self._replica(replica_id)
            before = replica.meta.base.end
            anchor = state.load_producers(self._store, replica_id, ANCHOR)
            read = partial(cut.read_trim_step, self._store, replica, offset, anchor)
            while (step := read()) is not None:
                put = partial(cut.put_trim, replica=replica, step=step, anchor=anchor)
                with self._lock:
                    self._cut(replica, put)
                self._trimmed_bytes += step.stored_bytes
            base = replica.meta.base
            if base.end > before:
                self._delete_below_base(replica.meta)
        if self._trimmed_bytes >= RECLAIM_BYTES:
            self._trimmed_bytes = 0
            self._reclaimer.reclaim(data_key(replica_id, before), data_key(replica_id, base.end))
        return base

    def _delete_below_base(self, meta: ReplicaMeta) -> None:
        batch = self._store.batch()
        cut.put_delete_below_base(batch, meta)
        with self._lock:
            self._commit(batch, Durability.OS)

    def _cut(self, replica: Replica, put: Callable[[Batch], Callable[[], None]]) -> None:
        """One atomic change of a log's extent, while neither its index nor a read relies on it."""
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
        """A copy whose log or index cannot be read on is left out; the others go on."""
        self._store.contain(error.message)
        with self._lock:
            for replica in self._replicas.values():
                if replica.index is index:
                    replica.meta = replace(replica.meta, damage=error.message)

    def _make_index(self, meta: ReplicaMeta) -> KeyIndex:
        who, replica_id = name_of(meta), meta.replica_id
        return KeyIndex(
            self._store,
            replica_id,
            meta.base.end,
            lambda start, stop: (
                self._recent.read(replica_id, start, stop)
                or reader.batches(self._store, who, replica_id, start, stop)
            ),
        )

    # --- upkeep

    @property
    def needs_rebuild(self) -> bool:
        """Damaged files are contained: nothing is compacted until the next open rebuilds."""
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
            self._replicas.clear()
            self._store.close()
