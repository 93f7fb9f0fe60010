"""Work on migrations in the store that this driver did not start: written by the planner of another
cell, or by us with an unknown outcome."""

from collections.abc import Callable
from typing import TypeVar

from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import migration_table
from coordinator.migration.records import MigrationRecord
from coordinator.migration.reshape import ReshapeRecord
from coordinator.migration.reshape_driver import ReshapeDriver, reshape_table
from logstore.meta.port import MetadataStore
from logstore.meta.table import Followed, Table, good_and_odd

T = TypeVar("T")


async def resume_migrations(store: MetadataStore, driver: MigrationDriver) -> None:
    """Until cancelled, start on each active migration of a shard that is ours."""

    def is_new(record: MigrationRecord) -> bool:
        return record.active and driver.owns(record.shard) and record.id not in driver.running()

    await _resume(migration_table(store), driver, is_new)


async def resume_reshapes(store: MetadataStore, driver: ReshapeDriver) -> None:
    """Until cancelled, start on each active split and merge that is ours."""

    def is_new(record: ReshapeRecord) -> bool:
        return record.active and driver.owns(record.parents) and record.id not in driver.running()

    await _resume(reshape_table(store), driver, is_new)


async def _resume(
    table: Table[T], driver: MigrationDriver | ReshapeDriver, is_new: Callable[[T], bool]
) -> None:
    async def take(step: Followed[T]) -> None:
        if step.whole or any(map(is_new, good_and_odd(step.entries)[0])):
            await driver.start()

    await table.follow(take, "not watched", prefix=table.prefix)
