"""A cluster whose one shard is appended to and read while it is moved by the command line."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import logstore
from coordinator.local.cluster import LocalCluster, local_cluster
from tests.process.rows.cluster_command import told, told_json

QUICK = ("--option", "shadow_s=0.3", "--option", "ramp_step=0.1", "--option", "soak_s=1")
CALLS_PER_S = 50.0


class Work:
    """One log of one shard, appended to and read all the while."""

    def __init__(self, cluster: LocalCluster, log: logstore.Log, source: str, target: str) -> None:
        self.cluster, self.log, self.source, self.target = cluster, log, source, target
        self.acked: list[bytes] = []
        self.reads = 0

    async def load(self) -> None:
        """An append and a read of its key at an even rate, until cancelled."""
        began = time.monotonic()
        while True:
            value = b"%d" % len(self.acked)
            await self.log.append(b"k", value)
            self.acked.append(value)
            async for _ in self.log.read(key=b"k", limit=1):
                self.reads += 1
            await asyncio.sleep(max(0.0, began + len(self.acked) / CALLS_PER_S - time.monotonic()))

    async def primary(self) -> str:
        return (await self.log.shard_map()).open_shards[0].primary

    async def stored(self) -> list[bytes]:
        return [r.value async for r in self.log.read(key=b"k")]

    async def move(self) -> list[dict[str, Any]]:
        """What `move --watch --json` prints, line by line."""
        said = await told(self.cluster.address, "move", "orders/0", self.target, *QUICK, "--watch",
                          "--json")  # fmt: skip
        return [json.loads(line) for line in said.splitlines()]

    async def reaches(self, migration: str, state: str) -> None:
        while (await self.of(migration))["state"] != state:
            await asyncio.sleep(0.05)

    async def of(self, migration: str) -> dict[str, Any]:
        found: dict[str, Any] = await told_json(self.cluster.address, "migrations", migration)
        return found


@asynccontextmanager
async def working(data: Path) -> AsyncIterator[Work]:
    async with (
        local_cluster(2, data=data, autopilot="off") as cluster,
        logstore.connect(cluster.addresses) as db,
    ):
        log = await db.create_log("orders")
        await log.append_many([b"old"] * 5_000, [b"v" * 200] * 5_000)
        source = (await log.shard_map()).open_shards[0].primary
        target = next(name for name in cluster.instance_addresses if name != source)
        yield Work(cluster, log, source, target)
