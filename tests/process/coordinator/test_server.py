"""The coordinator as a server over real gRPC, and as a process."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.base.errors import (
    AddressInUseError,
    DirectoryInUseError,
    InvalidArgumentError,
    RefusedError,
    UnknownInstanceError,
    UnknownLogError,
    UnknownMigrationError,
    UnknownShardError,
)
from logstore.meta.port import Put
from logstore.meta.records import InstanceRecord, encode, instance_key
from logstore.meta.remote import RemoteMetadataStore
from logstore.proto.channel import listen, make_server, open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2
from logstore.proto.v1.log_pb2_grpc import RouteServiceStub
from tests.support.statistics import statistic, status


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CoordinatorServer]:
    config = CoordinatorConfig(
        data=tmp_path, port=0, slot_s=3600, seasons_slots=(24,), autopilot=Autopilot.OFF,
        alive_s=60,
    )  # fmt: skip
    server = CoordinatorServer(config, Env())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def channel(server: CoordinatorServer) -> AsyncIterator[grpc.aio.Channel]:
    """To a coordinator with two registered instances that answer each call with an error."""
    answering = make_server()
    port = listen(answering, "127.0.0.1:0")
    await answering.start()
    metadata = RemoteMetadataStore([server.address])
    for name in ("a", "b"):
        record = InstanceRecord(name, f"127.0.0.1:{port}", 1)
        await metadata.txn([], [Put(instance_key(name), encode(record))])
    await metadata.close()
    channel = open_channel(server.address)
    yield channel
    await channel.close()
    await answering.stop(None)


async def test_a_log_is_created_described_routed_and_deleted(channel: grpc.aio.Channel) -> None:
    catalog, routes = stubs.CatalogStub(channel), RouteServiceStub(channel)
    made = await catalog.CreateLog(
        pb.CreateLogRequest(name="orders", shards=3, options_json=b'{"event_time": true}')
    )
    assert len(made.shards_json) == 3
    listed = await catalog.ListLogs(pb.ListLogsRequest())
    assert [log.name for log in listed.logs] == ["orders"]
    answer = await routes.Routes(log_pb2.RoutesRequest(log="orders"))
    assert answer.map_version == made.map_version
    assert [s.shard for s in answer.shards] == ["orders/0", "orders/1", "orders/2"]
    await catalog.DeleteLog(pb.DeleteLogRequest(name="orders"))
    with pytest.raises(UnknownLogError, match="orders"):
        async with called():
            await catalog.DescribeLog(pb.DescribeLogRequest(name="orders"))


async def test_routes_wait_for_a_newer_map(
    channel: grpc.aio.Channel, server: CoordinatorServer
) -> None:
    made = await stubs.CatalogStub(channel).CreateLog(pb.CreateLogRequest(name="x"))
    request = log_pb2.RoutesRequest(log="x", newer_than=made.map_version)
    waiting = asyncio.ensure_future(RouteServiceStub(channel).Routes(request))
    moved = InstanceRecord("a", "127.0.0.1:2", 1)
    await server.store.txn([], [Put(instance_key("a"), encode(moved))])
    assert (await waiting).map_version > made.map_version


async def test_reports_make_instances_alive_and_answer_the_slot(channel: grpc.aio.Channel) -> None:
    await stubs.CatalogStub(channel).CreateLog(
        pb.CreateLogRequest(name="x", options_json=b'{"event_time": true}')
    )
    statistics = stubs.StatisticsStub(channel)
    report = pb.ReportRequest(
        instance="a",
        incarnation=1,
        shard_statistics_json=msgspec.json.encode([statistic("x/0", "a", s, 10) for s in range(9)]),
        status_json=msgspec.json.encode(status("a")),
    )
    answer = await statistics.Report(report)
    assert (answer.period_s, answer.slot_s, dict(answer.newest_slots)) == (1.0, 3600.0, {"x": 8})
    stats = json.loads((await statistics.Stats(pb.StatsRequest(log="x"))).json)
    assert [s["query_count"] for s in stats["shards"]["x/0"]] == [10] * 9
    assert stats["instances"]["a"]["alive"]
    assert stats["instances"]["a"]["available"] == 0.5
    heat = json.loads((await statistics.Heatmap(pb.HeatmapRequest(log="x"))).json)
    assert sum(map(sum, heat["counts"])) == pytest.approx(90)
    found = await stubs.CatalogStub(channel).ListInstances(pb.ListInstancesRequest())
    alive = {i["instance"]: i["load"] for i in map(json.loads, found.instances_json)}
    assert alive == {"a": 0.5, "b": None}


async def test_a_forecast_follows_the_reports(
    channel: grpc.aio.Channel, server: CoordinatorServer
) -> None:
    await stubs.CatalogStub(channel).CreateLog(pb.CreateLogRequest(name="x"))
    statistics = stubs.StatisticsStub(channel)
    slots = [statistic("x/0", "a", s, 100) for s in range(60)]
    await statistics.Report(
        pb.ReportRequest(instance="a", shard_statistics_json=msgspec.json.encode(slots))
    )
    while server.intake.slots_learned < 60:
        server.intake.learn(0.0)
    request = pb.ForecastRequest(shard="x/0", horizon_slots=4, score=True)
    answer = json.loads((await statistics.Forecast(request)).json)
    assert answer["forecasts"]["x/0"]["mean"] == pytest.approx([100.0] * 4, rel=0.02)
    assert "spoken" in answer["score"]
    with pytest.raises(InvalidArgumentError, match="horizon_slots is 1025, the limit is 1 to 1024"):
        async with called():
            await statistics.Forecast(pb.ForecastRequest(shard="x/0", horizon_slots=1025))
    plan = json.loads((await stubs.PlansStub(channel).Plan(pb.PlanRequest(explain=True))).json)
    assert plan["operators"] == []
    assert plan["explain"]


async def test_unusual_slots_are_named(
    channel: grpc.aio.Channel, server: CoordinatorServer
) -> None:
    await stubs.CatalogStub(channel).CreateLog(pb.CreateLogRequest(name="x"))
    statistics = stubs.StatisticsStub(channel)
    slots = [statistic("x/0", "a", s, 900 if s == 55 else 100) for s in range(60)]
    await statistics.Report(
        pb.ReportRequest(instance="a", shard_statistics_json=msgspec.json.encode(slots))
    )
    while server.intake.slots_learned < 60:
        server.intake.learn(0.0)
    answer = json.loads((await statistics.Forecast(pb.ForecastRequest(shard="x/0"))).json)
    (spike,) = [a for a in answer["anomalies"] if a["slot"] == 55]
    assert (spike["shard"], spike["kind"], spike["value"]) == ("x/0", "spike", 900.0)
    assert spike["expected"] == pytest.approx(100.0, rel=0.05)
    assert spike["score"] > 6
    everywhere = json.loads((await statistics.Forecast(pb.ForecastRequest())).json)
    assert everywhere["anomalies"] == answer["anomalies"]
    assert everywhere["unwatched_shards"] == 0


async def test_the_autopilot_is_switched(
    channel: grpc.aio.Channel, server: CoordinatorServer
) -> None:
    plans = stubs.PlansStub(channel)
    await plans.SetAutopilot(pb.SetAutopilotRequest(mode="on"))
    assert server.loop.mode is Autopilot.ON
    with pytest.raises(InvalidArgumentError, match="on, forecast-only, off"):
        async with called():
            await plans.SetAutopilot(pb.SetAutopilotRequest(mode="maybe"))


async def test_moves_are_refused_by_name(channel: grpc.aio.Channel) -> None:
    catalog, moves = stubs.CatalogStub(channel), stubs.MigrationsStub(channel)
    await catalog.CreateLog(pb.CreateLogRequest(name="x", instances=["a"], shards=1))
    cases = [
        (pb.MoveRequest(shard="x/9", target="b"), UnknownShardError, "x/9"),
        (pb.MoveRequest(shard="x/0", target="z"), UnknownInstanceError, "'z'"),
        (pb.MoveRequest(shard="x/0", target="a"), InvalidArgumentError, "already on a"),
        (
            pb.MoveRequest(shard="x/0", target="b", strategy="switch"),
            InvalidArgumentError,
            "needs a copy in sync on b",
        ),
        (
            pb.MoveRequest(shard="x/0", target="b", options_json=b'{"ramp_step": 2}'),
            InvalidArgumentError,
            "ramp_step is 2",
        ),
    ]
    for request, error, text in cases:
        with pytest.raises(error, match=text):
            async with called():
                await moves.Move(request)
    with pytest.raises(UnknownMigrationError, match="m77"):
        async with called():
            await moves.Get(pb.GetMigrationRequest(id="m77"))


async def test_a_drain_is_checked_listed_and_cancelled(channel: grpc.aio.Channel) -> None:
    catalog, drains = stubs.CatalogStub(channel), stubs.DrainsStub(channel)
    for name in ("a", "b"):
        report = pb.ReportRequest(instance=name, status_json=msgspec.json.encode(status(name)))
        await stubs.StatisticsStub(channel).Report(report)
    await catalog.CreateLog(pb.CreateLogRequest(name="x", instances=["a", "b"], shards=2))
    with pytest.raises(UnknownInstanceError, match="'z'"):
        async with called():
            await drains.Begin(pb.DrainRequest(instance="z"))
    dry = json.loads((await drains.Begin(pb.DrainRequest(instance="a", dry_run=True))).json)
    assert (dry["left"], dry["primaries"]) == (1, 1)
    assert json.loads((await drains.List(pb.ListDrainsRequest())).json) == []
    await drains.Begin(pb.DrainRequest(instance="a"))
    again = json.loads((await drains.Begin(pb.DrainRequest(instance="a"))).json)
    assert again["state"] == "draining"
    for request in (
        stubs.MigrationsStub(channel).Move(pb.MoveRequest(shard="x/1", target="a")),
        catalog.CreateLog(pb.CreateLogRequest(name="y", instances=["a"])),
        drains.Begin(pb.DrainRequest(instance="b")),
    ):
        with pytest.raises(RefusedError, match="drain"):
            async with called():
                await request
    statistic = await catalog.ListInstances(pb.ListInstancesRequest())
    rows = [json.loads(row) for row in statistic.instances_json]
    assert {row["instance"]: row["draining"] for row in rows} == {"a": True, "b": False}
    ended = json.loads((await drains.Cancel(pb.DrainRequest(instance="a"))).json)
    assert ended["state"] == "cancelled"
    with pytest.raises(UnknownInstanceError, match="not being drained"):
        async with called():
            await drains.Cancel(pb.DrainRequest(instance="a"))


async def test_a_dry_run_writes_nothing_and_a_move_is_watched_to_its_end(
    channel: grpc.aio.Channel,
) -> None:
    catalog, moves = stubs.CatalogStub(channel), stubs.MigrationsStub(channel)
    await catalog.CreateLog(pb.CreateLogRequest(name="x", instances=["a"], shards=1))
    dry = json.loads((await moves.Move(pb.MoveRequest(shard="x/0", target="b", dry_run=True))).json)
    assert [step["state"] for step in dry["steps"]][-1] == "soaking"
    assert json.loads((await moves.List(pb.ListMigrationsRequest())).json) == []
    begun = json.loads((await moves.Move(pb.MoveRequest(shard="x/0", target="b"))).json)
    seen: list[str] = []
    async for message in moves.Watch(pb.GetMigrationRequest(id=begun["id"])):
        state = json.loads(message.json)["state"]
        if not seen:
            await moves.Control(pb.ControlRequest(id=begun["id"], action="rollback", cause="test"))
        seen.append(state)
    # The target makes no copy, so the move never leaves `snapshot` and the order ends it.
    assert seen[-1] in ("rolled-back", "aborted")
    last = json.loads((await moves.Get(pb.GetMigrationRequest(id=begun["id"]))).json)
    assert last["cause"] == "test"
    assert last["story"][0].startswith("m1: x/0 from a to b")


async def test_health_says_serving(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_coordinator_on_the_directory_or_port_is_refused(
    server: CoordinatorServer, tmp_path: Path
) -> None:
    with pytest.raises(DirectoryInUseError, match=str(tmp_path)):
        CoordinatorServer(server.config, Env())
    port = int(server.address.rsplit(":", 1)[1])
    second = CoordinatorServer(CoordinatorConfig(data=tmp_path / "other", port=port), Env())
    with pytest.raises(AddressInUseError, match=str(port)):
        await second.start()


async def test_the_process_stops_cleanly_and_says_one_line_when_it_cannot_start(
    tmp_path: Path,
) -> None:
    async def launch(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "coordinator.main",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    first = await launch("--data", str(tmp_path / "a"), "--port", "0")
    assert first.stdout is not None
    assert (await asyncio.wait_for(first.stdout.readline(), 60)).startswith(b"ready 127.0.0.1:")
    loaded = await asyncio.to_thread(Path(f"/proc/{first.pid}/maps").read_text)
    assert "/scipy/stats/" in loaded  # by river, before it serves
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        others = await asyncio.gather(
            launch("--data", str(tmp_path / "a"), "--port", "0"),
            launch("--data", str(tmp_path / "b"), "--port", port),
            launch("--data", str(tmp_path / "b"), "--planning-period-s", "0"),
        )
        ended = await asyncio.gather(*(p.communicate() for p in others))
    for process, (_, stderr), name in zip(
        others, ended, (str(tmp_path / "a"), port, "planning_period_s"), strict=True
    ):
        assert process.returncode == 2
        lines = stderr.decode().strip().splitlines()
        assert len(lines) == 1, stderr
        assert lines[0].startswith("error: ")
        assert name in lines[0]
    first.send_signal(signal.SIGTERM)
    await asyncio.wait_for(first.communicate(), 30)
    assert first.returncode == 0
