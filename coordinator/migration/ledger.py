"""Migrations as they are stored: list, read, propose, order. Every write is a compare-and-swap."""

from collections.abc import Callable
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
from coordinator.unreadable import Odd, decoded
from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyExistsError,
    ConflictError,
    RefusedError,
    UnknownInstanceError,
    UnknownMigrationError,
    UnknownShardError,
)
from logstore.meta.port import Compare, Delete, MetadataStore, Operation, Put
from logstore.meta.records import (
    MIGRATIONS,
    decode_shard,
    drain_key,
    instance_key,
    migration_key,
    shard_key,
)

MIGRATION_COUNTER = "/ids/migration"
MIGRATIONS_KEPT_MAX = 1_000
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Proposal:
    """A move that is asked for, by a person (`manual`) or by the planner (`forecast`)."""

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
        self._env = env

    async def all(self) -> list[MigrationRecord]:
        return (await self.all_and_odd())[0]

    async def all_and_odd(self) -> tuple[list[MigrationRecord], list[Odd]]:
        """The migrations, and the entries that cannot be decoded."""
        items = (await self._store.range(MIGRATIONS)).items
        records, odd = decoded(items, MIGRATIONS, decode_migration)
        return sorted(records, key=lambda r: (r.created_us, r.id)), odd

    async def get(self, migration: str) -> MigrationRecord:
        found = await self._store.get(migration_key(migration))
        if found is None:
            raise UnknownMigrationError(f"migration {migration!r} does not exist")
        try:
            return decode_migration(found.value)
        except (msgspec.MsgspecError, ValueError) as e:
            raise RefusedError(f"migration {migration} cannot be read: {e}") from None

    async def draft(self, proposal: Proposal) -> MigrationRecord:
        """The record a proposal would become, checked but not written."""
        check_strategy(proposal.strategy)
        found = await self._store.get(shard_key(proposal.shard))
        if found is None:
            raise UnknownShardError(f"shard {proposal.shard!r} does not exist")
        shard = decode_shard(found.value)
        if shard.migration is not None:
            await self.get(shard.migration)  # one that cannot be read may still be at work
        if await self._store.get(instance_key(proposal.target)) is None:
            raise UnknownInstanceError(f"instance {proposal.target!r} is not registered")
        if await self._store.get(drain_key(proposal.target)) is not None:
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
        for _ in range(_TRIES):
            known = await self.all()
            other = next((r for r in known if r.active and r.shard == draft.shard), None)
            if other is not None:
                raise AlreadyExistsError(
                    f"shard {draft.shard} is in migration {other.id} ({other.state.value})"
                )
            counter = await self._store.get(MIGRATION_COUNTER)
            number = int(counter.value) if counter is not None else 1
            record = replace(draft, id=f"m{number}")
            operations: list[Operation] = [
                Put(MIGRATION_COUNTER, str(number + 1).encode()),
                Put(migration_key(record.id), encode_migration(record)),
            ]
            ended = [r for r in known if not r.active]
            operations += [
                Delete(migration_key(r.id)) for r in ended[: -MIGRATIONS_KEPT_MAX or None][:100]
            ]
            compares = [
                Compare(MIGRATION_COUNTER, counter.revision if counter is not None else 0),
                Compare(migration_key(record.id), 0),
            ]
            if (await self._store.txn(compares, operations)).succeeded:
                return record
        raise ConflictError("the migration counter changed too often, try again")

    async def order(self, migration: str, action: str, cause: str = "") -> MigrationRecord:
        """Pause, resume, abort, rollback or complete; see `table.control`."""
        now = self._env.clock.wall_us()
        return await self._change(migration, lambda r: control(r, action, cause, now))

    async def _change(
        self, migration: str, change: Callable[[MigrationRecord], MigrationRecord]
    ) -> MigrationRecord:
        for _ in range(_TRIES):
            found = await self._store.get(migration_key(migration))
            if found is None:
                raise UnknownMigrationError(f"migration {migration!r} does not exist")
            record = change(decode_migration(found.value))
            done = await self._store.txn(
                [Compare(found.key, found.revision)], [Put(found.key, encode_migration(record))]
            )
            if done.succeeded:
                return record
        raise ConflictError(f"migration {migration} changed too often, try again")
