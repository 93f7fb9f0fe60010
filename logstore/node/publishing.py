"""What the primary publishes through a broker: to a move's topic, and to the log's own readers."""

import asyncio
from typing import TYPE_CHECKING

from logstore.node.changefeed import Changefeed
from logstore.node.publisher import Publisher
from logstore.replication.events import Role

if TYPE_CHECKING:
    from logstore.node.replica import Replica


class Publishing:
    """The publisher of a migration attempt and the change stream, each while it is wanted here."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self.publisher: Publisher | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._changefeed: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begin and end what the configuration says: a topic while the record names one (F1), a
        change stream while the log has one; only where the shard is led."""
        replica, broker = self._replica, self._replica.node.broker
        record = replica.machine.record
        leads = record is not None and replica.role is Role.PRIMARY
        topic = record.feed_topic if record is not None and leads else ""
        if self.publisher is not None and self.publisher.topic != topic:
            self.publisher = None
            if self._publishing is not None:
                self._publishing.cancel()
        if topic and self.publisher is None and broker is not None:
            self.publisher = Publisher(replica, broker, topic)
            self._publishing = replica.spawn(self.publisher.run(), f"publish {replica.shard}")
        changes = replica.options.changefeed
        if self._changefeed is not None and not leads:
            self._changefeed.cancel()
            self._changefeed = None
        if leads and changes and self._changefeed is None and broker is not None:
            feed = Changefeed(replica, broker, changes)
            self._changefeed = replica.spawn(feed.run(), f"changefeed {replica.shard}")
