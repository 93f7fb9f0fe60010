"""R1.5: a higher weight makes a shard likelier to be moved; one of weight 0 stays."""

import asyncio
from pathlib import Path

import logstore
from coordinator.local.cluster import local_cluster
from logstore.base.background import alongside
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import planned, told, told_json
from tests.process.rows.test_r3_2 import load
from tests.support.rows import record

OPS_PER_S = 1_000.0
PLANNED_S_MAX = 30.0


async def first_moved(address: str, other_than: str = "") -> str:
    """The shard that the plan moves first, once it is another one."""
    async with asyncio.timeout(PLANNED_S_MAX):
        while True:
            found = (await planned(address)).operators
            if found and found[0].shard != other_than:
                return found[0].shard
            await asyncio.sleep(0.2)


async def test_r1_5_a_weight_decides_which_shard_is_moved(tmp_path: Path) -> None:
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
        cuts = [b"k2", b"k3", b"k4"]
        log = await db.create_log("orders", split_keys=cuts, instances=["instance-1"] * 4)
        address = cluster.address
        await told(address, "planner", "set", "risk.threshold=0.17", "hysteresis=0.01",
                   "horizon_periods=60", "risk.upper_quantile=0.5", "policies=move_hot",
                   "surprise=none")  # fmt: skip
        async with alongside(load(log, OPS_PER_S / 5)):
            usual = await first_moved(address)
            await told(address, "weight", usual, "0", "--by", "ann")
            pinned = await first_moved(address, usual)
            said = await told(address, "plan", "--explain")
            assert f"[12] {usual} stays on instance-1: its migration weight is 0" in said
            wanted = next(f"orders/{n}" for n in range(4) if f"orders/{n}" not in (usual, pinned))
            await told(address, "weight", wanted, "90")
            assert await first_moved(address, pinned) == wanted
        shown = {s["shard"]: s["migration_weight"] for s in await told_json(address, "shards")}
        assert (shown[usual], shown[pinned], shown[wanted]) == (0.0, 1.0, 90.0)
        await told(address, "weight", usual, "--reset")
        (row,) = await told_json(address, "weight", usual)
        assert (row["weight"], row["set_weight"]) == (1.0, None)
        refused = await told(address, "weight", usual, "101", status=2)
        assert "WEIGHT is 101, it must be 0 to 100" in refused
    figure = f"{usual} was next; at weight 0 it stays ({pinned} goes), {wanted} at 90 goes first"
    record("R1.5", command="logstore weight orders/0 0", figure=figure)
