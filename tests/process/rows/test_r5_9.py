"""R5.9: a ramp under guard rails, at the periods a stranger starts with."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.errors import LogstoreError
from logstore.client.client import Log
from tests.support.rows import record

pytestmark = pytest.mark.timeout(120)
TARGET_OPS_PER_S = 20.0
READS_PER_S, APPENDS_PER_S = 150.0, 40.0
CALL_S_MAX = 1.0
"""A call that takes longer has failed for its caller."""
FAILED_MAX = 0.1
"""Share of the calls during the move that may fail before it rolls back."""


async def command(cluster: LocalCluster, *arguments: str) -> tuple[int, str]:
    """Exit status and output of one command line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", *arguments, "--address", cluster.address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


class Load:
    """Calls at a fixed rate, whatever becomes of the ones before; `failed` of `count`."""

    def __init__(self) -> None:
        self.count = self.failed = 0

    async def run(self, call: Callable[[], Awaitable[object]], per_s: float) -> None:
        begun_s, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while True:
                while sent < (time.monotonic() - begun_s) * per_s:
                    sent += 1
                    group.create_task(self._one(call))
                await asyncio.sleep(1 / per_s)

    async def _one(self, call: Callable[[], Awaitable[object]]) -> None:
        self.count += 1
        try:
            async with asyncio.timeout(CALL_S_MAX):
                await call()
        except (TimeoutError, LogstoreError):
            self.failed += 1


@asynccontextmanager
async def loaded(log: Log) -> AsyncIterator[tuple[Load, Load]]:
    """Appends and reads by key while the body runs."""
    appends, reads = Load(), Load()

    async def read() -> None:
        async for _ in log.read(key=b"k1", limit=1):
            pass

    tasks = [
        asyncio.create_task(appends.run(lambda: log.append(b"k2", b"v"), APPENDS_PER_S)),
        asyncio.create_task(reads.run(read, READS_PER_S)),
    ]
    try:
        yield appends, reads
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_r5_9_a_target_that_cannot_serve_is_found_while_the_ramp_is_low(
    tmp_path: Path,
) -> None:
    async with (
        local_cluster(2, data=tmp_path, autopilot="off") as cluster,
        logstore.connect(cluster.addresses) as db,
    ):
        log = await db.create_log("orders")
        await log.append(b"k1", b"v")
        source = (await log.shard_map()).open_shards[0].primary
        target = next(name for name in cluster.instance_addresses if name != source)
        await cluster.restart_instance(target, {"ops_per_s_max": TARGET_OPS_PER_S})
        await cluster.wait_ready()
        async with loaded(log) as (appends, reads):
            await asyncio.sleep(0.5)
            status, said = await command(cluster, "move", "orders/0", target, "--watch")
        assert (status, (await log.shard_map()).open_shards[0].primary) == (1, source), said
        _, out = await command(cluster, "migrations", "m1", "--json")
        moved: dict[str, Any] = json.loads(out)
        _, story = await command(cluster, "migrations", "m1", "--story")
    assert moved["state"] == "rolled-back"
    assert "overloaded" in moved["cause"]
    assert [p["state"] for p in moved["phases"]].count("cutover") == 0
    assert f"cause: {moved['cause']}" in story
    assert "\nbefore: " in story
    assert moved["windows"]["before"]["failed"] == 0
    failed, count = appends.failed + reads.failed, appends.count + reads.count
    assert failed <= FAILED_MAX * count
    refused = sum(int(note.split("failed ")[1].split()[0]) for note in
                  [n for n in moved["notes"] if "failed " in n] + [moved["cause"]])  # fmt: skip
    record(
        "R5.9",
        command="logstore move SHARD INSTANCE --watch",
        figure=f"target with {TARGET_OPS_PER_S:g} of {READS_PER_S + APPENDS_PER_S:g} calls/s: "
        f"rolled back after {refused} refusals; {failed} of {count} calls failed",
    )
