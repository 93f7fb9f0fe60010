"""Processes that die: primaries, coordinators, members, everything at once."""

import time

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import Running

KILLS = 4
FAILOVER_LIMIT_S = 3.0
"""B12: from kill -9 of a primary to the next acked append, p99."""


def share_of(samples: list[float], share: float) -> float:
    """The smallest sample that is not below this share of them."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def test_killed_primaries(cluster: Cluster, running: Running) -> None:
    """B12 over twenty kills; every shard that the victim led is a sample."""
    samples: list[float] = []
    async with running("killed-primaries") as run:
        for _ in range(KILLS):
            victim, shards = await cluster.most_loaded(run.load.log)
            killed_s = time.monotonic()
            await cluster.parties[victim].kill()
            run.load.recorder.fault(f"kill {victim}, which led {shards}")
            for shard in shards:
                acked_s = await run.load.acks[shard].first_after(killed_s, 30.0)
                samples.append(acked_s - killed_s)
            await cluster.parties[victim].start()
            await cluster.converge(run.load.log)
    p50, p99, most = (share_of(samples, s) for s in (0.5, 0.99, 1.0))
    print(f"B12: {KILLS} kills, {len(samples)} shards: kill to next acked append "
          f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s")  # fmt: skip
    assert len(samples) >= KILLS
    assert p99 <= FAILOVER_LIMIT_S, samples
