"""Going on with what is in the store, whoever wrote it."""

import asyncio
from dataclasses import replace

from coordinator.migration.ledger import migration_table
from coordinator.migration.records import State
from coordinator.migration.resume import resume_migrations
from logstore.meta.port import Put
from logstore.meta.records import migration_key
from tests.unit.coordinator.model import World

WAIT_S = 10.0
POLL_S = 0.01


async def begun(world: World, migration: str) -> State:
    """The state that it came to once the driver works, or worked, on it."""
    async with asyncio.timeout(WAIT_S):
        while (state := (await world.driver.ledger.get(migration)).state) is State.PLANNED:
            await asyncio.sleep(POLL_S)
    return state


async def test_an_entry_that_is_no_migration_does_not_keep_later_ones_waiting() -> None:
    world = World()
    first = await world.begin()
    store = world.cluster.store
    task = asyncio.ensure_future(resume_migrations(store, world.driver))
    try:
        await begun(world, first.id)  # all that is written from now on comes by the watch
        await store.txn([], [Put(migration_key("m98"), b"by another tool")])
        assert await migration_table(store).create("m99", replace(first, id="m99"))
        assert await begun(world, "m99") is State.ABORTED  # the shard is in the first one
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await world.driver.close()
