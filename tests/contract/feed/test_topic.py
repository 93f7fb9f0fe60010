"""A feed through a topic that lost, repeats, or was spoilt: what the learner gets is whole (F2)."""

from dataclasses import replace
from pathlib import Path

import pytest

from logstore.base.errors import DivergedError
from logstore.base.types import Position
from logstore.feed.memory import MemoryBroker
from logstore.feed.port import Broker, BrokerAwayError
from logstore.feed.sequence import message_of
from logstore.feed.topic import TopicFeed
from tests.support.feeds import Scene, scene


async def fill(source: Scene, batches: int = 6) -> None:
    await source.append(batches)
    await source.published(10 * batches)


async def all_of(source: Scene, until: int, cursor: int | None = None) -> TopicFeed:
    """Read everything; it must be what the source has. Returns the feed, for its counts."""
    async with source.feed() as feed:
        assert isinstance(feed, TopicFeed)
        found, _ = await source.collect(feed, 0, until, cursor)
    assert [b.data for b in found] == [b.data for b in source.stored()]
    return feed


async def test_the_topic_brings_what_was_committed_after_the_intent(
    tmp_path: Path, broker: Broker
) -> None:
    async with scene(tmp_path, broker) as source:
        await fill(source)
        feed = await all_of(source, 60)
        assert feed.refetched <= 1, "the source's first batch may be older than its publisher"


async def test_what_came_before_the_topic_is_fetched_from_the_replica(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with scene(tmp_path, broker) as source:
        await fill(source)
        del broker.held[source.topic][:4]
        await source.append(1)
        feed = await all_of(source, 70)
        assert feed.refetched >= 4


async def test_a_lost_tail_on_an_idle_shard_is_fetched(tmp_path: Path) -> None:
    """The learner of F2 waited for ever."""
    broker = MemoryBroker()
    async with scene(tmp_path, broker) as source:
        await fill(source)
        broker.lose_tail(source.topic, 3)
        feed = await all_of(source, 60)
        assert feed.refetched >= 3


async def test_duplicates_and_late_messages_of_an_old_epoch_are_dropped(
    tmp_path: Path, broker: Broker
) -> None:
    async with scene(tmp_path, broker) as source:
        await fill(source)
        stored = source.stored()
        async with broker.writer(source.topic) as writer:
            await writer.write([message_of(b, 2, 60) for b in stored[2:]])
            # Epoch 1 was fenced when this one's epoch 2 began; what it says is another batch.
            late = replace(message_of(stored[5], 1, 70), base_offset=60)
            await writer.write([late])
        await source.append(2)
        feed = await all_of(source, 80)
        assert feed.duplicates >= 4


async def test_a_spoilt_message_is_fetched_again(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with scene(tmp_path, broker) as source:
        await fill(source)
        held = broker.held[source.topic]
        for at in (2, len(held) - 1):
            held[at] = replace(held[at], data=held[at].data[:-1] + b"!")
        feed = await all_of(source, 60)
        assert feed.refetched >= 2


async def test_a_difference_below_our_end_is_a_divergence(tmp_path: Path, broker: Broker) -> None:
    async with scene(tmp_path, broker) as source:
        await fill(source)
        source.mine[30] = Position(30, b"x" * 16)
        async with source.feed() as feed:
            with pytest.raises(DivergedError, match="offset 30"):
                await source.collect(feed, 40, 60)


async def test_a_topic_that_was_made_anew_is_read_from_its_start(
    tmp_path: Path, broker: Broker
) -> None:
    async with scene(tmp_path, broker) as source:
        await fill(source)
        async with source.feed() as feed:
            _, cursor = await source.collect(feed, 0, 60)
        await broker.delete(source.topic)
        await source.append(2)
        await all_of(source, 80, cursor)


async def test_a_broker_that_is_away_says_so_and_comes_back(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with scene(tmp_path, broker) as source:
        await fill(source)
        broker.away = True
        async with source.feed() as feed:
            with pytest.raises(BrokerAwayError, match="away"):
                await source.collect(feed, 0, 60)
        await source.append(2)
        broker.away = False
        await source.published(80)
        await all_of(source, 80)
