"""What the primary publishes through a broker: to a move's topic, and to the log's own readers."""

import asyncio

from logstore.node.publish.changefeed import Changefeed
from logstore.node.publish.publisher import Publisher
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.replication.events import Role


class Publishing:
    """The publisher of a migration attempt and the change stream, each while it is wanted here."""

    def __init__(self, copy: Copy, node: NodeContext) -> None:
        self._copy, self._node = copy, node
        self.publisher: Publisher | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._changefeed: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Follow the configuration: a topic while the record names one (F1), a
        change stream while the log has one; only where the shard is led."""
        copy, node, broker = self._copy, self._node, self._node.broker
        leads = copy.role is Role.PRIMARY
        topic = copy.record.feed_topic if leads else ""
        if self.publisher is not None and self.publisher.topic != topic:
            self.publisher = None
            if self._publishing is not None:
                self._publishing.cancel()
        if topic and self.publisher is None and broker is not None:
            self.publisher = Publisher(copy, node, broker, topic)
            self._publishing = copy.spawn(self.publisher.run(), f"publish {copy.shard}")
        changes = copy.options.changefeed
        if self._changefeed is not None and not leads:
            self._changefeed.cancel()
            self._changefeed = None
        if leads and changes and self._changefeed is None and broker is not None:
            feed = Changefeed(copy, node, broker, changes)
            self._changefeed = copy.spawn(feed.run(), f"changefeed {copy.shard}")
