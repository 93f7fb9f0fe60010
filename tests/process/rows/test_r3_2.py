"""R3.2: weights and thresholds of the risk are set while the planner runs, and kept."""

import asyncio
import time
from pathlib import Path

import logstore
from coordinator.answers.plans import PlannedCrossing
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.background import alongside
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import planned, told, told_json
from tests.support.rows import record

OPS_PER_S = 1_000.0
NOTICED_S_MAX = 20.0


async def load(log: logstore.Log, per_s: float) -> None:
    """Appends at an even rate, until cancelled."""
    began, sent = time.monotonic(), 0
    while True:
        await log.append(b"k%d" % (sent % 50), b"v")
        sent += 1
        await asyncio.sleep(max(0.0, began + sent / per_s - time.monotonic()))


async def crossing(cluster: LocalCluster) -> PlannedCrossing:
    """The first crossing of a plan, as soon as there is one."""
    async with asyncio.timeout(NOTICED_S_MAX):
        while not (found := (await planned(cluster.address)).crossings):
            await asyncio.sleep(0.2)
    return found[0]


async def test_r3_2_a_threshold_is_set_live_and_changes_the_next_plan(tmp_path: Path) -> None:
    bounded = [CapacityRecord(ops_per_s=OPS_PER_S)] * 2
    async with (
        local_cluster(
            2,
            data=tmp_path,
            capacities=bounded,
            autopilot="forecast-only",
            coordinator_settings={"planning_period_s": 1},
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):
        log = await db.create_log("orders")
        async with alongside(load(log, OPS_PER_S / 5)):
            said = await told(cluster.address, "planner", "set", "risk.threshold=7", status=2)
            assert "risk.threshold is 7.0, it must be within 0.05..1 of capacity" in said
            await told(cluster.address, "planner", "set", "risk.threshold=0.06", "hysteresis=0.01",
                          "risk.near_capacity=0.1", "--by", "ann")  # fmt: skip
            began = time.monotonic()
            seen = await crossing(cluster)
            noticed_s = time.monotonic() - began
            assert abs((seen.forecast.limit or 0.0) - 0.06 * OPS_PER_S) < 1e-6
            cluster.kill("coordinator")
            await cluster.wait_ready()
            kept = await told_json(cluster.address, "planner", "get", "threshold")
            assert [(s["value"], s["by"], s["at_start"]) for s in kept] == [(0.06, "ann", 0.8)]
            await told(cluster.address, "planner", "reset", "--all", "--by", "bob")
            assert (await planned(cluster.address)).crossings == ()
            changes = await told_json(cluster.address, "planner", "history")
            who = [(c["by"], c["old"], c["new"]) for c in changes if c["name"] == "risk.threshold"]
            assert who == [("ann", 0.8, 0.06), ("bob", 0.06, 0.8)]
    figure = (
        f"threshold 0.8 → 0.06 of capacity: a crossing in the plan {noticed_s:.1f} s later; kept"
        " over kill -9, reset, with who and when"
    )
    record("R3.2", command="logstore planner set risk.threshold=0.06", figure=figure)
