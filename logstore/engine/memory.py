"""The memory twin of the Engine: the same contract on plain dicts, for tests and the simulator.

Thread-safe by one lock. Batches are kept by copy; everything else is recomputed from them.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from logstore.base.errors import AlreadyExistsError, OutOfRangeError, StorageError
from logstore.base.limits import READ_BATCHES_MAX
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import (
    Anchor,
    CopyFacts,
    ProducerEntry,
    ReplicaMeta,
    ReplicaWrite,
    Retired,
    RetiredCopy,
)
from logstore.engine.producers import ProducerTable
from logstore.engine.rules import (
    add_key_counts,
    check_next,
    check_not_below_base,
    count_in,
    may_hold,
    name_of,
    not_retired,
    relink,
    reparse,
    unknown_replica,
    up_to_bytes,
)


@dataclass(slots=True)
class _Copy:
    meta: ReplicaMeta
    anchor: Anchor
    indexed: int | None
    """How far the key index claims to reach; None without one."""
    batches: list[StoredBatch] = field(default_factory=list)
    facts: CopyFacts | None = None

    @property
    def end(self) -> Position:
        if not self.batches:
            return self.meta.base
        return Position(self.batches[-1].end, self.batches[-1].chain_after)

    @property
    def bytes_stored(self) -> int:
        return sum(len(b.data) for b in self.batches)

    def overlapping(self, start: int, stop: int) -> Iterator[StoredBatch]:
        first = max(bisect_right(self.batches, start, key=lambda b: b.base_offset) - 1, 0)
        for batch in self.batches[first:]:
            if batch.base_offset >= stop:
                return
            if batch.end > start:
                yield batch

    def producers(self) -> ProducerTable:
        table = ProducerTable(self.anchor.producers)
        for batch in self.batches:
            table.add(batch)
        return table


class MemorySnapshot:
    """See `logstore.engine.port.Snapshot`."""

    def __init__(self, copy: _Copy, stop: int) -> None:
        self._who = name_of(copy.meta)
        self._copy: _Copy | None = replace(copy, batches=[b for b in copy.batches if b.end <= stop])
        self.anchor = copy.anchor
        self.end = self._copy.end

    def batches(self, start: int) -> Iterator[StoredBatch]:
        copy = self._open()
        check_not_below_base(copy.meta, start, "start")
        for batch in copy.overlapping(start, self.end.end):
            self._open()
            yield batch

    def close(self) -> None:
        self._copy = None

    def _open(self) -> _Copy:
        if self._copy is None:
            raise StorageError(f"{self._who}: the snapshot is closed")
        return self._copy


class MemoryEngine:
    """See `logstore.engine.port.Engine`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._copies: dict[int, _Copy] = {}
        self._retired: dict[int, tuple[_Copy, Retired]] = {}
        self._closed = False

    def replicas(self) -> list[ReplicaMeta]:
        with self._lock:
            return [c.meta for c in self._copies.values()]

    def create_replica(
        self, meta: ReplicaMeta, anchor: Anchor | None = None, key_index: bool = True
    ) -> None:
        anchor = anchor or Anchor(meta.base)
        meta = replace(meta, base=anchor.base)
        with self._lock:
            if meta.replica_id in self._copies or meta.replica_id in self._retired:
                raise AlreadyExistsError(f"{name_of(meta)} is on this disk already")
            indexed = meta.base.end if key_index else None
            self._copies[meta.replica_id] = _Copy(meta, anchor, indexed)

    def set_meta(self, meta: ReplicaMeta) -> None:
        with self._lock:
            copy = self._copy(meta.replica_id)
            copy.meta = replace(meta, base=copy.meta.base)

    def drop_replica(self, replica_id: int) -> None:
        with self._lock:
            self._copies.pop(replica_id, None)
            self._retired.pop(replica_id, None)

    def set_facts(self, replica_id: int, facts: CopyFacts) -> None:
        with self._lock:
            self._copy(replica_id).facts = facts

    def facts(self, replica_id: int) -> CopyFacts | None:
        with self._lock:
            if replica_id in self._retired:
                return self._retired[replica_id][0].facts
            copy = self._copies.get(replica_id)
            return copy.facts if copy else None

    def retire_replica(self, replica_id: int, retired: Retired) -> None:
        with self._lock:
            copy = self._copies.pop(replica_id, None)
            if copy is not None:
                self._retired[replica_id] = (copy, retired)

    def retired(self) -> list[RetiredCopy]:
        with self._lock:
            return [
                RetiredCopy(copy.meta, retired, copy.end, copy.bytes_stored)
                for copy, retired in self._retired.values()
            ]

    def restore_replica(self, replica_id: int) -> None:
        with self._lock:
            if replica_id not in self._retired:
                raise not_retired(replica_id)
            self._copies[replica_id], _ = self._retired.pop(replica_id)

    def write(self, writes: Sequence[ReplicaWrite], durability: Durability) -> None:
        with self._lock:
            ends: dict[int, Position] = {}
            for part in writes:
                copy = self._copy(part.replica_id)
                end = ends.get(part.replica_id, copy.end)
                ends[part.replica_id] = check_next(name_of(copy.meta), end, part.batches)
            for part in writes:
                copy = self._copies[part.replica_id]
                copy.batches.extend(part.batches)
                if part.high_watermark is not None:
                    copy.meta = replace(copy.meta, high_watermark=part.high_watermark)
                if part.feed_cursor is not None:
                    copy.meta = replace(copy.meta, feed_cursor=part.feed_cursor)

    def end(self, replica_id: int) -> Position:
        with self._lock:
            return self._copy(replica_id).end

    def base(self, replica_id: int) -> Position:
        with self._lock:
            return self._copy(replica_id).meta.base

    def position_at(self, replica_id: int, offset: int) -> Position | None:
        with self._lock:
            copy = self._copy(replica_id)
            if offset == copy.meta.base.end:
                return copy.meta.base
            for batch in copy.overlapping(offset - 1, offset):
                if batch.end == offset:
                    return Position(offset, batch.chain_after)
            return None

    def read(self, replica_id: int, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        with self._lock:
            copy = self._copy(replica_id)
            check_not_below_base(copy.meta, start, "start")
            stored = up_to_bytes(copy.overlapping(start, stop), max_bytes, READ_BATCHES_MAX)
            for batch in stored:
                reparse(name_of(copy.meta), batch)
            return stored

    def read_key(
        self, replica_id: int, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        with self._lock:
            stored = self._copy(replica_id).overlapping(start, stop)
            return up_to_bytes((b for b in stored if may_hold(b, key, start, stop)), max_bytes)

    def count_key(self, replica_id: int, key: bytes, stop: int) -> int:
        with self._lock:
            copy = self._copy(replica_id)
            check_not_below_base(copy.meta, stop, "stop")
            base = copy.meta.base.end
            counted = sum(count_in(b, key, base, stop) for b in copy.overlapping(base, stop))
            return copy.anchor.key_counts.get(key, 0) + counted

    def offset_at_time(self, replica_id: int, timestamp_us: int) -> int:
        with self._lock:
            copy = self._copy(replica_id)
            found = (b.base_offset for b in copy.batches if b.time_max_us >= timestamp_us)
            return next(found, copy.end.end)

    def producers(self, replica_id: int) -> dict[int, tuple[ProducerEntry, ...]]:
        with self._lock:
            return self._copy(replica_id).producers().view()

    def truncate(
        self, replica_id: int, offset: int, durability: Durability = Durability.OS
    ) -> None:
        with self._lock:
            copy = self._copy(replica_id)
            check_not_below_base(copy.meta, offset, "offset")
            if offset > copy.end.end or self.position_at(replica_id, offset) is None:
                raise OutOfRangeError(
                    f"{name_of(copy.meta)}: offset is {offset}, no batch ends there, "
                    f"the log ends at {copy.end.end}"
                )
            copy.batches = [b for b in copy.batches if b.end <= offset]
            copy.meta = replace(copy.meta, high_watermark=min(copy.meta.high_watermark, offset))
            if copy.indexed is not None:
                copy.indexed = min(copy.indexed, offset)

    def trim(self, replica_id: int, offset: int) -> Position:
        with self._lock:
            copy = self._copy(replica_id)
            gone = [b for b in copy.batches if b.end <= offset]
            if gone:
                table = ProducerTable(copy.anchor.producers)
                counts = dict(copy.anchor.key_counts)
                for batch in gone:
                    table.add(batch)
                    add_key_counts(counts, batch)
                base = Position(gone[-1].end, gone[-1].chain_after)
                copy.anchor = Anchor(base, table.view(), counts)
                copy.meta = replace(copy.meta, base=base)
                copy.batches = copy.batches[len(gone) :]
                if copy.indexed is not None:
                    copy.indexed = max(copy.indexed, base.end)
            return copy.meta.base

    def snapshot(self, replica_id: int, stop: int) -> MemorySnapshot:
        with self._lock:
            copy = self._copy(replica_id)
            check_not_below_base(copy.meta, stop, "stop")
            return MemorySnapshot(copy, stop)

    def verify_chain(self, replica_id: int, start: Position, stop: int) -> Position:
        with self._lock:
            copy = self._copy(replica_id)
            check_not_below_base(copy.meta, start.end, "start")
            who = name_of(copy.meta)
            stored = list(copy.overlapping(start.end, stop))
            for batch in stored:
                reparse(who, batch)
            return relink(who, start, stop, stored)

    def index_backlog(self, replica_id: int) -> int:
        with self._lock:
            copy = self._copy(replica_id)
            return 0 if copy.indexed is None else copy.end.end - copy.indexed

    def index_step(self, max_records: int) -> int:
        with self._lock:
            for copy in self._copies.values():
                if copy.indexed is not None and copy.indexed < copy.end.end:
                    done = min(max_records, copy.end.end - copy.indexed)
                    copy.indexed += done
                    return done
            return 0

    def bytes_stored(self, replica_id: int) -> int:
        with self._lock:
            return self._copy(replica_id).bytes_stored

    def close(self) -> None:
        self._closed = True

    def _copy(self, replica_id: int) -> _Copy:
        if self._closed:
            raise StorageError("the engine is closed")
        copy = self._copies.get(replica_id)
        if copy is None:
            raise unknown_replica(replica_id)
        return copy
