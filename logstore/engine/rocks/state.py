"""An engine's state of each copy in memory, and how it is stored, loaded and checkpointed.

End, chain and largest time come from the last batch. Producers and stored bytes are sums over the
log: they are checkpointed each CHECKPOINT_BYTES of writes, at trim, truncate and close, atomically
with their offset; an open replays only the batches after it.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from logstore.base.errors import CorruptStorageError
from logstore.base.types import CHAIN_BYTES, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor, CopyFacts, ProducerEntry, ReplicaMeta
from logstore.engine.producers import ProducerTable
from logstore.engine.rocks import reader
from logstore.engine.rocks.key_index import KeyIndex
from logstore.engine.rocks.layout import (
    ANCHOR,
    CHECKPOINT,
    CURRENT,
    FACTS,
    FEED_CURSOR,
    HIGH_WATERMARK,
    META_KIND,
    REPLICA_ID_BYTES,
    RETIRED,
    RUNS,
    Checkpoint,
    StoredMeta,
    StoredRetired,
    count_key,
    decode_checkpoint,
    decode_facts,
    decode_meta,
    decode_retired,
    encode,
    meta_key,
    pack_entries,
    pack_u64,
    producer_key,
    producer_of,
    producers_range,
    replica_range,
    unpack_entries,
    unpack_u64,
)
from logstore.engine.rocks.store import (
    COUNTS,
    FAMILIES,
    INDEX,
    META,
    PRODUCERS,
    Batch,
    Cursor,
    Store,
)
from logstore.engine.rules import name_of

CHECKPOINT_BYTES = 64 * 1024 * 1024
"""Batches that an open has to replay at most, over all copies."""

CHAIN_UNKNOWN = b"\xff" * CHAIN_BYTES
"""The chain at the end of a log whose last batches are missing."""

MakeIndex = Callable[[ReplicaMeta], KeyIndex]


@dataclass(frozen=True, slots=True)
class StoredCopy:
    """A copy as the META family describes it."""

    meta: ReplicaMeta
    key_index: bool
    retired: StoredRetired | None


@dataclass(slots=True)
class ReplicaState:
    """Changed only under the engine's lock; read without it (each field is replaced whole)."""

    meta: ReplicaMeta
    end: Position
    time_max_us: int
    stored_bytes: int
    producers: ProducerTable
    index: KeyIndex | None
    who: str
    cuts: int = 0
    """Incremented before and after each trim and truncate: a read that raced with one tries again,
    and finds no copy if it was dropped."""

    @property
    def replica_id(self) -> int:
        return self.meta.replica_id

    def add(self, batch: StoredBatch) -> None:
        """Add a batch that was written."""
        self.producers.add(batch)
        self.stored_bytes += len(batch.data)
        self.time_max_us = max(self.time_max_us, batch.time_max_us)


def put_meta(batch: Batch, meta: ReplicaMeta, key_index: bool) -> None:
    stored = StoredMeta(meta, key_index)
    batch.put(META, meta_key(meta.replica_id, META_KIND), encode(stored))
    put_high_watermark(batch, meta.replica_id, meta.high_watermark)


def put_high_watermark(batch: Batch, replica_id: int, high_watermark: int) -> None:
    batch.put(META, meta_key(replica_id, HIGH_WATERMARK), pack_u64(high_watermark))


def put_feed_cursor(batch: Batch, replica_id: int, cursor: int) -> None:
    batch.put(META, meta_key(replica_id, FEED_CURSOR), pack_u64(cursor))


def put_facts(batch: Batch, replica_id: int, facts: CopyFacts) -> None:
    batch.put(META, meta_key(replica_id, FACTS), encode(facts))


def load_facts(store: Store, replica_id: int) -> CopyFacts | None:
    packed = store.get(META, meta_key(replica_id, FACTS))
    return decode_facts(packed) if packed else None


def put_retired(batch: Batch, replica_id: int, retired: StoredRetired) -> None:
    batch.put(META, meta_key(replica_id, RETIRED), encode(retired))


def delete_retired(batch: Batch, replica_id: int) -> None:
    batch.delete(META, meta_key(replica_id, RETIRED))


