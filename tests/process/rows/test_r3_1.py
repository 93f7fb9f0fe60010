"""R3.1: a stranger sees where each shard's load goes: interval, trend, drift, models."""

import asyncio
from pathlib import Path

import logstore
from coordinator.local.cluster import local_cluster
from tests.process.rows.cluster_command import told, told_json
from tests.support.rows import record

LEARNED_S_MAX = 30.0


async def test_r3_1_a_forecast_shows_interval_trend_and_models(tmp_path: Path) -> None:
    async with (
        local_cluster(1, data=tmp_path, coordinator_settings={"planning_period_s": 1}) as cluster,
        logstore.connect(cluster.address) as db,
    ):
        log = await db.create_log("orders")
        appended = 0
        async with asyncio.timeout(LEARNED_S_MAX):
            found = await told_json(cluster.address, "forecast", "orders/0")
            while not found["trends"]:
                for _ in range(20):
                    await log.append(b"k", b"v")
                    appended += 1
                found = await told_json(cluster.address, "forecast", "orders/0")
        (trend,) = found["trends"].values()
        assert 0 < trend["moving_average"] <= appended
        assert trend["drift"] in ("rising", "falling", "steady")
        assert abs(sum(trend["weights"].values()) - 1.0) < 1e-6
        said = found["forecasts"]["orders/0"]
        for mean, low, high in zip(said["mean"], said["lower80"], said["upper80"], strict=True):
            assert low <= mean <= high
        text = await told(cluster.address, "forecast", "orders/0")
        for word in ("moving average", "deviation", "drift", "lower 80 %", "upper 95 %"):
            assert word in text
        record(
            "R3.1",
            command="logstore forecast orders/0",
            figure=f"moving average {trend['moving_average']:.0f} a slot, {trend['drift']}",
        )
