"""A point in time of one copy, consistent under writes and trims, and cheap to take.

Held by RocksDB iterators, each of which sees the database as it was when it was made: the Snapshot
of rocksdict 0.3.29 uses its time in gets only, its iterators show later writes. An
iterator keeps the memtables and files of its time, so a snapshot should not outlive its use.
"""

import threading
from collections.abc import Iterator

from logstore.base.errors import StorageError
from logstore.base.limits import READ_BATCHES_MAX, SNAPSHOT_CHUNK_BYTES
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor, ReplicaMeta
from logstore.engine.rocks import reader
from logstore.engine.rocks.layout import replica_range
from logstore.engine.rocks.state import load_anchor
from logstore.engine.rocks.store import COUNTS, DATA, PRODUCERS, Cursor, Store
from logstore.engine.rules import check_not_below_base, name_of, up_to_bytes


class RocksSnapshot:
    """See `logstore.engine.port.Snapshot`. Any thread may use it, one at a time inside."""

    anchor: Anchor
    end: Position

    def __init__(self, store: Store, meta: ReplicaMeta, end: Position) -> None:
        """The caller holds the engine's lock: the three families are seen at one time."""
        self._store = store
        self._meta = meta
        self._lock = threading.Lock()
        span = replica_range(meta.replica_id)
        self._cursors: dict[str, Cursor] = {
            family: store.cursor(family, *span) for family in (DATA, PRODUCERS, COUNTS)
        }
        self.end = end

    def load(self, stop: int) -> None:
        """Find the end and read the anchor; needs no lock."""
        with self._lock:
            if stop < self.end.end:
                holding = next(self._stored(stop))
                self.end = Position(holding.base_offset, holding.chain_before)
            self.anchor = load_anchor(
                self._store, self._meta, self._cursors[PRODUCERS], self._cursors[COUNTS]
            )

    def batches(self, start: int) -> Iterator[StoredBatch]:
        """Batches from the one that holds `start`, up to `end`."""
        check_not_below_base(self._meta, start, "start")
        while start < self.end.end:
            with self._lock:
                page = up_to_bytes(self._stored(start), SNAPSHOT_CHUNK_BYTES, READ_BATCHES_MAX)
            start = page[-1].end
            yield from page

    def close(self) -> None:
        with self._lock:
            self._cursors.clear()

    def _stored(self, start: int) -> Iterator[StoredBatch]:
        cursor = self._cursors.get(DATA)
        who = name_of(self._meta)
        if cursor is None:
            raise StorageError(f"{who}: the snapshot is closed")
        return reader.batches(
            self._store, who, self._meta.replica_id, start, self.end.end, source=cursor
        )
