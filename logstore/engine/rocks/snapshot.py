"""A point in time of one copy, on RocksDB snapshots: cheap, consistent under writes and trims."""

from collections.abc import Iterator

from logstore.base.errors import StorageError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor, ReplicaMeta
from logstore.engine.rocks import reader
from logstore.engine.rocks.state import load_anchor
from logstore.engine.rocks.store import COUNTS, DATA, PRODUCERS, Source, Store
from logstore.engine.rules import check_not_below_base, name_of, up_to_bytes


class RocksSnapshot:
    """See `logstore.engine.port.Snapshot`. Holds no RocksDB iterator between two batches' pages."""

    anchor: Anchor
    end: Position

    def __init__(self, store: Store, meta: ReplicaMeta, end: Position) -> None:
        """The caller holds the engine's lock: the three families are taken at one time."""
        self._store = store
        self._meta = meta
        self._sources: dict[str, Source] = {
            family: store.snapshot(family) for family in (DATA, PRODUCERS, COUNTS)
        }
        self.end = end

    def load(self, stop: int) -> None:
        """Find the end and read the anchor; needs no lock."""
        if stop < self.end.end:
            who, replica_id = name_of(self._meta), self._meta.replica_id
            holding = next(
                reader.batches(
                    self._store, who, replica_id, stop, self.end.end, source=self._source(DATA)
                )
            )
            self.end = Position(holding.base_offset, holding.chain_before)
        self.anchor = load_anchor(
            self._store, self._meta, self._source(PRODUCERS), self._source(COUNTS)
        )

    def batches(self, start: int) -> Iterator[StoredBatch]:
        """Batches from the one that holds `start`, up to `end`."""
        check_not_below_base(self._meta, start, "start")
        who, replica_id = name_of(self._meta), self._meta.replica_id
        while start < self.end.end:
            page = up_to_bytes(
                reader.batches(
                    self._store, who, replica_id, start, self.end.end, source=self._source(DATA)
                ),
                SNAPSHOT_CHUNK_BYTES,
            )
            start = page[-1].end
            yield from page

    def close(self) -> None:
        self._sources.clear()

    def _source(self, family: str) -> Source:
        source = self._sources.get(family)
        if source is None:
            raise StorageError(f"{name_of(self._meta)}: the snapshot is closed")
        return source
