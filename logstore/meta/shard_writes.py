"""Writes of a shard's record: compared, and with a tombstone for each copy that leaves. Pure.

Only this module builds a `Put` or `Delete` of a shard's key, so that no code can take a copy out of
a record without a tombstone (P9, I13).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from logstore.meta.port import (
    TXN_BYTES_MAX,
    TXN_OPERATIONS_MAX,
    Compare,
    Delete,
    Operation,
    Put,
)
from logstore.meta.records import ShardRecord, encode, shard_key
from logstore.meta.tombstones import Order, tombstones

SPARE_OPERATIONS = 2
"""Compares and operations that a chunk leaves for its writer: the log's record and the fence."""
SPARE_BYTES = 16_384
"""Bytes of a transaction that a chunk leaves for them."""


@dataclass(frozen=True, slots=True)
class ShardWrite:
    """One shard's part of a transaction."""

    compare: Compare
    operations: tuple[Operation, ...]

    @property
    def size(self) -> int:
        """Bytes of keys and values, as the store counts them."""
        return sum(
            len(op.key.encode()) + (len(op.value) if isinstance(op, Put) else 0)
            for op in self.operations
        )


def new_shard(record: ShardRecord) -> ShardWrite:
    """Write a shard that must not exist yet."""
    key = shard_key(record.shard)
    return ShardWrite(Compare(key, 0), (Put(key, encode(record)),))


def change_shard(
    before: ShardRecord, revision: int, after: ShardRecord, order: Order
) -> ShardWrite:
    """Replace `before`, read at `revision`, by `after`."""
    key = shard_key(before.shard)
    left = tombstones(before, after, revision, order)
    return ShardWrite(Compare(key, revision), (Put(key, encode(after)), *left))


def keep_copies(before: ShardRecord, revision: int, after: ShardRecord) -> ShardWrite:
    """Replace `before` by a record that names the same copies, or more."""
    stay = {m.replica_id for m in after.members()}
    left = [m for m in before.members() if m.replica_id not in stay]
    if left:
        raise AssertionError(f"copies leave {before.shard} without a tombstone: {left}")
    key = shard_key(before.shard)
    return ShardWrite(Compare(key, revision), (Put(key, encode(after)),))


def delete_shard(before: ShardRecord, revision: int, order: Order) -> ShardWrite:
    """Delete `before`, read at `revision`, with tombstones for all its copies."""
    key = shard_key(before.shard)
    left = tombstones(before, None, revision, order)
    return ShardWrite(Compare(key, revision), (Delete(key), *left))


def in_chunks(writes: Sequence[ShardWrite]) -> Iterator[list[ShardWrite]]:
    """The writes in their order, in parts that each fit one transaction with room to spare."""
    operations_max = TXN_OPERATIONS_MAX - SPARE_OPERATIONS
    chunk: list[ShardWrite] = []
    operations = size = 0
    for write in writes:
        full = operations + len(write.operations) > operations_max
        if chunk and (full or size + write.size > TXN_BYTES_MAX - SPARE_BYTES):
            yield chunk
            chunk, operations, size = [], 0, 0
        chunk.append(write)
        operations += len(write.operations)
        size += write.size
    if chunk:
        yield chunk


def compares_of(writes: Sequence[ShardWrite]) -> list[Compare]:
    return [write.compare for write in writes]


def operations_of(writes: Sequence[ShardWrite]) -> list[Operation]:
    return [operation for write in writes for operation in write.operations]
