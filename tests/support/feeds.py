"""A real source instance and a reader of its feed, directly or through a broker."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.feed.direct import DirectFeed
from logstore.feed.port import Broker, FeedSource
from logstore.feed.topic import TopicFeed
from logstore.proto.channel import open_channel
from tests.support.nodes import Nodes, append, batch_of, nodes

SHARD = "orders/0"
WAIT_S = 15.0
_topics = itertools.count(1)


def new_topic() -> str:
    """A name that no other test of this run has; brokers are shared."""
    return f"logstore-test-{next(_topics)}"


@dataclass
class Scene:
    """`i1` leads SHARD. `mine` is what a learner would have on its disk: offset -> chain."""

    nodes: Nodes
    broker: Broker | None
    topic: str
    mine: dict[int, Position] = field(default_factory=dict)
    sequence: int = 0

    async def append(self, batches: int, records: int = 10) -> None:
        """Each acked before the next, so that they are stored as they came."""
        for _ in range(batches):
            self.sequence += 1
            keys = [b"key-%d" % (i % 7) for i in range(records)]
            batch = batch_of(SHARD, keys, self.sequence, 5, self.sequence)
            (result,) = await append(self.nodes.log_stub("i1"), [batch])
            assert not result.HasField("error"), result.error

    def stored(self) -> list[StoredBatch]:
        """What is committed at the source."""
        replica = self.nodes.servers["i1"].instance.replicas[SHARD]
        engine, me = replica.node.engine, replica.member.replica_id
        return engine.read(me, 0, replica.high_watermark, 1 << 30)

    @asynccontextmanager
    async def feed(self) -> AsyncIterator[FeedSource]:
        record = await self.nodes.record(SHARD)
        async with open_channel(self.nodes.servers["i1"].address) as channel:
            direct = DirectFeed(channel, SHARD, record.epoch)
            if self.broker is None:
                yield direct
            else:
                yield TopicFeed(self.broker, self.topic, direct, self.mine.get)

    async def collect(
        self, feed: FeedSource, start: int, until: int, cursor: int | None = None
    ) -> tuple[list[StoredBatch], int | None]:
        """Follow from `start` to the offset `until`; checks order. The batches, and the cursor."""
        found: list[StoredBatch] = []
        at = start
        async with asyncio.timeout(WAIT_S), aclosing(feed.follow(start, cursor)) as parts:
            async for part in parts:
                for batch in part.batches:
                    assert batch.base_offset == at, "a gap, or one twice"
                    at = batch.end
                    found.append(batch)
                    self.mine[batch.end] = Position(batch.end, batch.chain_after)
                cursor = part.cursor if part.cursor is not None else cursor
                assert at <= part.high_watermark or at <= until
                if at >= until:
                    return found, cursor
        raise AssertionError("a feed goes on for ever")

    async def published(self, end: int) -> None:
        """Wait until the source has published up to `end`."""
        replica = self.nodes.servers["i1"].instance.replicas[SHARD]
        async with asyncio.timeout(WAIT_S):
            while (at := replica.publishing.publisher) is None or not at.began or at.end < end:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def scene(folder: Path, broker: Broker | None, **settings: object) -> AsyncIterator[Scene]:
    async with nodes(folder, 0, **settings) as n:
        n.broker = broker
        await n.start("i1")
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        made = Scene(n, broker, "" if broker is None else new_topic())
        await n.change(SHARD, feed_topic=made.topic)
        if broker is not None:
            await made.published(0)
        yield made
        if broker is not None:
            await n.change(SHARD, feed_topic="")
