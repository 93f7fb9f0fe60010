"""The largest that the door takes, through the memory twin's topics and a real Kafka's."""

import asyncio
from pathlib import Path

import aiokafka
import pytest

from logstore.base.limits import HEADERS_MAX, MESSAGE_BYTES_MAX, RECORD_BYTES_MAX
from logstore.feed.kafka import KafkaBroker
from logstore.feed.memory import MemoryBroker
from logstore.feed.port import Broker, Change
from tests.support.feeds import SHARD, new_topic, scene
from tests.support.largest import SLOW, Kind, connected, message_of, shapes
from tests.support.nodes import append


@pytest.mark.timeout(120)
async def test_the_largest_batches_go_through_a_topic(tmp_path: Path, broker: Broker) -> None:
    """Random content, not compressed: what lz4 and zstd leave of it is smaller."""
    kind = Kind(0)
    async with scene(tmp_path, broker, **SLOW) as s:
        await connected(s.nodes)
        messages = [message_of(kind, f, b, i) for i, (f, b) in enumerate(shapes(), 1)]
        for message in messages:
            message.shard = SHARD
        results = await append(s.nodes.log_stub("i1"), messages)
        assert [r.error.message for r in results] == [""] * len(messages)
        end = sum(m.count for m in messages)
        await s.published(end)
        async with s.feed() as feed:
            batches, _ = await s.collect(feed, 0, end)
        assert [bytes(b.payload()) for b in batches] == [m.payload for m in messages]


@pytest.mark.timeout(120)
async def test_the_largest_records_go_through_a_change_stream(broker: Broker) -> None:
    topic = new_topic()
    await broker.ensure_changefeed(topic)
    names = tuple((f"{i:0256d}", b"") for i in range(HEADERS_MAX))
    named = sum(len(name) for name, _ in names)
    changes = [
        Change(0, b"key", bytes(RECORD_BYTES_MAX - 3), 1, ()),
        Change(1, b"key", b"\xff" * (RECORD_BYTES_MAX - 3 - named), 1, names),
    ]
    async with broker.change_writer(topic) as writer:
        await writer.write(SHARD, changes)
    if isinstance(broker, MemoryBroker):
        assert broker.changes[topic] == [(SHARD, change) for change in changes]
    else:
        assert await sizes_in(broker, topic, 2) == [len(c.value) for c in changes]


async def sizes_in(broker: Broker, topic: str, records: int) -> list[int]:
    assert isinstance(broker, KafkaBroker)
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=MESSAGE_BYTES_MAX,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(90):
            return [len((await consumer.getone()).value) for _ in range(records)]
    finally:
        await consumer.stop()
