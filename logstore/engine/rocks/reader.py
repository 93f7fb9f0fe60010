"""Reads of one copy's batches, from the database or a snapshot. Returned batches are verified."""

from collections.abc import Iterable, Iterator

from logstore.base.errors import CorruptStorageError
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.engine.rocks.layout import data_key, offset_of, open_batch, time_max_of
from logstore.engine.rocks.store import DATA, Cursor, Store

TIME_NONE = -(1 << 63)
"""The largest time of an empty log."""


def batches(
    store: Store,
    who: str,
    replica_id: int,
    start: int,
    stop: int,
    *,
    source: Cursor | None = None,
) -> Iterator[StoredBatch]:
    """Consecutive batches that overlap [start, stop), all of which must be there.

    `source` is a cursor over the copy to read by; by default a new one, which sees now.

    Raises CorruptStorageError where a batch is missing, damaged, or its chain does not continue.
    """
    if start >= stop:
        return
    at: Position | None = None
    try:
        for batch in _linked(store, who, replica_id, start, stop, source):
            yield batch
            at = Position(batch.end, batch.chain_after)
    except CorruptStorageError as e:
        raise at_offset(e, who, start if at is None else at.end) from e


def _linked(
    store: Store, who: str, replica_id: int, start: int, stop: int, source: Cursor | None
) -> Iterator[StoredBatch]:
    lower, upper = data_key(replica_id, 0), data_key(replica_id, stop)
    cursor = source or store.cursor(DATA, lower, upper)
    cursor.seek(data_key(replica_id, start))
    if not cursor.valid() or cursor.key() != data_key(replica_id, start):
        # Not at once: from a copy's first batch it would step back into the copy before it, which
        # may be damaged.
        cursor.seek_for_prev(data_key(replica_id, start))
    at: Position | None = None
    while cursor.valid() and (key := cursor.key()) < upper:
        batch = open_batch(who, key, cursor.value())
        if at is None:
            if batch.end <= start:
                break
        elif batch.base_offset > at.end:
            raise missing(who, at.end, batch.base_offset)
        elif (batch.base_offset, batch.chain_before) != (at.end, at.chain):
            raise CorruptStorageError(
                f"{who}: batch at offset {batch.base_offset} does not continue the one that ends "
                f"at {at.end}"
            )
        yield batch
        at = Position(batch.end, batch.chain_after)
        cursor.next()
    if at is None:
        cursor.seek(data_key(replica_id, start))
        raise missing(who, start, offset_of(cursor.key()) if cursor.valid() else stop)
    if at.end < stop:
        raise missing(who, at.end, stop)


def at_offset(error: CorruptStorageError, who: str, offset: int) -> CorruptStorageError:
    """The error with the offset that could not be read; RocksDB's own name files only."""
    if error.offset is not None:
        return error
    named = (
        error
        if who in error.message
        else CorruptStorageError(f"{who}: offset {offset} cannot be read: {error.message}")
    )
    named.offset = offset
    return named


def missing(who: str, start: int, stop: int) -> CorruptStorageError:
    """The error of a read that reaches missing offsets."""
    error = CorruptStorageError(f"{who}: offsets {start}..{stop - 1} are missing")
    error.offset = start
    return error


def batch_holding(store: Store, who: str, replica_id: int, offset: int) -> StoredBatch | None:
    """The batch with the record at `offset`, or None."""
    cursor = store.cursor(DATA, data_key(replica_id, 0), data_key(replica_id, offset + 1))
    cursor.seek_for_prev(data_key(replica_id, offset))
    if not cursor.valid():
        return None
    batch = open_batch(who, cursor.key(), cursor.value())
    return batch if batch.end > offset else None


def batches_holding(
    store: Store, who: str, replica_id: int, offsets: Iterable[int]
) -> Iterator[StoredBatch]:
    """The batches with the records at ascending `offsets`, each once, all of which must be there.

    Raises CorruptStorageError where one is missing or damaged.
    """
    cursor = store.cursor(DATA, data_key(replica_id, 0), data_key(replica_id + 1, 0))
    end = 0
    for offset in offsets:
        if offset < end:
            continue
        try:
            cursor.seek_for_prev(data_key(replica_id, offset))
            batch = open_batch(who, cursor.key(), cursor.value()) if cursor.valid() else None
        except CorruptStorageError as e:
            raise at_offset(e, who, offset) from e
        if batch is None or batch.end <= offset:
            raise missing(who, offset, offset + 1)
        end = batch.end
        yield batch


def last(
    store: Store, who: str, meta: ReplicaMeta, stop: int | None = None
) -> tuple[StoredBatch, int] | None:
    """The last batch (that starts before `stop`) and the largest time up to it; None if empty."""
    replica_id = meta.replica_id
    upper = data_key(replica_id + 1, 0) if stop is None else data_key(replica_id, stop)
    cursor = store.cursor(DATA, data_key(replica_id, meta.base.end), upper)
    cursor.seek_to_last()
    if not cursor.valid():
        return None
    value = cursor.value()
    return open_batch(who, cursor.key(), value), time_max_of(value)


def offset_at_time(
    store: Store, who: str, replica_id: int, base: int, end: int, timestamp_us: int
) -> int:
    """First offset of the first batch with a record at or after `timestamp_us`; `end` if none.

    Binary search over the largest time so far. Trimmed batches may have had later times than the
    remaining ones: then the search cannot separate the first batches, which are read one by one.
    """
    low, high = base, end  # the batch sought starts in [low, high)
    while low < high:
        middle = (low + high) // 2
        cursor = store.cursor(DATA, data_key(replica_id, base), data_key(replica_id, end))
        cursor.seek_for_prev(data_key(replica_id, middle))
        if not cursor.valid():
            raise missing(who, middle, middle + 1)
        value = cursor.value()
        if time_max_of(value) >= timestamp_us:
            high = offset_of(cursor.key())
        else:
            holding = open_batch(who, cursor.key(), value)
            if holding.end <= middle:
                raise missing(who, middle, middle + 1)
            low = holding.end
    for batch in batches(store, who, replica_id, low, end):
        if batch.time_max_us >= timestamp_us:
            return batch.base_offset
    return end
