"""What a coordinator has learned survives its restart: models, scores, kinds of events, groups."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.server import CoordinatorServer
from logstore.meta.records import ProfileRecord
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from profiler.calendar import Event
from profiler.types import ShardStatistics
from tests.support.announced import (
    SLOT_S,
    call,
    learned,
    prepared,
    report,
    started,
)
from tests.support.statistics import statistic

FIRST, LAST = 72, 200
EVENTS = (96, 120, 144)
"""The slots of matches, without a stated factor: three times the usual load."""


def row(slot: int) -> ShardStatistics:
    web, batch = 100 + 50 * (slot % 24 > 12), 20 + 10 * (slot % 2)
    usual = statistic("x/0", "a", slot, (web + batch) * (3 if slot in EVENTS else 1))
    return replace(usual, group_counts={"web": web, "batch": batch})


async def forecast(server: CoordinatorServer) -> Any:
    channel = open_channel(server.address)
    request = pb.ForecastRequest(shard="x/0", horizon_slots=6, score=True)
    answer = await stubs.StatisticsStub(channel).Forecast(request)
    await channel.close()
    return msgspec.json.decode(answer.json)


@asynccontextmanager
async def stopped_after(server: CoordinatorServer) -> AsyncIterator[CoordinatorServer]:
    """A server that is left running holds up the whole run."""
    try:
        yield server
    finally:
        await server.stop()


async def test_a_coordinator_goes_on_with_what_it_had_learned(tmp_path: Path) -> None:
    async with stopped_after(await prepared(tmp_path)) as server:
        for at in (*EVENTS, 204):
            match = Event(f"match-{at}", at * SLOT_S, (at + 1) * SLOT_S, kind="match")
            request = pb.AddEventRequest(event_json=msgspec.json.encode(match))
            await call(server, "AddEvent", request)
        profile = ProfileRecord("batch", 0.0, SLOT_S, (20 / SLOT_S, 30 / SLOT_S), repeats=True)
        encoded = msgspec.json.encode(profile)
        await call(server, "SetProfile", pb.SetProfileRequest(group="batch", profile_json=encoded))
        await server.announced.take()
        await report(server, [row(slot) for slot in range(FIRST, LAST)])
        await learned(server, LAST - 1)
        before = await forecast(server)
        trust = await server.learner.call(server.intake.groups.trust, "x/0", "batch")
    async with stopped_after(await started(tmp_path / "coordinator")) as again:
        await again.announced.take()
        after = await forecast(again)
        now = await again.learner.call(again.intake.groups.trust, "x/0", "batch")
        _, parts = await again.learner.call(again.intake.groups.forecast, "x/0", 2, LAST - 1)
    assert after["learned_slot"] == before["learned_slot"] == {"x/0": LAST - 1}
    was, said = (each["forecasts"]["x/0"] for each in (before, after))
    assert said["learned_slots"] == was["learned_slots"]
    assert said["mean"] == pytest.approx(was["mean"], rel=0.1)
    assert said["mean"][4] > 1.4 * said["mean"][3]  # the match of slot 204, by those before
    assert after["score"] == before["score"]
    assert after["score"]["spoken"]["1"]["n"] > 100
    assert now == trust
    assert parts["web"].mean[0] > 2 * parts["batch"].mean[0] > 0
