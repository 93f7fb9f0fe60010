"""Golden answers of a coordinator whose instances are given, on a clock that stands still."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import msgspec
import pytest

from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env, ManualClock
from logstore.meta.port import Put
from logstore.meta.records import CapacityRecord, InstanceRecord, encode, instance_key
from logstore.proto.channel import listen, make_server, open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.coordinator_v1.accesses_pb2 import CorrelationRequest
from logstore.proto.coordinator_v1.accesses_pb2_grpc import AccessesStub
from logstore.proto.v1.accesses_pb2 import AccessesRequest
from profiler.calendar import Event
from profiler.types import Capacity, DataStoreStatus, ShardStatistics
from tests.support.golden import Caller, Golden
from tests.support.statistics import statistic

SLOTS = 48
RULES = frozenset({"free ports", "drawn identities"})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CoordinatorServer]:
    """A coordinator that knows two instances, which answer each call with an error."""
    answering = make_server()
    port = listen(answering, "127.0.0.1:0")
    await answering.start()
    config = CoordinatorConfig(
        data=tmp_path, port=0, slot_s=3600, seasons_slots=(24,), autopilot=Autopilot.OFF,
        alive_s=60, horizon_slots=4, outlook_slots=4, history_slots=3, heatmap_buckets=8,
    )  # fmt: skip
    server = CoordinatorServer(config, Env(ManualClock(), random.Random(1)))
    await server.start()
    for name, ops_per_s in (("a", 0.1), ("b", None)):
        record = InstanceRecord(
            name, f"127.0.0.1:{port}", 1, capacity=CapacityRecord(ops_per_s=ops_per_s)
        )
        await server.store.txn([], [Put(instance_key(name), encode(record))])
    yield server
    await server.stop()
    await answering.stop(None)


@pytest.fixture
async def channel(server: CoordinatorServer) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(server.address) as channel:
        yield channel


def slots_of(shard: str) -> list[ShardStatistics]:
    """Of an instance `a`: a day that repeats, a spike in one slot, groups of clients."""
    found = []
    for slot in range(SLOTS):
        ops = 120 + 10 * (slot % 24) + (2_000 if slot == SLOTS - 5 else 0)
        groups = {"web": ops - 20, "batch": 20}
        found.append(replace(statistic(shard, "a", slot, ops, reads=40), group_counts=groups))
    return found


def status_of(instance: str) -> DataStoreStatus:
    trips = {"b" if instance == "a" else "a": 0.25}
    return DataStoreStatus(
        instance, 0.5, Capacity(ops_per_s=100.0), 50.0, 5e3, 0.25, 1_000, 2_000, 10.0, trips, 3
    )


async def statistics(caller: Caller, server: CoordinatorServer) -> None:
    shards = [s for n in range(2) for s in slots_of(f"x/{n}")]
    report = pb.ReportRequest(
        instance="a", incarnation=1, shard_statistics_json=msgspec.json.encode(shards),
        status_json=msgspec.json.encode(status_of("a")),
    )  # fmt: skip
    await caller.ask("Statistics.Report", report)
    other = pb.ReportRequest(instance="b", status_json=msgspec.json.encode(status_of("b")))
    await caller.ask("Statistics.Report", other, "without_shards")
    async with asyncio.timeout(60):
        while server.intake.slots_learned < SLOTS:
            await asyncio.sleep(0.01)
    await caller.ask("Catalog.ListInstances", pb.ListInstancesRequest())
    await caller.ask("Catalog.ListCells", pb.ListCellsRequest())
    await caller.ask("Statistics.Stats", pb.StatsRequest())
    await caller.ask("Statistics.Stats", pb.StatsRequest(log="empty"), "empty")
    await caller.ask("Statistics.Heatmap", pb.HeatmapRequest(log="x"))
    await caller.ask("Statistics.Heatmap", pb.HeatmapRequest(log="x", png=True), "png")
    await caller.ask("Statistics.Heatmap", pb.HeatmapRequest(log="empty"), "empty")
    await caller.ask("Statistics.Forecast", pb.ForecastRequest())
    await caller.ask("Statistics.Forecast", pb.ForecastRequest(shard="x/0", score=True), "score")


async def plans(caller: Caller, server: CoordinatorServer) -> None:
    await caller.ask("Plans.SetAutopilot", pb.SetAutopilotRequest(mode="forecast-only"))
    plain = await caller.ask("Plans.Plan", pb.PlanRequest())
    assert plain["json"]["crossings"]
    await server.loop.round()
    await server.loop.round()
    request = pb.PlanRequest(explain=True, history=True, view=True)
    full = await caller.ask("Plans.Plan", request, "full")
    assert full["json"]["history"][-1]["plan"] is not None
    await caller.ask("Plans.SetAutopilot", pb.SetAutopilotRequest(mode="on"), "on")
    operators = await caller.ask("Plans.Plan", pb.PlanRequest(explain=True), "on")
    assert operators["json"]["operators"]
    await caller.ask("Plans.SetAutopilot", pb.SetAutopilotRequest(mode="off"), "off")
    values = msgspec.json.encode({"risk.threshold": 0.7, "cooldown_s": "60", "surprise": None})
    changed = pb.SetPlannerRequest(values_json=values, by="golden")
    await caller.ask("Plans.SetPlanner", changed)
    back = pb.SetPlannerRequest(resets=["cooldown_s"], by="golden")
    await caller.ask("Plans.SetPlanner", back, "reset")
    heavy = pb.SetWeightRequest(shard="x/1", weight=2.5, by="golden")
    await caller.ask("Plans.SetWeight", heavy)
    await caller.ask("Plans.Weights", pb.WeightsRequest(log="x"))
    await caller.ask("Plans.SetWeight", pb.SetWeightRequest(shard="x/1", by="golden"), "reset")
    await caller.ask("Plans.GetPlanner", pb.GetPlannerRequest(history=True))


async def announcements(caller: Caller, server: CoordinatorServer) -> None:
    sale = Event("sale", 1e9, 1e9 + 3600, 3.0, "sales", ("x/", "nothing/"))
    again = Event("sale", 1e9, 1e9 + 7200)
    for case, event in (
        ("", sale), ("replaces", again), ("overlaps", Event("more", 1e9, 1e9 + 1)),
    ):  # fmt: skip
        request = pb.AddEventRequest(event_json=msgspec.json.encode(event))
        await caller.ask("Announcements.AddEvent", request, case)
    await server.store.txn([], [Put("/calendar/broken", b"[]"), Put("/profiles/broken", b"7")])
    await caller.ask("Announcements.ListEvents", pb.ListEventsRequest())
    await caller.ask("Announcements.RemoveEvent", pb.RemoveEventRequest(name="sale"))
    profile = {"group": "importer", "start_s": 0.0, "step_s": 3600.0, "ops_per_s": [1.0, 2.5],
               "repeats": True, "logs": ["x", "nothing"]}  # fmt: skip
    given = pb.SetProfileRequest(group="importer", profile_json=msgspec.json.encode(profile))
    await caller.ask("Announcements.SetProfile", given)
    await caller.ask("Announcements.ListProfiles", pb.ListProfilesRequest())
    taken_back = pb.SetProfileRequest(group="importer")
    await caller.ask("Announcements.SetProfile", taken_back, "removes")


async def drains(caller: Caller) -> None:
    await caller.ask("Drains.Begin", pb.DrainRequest(instance="a", dry_run=True), "dry_run")
    await caller.ask("Drains.Begin", pb.DrainRequest(instance="a"))
    await caller.ask("Drains.List", pb.ListDrainsRequest())
    await caller.ask("Drains.Cancel", pb.DrainRequest(instance="a"))
    await caller.ask("Drains.List", pb.ListDrainsRequest(), "none")


async def moves(caller: Caller) -> None:
    """What is only thought through, and what has not begun."""
    options = b'{"soak_s": 2.5, "ramp_step": 0.5}'
    request = pb.MoveRequest(shard="x/0", target="b", dry_run=True, options_json=options)
    await caller.ask("Migrations.Move", request, "dry_run")
    split = pb.ReshapeRequest(parents=["x/0"], key=b"k30", dry_run=True)
    await caller.ask("Migrations.Reshape", split, "dry_run")
    merge = pb.ReshapeRequest(parents=["x/0", "x/1"], dry_run=True)
    await caller.ask("Migrations.Reshape", merge, "dry_run_merge")
    await caller.ask("Migrations.List", pb.ListMigrationsRequest(), "none")
    await caller.ask("Migrations.ListReshapes", pb.ListReshapesRequest(), "none")


async def accesses(caller: Caller, channel: grpc.aio.Channel) -> None:
    """No instance serves at these addresses: each is named with the reason."""
    parts = AccessesStub(channel).Read(AccessesRequest(log="x"), timeout=30)
    found = [part async for part in parts]
    assert [part.instance for part in found] == ["a", "b"]
    caller.golden.take("Accesses.Read", found[0])
    learned = await AccessesStub(channel).Correlation(CorrelationRequest(log="x"), timeout=30)
    caller.golden.take("Accesses.Correlation", learned)


async def metadata(caller: Caller, channel: grpc.aio.Channel) -> None:
    operations = [pb.MetaOperation(key="/golden/a", put=b"1"), pb.MetaOperation(key="/golden/b")]
    await caller.ask("Metadata.Txn", pb.MetaTxnRequest(operations=operations))
    refused = pb.MetaTxnRequest(compares=[pb.MetaCompare(key="/golden/a", revision=0)])
    await caller.ask("Metadata.Txn", refused, "refused")
    await caller.ask("Metadata.Get", pb.MetaGetRequest(key="/golden/a"))
    await caller.ask("Metadata.Get", pb.MetaGetRequest(key="/golden/z"), "none")
    found = await caller.ask("Metadata.Range", pb.MetaRangeRequest(prefix="/golden/"))
    after = found["items"][0]["revision"] - 1
    request = pb.MetaWatchRequest(prefix="/golden/", after_revision=after)
    watch = stubs.MetadataStub(channel).Watch(request)
    caller.golden.take("Metadata.Watch.created", await anext(aiter(watch)))
    caller.golden.take("Metadata.Watch", await anext(aiter(watch)))
    watch.cancel()
    granted = await caller.ask("Metadata.LeaseGrant", pb.MetaLeaseGrantRequest(ttl_s=7.0))
    lease = pb.MetaLeaseRequest(id=granted["id"])
    await caller.ask("Metadata.LeaseKeepAlive", lease)
    await caller.ask("Metadata.LeaseRevoke", lease)


async def test_the_answers_are_the_stored_ones(
    server: CoordinatorServer, channel: grpc.aio.Channel
) -> None:
    caller = Caller(channel, Golden("figures", RULES))
    for name, shards in (("x", 2), ("empty", 1)):
        made = pb.CreateLogRequest(
            name=name, shards=shards, instances=["a"] * shards,
            options_json=b'{"event_time": true}',
        )  # fmt: skip
        await caller.ask("Catalog.CreateLog", made, name)
    await statistics(caller, server)
    await plans(caller, server)
    await announcements(caller, server)
    await moves(caller)
    await accesses(caller, channel)
    await metadata(caller, channel)
    await drains(caller)  # last: they start moves by themselves
    caller.golden.check()
