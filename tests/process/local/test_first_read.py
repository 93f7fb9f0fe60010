"""Real processes: the first read after a clean restart shows all that was acked (P4)."""

import os
from pathlib import Path

from coordinator.local.cluster import local_cluster
from logstore.client.client import connect

BATCHES = 90
PER_BATCH = 50


async def test_the_first_read_after_a_restart_shows_all(tmp_path: Path) -> None:
    """One log with three copies, one with one; a key of 18 MB in the first."""
    names = [f"instance-{i}" for i in (1, 2, 3)]
    async with local_cluster(3, data=tmp_path) as cluster, connect(cluster.addresses) as db:
        three = await db.create_log("three", replicas=3, shards=1, partitioner="balanced")
        one = await db.create_log("one", shards=1, instances=names[:1])
        value = os.urandom(4_000)
        for _ in range(BATCHES):
            await three.append_many([b"k"] * PER_BATCH, [value] * PER_BATCH)
            await one.append_many([b"k"] * PER_BATCH, [b"v"] * PER_BATCH)
    async with local_cluster(3, data=tmp_path) as cluster, connect(cluster.addresses) as db:
        for name in ("three", "one"):
            log = await db.log(name)
            assert len([r async for r in log.read()]) == BATCHES * PER_BATCH
            assert len([r async for r in log.read(key=b"k")]) == BATCHES * PER_BATCH
