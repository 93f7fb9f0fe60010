"""What a user has after `docker compose up`: client, command line, health, metrics, limits."""

import asyncio
import json
import time

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from logstore.client.client import connect
from tests.cluster.cluster import NotConverged, eventually
from tests.compose import cli
from tests.compose.stack import COORDINATORS, ETCD, Stack, at, fetch

RECORDS = 500


async def test_client_on_the_host(stack: Stack) -> None:
    """Append, read by key, scan and tail, from outside the containers."""
    async with connect(stack.addresses) as db:
        log = await db.create_log("outside", shards=3, replicas=3)
        keys = [b"%c-%d" % (97 + n % 26, n % 50) for n in range(RECORDS)]
        values = [b"v-%d" % n for n in range(RECORDS)]
        acks = await log.append_many(keys, values)
        assert acks
        tailed = []
        async with asyncio.timeout(60):
            async for record in log.tail(from_start=True):
                tailed.append((record.key, record.value))
                if len(tailed) == RECORDS:
                    break
        assert sorted(tailed) == sorted(zip(keys, values, strict=True))
        mine = [r.value async for r in log.read(key=keys[0])]
        assert mine == [v for k, v in zip(keys, values, strict=True) if k == keys[0]]
        table = await log.scan().to_arrow()
        assert table.num_rows == RECORDS


async def test_command_line_on_the_host(stack: Stack) -> None:
    """The same, by commands; and a command inside a container."""
    at_ = stack.addresses
    await cli.logstore(at_, "append", "outside", "zz-cli", "typed")
    found = await cli.logstore(at_, "read", "outside", "--key", "zz-cli")
    rows = found if isinstance(found, list) else [found]
    assert [r["value"] for r in rows] == ["typed"]
    tail = await cli.start(at_, "tail", "outside", "--json")
    assert tail.stdout is not None
    line = asyncio.ensure_future(tail.stdout.readline())
    try:
        async with asyncio.timeout(60):
            while not line.done():  # the tail does not return records from before its begin
                await cli.logstore(at_, "append", "outside", "zz-cli", "again")
        assert b"again" in line.result()
    finally:
        line.cancel()
        tail.kill()
        await tail.wait()
    instances = await cli.logstore(at_, "instances")
    assert {(i["instance"], i["tier"], i["zone"]) for i in instances} == {
        ("i1", "fast", "zone-a"), ("i2", "fast", "zone-b"), ("i3", "standard", "zone-c"),
        ("i4", "standard", "zone-a"), ("i5", "standard", "zone-b"),
    }  # fmt: skip
    inside = await stack.compose.docker(
        "exec", await stack.compose.container("c1"), "logstore", "verify", "outside/0", "--json"
    )
    assert json.loads(inside)
    await cli.logstore(at_, "log", "delete", "outside", "--yes")


async def test_containers_are_held_in(stack: Stack) -> None:
    """Non-root, read-only, bounded, healthy by their own checks."""
    for party in (*ETCD, "kafka", *COORDINATORS, *stack.instances, "prometheus"):

        async def healthy(name: str = party) -> None:
            shown = await stack.compose.inspect(name)
            status = shown["State"]["Health"]["Status"]
            if status != "healthy":
                raise NotConverged(f"{name} is {status}")

        await eventually(healthy, 90.0)
        shown = await stack.compose.inspect(party)
        limits = shown["HostConfig"]
        assert shown["Config"]["User"] == "10001:10001"
        assert limits["ReadonlyRootfs"]
        assert limits["Memory"] > 0
        assert limits["NanoCpus"] > 0
        assert limits["PidsLimit"] > 0
        assert limits["CapDrop"] == ["ALL"]
        assert shown["RestartCount"] == 0


async def test_health_reflection_and_metrics(stack: Stack) -> None:
    for party in (*COORDINATORS, *stack.instances):
        port = 7400 if party in COORDINATORS else 7500
        async with grpc.aio.insecure_channel(f"{at(party)}:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            shown = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
            )
            async for message in shown:
                names = {s.name for s in message.list_services_response.service}
        assert names & {"logstore.v1.LogService", "coordinator.v1.Catalog"}
        text = await fetch(party, 9100, "/metrics")
        assert "logstore_" in text
        assert "process_resident_memory_bytes" in text

    async def scraped() -> None:
        found = json.loads(await fetch("prometheus", 9090, "/api/v1/query?query=up"))
        up = {(r["metric"]["job"], r["metric"]["instance"]): r["value"][1]
              for r in found["data"]["result"]}  # fmt: skip
        if len(up) != 10 or set(up.values()) != {"1"}:
            raise NotConverged(f"targets: {up}")

    began_s = time.monotonic()
    await eventually(scraped, 60.0)
    print(f"Prometheus has all ten targets, {time.monotonic() - began_s:.1f} s", flush=True)
