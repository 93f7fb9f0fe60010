"""R5.1: instances keep a bounded log of sampled accesses; it is read by key and range, exported,
and planned from."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.cli.main import main
from coordinator.local.cluster import LocalCluster, local_cluster
from tests.support.rows import record

KEYS = [b"user-%03d" % n for n in range(40)]
HOT, HOT_READS = KEYS[30], 60


async def _load(cluster: LocalCluster) -> None:
    async with logstore.connect(cluster.address) as db:
        log = await db.create_log("orders", shards=2, split_keys=[b"user-020"])
        for _ in range(3):
            await log.append_many(KEYS, [b"v"] * len(KEYS))
        for _ in range(HOT_READS):
            assert [r async for r in log.read(key=HOT)]
        assert [r async for r in log.read(key=KEYS[2])]


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


async def test_r5_1_accesses_are_kept_read_by_key_and_range_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began_s = time.time()
    async with local_cluster(2, data=tmp_path / "data", autopilot="off") as cluster:
        await _load(cluster)
        await _check(cluster, began_s, tmp_path, capsys, monkeypatch)


async def _check(
    cluster: LocalCluster,
    began_s: float,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGSTORE_ADDRESS", cluster.address)

    async def ask(*arguments: str) -> dict[str, Any]:
        return await asyncio.to_thread(_json, capsys, *arguments)

    every = await ask("accesses", "orders")
    assert every["by_op"] == {"append": 3.0 * len(KEYS), "key_read": HOT_READS + 1.0}
    assert set(every["by_instance"]) == {"instance-1", "instance-2"}
    assert every["top_keys"][0] == {"key": HOT.decode(), "accesses": HOT_READS + 3.0}
    one = await ask("accesses", "orders", "--key", "user-002")
    assert one["by_op"] == {"append": 3.0, "key_read": 1.0}
    assert all(r["time_s"] >= began_s and r["key"] == "user-002" for r in one["newest"])
    part = await ask("accesses", "orders", "--start", "user-010", "--end", "user-015")
    assert part["by_op"] == {"append": 15.0}
    later = await ask("accesses", "orders", "--since", str(time.time() + 5.0))
    assert later["samples"] == 0

    file = folder / "accesses.parquet"
    await ask("accesses", "orders", "--export", str(file))
    await ask("log", "create", "again", "--from-history", str(file), "--shards", "2")
    async with logstore.connect(cluster.address) as db:
        bound = (await (await db.log("again")).shard_map()).open_shards[1].range.start
    # Half of the accesses lie at or above: the hot key weighs a third of all.
    assert b"user-020" < bound <= HOT
    cache = str(folder / "cache")
    simulated = await ask("simulate", "--events", str(file), "--slot-s", "0.05", "--cache", cache,
                          "--policies", "static-mean", "--warm-up", "1")  # fmt: skip
    assert simulated["inputs"]["columns"] == len(KEYS)
    figure = f"{every['samples']} samples of 2 instances for {every['accesses']:g} accesses"
    record("R5.1", command="logstore accesses LOG --key K --export FILE.parquet", figure=figure)
