"""Topics of feeds: named after this cluster, and swept when no shard's record names them.

A topic is named in a record before it is created, and the topics are listed before the records
are read: so a listed topic that no record names is not needed (a move's end, or an attempt that
was killed). A late publisher may create one again; the next sweep finds it.
"""

import asyncio

import structlog

from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.feed.port import Broker, BrokerAwayError
from logstore.meta.port import MetadataStore
from logstore.meta.records import CLUSTER_ID
from logstore.meta.tables import shard_table, text_table

RETRY_S = 1.0
_log = structlog.get_logger(__name__)


async def feed_prefix(store: MetadataStore, env: Env) -> str:
    """What this cluster's feed topics begin with; clusters may share a broker."""
    cluster = await text_table(store).get_or_create(CLUSTER_ID, lambda: f"{env.new_id():x}")
    return f"logstore-{cluster}-feed-"


class FeedSweeper:
    """Deletes topics that are not needed any more: each `interval_s`, and when `ended` is set."""

    def __init__(
        self,
        store: MetadataStore,
        broker: Broker,
        prefix: str,
        ended: asyncio.Event,
        interval_s: float,
    ) -> None:
        self._store, self._broker, self._prefix = store, broker, prefix
        self._ended, self._interval_s = ended, interval_s
        self._tasks = Background("the feed sweeper")
        self.broker_up: bool | None = None
        """Whether the broker answered last; None: it has not been asked."""

    def start(self) -> None:
        self._tasks.start(self._run())

    async def close(self) -> None:
        await self._tasks.stop()
        await self._broker.close()

    async def sweep(self) -> list[str]:
        """One sweep; returns the deleted topics. BrokerAwayError, UnavailableError."""
        listed = await self._broker.topics(self._prefix)
        if not listed:
            return []
        named = {shard.feed_topic for shard in await shard_table(self._store).all()}
        orphans = [topic for topic in listed if topic not in named]
        for topic in orphans:
            await self._broker.delete(topic)
            _log.info("feed topic deleted", topic=topic)
        return orphans

    async def _run(self) -> None:
        while True:
            wait_s = self._interval_s
            try:
                await self.sweep()
                self.broker_up = True
            except LogstoreError as e:
                self.broker_up = not isinstance(e, BrokerAwayError)
                _log.info("feed topics not swept", error=e.message)
                wait_s = min(RETRY_S, self._interval_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._ended.wait()
            except TimeoutError:
                continue
            self._ended.clear()
