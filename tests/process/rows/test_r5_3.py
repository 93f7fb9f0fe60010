"""R5.3: keys that are used together are found, and end on one instance."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import logstore
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.background import alongside
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(180)
PAIR = (b"a", b"z")
"""Keys at the two ends of the key space that each request reads together."""
MOVE = {"soak_s": 0, "shadow_s": 0, "ramp_step": 0.5}
FOUND_S_MAX, TOGETHER_S_MAX = 60.0, 60.0


class Reads:
    """What the readers did: reads of the pair, and those that asked two instances."""

    def __init__(self, log: logstore.Log) -> None:
        self._log = log
        self._random = random.Random(1)
        self.pairs = self.across = 0

    async def pair(self) -> None:
        """Reads both keys together, at uneven times."""
        while True:
            homes = [s.primary for s in (await self._log.shard_map()).open_shards]
            for key in PAIR:
                assert [r async for r in self._log.read(key=key)]
            self.pairs += 1
            self.across += homes[0] != homes[-1]
            await asyncio.sleep(self._random.expovariate(8.0))

    async def others(self) -> None:
        """Reads keys between them, each for itself."""
        while True:
            key = self._random.choice([b"h", b"p"])
            assert [r async for r in self._log.read(key=key)]
            await asyncio.sleep(self._random.expovariate(8.0))


async def _found(cluster: LocalCluster) -> dict[str, Any]:
    async with asyncio.timeout(FOUND_S_MAX):
        while True:
            found: dict[str, Any] = await told_json(cluster.address, "correlation", "orders")
            if found["pairs"] and found["pairs"][0]["correlation"] >= 0.8:
                return found
            await asyncio.sleep(0.5)


async def _share_across(reads: Reads, count: int) -> float:
    """Share of the next `count` reads of the pair that ask two instances."""
    pairs, across = reads.pairs, reads.across
    while reads.pairs < pairs + count:
        await asyncio.sleep(0.05)
    return (reads.across - across) / (reads.pairs - pairs)


async def test_r5_3_a_planted_pair_is_found_and_ends_on_one_instance(tmp_path: Path) -> None:
    async with (
        local_cluster(
            2,
            data=tmp_path / "data",
            capacities=[CapacityRecord(ops_per_s=500.0)] * 2,
            autopilot="off",
            coordinator_settings={
                "planning_period_s": 1, "slot_s": 1, "move": MOVE, "cooldown_s": 0,
            },
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):  # fmt: skip
        names = sorted(cluster.instance_addresses)
        homes = [names[0], names[0], names[1], names[1]]
        log = await db.create_log("orders", split_keys=[b"g", b"n", b"t"], instances=homes)
        await log.append_many([b"a", b"h", b"p", b"z"], [b"v"] * 4)
        reads = Reads(log)
        async with alongside(reads.pair()), alongside(reads.others()):
            found = await _found(cluster)
            first, last = found["shards"][0], found["shards"][-1]
            assert [(p["shard"], p["other"]) for p in found["pairs"]] == [(first, last)]
            before = await _share_across(reads, 20)
            await cluster.set_autopilot("on")
            async with asyncio.timeout(TOGETHER_S_MAX):
                while True:
                    shards = (await log.shard_map()).open_shards
                    if shards[0].primary == shards[-1].primary:
                        break
                    await asyncio.sleep(0.2)
            after = await _share_across(reads, 20)
        moves = await told_json(cluster.address, "migrations")
        assert any("is used together with" in m["reason"] for m in moves)
        arrow, png = tmp_path / "pairs.arrow", tmp_path / "pairs.png"
        await told_json(cluster.address, "correlation", "orders", "--arrow", str(arrow),
                        "--png", str(png))  # fmt: skip
        with pa.ipc.open_file(arrow) as file:
            assert file.read_all().column("shard").to_pylist() == found["shards"]
        assert png.read_bytes().startswith(b"\x89PNG")
    assert (before, after) == (1.0, 0.0)
    figure = f"reads of the pair that ask two instances: {before:.0%} before, {after:.0%} after"
    record("R5.3", command="logstore correlation LOG --png FILE", figure=figure)
