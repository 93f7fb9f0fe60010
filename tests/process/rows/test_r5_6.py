"""R5.6: two kill -9 of an instance are seen as failures, and its hot range leaves it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.background import alongside
from logstore.base.errors import LogstoreError
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
OPS_PER_S = 200.0
FAST = {"soak_s": 0, "shadow_s": 0, "ramp_step": 0.5}
LEFT_S_MAX = 40.0


async def _write(log: logstore.Log) -> None:
    """A third of an instance, until cancelled; a killed instance is waited for by the client."""
    number = 0
    while True:
        try:
            await log.append(b"k%d" % (number % 50), b"v")
        except LogstoreError:
            continue
        number += 1
        await asyncio.sleep(3 / OPS_PER_S)


async def _killed(cluster: LocalCluster, instance: str, kills: int) -> dict[str, Any]:
    """The rows of `logstore instances` when so many kills are seen."""
    cluster.kill(instance)
    async with asyncio.timeout(30):
        while True:
            rows = {r["instance"]: r for r in await told_json(cluster.address, "instances")}
            if rows[instance]["failures"].get("unclean start", 0) == kills:
                return rows
            await asyncio.sleep(0.1)


async def test_r5_6_two_kills_are_seen_and_the_hot_range_leaves(tmp_path: Path) -> None:
    async with (
        local_cluster(
            2,
            data=tmp_path,
            capacities=[CapacityRecord(ops_per_s=OPS_PER_S)] * 2,
            autopilot="off",
            coordinator_settings={"planning_period_s": 1, "move": FAST},
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):
        log = await db.create_log("orders")
        home = (await log.shard_map()).open_shards[0].primary
        other = next(name for name in cluster.instance_addresses if name != home)
        async with alongside(_write(log)):
            for kills in (1, 2):
                rows = await _killed(cluster, home, kills)
            rate = rows[home]["failures_per_day"]
            assert 1.3 < rate < 1.4  # two, over a mean memory of 1.44 days
            assert rows[other]["failures_per_day"] == 0.0
            await cluster.set_autopilot("on")
            async with asyncio.timeout(LEFT_S_MAX):
                while (await log.shard_map()).open_shards[0].primary != other:
                    await asyncio.sleep(0.2)
        moves = await told_json(cluster.address, "migrations")
        assert "failures a day) serves it better" in moves[0]["reason"]
    figure = f"after 2 kills {rate:.2f} failures a day, the other 0; the hot range left"
    record("R5.6", command="logstore instances", figure=figure)
