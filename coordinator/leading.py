"""One coordinator leads, the others stand by: with a metadata store that several can reach.

A standby holds nothing and listens nowhere until it is elected; then it starts as a coordinator
that was restarted does, from what is in the metadata. It writes through a `FencedStore`, so one
that was followed unawares can change nothing (I9). One that lost its leadership ends: whoever
supervises it starts it again, as a standby.
"""

import asyncio
import contextlib

import structlog

from coordinator.config import CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.base.tls import TlsOptions
from logstore.meta.election import Election, FencedStore, Leadership
from logstore.meta.records import cell_leader_key

CELL = "0"
"""The whole shard space is one cell yet."""
LOST = 1

_log = structlog.get_logger(__name__)


async def serve_while_leading(config: CoordinatorConfig, env: Env, stopped: asyncio.Event) -> int:
    """Stand by, lead, and end when `stopped` is set (0) or the leadership is lost (1).

    Prints `ready ADDRESS` once it serves. Errors: as CoordinatorServer's; `ConfigError` when the
    store refuses us.
    """
    assert config.metadata is not None
    tls = TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
    store = config.open_metadata([config.metadata], tls)
    name = f"{config.host}:{config.port}"
    election = Election(store, cell_leader_key(CELL), name, env, address=name)
    try:
        _log.info("stands by", metadata_key=cell_leader_key(CELL))
        campaign = asyncio.create_task(election.campaign())
        await _first(campaign, stopped)
        if not campaign.done():
            await _cancelled(campaign)
            return 0
        leadership = campaign.result()
        server = CoordinatorServer(config, env, store=FencedStore(store, leadership.fence))
        print(f"ready {await server.start()}", flush=True)
        await _until_over(leadership, stopped)
        await server.stop()
        return 0 if stopped.is_set() else LOST
    finally:
        await election.resign()
        await store.close()


async def _until_over(leadership: Leadership, stopped: asyncio.Event) -> None:
    lost = asyncio.create_task(leadership.lost.wait())
    await _first(lost, stopped)
    if not stopped.is_set():
        _log.error("leadership lost; this coordinator ends")
    await _cancelled(lost)


async def _first(task: "asyncio.Task[object]", stopped: asyncio.Event) -> None:
    """Return when `task` is done or `stopped` is set."""
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await _cancelled(stopping)


async def _cancelled(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
