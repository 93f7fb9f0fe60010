"""R5.2: the heatmap shows which keys are hot, at once."""

import time
from pathlib import Path

import pytest

import logstore
from coordinator.local.cluster import local_cluster
from tests.process.rows.cluster_command import told, until
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
APPENDS = 4_000


async def test_r5_2_the_heatmap_shows_the_present_slot_at_once(tmp_path: Path) -> None:
    """At the default planning period, of 5 minutes."""
    async with local_cluster(1, data=tmp_path, autopilot="off") as cluster:
        async with logstore.connect(cluster.address) as db:
            log = await db.create_log("orders", shards=2)
            for _ in range(8):  # a quarter of all goes to one key
                keys = [b"k%04d" % (n if n % 4 else 2_000) for n in range(APPENDS // 8)]
                await log.append_many(keys, [b"v"] * len(keys))
            done_s = time.monotonic()
            found = await until(
                cluster.address, "heatmap", "orders",
                holds=lambda h: bool(h["counts"]) and sum(h["counts"][-1]) >= 0.5 * APPENDS,
            )  # fmt: skip
            shown_s = time.monotonic() - done_s
        assert found["closed_slot"] is None or found["closed_slot"] < found["slots"][-1]
        counts = dict(zip(found["labels"], found["counts"][-1], strict=True))
        assert 0.5 * APPENDS <= sum(counts.values()) <= 1.5 * APPENDS  # keys are sampled
        text = await told(cluster.address, "heatmap", "orders")
        assert text.rstrip().endswith("so far"), text
    record(
        "R5.2",
        command="logstore heatmap orders",
        figure=f"the present slot of 300 s, {sum(counts.values()):,.0f} accesses, {shown_s:.1f} s"
        " after the last one",
    )
