"""Migration weights: how likely the planner is to move a shard; learned, or set by a person."""

from coordinator.answers.plans import ShardWeight
from coordinator.migration.ledger import Ledger
from coordinator.planning.views import migration_weights, weights_of
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError, UnknownLogError, UnknownShardError
from logstore.base.names import checked_name
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore
from logstore.meta.records import WeightRecord
from logstore.meta.table import Decided, transact
from logstore.meta.tables import log_table, shard_table, weight_table
from sharder.settings import complaint


class MigrationWeights:
    """The weights of one store's shards."""

    def __init__(self, store: MetadataStore, env: Env) -> None:
        self._store, self._env = store, env
        self._ledger = Ledger(store, env)
        self._table = weight_table(store)

    async def in_force(self) -> dict[str, WeightRecord]:
        """What was set, by shard."""
        return {entry.name: entry.record for entry in await self._table.entries()}

    async def acting(self) -> dict[str, float]:
        """Shard -> the weight that acts; others have 1."""
        return {row.shard: row.weight for row in await self.rows()}

    async def rows(self, log: str = "") -> list[ShardWeight]:
        """The weights of the log's shards that are not sealed, or of all logs'."""
        if log and await log_table(self._store).get(log) is None:
            raise UnknownLogError(f"log {log!r} does not exist")
        shards = await shard_table(self._store).all(f"{log}/" if log else "")
        learned = migration_weights(await self._ledger.all(), self._env.clock.wall_us() / 1e6)
        given = weights_of(shards, await self.in_force())
        return [
            _row(s.shard, learned.get(s.shard, 1.0), given.get(s.shard))
            for s in shards
            if s.status is not ShardStatus.SEALED
        ]

    async def set(self, shard: str, weight: float | None, by: str) -> ShardWeight:
        """Set a shard's weight, or (None) take back what was set; the answer is how it is then.

        InvalidArgumentError names the bounds; UnknownShardError.
        """
        checked_name("by", by)
        record = WeightRecord(0.0 if weight is None else weight, by, self._env.clock.wall_us())
        said = complaint(record)
        if said is not None:
            raise InvalidArgumentError(f"{said}; 0 keeps the shard where it is")
        shards = shard_table(self._store)

        async def decide() -> Decided[str]:
            known, held = await shards.entry(shard), await self._table.entry(shard)
            if known is None or known.record.status is ShardStatus.SEALED:
                raise UnknownShardError(f"shard {shard!r} does not exist, or is sealed")
            change = (
                self._table.removal(shard) if weight is None else self._table.put(shard, record)
            )
            compares = [shards.unchanged(shard, known), self._table.unchanged(shard, held)]
            nothing = weight is None and held is None
            return Decided(known.record.log, compares, [] if nothing else [change])

        log = await transact(self._store, f"the migration weight of {shard}", decide)
        return next(row for row in await self.rows(log) if row.shard == shard)


def _row(shard: str, learned: float, given: tuple[str, WeightRecord] | None) -> ShardWeight:
    source, record = given if given is not None else (shard, None)
    return ShardWeight(
        shard=shard,
        weight=learned if record is None else record.weight,
        learned=learned,
        set_weight=record.weight if record is not None else None,
        by=record.by if record is not None else "",
        at_us=record.at_us if record is not None else None,
        inherited_from=source if source != shard else "",
    )
