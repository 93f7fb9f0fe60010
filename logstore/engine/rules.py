"""Rules that every Engine keeps, as plain functions over plain data."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import (
    CorruptBatchError,
    CorruptStorageError,
    DivergedError,
    OutOfRangeError,
    StorageError,
    UnknownShardError,
    UnreadableBatchError,
)
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch, link, parse
from logstore.engine.port import ReplicaMeta


def name_of(meta: ReplicaMeta) -> str:
    """How errors name a copy."""
    return f"shard {meta.shard!r} replica {meta.replica_id}"


def unknown_replica(replica_id: int) -> UnknownShardError:
    return UnknownShardError(f"replica_id is {replica_id}, which is not on this disk")


def not_retired(replica_id: int) -> StorageError:
    return StorageError(f"replica_id is {replica_id}, which is no retired copy of this disk")


def check_next(who: str, end: Position, batches: Iterable[StoredBatch]) -> Position:
    """The position after `batches`; raises DivergedError where one does not follow the last."""
    for batch in batches:
        if batch.count <= 0:
            raise DivergedError(f"{who}: batch at {batch.base_offset} has count {batch.count}")
        if batch.base_offset != end.end:
            raise DivergedError(
                f"{who}: batch at offset {batch.base_offset} does not follow the log end {end.end}"
            )
        if batch.chain_before != end.chain:
            raise DivergedError(
                f"{who}: batch at offset {batch.base_offset} has chain before "
                f"{batch.chain_before.hex()}, the log's is {end.chain.hex()}"
            )
        end = Position(batch.end, batch.chain_after)
    return end


def check_not_below_base(meta: ReplicaMeta, offset: int, field: str) -> None:
    if offset < meta.base.end:
        raise OutOfRangeError(
            f"{field} is {offset}, {name_of(meta)} was trimmed below {meta.base.end}"
        )


def reparse(who: str, stored: StoredBatch) -> None:
    """Check the envelope's checksum and structure; raises CorruptStorageError."""
    try:
        parse(stored.data, stored.chain_before, stored.chain_after)
    except CorruptBatchError as e:
        raise CorruptStorageError(
            f"{who}: batch at offset {stored.base_offset}: {e.message}"
        ) from e


def relink(who: str, start: Position, stop: int, stored: Iterable[StoredBatch]) -> Position:
    """The position after the batches that end at or below `stop`, from their bytes alone (F4).

    Raises CorruptStorageError naming offsets and bytes (from `start` on) of the first whose chain
    values do not hold.
    """
    at, byte = start, 0
    for batch in stored:
        if batch.end > stop:
            break
        first_byte, byte = byte, byte + len(batch.data)
        place = (
            f"{who}: batch at offsets {batch.base_offset}..{batch.end - 1} "
            f"(bytes {first_byte}..{byte - 1} from offset {start.end} on)"
        )
        if batch.base_offset != at.end:
            raise CorruptStorageError(f"{place} does not start at {at.end}")
        if batch.chain_before != at.chain:
            raise CorruptStorageError(
                f"{place}: chain before is {batch.chain_before.hex()}, recomputed {at.chain.hex()}"
            )
        after = link(at.chain, batch.data)
        if after != batch.chain_after:
            raise CorruptStorageError(
                f"{place}: chain after is {batch.chain_after.hex()}, recomputed {after.hex()}"
            )
        at = Position(batch.end, after)
    return at


def keys_of(batch: StoredBatch) -> pa.BinaryArray | None:
    """The key column; None: the batch cannot be read, so its keys are unknown.

    It counts for no key, on every copy alike, and a read of any key returns it, so that
    the read reports the batch that it could not search.
    """
    try:
        return batch.records().column("key")
    except UnreadableBatchError:
        return None


def up_to_bytes(
    stored: Iterable[StoredBatch], max_bytes: int | None, count_max: int | None = None
) -> list[StoredBatch]:
    """At least one if there is any, then until `max_bytes` or `count_max` batches are reached
    (None: all)."""
    taken: list[StoredBatch] = []
    size = 0
    for batch in stored:
        taken.append(batch)
        size += len(batch.data)
        if (max_bytes is not None and size >= max_bytes) or len(taken) == count_max:
            break
    return taken


def count_in(batch: StoredBatch, key: bytes, start: int, stop: int) -> int:
    """How many records of `batch` with offsets in [start, stop) have this key."""
    keys = keys_of(batch)
    return 0 if keys is None else _count(keys, batch, key, start, stop)


def may_hold(batch: StoredBatch, key: bytes, start: int, stop: int) -> bool:
    """Whether a read of this key in [start, stop) must look at `batch`."""
    keys = keys_of(batch)
    return keys is None or _count(keys, batch, key, start, stop) > 0


def _count(keys: pa.BinaryArray, batch: StoredBatch, key: bytes, start: int, stop: int) -> int:
    first = max(start - batch.base_offset, 0)
    keys = keys.slice(first, max(min(stop, batch.end) - batch.base_offset - first, 0))
    return int(pc.equal(keys, pa.scalar(key, pa.binary())).true_count)


def add_key_counts(counts: dict[bytes, int], batch: StoredBatch) -> None:
    """Add the records of `batch` to `counts` by key."""
    keys = keys_of(batch)
    for item in () if keys is None else pc.value_counts(keys).to_pylist():
        counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
