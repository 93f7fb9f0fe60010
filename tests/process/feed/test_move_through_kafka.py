"""Moves through a real Kafka that dies: it comes back, or it does not (I7)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import logstore
from bench.services.kafka import KafkaCluster
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.errors import InvalidArgumentError
from logstore.feed.kafka import KafkaBroker
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsStub
from logstore.proto.status import called

SHARD = "orders/0"
OPTIONS = {"shadow_s": 0.2, "soak_s": 0.2, "ramp_step": 0.5, "ramp_interval_s": 0.05,
           "lag_records_max": 40, "feed_deadline_s": 60.0,
           "throttle_bytes_per_s": 300_000}  # fmt: skip
LIMIT_S = 90.0
SIZE_BYTES = 1_000_000
"""So large that the copy takes seconds, in which more than lag_records_max are appended."""


class Moves:
    """What an operator does."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def start(self, target: str, **options: object) -> str:
        request = pb.MoveRequest(
            shard=SHARD, target=target, options_json=msgspec.json.encode({**OPTIONS, **options})
        )
        return str((await self._ask("Move", request))["id"])

    async def until(self, id_: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            while not what(found := await self._ask("Get", pb.GetMigrationRequest(id=id_))):
                await asyncio.sleep(0.05)
        return found

    async def _ask(self, method: str, request: object) -> dict[str, Any]:
        async with open_channel(self._cluster.address) as channel, called():
            answer = await getattr(MigrationsStub(channel), method)(request, timeout=10)
            return dict(msgspec.json.decode(answer.json))


def ended(found: dict[str, Any]) -> bool:
    return found["state"] in ("completed", "rolled-back", "aborted")


class Loader:
    """One append after another, until stopped; every one must be acked."""

    def __init__(self, log: logstore.Log) -> None:
        self._log = log
        self.acked = 0
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            await self._log.append(b"key-%d" % (self.acked % 50), b"%d" % self.acked)
            self.acked += 1
            await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        wanted = self.acked + count
        async with asyncio.timeout(LIMIT_S):
            while self.acked < wanted:
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop = True


async def no_topics(broker: KafkaBroker) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await broker.topics("logstore-"):
            await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_the_broker_dies_and_returns_or_stays_away(
    tmp_path: Path, kafka: KafkaCluster
) -> None:
    broker = KafkaBroker(kafka.address)
    for left in await broker.topics("logstore-"):
        await broker.delete(left)
    async with (
        local_cluster(2, data=tmp_path, kafka=kafka.address, autopilot="off") as cluster,
        logstore.connect(cluster.addresses, timeout_s=60) as db,
    ):
        log = await db.create_log("orders", shards=1, instances=["instance-1"])
        moves, loader = Moves(cluster), Loader(log)
        await log.append_many(
            [b"old-%d" % i for i in range(1_000)], [bytes(SIZE_BYTES // 1_000)] * 1_000
        )
        running = asyncio.create_task(loader.run())

        # It returns: the move waits for it and goes on through it.
        kafka.kill_member(0)
        first = await moves.start("instance-2")
        await moves.until(first, lambda m: m["state"] == "catching-up")
        await loader.more(50)
        assert (await moves.until(first, lambda m: True))["state"] == "catching-up"
        await asyncio.to_thread(kafka.start_member, 0)
        await asyncio.to_thread(kafka.wait_ready)
        found = await moves.until(first, ended)
        assert (found["state"], found["hash_equal"]) == ("completed", True), found["story"]
        assert not any("directly" in note for note in found["notes"])
        await no_topics(broker)

        # It stays away: back to the source's way, and to the source itself, as asked.
        kafka.kill_member(0)
        second = await moves.start("instance-1", feed_deadline_s=1.0)
        found = await moves.until(second, ended)
        assert found["state"] == "completed", found["story"]
        assert any("goes on directly" in note for note in found["notes"]), found["story"]
        third = await moves.start("instance-2", feed_deadline_s=1.0, feed_fallback="rollback")
        found = await moves.until(third, ended)
        assert found["state"] == "rolled-back", found["story"]
        assert "feed_deadline_s = 1 s" in found["cause"]

        loader.stop()
        await running
        values = sorted([int(r.value) async for r in log.read(start=b"key-", end=b"key.")])
        assert values == list(range(loader.acked))
    await asyncio.to_thread(kafka.start_member, 0)
    await asyncio.to_thread(kafka.wait_ready)
    await broker.close()


async def test_a_kafka_feed_without_a_kafka_is_refused(tmp_path: Path) -> None:
    async with local_cluster(2, data=tmp_path, autopilot="off") as cluster:
        async with logstore.connect(cluster.addresses) as db:
            await db.create_log("orders", shards=1, instances=["instance-1"])
        with pytest.raises(InvalidArgumentError, match="no broker is configured"):
            await Moves(cluster).start("instance-2", feed="kafka")
