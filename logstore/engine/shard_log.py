"""One copy's log on an instance's disk: what the Engine port offers, of one replica id."""

from collections.abc import Mapping

from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor, Engine, ProducerEntry, ReplicaMeta, Snapshot


class ShardLog:
    """A handle that is made before the copy exists and outlives it.

    Offsets, ranges and errors are the port's: without the copy its calls raise `UnknownShardError`.
    """

    __slots__ = ("_engine", "id")

    def __init__(self, engine: Engine, replica_id: int) -> None:
        self._engine = engine
        self.id = replica_id

    # ---- the copy on the disk ------------------------------------------------------------------

    def meta(self) -> ReplicaMeta | None:
        """The copy's durable facts; None while it is not on the disk."""
        return next((m for m in self._engine.replicas() if m.replica_id == self.id), None)

    def create(self, meta: ReplicaMeta, anchor: Anchor | None, key_index: bool) -> None:
        self._engine.create_replica(meta, anchor, key_index)

    def set_meta(self, meta: ReplicaMeta) -> None:
        self._engine.set_meta(meta)

    def drop(self) -> None:
        self._engine.drop_replica(self.id)

    def bytes_stored(self) -> int:
        return self._engine.bytes_stored(self.id)

    def index_backlog(self) -> int:
        return self._engine.index_backlog(self.id)

    # ---- places --------------------------------------------------------------------------------

    def base(self) -> Position:
        return self._engine.base(self.id)

    def end(self) -> Position:
        return self._engine.end(self.id)

    def position_at(self, offset: int) -> Position | None:
        return self._engine.position_at(self.id, offset)

    def offset_at_time(self, timestamp_us: int) -> int:
        return self._engine.offset_at_time(self.id, timestamp_us)

    # ---- records -------------------------------------------------------------------------------

    def read(self, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        return self._engine.read(self.id, start, stop, max_bytes)

    def read_last(self) -> StoredBatch | None:
        """The batch at the end; None: the copy holds none."""
        base, end = self.base().end, self.end().end
        return self.read(end - 1, end, 1)[-1] if end > base else None

    def read_key(
        self, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        return self._engine.read_key(self.id, key, start, stop, max_bytes)

    def count_key(self, key: bytes, stop: int) -> int:
        return self._engine.count_key(self.id, key, stop)

    def producers(self) -> Mapping[int, tuple[ProducerEntry, ...]]:
        return self._engine.producers(self.id)

    # ---- changes -------------------------------------------------------------------------------

    def truncate(self, offset: int, durability: Durability = Durability.OS) -> None:
        self._engine.truncate(self.id, offset, durability)

    def trim(self, offset: int) -> Position:
        return self._engine.trim(self.id, offset)

    # ---- whole ---------------------------------------------------------------------------------

    def snapshot(self, stop: int) -> Snapshot:
        return self._engine.snapshot(self.id, stop)

    def verify(self, start: Position, stop: int) -> Position:
        return self._engine.verify_chain(self.id, start, stop)
