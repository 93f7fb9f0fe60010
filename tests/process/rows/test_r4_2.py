"""R4.2: live capacity (CPU, memory, I/O) is an input, found where it is not stated, and obeyed
where somebody does."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.local.cluster import local_cluster
from logstore.base.background import alongside
from logstore.base.errors import LogstoreError
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import planned, told, told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(180)
SEEN_S_MAX = 60.0
STORED_MAX = 300_000


async def append_for_ever(log: Any) -> None:
    while True:
        await asyncio.gather(*(log.append(os.urandom(4), b"v" * 100) for _ in range(16)))


async def test_r4_2_capacity_is_found_and_planned_by_with_nothing_configured(
    tmp_path: Path,
) -> None:
    async with (
        local_cluster(
            2,
            data=tmp_path,
            autopilot="forecast-only",
            coordinator_settings={"planning_period_s": 1},
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):
        log = await db.create_log("orders", instances=["instance-1"])
        async with alongside(append_for_ever(log)), asyncio.timeout(SEEN_S_MAX):
            while True:
                stats = await told_json(cluster.address, "stats")
                hot, idle = (stats["instances"][f"instance-{n}"] for n in (1, 2))
                plan = await planned(cluster.address)
                shares = [r.value for r in plan.refused
                          if r.instance == "instance-1" and r.reason == 1]  # fmt: skip
                if hot["ops_per_s"] > 50 and (any(shares) or plan.crossings):
                    break
            table = await told(cluster.address, "stats")
            listed = await told_json(cluster.address, "instances", "list")
    assert {"CPU", "memory", "I/O", "network", "space"} <= hot["loads"].keys()
    assert hot["load"] == max(hot["loads"].values())
    assert hot["load"] == hot["loads"][hot["bound_by"]]
    cores = hot["capacity"]["cpu_share"]
    assert 0 < cores <= (os.cpu_count() or 1)
    assert "ops_per_s" in hot["estimated"]
    assert hot["ops_per_s"] / 4 < hot["capacity"]["ops_per_s"] < 1e6
    assert hot["loads"]["CPU"] > 2 * idle["loads"]["CPU"] or hot["loads"]["CPU"] > 0.9
    shard = stats["loads"]["orders/0"]
    assert 0 < shard["cpu"] < 2 * max(hot["cpu_share"], cores)
    assert all(crossing.forecast.unit == "cores" for crossing in plan.crossings)
    assert f"({hot['bound_by']})" in table
    assert {row["bound_by"] for row in listed} <= set(hot["loads"])
    record(
        "R4.2",
        command="logstore stats",
        figure=f"nothing stated: load {hot['load']:.2f} ({hot['bound_by']}) at"
        f" {hot['ops_per_s']:.0f} of ~{hot['capacity']['ops_per_s']:.0f} ops/s, {cores:.2f} cores",
    )


async def test_r4_2_stated_space_is_obeyed(tmp_path: Path) -> None:
    bounded = [CapacityRecord(stored_bytes=STORED_MAX)]
    async with (
        local_cluster(1, data=tmp_path, capacities=bounded, autopilot="off") as cluster,
        logstore.connect(cluster.address, timeout_s=2.0) as db,
    ):
        log = await db.create_log("orders")
        stored, said = 0, ""
        for _ in range(60):
            try:
                await log.append(b"k", os.urandom(10_000))
                stored += 10_000
            except LogstoreError as e:
                said = e.message
                break
        assert STORED_MAX / 2 < stored <= STORED_MAX
        assert "stored_bytes_max is 300000" in said
        assert "stored_bytes is" in said
