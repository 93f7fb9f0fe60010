"""One coordinator leads, the others stand by: with a metadata store that several can reach.

A standby holds nothing and listens nowhere until it is elected; then it starts as a coordinator
that was restarted does, from what is in the metadata. It writes through a `FencedStore`, so one
that was followed unawares can change nothing (I9). One that lost its lease, because its machine or
the store stood still, campaigns again and goes on if nobody followed it; else it ends, and whoever
supervises it starts it again as a standby.
"""

import asyncio
import contextlib

import structlog

from coordinator.config import CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.base.errors import UnavailableError
from logstore.base.tls import TlsOptions
from logstore.meta.election import Election, FencedStore, Leadership
from logstore.meta.records import cell_leader_key

CELL = "0"
"""The whole shard space is one cell yet."""
LOST = 1
LOOK_S = 0.5
"""How often one that lost its lease looks whether another leads."""

_log = structlog.get_logger(__name__)


async def serve_while_leading(config: CoordinatorConfig, env: Env, stopped: asyncio.Event) -> int:
    """Stand by, lead, and end when `stopped` is set (0) or another leads (1).

    Prints `ready ADDRESS` once it serves. Errors: as CoordinatorServer's; `ConfigError` when the
    store refuses us.
    """
    assert config.metadata is not None
    tls = TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
    store = config.open_metadata([config.metadata], tls)
    address = f"{config.host}:{config.port}"
    name = f"{address}/{env.new_id():x}"
    election = Election(store, cell_leader_key(CELL), name, env, address=address)
    try:
        _log.info("stands by", candidate=name)
        campaign = asyncio.create_task(election.campaign())
        await _first(campaign, stopped)
        if not campaign.done():
            await _cancelled(campaign)
            return 0
        leadership = campaign.result()
        fenced = FencedStore(store, leadership.fence)
        server = CoordinatorServer(config, env, store=fenced)
        print(f"ready {await server.start()}", flush=True)
        await _lead(election, name, leadership, fenced, stopped)
        await server.stop()
        return 0 if stopped.is_set() else LOST
    finally:
        await election.resign()
        await store.close()


async def _lead(
    election: Election,
    name: str,
    leadership: Leadership,
    store: FencedStore,
    stopped: asyncio.Event,
) -> None:
    """Return when `stopped` is set or another leads."""
    while True:
        lost = asyncio.create_task(leadership.lost.wait())
        await _first(lost, stopped)
        await _cancelled(lost)
        if stopped.is_set():
            return
        _log.warning("the lease was lost; nothing is written until elected again")
        campaign = asyncio.create_task(election.campaign())
        while not campaign.done():
            await asyncio.wait({campaign}, timeout=LOOK_S)
            if not campaign.done() and (stopped.is_set() or await _another(election, name)):
                await _cancelled(campaign)
                return
        leadership = campaign.result()
        store.fence = leadership.fence


async def _another(election: Election, name: str) -> bool:
    """Whether another candidate leads; a store that does not answer tells nothing."""
    try:
        leader = await election.leader()
    except UnavailableError:
        return False
    if leader is None or leader.candidate == name:
        return False
    _log.error("another coordinator leads; this one ends", leader=leader.candidate)
    return True


async def _first(task: "asyncio.Task[object]", stopped: asyncio.Event) -> None:
    """Return when `task` is done or `stopped` is set."""
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await _cancelled(stopping)


async def _cancelled(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
