"""Primaries return to the scene's instances: a restart of all leaves them anywhere.

With one copy of each shard nothing moves. With more, the instance that came back first leads. The
order is written as an intent that each primary carries out (H1), by compare-and-swap; it is not a
migration, which the planner would count as one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from coordinator.local.cluster import LocalCluster
from logstore.base.errors import UnavailableError
from logstore.meta.open import open_metadata
from logstore.meta.port import MetadataStore
from logstore.meta.shard_writes import keep_copies
from logstore.meta.tables import shard_table

TIMEOUT_S = 60.0
LOOK_S = 0.2


async def lead_at(cluster: LocalCluster, log: str, homes: Sequence[str]) -> None:
    """Ask the primary of shard `log/i` to hand over to its copy on `homes[i]`, until all are there.

    Errors: UnavailableError when they are not after TIMEOUT_S.
    """
    store = open_metadata([cluster.options.metadata or cluster.address])
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                if await _all_there(store, log, homes):
                    return
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise UnavailableError(
            f"not every shard of {log} is led where it began after {TIMEOUT_S:g} s"
        ) from None
    finally:
        await store.close()


async def _all_there(store: MetadataStore, log: str, homes: Sequence[str]) -> bool:
    there = True
    for entry in await shard_table(store).entries(f"{log}/"):
        shard = entry.record
        home = homes[int(shard.shard.rpartition("/")[2])]
        heir = next((m for m in shard.in_sync if m.instance == home), None)
        if shard.primary == heir:
            continue
        there = False
        if heir is not None and shard.hand_over is None:
            asked = keep_copies(shard, entry.revision, replace(shard, hand_over=heir.replica_id))
            await store.txn([asked.compare], asked.operations)
    return there
