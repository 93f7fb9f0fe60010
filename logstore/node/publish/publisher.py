"""The primary's side of a feed through a broker: committed batches go to the attempt's topic.

The newest message of the topic says where to go on; so a primary that restarts, or
another one after a failover, needs nothing else. It begins at its high watermark: earlier
batches are in the snapshot, and missing ones in between are fetched directly (F2).
"""

import asyncio

import structlog

from logstore.base.errors import LogstoreError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.feed.port import Broker, TopicWriter
from logstore.feed.sequence import message_of
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.replication.events import Role

IDLE_S = 0.5
_log = structlog.get_logger(__name__)


class Publisher:
    """Publishes one shard's committed batches to `topic` until cancelled (F1)."""

    def __init__(self, copy: Copy, node: NodeContext, broker: Broker, topic: str) -> None:
        self._copy, self._node, self._broker, self.topic = copy, node, broker, topic
        self.end = 0
        """Offset after the last published batch."""
        self.began = False
        """Commits from now on are published."""

    async def run(self) -> None:
        while True:
            try:
                await self._session()
            except LogstoreError as e:
                self.began = False
                _log.info("publishing broke", topic=self.topic, error=e.message)
            await asyncio.sleep(self._node.config.retry_interval_s)

    async def _session(self) -> None:
        await self._broker.ensure(self.topic)
        async with self._broker.writer(self.topic) as writer:
            # A predecessor may still write: its late batches are duplicates of an older epoch.
            last = await self._broker.last(self.topic)
            self.end = last.end if last is not None else self._copy.high_watermark
            self.began = True
            while True:
                await self._publish(writer)
                await self._copy.wait_mark(IDLE_S)

    async def _publish(self, writer: TopicWriter) -> None:
        """Everything that is committed and not in the topic; only while this copy leads."""
        copy = self._copy
        while copy.role is Role.PRIMARY and self.end < (mark := copy.high_watermark):
            batches = copy.log.read(self.end, mark, SNAPSHOT_CHUNK_BYTES)
            await writer.write([message_of(b, copy.epoch, mark) for b in batches])
            self.end = batches[-1].end
