"""R5.5: a log that was split under load has its shard count back once it has cooled down."""

import asyncio
import json
from pathlib import Path

import pytest

import logstore
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import told, told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
PERIOD_S = 1.0
BACK_S_MAX = 60.0
MOVE = {"soak_s": 0, "shadow_s": 0, "ramp_step": 0.5}
KEYS = [b"%02d" % n for n in range(100)]


async def _open(log: logstore.Log) -> list[str]:
    return [shard.id for shard in (await log.shard_map()).open_shards]


async def _plans(cluster: LocalCluster) -> int:
    return len((await told_json(cluster.address, "plan", "--history"))["history"])


async def _split_as_under_load(cluster: LocalCluster, log: logstore.Log) -> list[str]:
    """Two shards become four, one of them on the other instance."""
    first, second = await _open(log)
    for parent, at in ((first, "25"), (second, "75")):
        await told(cluster.address, "split", parent, "--at", at)
    shards = (await log.shard_map()).open_shards
    other = next(i for i in cluster.instance_addresses if i != shards[0].primary)
    await told(cluster.address, "move", shards[1].id, other, "--watch")
    return await _open(log)


async def test_r5_5_a_log_that_cooled_down_has_its_shards_back(tmp_path: Path) -> None:
    async with (
        local_cluster(
            2,
            data=tmp_path,
            capacities=[CapacityRecord(ops_per_s=1_000.0)] * 2,
            autopilot="off",
            coordinator_settings={
                "planning_period_s": PERIOD_S, "slot_s": PERIOD_S, "move": MOVE, "cooldown_s": 0,
            },
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):  # fmt: skip
        log = await db.create_log("orders", split_keys=[b"50"])
        await log.append_many(KEYS, [b"v"] * len(KEYS))
        assert len(await _split_as_under_load(cluster, log)) == 4
        await cluster.set_autopilot("on")
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(BACK_S_MAX):
            while len(left := await _open(log)) > 2:
                await asyncio.sleep(0.1)
        took_s = asyncio.get_running_loop().time() - began_s
        # It stays so: more plans are made and nothing is split or joined again.
        plans = len((await told_json(cluster.address, "plan", "--history"))["history"])
        async with asyncio.timeout(BACK_S_MAX):
            while (
                len((await told_json(cluster.address, "plan", "--history"))["history"]) < plans + 4
            ):
                await asyncio.sleep(PERIOD_S)
        assert await _open(log) == left
        assert sorted([r.key async for r in log.read()]) == KEYS
        reshapes = await told_json(cluster.address, "reshapes")
    merges = [r for r in reshapes if r["kind"] == "merge"]
    assert [m["state"] for m in merges] == ["completed"] * 2, json.dumps(reshapes)
    assert all("one shard is enough for both" in m["reason"] for m in merges)
    figure = (
        f"4 shards are 2 again {took_s / PERIOD_S:.0f} planning periods after the autopilot began"
    )
    record("R5.5", command="logstore reshapes", figure=figure)
