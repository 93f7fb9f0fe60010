"""Stored migrations: list, read, propose, order. Every write is a compare-and-swap."""

from dataclasses import dataclass, field, replace

import msgspec

from coordinator.migration.records import (
    ForecastNote,
    MigrationRecord,
    MoveOptions,
    Phase,
    State,
    decode_migration,
    encode_migration,
)
from coordinator.migration.table import check_strategy, choose_strategy, control
from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyExistsError,
    RefusedError,
    UnknownInstanceError,
    UnknownMigrationError,
    UnknownShardError,
)
from logstore.meta.port import MetadataStore
from logstore.meta.records import MIGRATIONS
from logstore.meta.table import Decided, Entry, Odd, Table, transact
from logstore.meta.tables import drain_table, instance_table, number_table, shard_table

MIGRATION_COUNTER = "/ids/migration"
MIGRATIONS_KEPT_MAX = 1_000


def migration_table(store: MetadataStore) -> Table[MigrationRecord]:
    """By id."""
    return Table(store, MIGRATIONS, decode_migration, encode_migration)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed move, by a person (`manual`) or by the planner (`forecast`)."""

    shard: str
    target: str
    strategy: str = "shadow"
    options: MoveOptions = field(default_factory=MoveOptions)
    trigger: str = "manual"
    reason: str = ""
    risk: float | None = None
    forecast: ForecastNote | None = None


class Ledger:
    """The migrations under `/migrations/`, oldest first."""

    def __init__(self, store: MetadataStore, env: Env) -> None:
        self._store = store
        self._table = migration_table(store)
        self._env = env

    async def all(self) -> list[MigrationRecord]:
        return (await self.all_and_odd())[0]

    async def all_and_odd(self) -> tuple[list[MigrationRecord], list[Odd]]:
        """The migrations, and the entries that cannot be decoded."""
        records, odd = await self._table.all_and_odd()
        return sorted(records, key=lambda r: (r.created_us, r.id)), odd

    async def get(self, migration: str) -> MigrationRecord:
        try:
            found = await self._table.get(migration)
        except (msgspec.MsgspecError, ValueError) as e:
            raise RefusedError(f"migration {migration} cannot be read: {e}") from None
        if found is None:
            raise UnknownMigrationError(f"migration {migration!r} does not exist")
        return found

    async def draft(self, proposal: Proposal) -> MigrationRecord:
        """The record a proposal would become, checked but not written."""
        check_strategy(proposal.strategy)
        shard = await shard_table(self._store).get(proposal.shard)
        if shard is None:
            raise UnknownShardError(f"shard {proposal.shard!r} does not exist")
        if shard.migration is not None:
            await self.get(shard.migration)  # one that cannot be read may still be at work
        if await instance_table(self._store).entry(proposal.target) is None:
            raise UnknownInstanceError(f"instance {proposal.target!r} is not registered")
        if await drain_table(self._store).entry(proposal.target) is not None:
            raise RefusedError(f"instance {proposal.target} is being drained, it takes no shards")
        strategy = choose_strategy(proposal.strategy, shard, proposal.target)
        now = self._env.clock.wall_us()
        return MigrationRecord(
            id="",
            log=shard.log,
            shard=shard.shard,
            source=shard.primary,
            target_instance=proposal.target,
            created_us=now,
            strategy=strategy,
            trigger=proposal.trigger,
            reason=proposal.reason,
            risk=proposal.risk,
            forecast=proposal.forecast,
            options=proposal.options,
            since_us=now,
            phases=(Phase(State.PLANNED, now),),
        )

    async def propose(self, proposal: Proposal) -> MigrationRecord:
        """Write a planned migration; `AlreadyExistsError` while the shard has another one."""
        draft = await self.draft(proposal)
        numbers, migrations = number_table(self._store), self._table

        async def decide() -> Decided[MigrationRecord]:
            known = await self.all()
            other = next((r for r in known if r.active and r.shard == draft.shard), None)
            if other is not None:
                raise AlreadyExistsError(
                    f"shard {draft.shard} is in migration {other.id} ({other.state.value})"
                )
            counter = await numbers.entry(MIGRATION_COUNTER)
            number = counter.record if counter is not None else 1
            record = replace(draft, id=f"m{number}")
            ended = [r for r in known if not r.active]
            return Decided(
                record,
                [
                    numbers.unchanged(MIGRATION_COUNTER, counter),
                    migrations.unchanged(record.id, None),
                ],
                [
                    numbers.put(MIGRATION_COUNTER, number + 1),
                    migrations.put(record.id, record),
                    *(
                        migrations.removal(r.id)
                        for r in ended[: -MIGRATIONS_KEPT_MAX or None][:100]
                    ),
                ],
            )

        return await transact(self._store, "the migration counter", decide)

    async def order(self, migration: str, action: str, cause: str = "") -> MigrationRecord:
        """Pause, resume, abort, rollback or complete; see `table.control`."""
        now = self._env.clock.wall_us()

        def change(entry: Entry[MigrationRecord] | None) -> MigrationRecord:
            if entry is None:
                raise UnknownMigrationError(f"migration {migration!r} does not exist")
            return control(entry.record, action, cause, now)

        return await self._table.update(migration, change, f"migration {migration}")
