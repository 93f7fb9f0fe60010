"""The copies of a RocksEngine: created, dropped, retired and restored here.

A retired copy costs only disk space: its keys stay, one more key marks it, and its log, producers
and index are not in memory.
"""

import contextlib
import threading
from dataclasses import replace

from logstore.base.errors import AlreadyExistsError, CorruptStorageError, StorageError
from logstore.base.types import Durability
from logstore.engine.port import Anchor, CopyFacts, ReplicaMeta, Retired, RetiredCopy
from logstore.engine.producers import ProducerTable
from logstore.engine.rocks import reader, state, truncation
from logstore.engine.rocks.key_index import KeyIndex
from logstore.engine.rocks.layout import StoredRetired, replica_range
from logstore.engine.rocks.marks import ENDS, Marks
from logstore.engine.rocks.reads import Reads
from logstore.engine.rocks.state import ReplicaState, StoredCopy
from logstore.engine.rocks.store import Batch, Store
from logstore.engine.rocks.upkeep import Reclaimer
from logstore.engine.rules import name_of, not_retired


class CopyOperations(Reads):
    """See `logstore.engine.port.Engine` for each; the locks are described in `engine`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._structure_lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._broken: str | None = None
        self._retired: dict[int, RetiredCopy] = {}
        self._reclaimer = Reclaimer(store)
        self._lost_tail: list[str] = []
        """The copies that were found short at open."""
        self._marks = Marks(store.path)
        try:
            self._load_all()
        except BaseException:
            self._marks.close()
            raise

    def _load_all(self) -> None:
        found, marked = state.load_copies(self._store), set(self._marks.known)
        for stored in found:
            if stored.retired is None:
                self._load(stored)
            else:
                self._retired[stored.meta.replica_id] = _retired_copy(stored.meta, stored.retired)
                if stored.meta.replica_id not in self._marks.known:
                    self._marks.put(stored.meta, stored.key_index, stored.retired.end.end)
        gone = marked - {stored.meta.replica_id for stored in found}
        if gone:
            self._store.contain(f"{ENDS} names replicas {sorted(gone)}, the database does not")

    def _load(self, stored: StoredCopy) -> None:
        """Load a copy's state from the disk and serve it."""
        replica_id = stored.meta.replica_id
        known = self._marks.known.pop(replica_id, None)
        mark = known.end if known else 0
        try:
            if not stored.meta.damage:
                short = state.with_lost_tail(self._store, stored, mark)
                if short is not None:
                    stored = short
                    self._lost_tail.append(name_of(stored.meta))
            replica = state.load_replica(self._store, stored, self._make_index)
        except CorruptStorageError as e:  # the other copies of this disk are still served
            if not stored.meta.damage:
                self._store.contain(e.message)
            replica = state.load_damaged(self._store, stored, e.message, mark)
        self._replicas[replica_id] = replica
        self._marks.put(replica.meta, stored.key_index, replica.end.end)
        if replica.meta.base.end and not replica.meta.damage:
            self._delete_below_base(replica.meta)

    def replicas(self) -> list[ReplicaMeta]:
        return [r.meta for r in list(self._replicas.values())]

    def create_replica(
        self, meta: ReplicaMeta, anchor: Anchor | None = None, key_index: bool = True
    ) -> None:
        anchor = anchor or Anchor(meta.base)
        meta = replace(meta, base=anchor.base)
        with self._structure_lock:
            with self._lock:
                if meta.replica_id in self._replicas or meta.replica_id in self._retired:
                    raise AlreadyExistsError(f"{name_of(meta)} is on this disk already")
                batch = self._store.batch()
                state.put_new(batch, meta, anchor, key_index)
                self._put(batch)
            self._sync()  # others write meanwhile
            with self._lock:
                self._replicas[meta.replica_id] = ReplicaState(
                    meta=meta,
                    end=meta.base,
                    time_max_us=reader.TIME_NONE,
                    stored_bytes=0,
                    producers=ProducerTable(anchor.producers),
                    index=self._make_index(meta) if key_index else None,
                    who=name_of(meta),
                )
                self._marks.put(meta, key_index, meta.base.end)

    def set_meta(self, meta: ReplicaMeta) -> None:
        with self._lock:
            replica = self._replica(meta.replica_id)
            meta = replace(meta, base=replica.meta.base)
            if not (meta.damage or meta.tail_lost):
                meta = replace(meta, known_end=None, missing_from=None)
            batch = self._store.batch()
            state.put_meta(batch, meta, replica.index is not None)
            self._put(batch)
            replica.meta = meta
            replica.who = name_of(meta)
        self._sync()  # others write meanwhile

    def drop_replica(self, replica_id: int) -> None:
        with self._structure_lock, self._lock:
            replica = self._replicas.get(replica_id)
            if replica is None and replica_id not in self._retired:
                return
            batch = self._store.batch()
            state.delete_all(batch, replica_id)
            # On the disk before the copy is deleted: a mark without a copy is a loss.
            mark = self._marks.forget(replica_id)
            try:
                self._marks.flush()
                if replica is not None:
                    self._take_out(replica, batch)
                else:
                    self._commit(batch, Durability.OS)
                    del self._retired[replica_id]
            except BaseException:
                self._marks.put_back(replica_id, mark)
                raise
        self._reclaimer.reclaim(*replica_range(replica_id))

    # --- facts

    def set_facts(self, replica_id: int, facts: CopyFacts) -> None:
        with self._lock:
            self._replica(replica_id)
            batch = self._store.batch()
            state.put_facts(batch, replica_id, facts)
            self._put(batch)

    def facts(self, replica_id: int) -> CopyFacts | None:
        return state.load_facts(self._store, replica_id)

    # --- retired copies

    def retire_replica(self, replica_id: int, retired: Retired) -> None:
        with self._structure_lock:
            with self._lock:
                replica = self._replicas.get(replica_id)
                if replica is None:
                    return
                meta = replica.meta
                stored = StoredRetired(retired, replica.end, replica.stored_bytes)
                batch = self._store.batch()
                state.put_retired(batch, replica_id, stored)
                if not meta.damage:  # a damaged copy's sums are not what the disk holds
                    state.put_checkpoint(
                        batch, replica_id, replica.end.end, replica.stored_bytes, replica.producers
                    )
                self._take_out(replica, batch)
                self._retired[replica_id] = _retired_copy(meta, stored)
            self._sync()  # others write meanwhile

    def retired(self) -> list[RetiredCopy]:
        return list(self._retired.values())

    def restore_replica(self, replica_id: int) -> None:
        with self._structure_lock:
            with self._lock:
                if replica_id not in self._retired:
                    raise not_retired(replica_id)
                batch = self._store.batch()
                state.delete_retired(batch, replica_id)
                self._put(batch)
            self._sync()  # others write meanwhile
            with self._lock:
                self._load(state.load_copy(self._store, replica_id))
                del self._retired[replica_id]

    def _take_out(self, replica: ReplicaState, batch: Batch) -> None:
        """Write `batch`, then serve the copy no longer. Under the engine's locks."""
        replica_id = replica.replica_id
        with replica.index.paused() if replica.index else contextlib.nullcontext():
            replica.cuts += 1  # it stays odd: a concurrent read finds no copy
            try:
                self._commit(batch, Durability.OS)
            except BaseException:
                replica.cuts += 1
                raise
            del self._replicas[replica_id]
            self._recent.forget(replica_id)
            if replica.index:
                replica.index.close()

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
        """Sync earlier writes to the disk.

        After a failed fsync the state of the disk is unknown, and a second one would succeed
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

    def _delete_below_base(self, meta: ReplicaMeta) -> None:
        batch = self._store.batch()
        truncation.put_delete_below_base(batch, meta)
        with self._lock:
            self._commit(batch, Durability.OS)


def _retired_copy(meta: ReplicaMeta, stored: StoredRetired) -> RetiredCopy:
    return RetiredCopy(meta, stored.retired, stored.end, stored.bytes_stored)
