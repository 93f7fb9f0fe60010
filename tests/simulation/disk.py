"""A disk under the Engine port: the memory twin, and what a power loss leaves of it.

Every change goes into a journal. A sync (a write with `fsync`, a durable change of a copy, or the
kernel's write-back) carries the journal over to what is surely on the disk. kill -9 keeps all that
was written; a power loss keeps what was synced and some first part of the journal, and tears the
change at the cut: RocksDB drops a torn record of its log whole.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from logstore.base.errors import StorageFullError
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch, build
from logstore.engine.memory import MemoryEngine, MemorySnapshot
from logstore.engine.port import (
    Anchor,
    CopyFacts,
    ProducerEntry,
    ReplicaMeta,
    ReplicaWrite,
    Retired,
    RetiredCopy,
)
from logstore.engine.rules import up_to_bytes

JOURNAL_MAX = 200
"""Changes after which the kernel writes back by itself."""


class SimEngine:
    """See `logstore.engine.port.Engine`."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._live = MemoryEngine()
        self._synced = MemoryEngine()
        self._journal: list[tuple[str, tuple[Any, ...]]] = []
        self._parsed: dict[bytes, Counter[bytes]] = {}
        self.full = False
        self.on_departure: Callable[[int, str], None] = lambda replica_id, what: None
        """Called for each copy that is retired, restored or dropped."""
        self.on_trim: Callable[[int, int], None] = lambda replica_id, offset: None
        """Called before a copy is trimmed below an offset."""
        self.on_write: Callable[[], None] = lambda: None
        """Called before a write on the loop: a slow disk holds its process there. A synced write is
        made in a thread, which alone is held."""

    # ---- faults ----------------------------------------------------------------------------------

    def unsynced(self) -> int:
        """Changes that a power loss may take."""
        return len(self._journal)

    def lose_power(self, torn: bool) -> int:
        """Back to what the disk surely has and some of the rest; returns how many changes went.

        `torn`: the cut goes through a change, which is lost whole; else it may keep everything.
        """
        kept = self._rng.randint(0, len(self._journal) - 1 if torn else len(self._journal))
        lost = len(self._journal) - kept
        del self._journal[kept:]
        self._sync()
        self._live = _twin(self._synced)
        return lost

    def _sync(self) -> None:
        for method, arguments in self._journal:
            getattr(self._synced, method)(*arguments)
        self._journal.clear()

    def _change(self, method: str, *arguments: Any, durable: bool) -> Any:
        result = getattr(self._live, method)(*arguments)
        self._journal.append((method, arguments))
        if durable or len(self._journal) > JOURNAL_MAX:
            self._sync()
        return result

    def forge(self, replica_id: int, share: float) -> bool:
        """From the batch at this share of a copy on its bytes are others, and its chain with them;
        each batch is sound by itself. False: it has none."""
        self._sync()
        whole = list(self.batches(replica_id))
        if not whole:
            return False
        first = int(share * len(whole))
        forged, chain = whole[:first], whole[first].chain_before
        for batch in whole[first:]:
            other = build(
                base_offset=batch.base_offset,
                epoch=batch.epoch,
                chain_before=chain,
                count=batch.count,
                append_time_us=batch.append_time_us + 1,
                time_min_us=batch.time_min_us,
                time_max_us=batch.time_max_us,
                flags=batch.flags,
                spans=batch.spans(),
                payload=batch.payload(),
            )
            forged.append(other)
            chain = other.chain_after
        for engine in (self._live, self._synced):
            engine._copies[replica_id].batches[:] = forged
        return True

    def twin(self) -> "SimEngine":
        """A copy of the disk as a file copy of a running one finds it: all that was written."""
        twin = SimEngine(self._rng)
        twin._live, twin._synced = _twin(self._live), _twin(self._live)
        return twin

    # ---- the port --------------------------------------------------------------------------------

    def write(self, writes: Sequence[ReplicaWrite], durability: Durability) -> None:
        if durability is not Durability.FSYNC:
            self.on_write()
        if self.full and any(part.batches for part in writes):
            raise StorageFullError("no space left on device")
        self._change("write", list(writes), durability, durable=durability is Durability.FSYNC)

    def create_replica(
        self, meta: ReplicaMeta, anchor: Anchor | None = None, key_index: bool = True
    ) -> None:
        if self.full:
            raise StorageFullError("no space left on device")
        self._change("create_replica", meta, anchor, key_index, durable=True)

    def set_meta(self, meta: ReplicaMeta) -> None:
        self._change("set_meta", meta, durable=True)

    def drop_replica(self, replica_id: int) -> None:
        if self.meta(replica_id) is not None or self._is_retired(replica_id):
            self.on_departure(replica_id, "dropped")
        self._change("drop_replica", replica_id, durable=True)

    def truncate(
        self, replica_id: int, offset: int, durability: Durability = Durability.OS
    ) -> None:
        durable = durability is Durability.FSYNC
        self._change("truncate", replica_id, offset, durability, durable=durable)

    def trim(self, replica_id: int, offset: int) -> Position:
        self.on_trim(replica_id, offset)
        base: Position = self._change("trim", replica_id, offset, durable=True)
        return base

    def set_facts(self, replica_id: int, facts: CopyFacts) -> None:
        self._change("set_facts", replica_id, facts, durable=False)

    def facts(self, replica_id: int) -> CopyFacts | None:
        return self._live.facts(replica_id)

    def retire_replica(self, replica_id: int, retired: Retired) -> None:
        self.on_departure(replica_id, "retired")
        self._change("retire_replica", replica_id, retired, durable=True)

    def _is_retired(self, replica_id: int) -> bool:
        return any(r.meta.replica_id == replica_id for r in self.retired())

    def retired(self) -> list[RetiredCopy]:
        return self._live.retired()

    def restore_replica(self, replica_id: int) -> None:
        self.on_departure(replica_id, "restored")
        self._change("restore_replica", replica_id, durable=True)

    def replicas(self) -> list[ReplicaMeta]:
        return self._live.replicas()

    def end(self, replica_id: int) -> Position:
        return self._live.end(replica_id)

    def base(self, replica_id: int) -> Position:
        return self._live.base(replica_id)

    def position_at(self, replica_id: int, offset: int) -> Position | None:
        return self._live.position_at(replica_id, offset)

    def read(self, replica_id: int, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        return self._live.read(replica_id, start, stop, max_bytes)

    def read_key(
        self, replica_id: int, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        self._live.end(replica_id)  # which must be there
        found = [
            b
            for b in self.batches(replica_id)
            if b.base_offset < stop and b.end > start and key in self._keys(b)
        ]
        return found if max_bytes is None else up_to_bytes(found, max_bytes)

    def count_key(self, replica_id: int, key: bytes, stop: int) -> int:
        whole = [b for b in self.batches(replica_id) if b.end <= stop]
        end = whole[-1].end if whole else self.base(replica_id).end
        if end != stop:
            return self._live.count_key(replica_id, key, stop)
        trimmed = self._live._copies[replica_id].anchor.key_counts.get(key, 0)
        return trimmed + sum(self._keys(b).get(key, 0) for b in whole)

    def _keys(self, batch: StoredBatch) -> Counter[bytes]:
        """The batch's keys, parsed once: no disk has a key index here."""
        found = self._parsed.get(batch.chain_after)
        if found is None:
            found = Counter(batch.records().column("key").to_pylist())
            self._parsed[batch.chain_after] = found
        return found

    def offset_at_time(self, replica_id: int, timestamp_us: int) -> int:
        return self._live.offset_at_time(replica_id, timestamp_us)

    def producers(self, replica_id: int) -> dict[int, tuple[ProducerEntry, ...]]:
        return self._live.producers(replica_id)

    def snapshot(self, replica_id: int, stop: int) -> MemorySnapshot:
        return self._live.snapshot(replica_id, stop)

    def verify_chain(self, replica_id: int, start: Position, stop: int) -> Position:
        return self._live.verify_chain(replica_id, start, stop)

    def index_backlog(self, replica_id: int) -> int:
        return self._live.index_backlog(replica_id)

    def index_step(self, max_records: int) -> int:
        return self._live.index_step(max_records)

    def bytes_stored(self, replica_id: int) -> int:
        return self._live.bytes_stored(replica_id)

    def close(self) -> None:
        return None

    # ---- for the checkers ------------------------------------------------------------------------

    def batches(self, replica_id: int) -> Sequence[StoredBatch]:
        """Every stored batch of a copy, without reading it through the port."""
        copy = self._live._copies.get(replica_id)
        return copy.batches if copy is not None else ()

    def meta(self, replica_id: int) -> ReplicaMeta | None:
        copy = self._live._copies.get(replica_id)
        return copy.meta if copy is not None else None


def _twin(engine: MemoryEngine) -> MemoryEngine:
    """Another engine with the same copies, which no later change of this one reaches."""
    twin = MemoryEngine()
    for replica_id, copy in engine._copies.items():
        twin._copies[replica_id] = replace(copy, batches=list(copy.batches))
    for replica_id, (copy, retired) in engine._retired.items():
        twin._retired[replica_id] = replace(copy, batches=list(copy.batches)), retired
    return twin
