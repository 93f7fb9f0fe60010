"""Disks that are full: of a primary, of a follower."""

import asyncio

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import Running

HELD_S = 6.0


async def test_full_disk_of_a_primary(cluster: Cluster, running: Running) -> None:
    """Appends are refused or led elsewhere; when there is room again nothing is missing."""
    async with running("full-disk-primary") as run:
        victim, shards = await cluster.most_loaded(run.load.log)
        run.load.recorder.fault(f"fill the disk of {victim}, which leads {shards}")
        cluster.fill_disk(victim)
        await asyncio.sleep(HELD_S)  # the fault itself, held for a time
        run.load.recorder.fault("make room")


async def test_full_disk_of_a_follower(cluster: Cluster, running: Running) -> None:
    """The shards that others lead go on with two copies."""
    async with running("full-disk-follower") as run:
        led = await cluster.led_by(run.load.log)
        victim = min(led, key=lambda i: len(led[i]))
        run.load.recorder.fault(f"fill the disk of {victim}, which leads {led[victim]}")
        cluster.fill_disk(victim)
        await asyncio.sleep(HELD_S)  # the fault itself, held for a time
        run.load.recorder.fault("make room")
