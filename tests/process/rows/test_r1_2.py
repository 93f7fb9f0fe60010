"""R1.2: statistics of shards and the state of instances can be seen, and are true."""

from pathlib import Path

import pytest

import logstore
from coordinator.local.cluster import local_cluster
from logstore.meta.records import CapacityRecord
from tests.process.rows.cluster_command import told, told_json, until
from tests.process.rows.test_r1_1 import total
from tests.support.rows import record

pytestmark = pytest.mark.timeout(180)
OPS_PER_S = 200.0


async def test_r1_2_statistics_and_status_tell_refused_and_retried_apart(tmp_path: Path) -> None:
    room = [CapacityRecord(ops_per_s=OPS_PER_S), CapacityRecord(ops_per_s=OPS_PER_S)]
    settings = {"slot_s": 2.0, "planning_period_s": 60.0}
    async with local_cluster(
        2, data=tmp_path, capacities=room, autopilot="off", coordinator_settings=settings
    ) as cluster:
        async with logstore.connect(cluster.address) as db:
            log = await db.create_log("orders", instances=["instance-1"])
            await db.create_log("quiet", instances=["instance-1"])
            batch = 100
            for _ in range(10):  # five times what the instance takes: it refuses, we send again
                await log.append_many([b"k"] * batch, [b"v"] * batch)
            found = await until(
                cluster.address, "stats", "orders", "--history",
                holds=lambda s: sum(r["query_count"] for r in s["shards"].get("orders/0", ()))
                == 1_000,
            )  # fmt: skip
        shard, rows = found["loads"]["orders/0"], found["shards"]["orders/0"]
        assert total(shard, "admitted_per_s") == 1_000
        refused, retried = total(shard, "refused_per_s"), total(shard, "retried_per_s")
        assert refused >= batch
        assert refused % batch == 0
        assert total(shard, "offered_per_s") == 1_000 + refused
        assert retried == refused  # each refusal was sent again, and no more
        assert sum(r["refused_count"] for r in rows) == refused
        assert sum(r["retried_count"] for r in rows) == retried
        last = max(rows, key=lambda r: r["query_count"])
        assert (last["shard"], last["instance"]) == ("orders/0", "instance-1")
        assert last["mean_ms"] > 0
        assert last["migration_weight"] == 1.0
        status = found["instances"]["instance-1"]
        assert status["capacity"]["ops_per_s"] == OPS_PER_S
        assert 0 <= status["available"] <= 1
        assert status["alive"]
        # A shard that nothing was ever asked of is shown where it is, before and after a move.
        before = await told_json(cluster.address, "stats", "quiet")
        assert before["loads"]["quiet/0"]["instance"] == "instance-1"
        await told(cluster.address, "move", "quiet/0", "instance-2", "--watch",
                      "--option", "soak_s=0.1", "--option", "ramp_step=1")  # fmt: skip
        after = await told_json(cluster.address, "stats", "quiet")
        assert after["loads"]["quiet/0"]["instance"] == "instance-2"
        assert after["loads"]["quiet/0"]["migration_weight"] >= 1.0
        moved = await until(
            cluster.address, "stats", "quiet",
            holds=lambda s: any(
                r["instance"] == "instance-2" and r["query_count"] == 0
                for r in s["shards"].get("quiet/0", ())
            ),
        )  # fmt: skip
        assert moved["loads"]["quiet/0"]["slot"] >= before["loads"]["quiet/0"]["slot"]
    record(
        "R1.2",
        command="logstore stats --history",
        figure=f"offered {1_000 + refused}, admitted 1000, refused {refused}, retried {retried}; a"
        " moved shard without operations is shown at its new instance",
    )
