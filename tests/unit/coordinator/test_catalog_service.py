"""A new log waits a moment for instances that a coordinator has not heard of late."""

import asyncio
import functools

from coordinator.catalog.catalog import Catalog
from coordinator.catalog.copies import CopiesAdmin
from coordinator.catalog.retiring import Retiring
from coordinator.catalog.service import CatalogService
from coordinator.cells.listing import list_cells
from coordinator.migration.nodes import GrpcNodes
from logstore.base.env import Env, ManualClock
from logstore.meta.memory import MemoryMetadataStore
from logstore.proto.transport import GrpcTransport
from tests.support.statistics import intake, status

SILENCE_S = 3.0


def service_that_heard_long_ago() -> tuple[CatalogService, ManualClock]:
    """Both instances reported once; then no report came, as behind a partition."""
    clock, heard = ManualClock(), intake()
    env = Env(clock)
    store = MemoryMetadataStore()
    catalog = Catalog(store, env, "c")
    service = CatalogService(
        catalog, heard, env, SILENCE_S,
        copies=CopiesAdmin(store, catalog, GrpcNodes(store, GrpcTransport())),
        retiring=Retiring(store, catalog),
        cells=functools.partial(list_cells, store, 1),
    )  # fmt: skip
    for name in "ab":
        heard.take(name, 1, [], status(name), clock.monotonic_s(), 0)
    clock.advance(100.0)
    return service, clock


async def test_a_new_log_waits_for_a_report() -> None:
    service, clock = service_that_heard_long_ago()
    waiting = asyncio.create_task(service._heard_enough(["a", "b"], 2))
    await asyncio.sleep(0)
    service._intake.take("a", 1, [], status("a"), clock.monotonic_s(), 0)
    await asyncio.sleep(0)
    assert not waiting.done()  # one of two
    service._intake.take("b", 1, [], status("b"), clock.monotonic_s(), 0)
    async with asyncio.timeout(10):
        await waiting
    assert service._alive("a")
    assert service._alive("b")


async def test_it_waits_no_longer_than_silence_takes_to_be_told() -> None:
    service, clock = service_that_heard_long_ago()
    waiting = asyncio.create_task(service._heard_enough(["a", "b"], 3))
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(SILENCE_S)
    async with asyncio.timeout(10):
        await waiting
    assert not service._alive("a")


async def test_who_is_heard_is_not_waited_for() -> None:
    service, clock = service_that_heard_long_ago()
    service._intake.take("a", 1, [], status("a"), clock.monotonic_s(), 0)
    async with asyncio.timeout(0.05):
        await service._heard_enough(["a"], 3)