def put_checkpoint(
    batch: Batch, replica_id: int, end: int, stored_bytes: int, producers: ProducerTable
) -> None:
    """Add the copy's sums as of `end`; clear `producers.dirty` when the write succeeded."""
    put_producers(batch, replica_id, CURRENT, producers)
    checkpoint = Checkpoint(end, stored_bytes)
    batch.put(META, meta_key(replica_id, CHECKPOINT), encode(checkpoint))


def put_producers(batch: Batch, replica_id: int, kind: bytes, table: ProducerTable) -> None:
    """Add the changed producers of a table."""
    for producer in table.dirty:
        entries = table.kept(producer)
        key = producer_key(replica_id, kind, producer)
        if entries:
            batch.put(PRODUCERS, key, pack_entries(entries, table.forgot(producer)))
        else:
            batch.delete(PRODUCERS, key)


def load_producers(
    store: Store, replica_id: int, kind: bytes, source: Cursor | str = PRODUCERS
) -> ProducerTable:
    entries: dict[int, tuple[ProducerEntry, ...]] = {}
    forgot: list[int] = []
    for key, value in store.scan(source, *producers_range(replica_id, kind)):
        entries[producer_of(key)], forgetful = unpack_entries(value)
        if forgetful:
            forgot.append(producer_of(key))
    return ProducerTable(entries, forgot)


def rebuild_producers(store: Store, meta: ReplicaMeta, end: int) -> ProducerTable:
    """The table as of `end`, from the anchor and every batch since."""
    table = load_producers(store, meta.replica_id, ANCHOR)
    table.dirty.update(table.ids())
    for batch in reader.batches(store, name_of(meta), meta.replica_id, meta.base.end, end):
        table.add(batch)
    return table


def put_new(batch: Batch, meta: ReplicaMeta, anchor: Anchor, key_index: bool) -> None:
    """A new, empty copy that starts at its anchor."""
    put_meta(batch, meta, key_index)
    table = ProducerTable(anchor.producers)
    table.dirty.update(table.ids())
    put_producers(batch, meta.replica_id, ANCHOR, table)
    put_producers(batch, meta.replica_id, CURRENT, table)
    for key, count in anchor.key_counts.items():
        batch.put(COUNTS, count_key(meta.replica_id, key), pack_u64(count))
    checkpoint = Checkpoint(meta.base.end, 0)
    batch.put(META, meta_key(meta.replica_id, CHECKPOINT), encode(checkpoint))


def load_copies(store: Store) -> list[StoredCopy]:
    """Every copy on the disk, retired or not."""
    found: list[StoredMeta] = []
    cursor = store.cursor(META, b"", b"\xff" * 9)
    cursor.seek(b"")
    while cursor.valid():
        if cursor.key()[8:] == META_KIND:
            found.append(decode_meta(cursor.value()))
        cursor.next()
    return [_with_what_changes(store, stored) for stored in found]


def load_copy(store: Store, replica_id: int) -> StoredCopy:
    """A copy that is on the disk."""
    packed = store.get(META, meta_key(replica_id, META_KIND))
    if packed is None:
        raise CorruptStorageError(f"{store.path}: replica {replica_id} has no facts")
    return _with_what_changes(store, decode_meta(packed))


def _with_what_changes(store: Store, stored: StoredMeta) -> StoredCopy:
    """The copy with its fields that have keys of their own, because they are written often or
    seldom."""
    meta, kinds = stored.meta, (HIGH_WATERMARK, FEED_CURSOR, RETIRED)
    keys = [meta_key(meta.replica_id, kind) for kind in kinds]
    high_watermark, cursor, retired = store.get_many(META, keys)
    if high_watermark is not None:
        meta = replace(meta, high_watermark=unpack_u64(high_watermark))
    if cursor is not None:
        meta = replace(meta, feed_cursor=unpack_u64(cursor))
    return StoredCopy(meta, stored.key_index, decode_retired(retired) if retired else None)


def known_end(store: Store, meta: ReplicaMeta, mark: int) -> int:
    """How far the copy's log reached by other evidence than its batches; `mark` is its slot's."""
    ends = [meta.base.end, meta.high_watermark, meta.known_end or 0, mark]
    packed = store.get(META, meta_key(meta.replica_id, CHECKPOINT))
    if packed is not None:
        ends.append(decode_checkpoint(packed).end)
    return max(ends)


