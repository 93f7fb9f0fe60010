"""What every feed does: direct, through the broker's memory twin, through a real Kafka (F1-F3)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from bench.services.kafka import KafkaCluster
from logstore.feed.kafka import KafkaBroker
from logstore.feed.memory import MemoryBroker
from logstore.feed.port import Broker
from logstore.meta.records import Member
from tests.support.feeds import SHARD, WAIT_S, Scene, scene
from tests.support.nodes import append, batch_of

KINDS = ["direct", "memory", pytest.param("kafka", marks=pytest.mark.process)]


@pytest.fixture(params=KINDS)
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    settings = {"follower_timeout_s": 60.0}
    broker: Broker | None = None  # direct
    if request.param == "memory":
        broker = MemoryBroker()
    elif request.param == "kafka":
        service: KafkaCluster = request.getfixturevalue("kafka")
        broker = KafkaBroker(service.address)
    async with scene(tmp_path, broker, **settings) as made:
        yield made


async def test_batches_come_once_in_order_as_they_are_stored(source: Scene) -> None:
    await source.append(5)
    async with source.feed() as feed:
        following = asyncio.create_task(source.collect(feed, 0, 300))
        for _ in range(5):
            await source.append(5)
        found, _ = await following
    assert [b.data for b in found] == [b.data for b in source.stored()]
    assert [b.chain_after for b in found] == [b.chain_after for b in source.stored()]


async def test_an_idle_source_tells_its_mark(source: Scene) -> None:
    await source.append(3)
    async with source.feed() as feed, aclosing(feed.follow(30)) as parts:
        part = await asyncio.wait_for(anext(parts), WAIT_S)
        assert (part.batches, part.high_watermark) == ((), 30)


async def test_it_goes_on_at_an_offset_whatever_the_cursor(source: Scene) -> None:
    await source.append(4)
    async with source.feed() as feed:
        found, cursor = await source.collect(feed, 0, 40)
    await source.append(4)
    half = found[-1].end
    for hint in (cursor, None, 0, 10**9):
        async with source.feed() as feed:
            rest, _ = await source.collect(feed, half, 80, hint)
            assert [b.data for b in found + rest] == [b.data for b in source.stored()]


async def test_it_goes_on_after_the_source_restarted(source: Scene) -> None:
    await source.append(4)
    async with source.feed() as feed:
        found, cursor = await source.collect(feed, 0, 40)
    await source.nodes.stop("i1")
    await source.nodes.start("i1")
    await source.nodes.until(SHARD, lambda r: r.epoch == 3)
    await source.append(4)
    async with source.feed() as feed:
        rest, _ = await source.collect(feed, 40, 80, cursor)
    assert [b.data for b in found + rest] == [b.data for b in source.stored()]


async def test_only_what_is_committed_is_told(source: Scene) -> None:
    """F1: a follower that does not ack holds the high watermark, and the feed with it."""
    n = source.nodes
    await source.append(2)
    await n.start("i2")
    target = Member("i2", n.servers["i2"].instance.node.incarnation, 777)
    await n.change(SHARD, learners=(target,), admit=(777,))
    await n.until(SHARD, lambda r: len(r.in_sync) == 2)
    await n.stop("i2")
    batch = batch_of(SHARD, [b"lost?"] * 10, source.sequence + 1, 5)
    waiting = asyncio.create_task(append(n.log_stub("i1"), [batch]))
    replica = n.servers["i1"].instance.replicas[SHARD]
    async with asyncio.timeout(WAIT_S):
        while replica.machine.end.end < 30:
            await asyncio.sleep(0.01)
    assert replica.high_watermark == 20
    idle = 0
    async with source.feed() as feed, aclosing(feed.follow(0)) as parts:
        while idle < 4:
            part = await asyncio.wait_for(anext(parts), WAIT_S)
            assert part.high_watermark <= 20
            assert all(b.end <= 20 for b in part.batches)
            idle += not part.batches
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
