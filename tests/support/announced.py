"""A coordinator that has learned the flat load of one shard, and calls to it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.meta.port import Put
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    encode,
    instance_key,
)
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.status import called
from profiler.types import ShardStatistics
from tests.support.statistics import statistic

SLOT_S = 3600.0
SLOTS = 72


async def started(data: Path) -> CoordinatorServer:
    config = CoordinatorConfig(
        data=data, port=0, slot_s=SLOT_S, seasons_slots=(24,), autopilot=Autopilot.OFF
    )
    server = CoordinatorServer(config, Env())
    await server.start()
    return server


async def call(server: CoordinatorServer, method: str, request: Any) -> Any:
    channel = open_channel(server.address)
    try:
        async with called():
            answer = await getattr(stubs.AnnouncementsStub(channel), method)(request)
            return msgspec.json.decode(answer.json)
    finally:
        await channel.close()


async def report(server: CoordinatorServer, statistics: list[ShardStatistics]) -> None:
    channel = open_channel(server.address)
    request = pb.ReportRequest(
        instance="a", incarnation=1, shard_statistics_json=msgspec.json.encode(statistics)
    )
    await stubs.StatisticsStub(channel).Report(request)
    await channel.close()


def slots(first: int, last: int, groups: dict[str, int] | None = None) -> list[ShardStatistics]:
    """A flat load of 100 in each slot; `groups` say whose it is."""
    rows = [statistic("x/0", "a", slot, 100) for slot in range(first, last)]
    return [replace(row, group_counts=groups or {}) for row in rows]


async def prepared(tmp_path: Path) -> CoordinatorServer:
    server = await started(tmp_path / "coordinator")
    record = InstanceRecord("a", "127.0.0.1:1", 1)
    await server.store.txn([], [Put(instance_key("a"), encode(record))])
    await server.catalog.create("x", LogOptions(), 1, (), ["a"])
    await report(server, slots(0, SLOTS))
    await learned(server, SLOTS - 1)
    return server


async def learned(server: CoordinatorServer, slot: int) -> None:
    async with asyncio.timeout(30):
        while (
            server.intake.newest_slots(["x"]).get("x", -1) < slot
            or server.intake.slots_learned < slot + 1
        ):
            await asyncio.sleep(0.01)
