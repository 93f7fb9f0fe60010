"""R0.4: a client in another language, written from docs/reference/protocol.md alone."""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from coordinator.local.cluster import local_cluster
from logstore.client.client import connect
from logstore.proto.reflection import ALPHA, V1
from tests.support import go_client
from tests.support.rows import record

pytestmark = pytest.mark.timeout(300)
KEYS = [f"user-{n}" for n in range(8)]
SPLIT_AT = "user-4"
QUICK = ("ramp_step=0.5", "ramp_interval_s=0.1", "soak_s=0")


async def output(program: str | Path, *arguments: str) -> str:
    """What a command prints, once it ended well."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def cli(*arguments: str, at: str) -> str:
    command = ("-m", "coordinator.cli.main", *arguments, "--address", at)
    return await output(sys.executable, *command)


class Writer:
    """The Go program's `append`: gives it lines one after the other, and keeps what it acked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._dice = random.Random(4)
        self.acked: dict[str, list[str]] = defaultdict(list)
        self.shards: dict[str, int] = defaultdict(int)
        self.count = 0
        self.stop = False

    async def run(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        while not self.stop:
            key, value = self._dice.choice(KEYS), str(self.count)
            stdin.write(f"{key} {value}\n".encode())
            answer = (await stdout.readline()).decode().split()
            if not answer:
                assert self._process.stderr is not None
                raise AssertionError((await self._process.stderr.read()).decode())
            self.acked[key].append(value)
            self.shards[answer[0]] += 1
            self.count += 1
        stdin.close()
        assert await self._process.wait() == 0

    async def more(self, count: int = 200) -> None:
        wanted = self.count + count
        async with asyncio.timeout(30):
            while self.count < wanted:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def writing(program: Path, address: str, log: str) -> AsyncIterator[Writer]:
    process = await asyncio.create_subprocess_exec(
        program, address, log, "append",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    writer = Writer(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run())
        yield writer
        writer.stop = True


async def test_r0_4_a_go_client_reads_a_keys_history_over_a_split_and_a_move(
    tmp_path: Path,
) -> None:
    program = await asyncio.to_thread(go_client.build)
    async with local_cluster(3, data=tmp_path) as cluster, connect(cluster.addresses) as db:
        at = cluster.address
        log = await db.create_log("orders", instances=["instance-1"], compression="zstd")
        await log.append_many([k.encode() for k in KEYS], [b"from Python"] * len(KEYS))
        async with writing(program, cluster.instance_addresses["instance-2"], "orders") as writer:
            await writer.more()
            await cli("split", "orders/0", "--at", SPLIT_AT, at=at)
            await writer.more()
            options = [f"--option={option}" for option in QUICK]
            moved = await cli("move", "orders/2", "instance-3", "--watch", *options, at=at)
            assert "completed" in moved
            await writer.more()
            cluster.kill("instance-1")  # what has no answer is sent again, and stored once
            await writer.more()
        assert set(writer.shards) == {"orders/0", "orders/1", "orders/2"}
        for key in KEYS:
            found = (await output(program, at, "orders", "read", key)).splitlines()
            assert found == ["from Python", *writer.acked[key]], key
        primaries = {s.id: s.primary for s in (await log.shard_map()).open_shards}
        assert primaries["orders/2"] == "instance-3"

        hashed = await db.create_log("hashed", shards=5, partitioner="hash")
        async with writing(program, at, "hashed") as spread:
            await spread.more(60)
        for key in KEYS:
            mine = [r.value.decode() async for r in hashed.read(key=key.encode())]
            assert mine == spread.acked[key]
            assert (await output(program, at, "hashed", "read", key)).splitlines() == mine
        assert len(spread.shards) > 1
        await described(at, cluster.instance_addresses["instance-1"])
    figure = (
        f"{writer.count} records of {len(KEYS)} keys over a split, a move and a kill -9:"
        " 0 lost, 0 doubled, 0 out of order"
    )
    record("R0.4", command="examples/go: logstore-go ADDRESS LOG read KEY", figure=figure)


async def described(coordinator: str, instance: str) -> None:
    """Tools find services and methods by reflection, and health knows each service."""
    wanted = {coordinator: "coordinator.v1.Catalog", instance: "logstore.v1.LogService"}
    for address, service in wanted.items():
        async with grpc.aio.insecure_channel(address) as channel:
            for name in (V1, ALPHA):
                method = {"coordinator.v1.Catalog": "CreateLog", "logstore.v1.LogService": "Append"}
                shown = await reflected(channel, name, f"{service}.{method[service]}")
                assert service in shown
                assert {V1, ALPHA} <= shown
            stub = health_pb2_grpc.HealthStub(channel)
            for asked in ("", service):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=asked))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(channel: grpc.aio.Channel, name: str, method: str) -> set[str]:
    """The services that reflection lists under `name`; it finds the method's file, and its own."""
    ask = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    symbols = [method, name, f"{method}s"]
    requests = [
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=s) for s in symbols),
        reflection_pb2.ServerReflectionRequest(list_services=""),
    ]
    answers = [answer async for answer in ask(iter(requests))]
    found = [len(a.file_descriptor_response.file_descriptor_proto) for a in answers[:3]]
    assert found[0] >= 1
    assert found[1] >= 1
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    return {s.name for s in answers[3].list_services_response.service}
