"""R3.3: a plan says source, target, bytes and time, and is ordered by risk and latency gained."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

import logstore
from coordinator.local.cluster import local_cluster
from logstore.base.background import alongside
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import planned, told
from tests.process.rows.test_r3_2 import load
from tests.support.rows import record

OPS_PER_S = 1_000.0
PLANNED_S_MAX = 30.0


async def two_moves(address: str) -> list[Any]:
    """The operators of a plan that has two, with their expected latency."""
    async with asyncio.timeout(PLANNED_S_MAX):
        while True:
            found = (await planned(address)).operators
            if len(found) >= 2 and all(op.latency for op in found):
                return list(msgspec.to_builtins(found))
            await asyncio.sleep(0.2)


def worth(operator: Any, weight: float) -> float:
    return float(operator["risk"] + weight * operator["latency"]["saved_s"])


async def test_r3_3_the_plan_is_ordered_by_risk_and_expected_latency(tmp_path: Path) -> None:
    bounded = [CapacityRecord(ops_per_s=OPS_PER_S)] * 3
    async with (
        local_cluster(
            3,
            data=tmp_path,
            capacities=bounded,
            autopilot="forecast-only",
            coordinator_settings={"planning_period_s": 1},
        ) as cluster,
        logstore.connect(cluster.address) as db,
    ):
        cuts = [b"k%d" % n for n in range(10, 50, 10)]
        log = await db.create_log("orders", split_keys=cuts, instances=["instance-1"] * 5)
        await told(cluster.address, "planner", "set", "risk.threshold=0.06", "hysteresis=0.01",
                   "horizon_periods=60", "risk.move_cost_per_s=0")  # fmt: skip
        async with alongside(load(log, OPS_PER_S / 5)):
            found = await two_moves(cluster.address)
            async with asyncio.timeout(PLANNED_S_MAX):  # each plan is of another moment
                while "ms p50 over" not in (
                    said := await told(cluster.address, "plan", "--explain")
                ):
                    pass
        worths = [worth(op, 0.01) for op in found]
        assert worths == sorted(worths, reverse=True)
        first = found[0]
        assert (first["source"], first["shard"][:7]) == ("instance-1", "orders/")
        assert first["target"] in ("instance-2", "instance-3")
        assert first["bytes"] >= 0
        assert first["start_s"] < first["deadline_s"]
        gain = first["latency"]
        assert gain["ops_per_s"] > 0
        assert "p50 gain ms" in said
    figure = (
        f"{len(found)} moves by risk and waiting saved; the first expects p50"
        f" {gain['before_ms']:.2f} to {gain['after_ms']:.2f} ms over {gain['ops_per_s']:.0f} ops/s"
    )
    record("R3.3", command="logstore plan --explain", figure=figure)
