"""Work on migrations in the store that this driver did not start: written by the planner of another
cell, or by us with an unknown outcome."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from coordinator.migration.driver import MigrationDriver
from coordinator.migration.records import decode_migration
from coordinator.migration.reshape import RESHAPES, decode_reshape
from coordinator.migration.reshape_driver import ReshapeDriver
from logstore.base.errors import ConflictError, LogstoreError
from logstore.meta.port import MetadataStore
from logstore.meta.records import MIGRATIONS

RETRY_S = 0.2
_log = structlog.get_logger(__name__)


async def resume_migrations(
    store: MetadataStore, driver: MigrationDriver, owns: Callable[[str], bool]
) -> None:
    """Until cancelled, start on each active migration of a shard that is ours."""

    def is_new(value: bytes) -> bool:
        record = decode_migration(value)
        return record.active and owns(record.shard) and record.id not in driver.running()

    await _resume(store, MIGRATIONS, driver, is_new)


async def resume_reshapes(store: MetadataStore, driver: ReshapeDriver) -> None:
    """Until cancelled, start on each active split and merge."""

    def is_new(value: bytes) -> bool:
        record = decode_reshape(value)
        return record.active and record.id not in driver.running()

    await _resume(store, RESHAPES, driver, is_new)


async def _resume(
    store: MetadataStore,
    prefix: str,
    driver: MigrationDriver | ReshapeDriver,
    is_new: Callable[[bytes], bool],
) -> None:
    while True:
        try:
            revision = (await store.range(prefix)).revision
            await driver.start()
            watch = store.watch(prefix, revision)
            async with contextlib.aclosing(watch):  # type: ignore[type-var]
                async for events in watch:
                    if any(e.value is not None and is_new(e.value) for e in events):
                        await driver.start()
        except ConflictError:
            continue  # the watch's history was compacted
        except LogstoreError as e:
            _log.warning("not watched", prefix=prefix, why=e.message)
            await asyncio.sleep(RETRY_S)
