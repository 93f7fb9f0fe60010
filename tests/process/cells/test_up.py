"""`logstore up --metadata etcd://… --replicas 3 --coordinators 2 --cells 4`, as one command."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

import logstore
from coordinator.cli.main import main
from coordinator.local.cluster import ClusterOptions
from logstore.base.errors import ConfigError
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.records import CELLS, decode_leader, decode_log, log_key
from tests.support.services import etcd_target

pytestmark = pytest.mark.timeout(300)
READY_S = 90.0


async def test_a_replicated_cluster_over_etcd_with_two_coordinators(
    etcd_address: str,
    tmp_path: Path,
) -> None:
    target = etcd_target(etcd_address)
    store = EtcdMetadataStore(target)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", "up", "--data", str(tmp_path), "--port", "0",
        "--metadata", f"etcd://{etcd_address}{target.namespace}", "--replicas", "3",
        "--coordinators", "2", "--cells", "4", "--json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), READY_S))
        assert len(ready["instances"]) == 3
        assert {"coordinator", "coordinator-2"} < set(ready["pids"])
        async with logstore.connect(ready["ready"]) as db:
            log = await db.create_log("orders", partitioner="hash", shards=2)
            for n in range(50):
                await log.append(b"k%d" % n, b"v")
            assert len([r async for r in log.read()]) == 50
            found = await store.get(log_key("orders"))
            assert found is not None
            options = decode_log(found.value).options
            assert (options.replicas, options.min_in_sync) == (3, 2)
            assert all(len(s.in_sync) >= 2 for s in (await log.shard_map()).shards)
        async with asyncio.timeout(READY_S):  # the second one has got its half of the cells
            while True:
                items = (await store.range(CELLS)).items
                led = [decode_leader(item.value).address for item in items]
                if sorted(led.count(a) for a in set(led)) == [2, 2]:
                    break
                await asyncio.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), READY_S) == 0
    assert (await store.range(CELLS)).items == ()  # all resigned
    await store.close()


def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="replicas is 3, with 2 instances 1 to 2 are allowed"):
        ClusterOptions(data=tmp_path, instances=2, replicas=3)
    with pytest.raises(ConfigError, match="coordinators is 2, the embedded store has 1"):
        ClusterOptions(data=tmp_path, coordinators=2)
    flags = ["up", "--data", str(tmp_path / "d"), "--port", "0", "--cells", "4"]
    assert main(flags) == 2
    assert "cells is 4, the embedded store has 1: give metadata" in capsys.readouterr().err
