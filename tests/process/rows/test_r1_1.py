"""R1.1: each instance measures each of its copies, and reports it within seconds."""

import time
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.local.cluster import local_cluster
from tests.process.rows.cluster_command import told, until
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
APPENDS, READS = 3_000, 120


def total(load: dict[str, Any], rate: str) -> int:
    """What a rate comes to over the time that it is of."""
    return round(float(load[rate]) * float(load["over_s"]))


async def test_r1_1_operations_of_each_copy_are_shown_within_seconds(tmp_path: Path) -> None:
    """At the default planning period, of 5 minutes."""
    async with local_cluster(3, data=tmp_path, autopilot="off") as cluster:
        async with logstore.connect(cluster.address) as db:
            log = await db.create_log("orders", replicas=3)
            await until(  # all three are in sync: what one lacks comes by a copy, else
                cluster.address, "stats", "orders",
                holds=lambda s: [c["role"] for c in s["loads"]["orders/0"]["copies"]]
                == ["primary", "follower", "follower"],
            )  # fmt: skip
            keys = [b"k%d" % (n % 50) for n in range(APPENDS)]
            await log.append_many(keys, [b"x" * 100] * APPENDS)
            for n in range(READS):
                assert len([r async for r in log.read(key=b"k%d" % (n % 50))]) == APPENDS // 50
            done_s = time.monotonic()
            found = await until(
                cluster.address, "stats", "orders",
                holds=lambda s: sum(
                    total(c, "admitted_per_s") for c in s["loads"]["orders/0"]["copies"]
                ) >= APPENDS + READS,
            )  # fmt: skip
            shown_s = time.monotonic() - done_s
        shard = found["loads"]["orders/0"]
        primary, *followers = shard["copies"]
        assert [c["role"] for c in shard["copies"]] == ["primary", "follower", "follower"]
        by_copy = [total(c, "admitted_per_s") for c in shard["copies"]]
        assert sum(by_copy) == APPENDS + READS
        assert sum(total(c, "reads_per_s") for c in shard["copies"]) == READS
        assert min(by_copy) > 0  # all three served
        assert total(primary, "admitted_per_s") - total(primary, "reads_per_s") == APPENDS
        assert [total(c, "replicated_per_s") for c in followers] == [APPENDS, APPENDS]
        assert total(primary, "bytes_in_per_s") >= 100 * APPENDS
        assert all(c["replicated_bytes_per_s"] > 0 and c["stored_bytes"] > 0 for c in followers)
        assert shard["mean_ms"] > 0
        assert 0 < shard["p50_ms"] <= shard["p99_ms"]
        assert found["slot_s"] == 300.0
        assert not found["shards"].get("orders/0")  # no slot is over yet
        table = await told(cluster.address, "stats", "orders")
        assert "all 3" in table
        assert table.count("follower") == 2
    record(
        "R1.1",
        command="logstore stats orders",
        figure=f"{sum(by_copy)} operations on 3 copies, {' + '.join(map(str, by_copy))}, all shown"
        f" {shown_s:.1f} s after the last one",
    )
