"""Trim and truncate of one copy: the content of the one atomic write, and the state after it.

A trim folds the leaving batches into the anchor (producers, records per key) in bounded steps, each
a write of its own: a crash between two leaves a copy that is trimmed to the step's end, and an
open deletes the rest below a base.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from logstore.base.errors import OutOfRangeError
from logstore.base.types import Position
from logstore.engine.port import ReplicaMeta
from logstore.engine.producers import ProducerTable
from logstore.engine.rocks import reader
from logstore.engine.rocks.layout import (
    ANCHOR,
    CURRENT,
    count_key,
    data_key,
    pack_u64,
    producers_range,
    unpack_u64,
)
from logstore.engine.rocks.state import (
    ReplicaState,
    put_checkpoint,
    put_meta,
    put_producers,
    rebuild_producers,
)
from logstore.engine.rocks.store import COUNTS, DATA, PRODUCERS, Batch, Store
from logstore.engine.rules import add_key_counts, check_not_below_base, up_to_bytes

TRIM_STEP_BYTES = 2 * 1024 * 1024
"""Log that one step folds: its write, with a put per distinct key, keeps appends waiting ~20 ms."""


@dataclass(frozen=True, slots=True)
class TrimStep:
    """A prefix of the log, read and folded, ready to be deleted."""

    base: Position
    stored_bytes: int
    key_counts: list[tuple[bytes, int]]
    """Stored key and its new total."""


def read_trim_step(
    store: Store, replica: ReplicaState, offset: int, anchor: ProducerTable
) -> TrimStep | None:
    """Fold the next batches that end at or below `offset`, into `anchor` too; None: nothing left.

    Needs no lock but the one that keeps trims apart: only they change counts and anchor.
    """
    base = replica.meta.base
    stop = min(offset, replica.end.end)
    key_counts: dict[bytes, int] = {}
    size = 0
    stored = reader.batches(store, replica.who, replica.replica_id, base.end, stop)
    for batch in up_to_bytes(stored, TRIM_STEP_BYTES):
        if batch.end > stop:
            break
        add_key_counts(key_counts, batch)
        anchor.add(batch)
        size += len(batch.data)
        base = Position(batch.end, batch.chain_after)
    if not size:
        return None
    keys = [count_key(replica.replica_id, key) for key in key_counts]
    before = store.get_many(COUNTS, keys)
    totals = [
        (key, count + (unpack_u64(old) if old else 0))
        for key, count, old in zip(keys, key_counts.values(), before, strict=True)
    ]
    return TrimStep(base, size, totals)


def put_trim(
    batch: Batch, replica: ReplicaState, step: TrimStep, anchor: ProducerTable
) -> Callable[[], None]:
    """Add the step to `batch`; call the result once that was written. Under the engine's lock.

    The trimmed batches themselves are deleted after the last step: one tombstone, not hundreds.
    """
    replica_id = replica.replica_id
    meta = replace(replica.meta, base=step.base)
    for key, total in step.key_counts:
        batch.put(COUNTS, key, pack_u64(total))
    put_producers(batch, replica_id, ANCHOR, anchor)
    put_meta(batch, meta, replica.index is not None)
    left = replica.stored_bytes - step.stored_bytes
    put_checkpoint(batch, replica_id, replica.end.end, left, replica.producers)
    index_apply = replica.index.trim(batch, step.base.end) if replica.index else None

    def apply() -> None:
        anchor.dirty.clear()
        replica.meta = meta
        replica.stored_bytes = left
        replica.producers.dirty.clear()
        if index_apply:
            index_apply()

    return apply


def put_delete_below_base(batch: Batch, meta: ReplicaMeta) -> None:
    replica_id = meta.replica_id
    batch.delete_range(DATA, data_key(replica_id, 0), data_key(replica_id, meta.base.end))


def put_truncate(
    batch: Batch, store: Store, replica: ReplicaState, offset: int
) -> Callable[[], None]:
    """Add the truncation at `offset` to `batch`; call the result once written. Under the engine's
    lock."""
    replica_id = replica.replica_id
    end, time_max_us = _end_at(store, replica, offset)
    removed = sum(
        len(b.data) for b in reader.batches(store, replica.who, replica_id, offset, replica.end.end)
    )
    producers = replica.producers.clone()
    if not producers.truncate(offset):
        producers = rebuild_producers(store, replica.meta, offset)
        batch.delete_range(PRODUCERS, *producers_range(replica_id, CURRENT))
    meta = replace(replica.meta, high_watermark=min(replica.meta.high_watermark, offset))
    batch.delete_range(DATA, data_key(replica_id, offset), data_key(replica_id + 1, 0))
    put_meta(batch, meta, replica.index is not None)
    left = replica.stored_bytes - removed
    put_checkpoint(batch, replica_id, offset, left, producers)
    index_apply = replica.index.truncate(batch, offset) if replica.index else None

    def apply() -> None:
        producers.dirty.clear()
        replica.meta = meta
        replica.end = end
        replica.stored_bytes = left
        replica.time_max_us = time_max_us
        replica.producers = producers
        if index_apply:
            index_apply()

    return apply


def _end_at(store: Store, replica: ReplicaState, offset: int) -> tuple[Position, int]:
    """The position and largest time at the batch end `offset`; OutOfRangeError elsewhere."""
    check_not_below_base(replica.meta, offset, "offset")
    if offset == replica.meta.base.end:
        return replica.meta.base, reader.TIME_NONE
    last = reader.last(store, replica.who, replica.meta, offset)
    if last is None or last[0].end != offset:
        raise OutOfRangeError(f"{replica.who}: offset is {offset}, no batch ends there")
    return Position(offset, last[0].chain_after), last[1]
