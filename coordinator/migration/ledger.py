"""Stored migrations: list, read, propose, order. Every write is a compare-and-swap."""

from collections.abc import Collection, Sequence
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
    seen: Collection[str] | None = None
    """Of a planned move: the migrations that its plan knew. One that it did not know may have taken
    the target's room."""
    in_flight_max: int | None = None
    """With `seen`: at most so many moves at once, counting those that it did not know."""


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
        """Write a planned migration; `AlreadyExistsError` while the shard has another one.

        `RefusedError` when another cell's move took the target's room since the plan was made: the
        counter orders all proposals, so of two the second knows the first.
        """
        draft = await self.draft(proposal)
        numbers, migrations = number_table(self._store), self._table

        async def decide() -> Decided[MigrationRecord]:
            known = await self.all()
            other = next((r for r in known if r.active and r.shard == draft.shard), None)
            if other is not None:
                raise AlreadyExistsError(
                    f"shard {draft.shard} is in migration {other.id} ({other.state.value})"
                )
            _check_room(proposal, [r for r in known if r.active])
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


def _check_room(proposal: Proposal, active: Sequence[MigrationRecord]) -> None:
    """What a plan took for granted of its target still holds."""
    if proposal.seen is None:
        return
    unseen = [r for r in active if r.id not in proposal.seen]
    moving = [r for r in active if r.state not in (State.SOAKING, State.ROLLING_BACK)]
    other = next((r for r in unseen if r.target_instance == proposal.target), None)
    if other is not None:
        raise RefusedError(
            f"{other.id} took room on {proposal.target} after this plan was made; the next plan"
            " counts it"
        )
    most = proposal.in_flight_max
    if unseen and most is not None and len(moving) >= most:
        raise RefusedError(
            f"{len(moving)} moves are under way since {unseen[0].id} began, moves_max is {most}"
        )
