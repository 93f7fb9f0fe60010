"""R2.6: the client caches the map, reads shards side by side, and leaves a silent replica."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from coordinator.local.cluster import local_cluster
from logstore.client.client import Log, connect
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
KEYS = [b"key-%02d" % n for n in range(64)]
READERS = 8
BEFORE_S, FROZEN_S = 1.5, 5.0
LEFT_S_MAX = 1.0
"""A read that was sent to a replica which is silent is answered by another one within this time."""


async def read_times(log: Log, for_s: float) -> list[float]:
    """How long each read of a key took, by READERS readers side by side; none comes back short."""
    took: list[float] = []

    async def reader(number: int) -> None:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            key = KEYS[(number + len(took)) % len(KEYS)]
            began = time.monotonic()
            found = [r.value async for r in log.read(key=key)]
            took.append(time.monotonic() - began)
            assert found == [b"1", b"2"], (key, found)
            await asyncio.sleep(0.005)

    await asyncio.gather(*(reader(n) for n in range(READERS)))
    return sorted(took)


def shown(took: list[float]) -> str:
    p50, p99 = took[len(took) // 2], took[-1 - len(took) // 100]
    return f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {took[-1] * 1e3:.0f} ms"


async def test_r2_6_a_frozen_follower_is_left_within_a_second(tmp_path: Path) -> None:
    async with local_cluster(3, data=tmp_path) as cluster, connect(cluster.addresses) as db:
        log = await db.create_log(
            "orders", shards=2, replicas=3, instances=["instance-1", "instance-2"]
        )
        for value in (b"1", b"2"):
            await log.append_many(KEYS, [value] * len(KEYS))
        before = await read_times(log, BEFORE_S)
        primaries = {shard.primary for shard in (await log.shard_map()).open_shards}
        assert primaries == {"instance-1", "instance-2"}
        pid = cluster.pids["instance-3"]
        os.kill(pid, signal.SIGSTOP)
        try:
            frozen = await read_times(log, FROZEN_S)
            began = time.monotonic()
            ordered = [r.key async for r in log.read(order="key")]
            whole_s = time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGCONT)
        assert ordered == sorted(KEYS * 2)
        assert frozen[-1] <= LEFT_S_MAX, shown(frozen)
        assert whole_s <= LEFT_S_MAX
        assert len(frozen) > len(before)  # the readers did not stand still
    figure = f"all up: {shown(before)}; one of 3 frozen: {shown(frozen)}"
    record("R2.6", command="kill -STOP PID of a follower, under log.read(key=…)", figure=figure)
