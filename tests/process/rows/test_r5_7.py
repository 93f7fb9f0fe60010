"""R5.7: round trips are measured for each pair of instances, and are part of the plan."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.background import Background
from tests.process.rows.cluster_command import told, told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
ONE_WAY_S = 0.04
"""What the line to the far instance adds."""


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    """Pass bytes on, each ONE_WAY_S late."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            loop.call_later(ONE_WAY_S, to.write, data)
    loop.call_later(ONE_WAY_S, to.close)


@contextlib.asynccontextmanager
async def _slow_line(port: int) -> AsyncIterator[str]:
    """An address that reaches the port later."""
    tasks = Background("the slow line")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", port)
        tasks.start(_copy(reader, down))
        tasks.start(_copy(up, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await tasks.stop()


@contextlib.asynccontextmanager
async def _far_instance(cluster: LocalCluster, folder: Path) -> AsyncIterator[None]:
    """One more instance, behind a slow line."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with _slow_line(port) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "logstore.node.main", "--instance", "far",
            "--data", str(folder / "far"), "--listen", f"127.0.0.1:{port}",
            "--advertise", address, "--metadata", cluster.address,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env=dict(os.environ),
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


async def _pairs(cluster: LocalCluster) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of `logstore instances latency` once each of three measures both others."""
    async with asyncio.timeout(60):
        while True:
            rows = await told_json(cluster.address, "instances", "latency")
            if len(rows) == 6:
                return {(row["source"], row["peer"]): row for row in rows}
            await asyncio.sleep(0.2)


async def test_r5_7_round_trips_are_measured_by_pair_and_known_to_the_planner(
    tmp_path: Path,
) -> None:
    async with (
        local_cluster(2, data=tmp_path / "data", autopilot="off") as cluster,
        _far_instance(cluster, tmp_path),
    ):
        pairs = await _pairs(cluster)
        for row in pairs.values():
            assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"]
        far = pairs["instance-1", "far"]["p50_us"]
        local = pairs["instance-1", "instance-2"]["p50_us"]
        assert far >= 2e6 * ONE_WAY_S > local
        view = tmp_path / "view.json"
        await told(cluster.address, "plan", "--save-view", str(view))
        seen = {i["id"]: i for i in json.loads(view.read_bytes())["instances"]}
        assert seen["instance-1"]["round_trips_us"]["far"][0] >= 2e6 * ONE_WAY_S
    figure = f"p50 {local:.0f} µs to a neighbour, {far:.0f} µs to one behind a slow line"
    record("R5.7", command="logstore instances latency", figure=figure)
