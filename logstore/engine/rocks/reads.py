"""The reads of RocksEngine. They take no lock; `_consistently` handles races with truncations."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from logstore.base.errors import CorruptStorageError, LogstoreError
from logstore.base.limits import READ_BATCHES_MAX
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.key_hash import hash_key
from logstore.engine.port import ProducerEntry
from logstore.engine.rocks import reader
from logstore.engine.rocks.layout import count_key, unpack_u64
from logstore.engine.rocks.recent import RecentBatches
from logstore.engine.rocks.state import CHAIN_UNKNOWN, ReplicaState
from logstore.engine.rocks.store import COUNTS, DATA, Store
from logstore.engine.rules import (
    check_not_below_base,
    count_in,
    may_hold,
    relink,
    unknown_replica,
    up_to_bytes,
)

T = TypeVar("T")


def until_damage(batches: Iterator[StoredBatch]) -> Iterator[StoredBatch]:
    """The whole batches before the first damage; the read that starts at the damage raises it.

    With one replica the records before it can be read."""
    some = False
    try:
        for batch in batches:
            yield batch
            some = True
    except CorruptStorageError:
        if not some:
            raise


class Reads:
    """See `logstore.engine.port.Engine` for each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._replicas: dict[int, ReplicaState] = {}
        self._recent = RecentBatches()

    def end(self, replica_id: int) -> Position:
        return self._replica(replica_id).end

    def base(self, replica_id: int) -> Position:
        return self._replica(replica_id).meta.base

    def position_at(self, replica_id: int, offset: int) -> Position | None:
        replica = self._replica(replica_id)
        end = replica.end
        for known in (end, replica.meta.base):
            if offset == known.end:
                return known if known.chain != CHAIN_UNKNOWN else None
        if not replica.meta.base.end < offset < end.end:
            return None
        batch = reader.batch_holding(self._store, replica.who, replica_id, offset - 1)
        if batch is None or batch.end != offset:
            return None
        return Position(offset, batch.chain_after)

    def read(self, replica_id: int, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        replica = self._replica(replica_id)

        def attempt() -> list[StoredBatch]:
            check_not_below_base(replica.meta, start, "start")
            upto = min(stop, replica.end.end)
            recent = self._recent.read(replica_id, start, upto, max_bytes)
            return recent or up_to_bytes(
                until_damage(reader.batches(self._store, replica.who, replica_id, start, upto)),
                max_bytes,
                READ_BATCHES_MAX,
            )

        return self._consistently(replica, attempt)

    def read_key(
        self, replica_id: int, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        replica = self._replica(replica_id)
        return self._consistently(
            replica,
            lambda: up_to_bytes(self._holding(replica, key, start, stop), max_bytes),
        )

    def _holding(
        self, replica: ReplicaState, key: bytes, start: int, stop: int
    ) -> Iterator[StoredBatch]:
        start, stop = max(start, replica.meta.base.end), min(stop, replica.end.end)
        if replica.index is None:
            stored = reader.batches(self._store, replica.who, replica.replica_id, start, stop)
            return until_damage(b for b in stored if may_hold(b, key, start, stop))
        replica.index.advance(stop, stop - replica.meta.base.end, write_runs=False)
        offsets = replica.index.offsets(hash_key(key), start, stop)
        return reader.batches_holding(self._store, replica.who, replica.replica_id, offsets)

    def count_key(self, replica_id: int, key: bytes, stop: int) -> int:
        replica = self._replica(replica_id)

        def attempt() -> int:
            base = replica.meta.base.end
            check_not_below_base(replica.meta, stop, "stop")
            trimmed = self._store.get(COUNTS, count_key(replica_id, key))
            total = unpack_u64(trimmed) if trimmed else 0
            for batch in self._holding(replica, key, base, stop):
                total += count_in(batch, key, base, stop)
            return total

        return self._consistently(replica, attempt)

    def offset_at_time(self, replica_id: int, timestamp_us: int) -> int:
        replica = self._replica(replica_id)
        return self._consistently(
            replica,
            lambda: reader.offset_at_time(
                self._store,
                replica.who,
                replica_id,
                replica.meta.base.end,
                replica.end.end,
                timestamp_us,
            ),
        )

    def producers(self, replica_id: int) -> dict[int, tuple[ProducerEntry, ...]]:
        with self._lock:
            return self._replica(replica_id).producers.view()

    def bytes_stored(self, replica_id: int) -> int:
        return self._replica(replica_id).stored_bytes

    def verify_chain(self, replica_id: int, start: Position, stop: int) -> Position:
        replica = self._replica(replica_id)
        self._store.flush(DATA)  # data in a memtable proves nothing about the disk

        def attempt() -> Position:
            check_not_below_base(replica.meta, start.end, "start")
            upto = min(stop, replica.end.end)
            stored = reader.batches(self._store, replica.who, replica_id, start.end, upto)
            return relink(replica.who, start, upto, stored)

        return self._consistently(replica, attempt)

    def _consistently(self, replica: ReplicaState, attempt: Callable[[], T]) -> T:
        """The result of a read during which no trim, truncate or drop ran."""
        while True:
            before = replica.cuts
            error: LogstoreError | None = None
            try:
                result = attempt()
            except LogstoreError as e:
                error = e
            if before % 2 == 0 and replica.cuts == before:
                if isinstance(error, CorruptStorageError) and not replica.meta.damage:
                    self._store.contain(error.message)
                if error is not None:
                    raise error
                return result
            with self._lock:  # wait for the end of the truncation
                self._replica(replica.replica_id)

    def _replica(self, replica_id: int) -> ReplicaState:
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise unknown_replica(replica_id)
        return replica