def with_lost_tail(store: Store, stored: StoredCopy, mark: int) -> StoredCopy | None:
    """The facts of a copy whose log is shorter than it was known to be, though all returned batches
    are valid; None if it is not shorter.

    Written at once: its key index and its sums are built again from the log.
    """
    meta = stored.meta
    last = reader.last(store, name_of(meta), meta)
    end = last[0].end if last else meta.base.end
    known = known_end(store, meta, mark)
    if end >= known or (meta.tail_lost and meta.known_end == known):
        return None
    meta = replace(
        meta, tail_lost=True, known_end=known, high_watermark=min(meta.high_watermark, end)
    )
    batch, replica_id = store.batch(), meta.replica_id
    batch.delete_range(INDEX, *replica_range(replica_id))
    batch.delete(META, meta_key(replica_id, RUNS))
    batch.delete_range(PRODUCERS, *producers_range(replica_id, CURRENT))
    anchor = load_producers(store, replica_id, ANCHOR)
    anchor.dirty.update(anchor.ids())
    put_producers(batch, replica_id, CURRENT, anchor)
    batch.put(META, meta_key(replica_id, CHECKPOINT), encode(Checkpoint(meta.base.end, 0)))
    put_meta(batch, meta, stored.key_index)
    store.write(batch)
    return replace(stored, meta=meta)


def load_replica(store: Store, stored: StoredCopy, make_index: MakeIndex) -> ReplicaState:
    """Load a copy's state from the disk; raises CorruptStorageError if it is not whole."""
    meta, who, replica_id = stored.meta, name_of(stored.meta), stored.meta.replica_id
    if meta.missing_from is not None:
        raise CorruptStorageError(meta.damage)
    last = reader.last(store, who, meta)
    end, time_max_us = meta.base, reader.TIME_NONE
    if last is not None:
        end, time_max_us = Position(last[0].end, last[0].chain_after), last[1]
    packed = store.get(META, meta_key(replica_id, CHECKPOINT))
    checkpoint = decode_checkpoint(packed) if packed else Checkpoint(meta.base.end, 0)
    if checkpoint.end > end.end:
        raise CorruptStorageError(
            f"{who}: the log ends at {end.end}, it was known to reach {checkpoint.end}"
        )
    replica = ReplicaState(
        meta=meta,
        end=end,
        time_max_us=time_max_us,
        stored_bytes=checkpoint.stored_bytes,
        producers=load_producers(store, replica_id, CURRENT),
        index=make_index(meta) if stored.key_index else None,
        who=who,
    )
    for batch in reader.batches(store, who, replica_id, checkpoint.end, end.end):
        replica.producers.add(batch)
        replica.stored_bytes += len(batch.data)
    return replica


def load_damaged(store: Store, stored: StoredCopy, damage: str, mark: int) -> ReplicaState:
    """A copy whose state cannot be loaded: only its whole batches can be read.

    Its log ends where it is known to have ended: a read of the missing part raises.
    """
    meta = replace(stored.meta, damage=stored.meta.damage or damage)
    who = name_of(meta)
    end = meta.base
    with contextlib.suppress(CorruptStorageError):
        last = reader.last(store, who, meta)
        if last is not None:
            end = Position(last[0].end, last[0].chain_after)
    known = max(meta.base.end, mark)
    with contextlib.suppress(CorruptStorageError):
        known = known_end(store, meta, mark)
    if known > end.end:
        end = Position(known, CHAIN_UNKNOWN)
    return ReplicaState(
        meta=replace(meta, known_end=max(known, end.end)),
        end=end,
        time_max_us=reader.TIME_NONE,
        stored_bytes=0,
        producers=ProducerTable(),
        index=None,
        who=who,
    )


def load_anchor(
    store: Store,
    meta: ReplicaMeta,
    producers: Cursor | str = PRODUCERS,
    counts: Cursor | str = COUNTS,
) -> Anchor:
    """The anchor: the state that the trimmed batches of a copy left."""
    key_counts = {
        key[REPLICA_ID_BYTES:]: unpack_u64(value)
        for key, value in store.scan(counts, *replica_range(meta.replica_id))
    }
    table = load_producers(store, meta.replica_id, ANCHOR, producers)
    return Anchor(meta.base, table.view(), key_counts)


def delete_all(batch: Batch, replica_id: int) -> None:
    """All stored bytes of a copy."""
    for family in FAMILIES:
        batch.delete_range(family, *replica_range(replica_id))
