"""`logstore drain` over real processes: replicated and single copies go, the coordinator dies."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.cli.main import main
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.errors import LogstoreError, RefusedError
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub, DrainsStub
from logstore.proto.status import called

pytestmark = pytest.mark.timeout(300)
WAIT_S = 60.0
MOVE = '{"shadow_s": 0.2, "soak_s": 0.5, "ramp_step": 0.5}'


async def drain(address: str, method: str, instance: str = "") -> Any:
    async with open_channel(address) as channel, called():
        stub = DrainsStub(channel)
        if method == "List":
            answer = await stub.List(pb.ListDrainsRequest(), timeout=10)
        else:
            answer = await getattr(stub, method)(pb.DrainRequest(instance=instance), timeout=10)
    return json.loads(answer.json)


async def members(address: str, log: str) -> list[set[str]]:
    """Of each shard: the instances in its in-sync set and its learners."""
    async with open_channel(address) as channel, called():
        info = await CatalogStub(channel).DescribeLog(pb.DescribeLogRequest(name=log), timeout=10)
    shards = [json.loads(s) for s in info.shards_json]
    return [{m["instance"] for m in s["in_sync"] + s["learners"]} for s in shards]


async def until_drained(cluster: LocalCluster, instance: str) -> Any:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                (shown,) = await drain(cluster.address, "List")
                if shown["state"] == "drained":
                    return shown
            except LogstoreError:
                pass  # the coordinator is just being started again
            await asyncio.sleep(0.1)


async def test_an_instance_is_drained_while_appends_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"report_interval_s": 0.2, "move": MOVE, "planning_period_s": 300, "moves_max": 4}
    async with (
        local_cluster(
            3,
            data=tmp_path,
            autopilot="off",
            coordinator_settings=settings,
            node_settings={"report_interval_s": 0.2},
        ) as cluster,
        logstore.connect(cluster.addresses) as db,
    ):
        three = await db.create_log("three", partitioner="hash", shards=4, replicas=3)
        one = await db.create_log(
            "one", partitioner="hash", shards=3, instances=[f"instance-{n}" for n in (1, 2, 3)]
        )
        with pytest.raises(RefusedError, match=r"instance-2 cannot be drained: shard three/\d has"):
            await drain(cluster.address, "Begin", "instance-2")
        assert await cluster.add_instance({"report_interval_s": 0.2}) == "instance-4"
        stop = asyncio.Event()
        acked = {"three": 0, "one": 0}

        async def write(name: str, log: "logstore.Log") -> None:
            while not stop.is_set():
                await log.append(b"key-%d" % acked[name], b"v")
                acked[name] += 1

        writers = [asyncio.create_task(write(n, g)) for n, g in (("three", three), ("one", one))]
        begun = await drain(cluster.address, "Begin", "instance-2")
        assert (begun["state"], begun["left"]) == ("draining", 5)
        cluster.kill("coordinator")  # the drain stands in the metadata
        shown = await until_drained(cluster, "instance-2")
        assert (shown["copies"], shown["left"], shown["eta_s"]) == (5, 0, 0.0)
        stop.set()
        await asyncio.gather(*writers)
        homes = [{"instance-1", "instance-3", "instance-4"}] * 4
        assert await members(cluster.address, "three") == homes
        assert all("instance-2" not in m for m in await members(cluster.address, "one"))
        # Nothing new goes there, and instance-4, which joined later, gets its share.
        await db.create_log("later", partitioner="hash", shards=9, replicas=2)
        later = await members(cluster.address, "later")
        assert all("instance-2" not in m for m in later)
        assert any("instance-4" in m for m in later)
        with pytest.raises(RefusedError, match="instance-2 is being drained"):
            await db.create_log("named", instances=["instance-2"])
        for name, log in (("three", three), ("one", one)):
            assert len([r async for r in log.read()]) == acked[name]
        assert acked["three"] > 0
        flags = ["--address", cluster.address, "--json"]
        assert await asyncio.to_thread(main, ["drain", "instance-2", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "drained"
        assert await asyncio.to_thread(main, ["drain", "instance-2", "--cancel", *flags]) == 0
        assert await drain(cluster.address, "List") == []
