"""A learner fills its copy by itself: snapshot, then feed (design note 0001; F1-F4).

Its own log end on the disk is the only truth: after any failure it starts again from there. Chunks
are verified before they are written; the chain verifies them again on the disk.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

import structlog

from logstore.base.background import end
from logstore.base.errors import (
    CorruptBatchError,
    CorruptStorageError,
    DivergedError,
    LogstoreError,
    OutOfRangeError,
    StorageFullError,
)
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.feed.direct import DirectFeed
from logstore.feed.port import BrokerAwayError, FeedSource
from logstore.feed.topic import TopicFeed
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, Created, DamageFound, Dropped, Received
from logstore.replication.events import NEVER

RATE_S = 0.5
AtRest = Callable[[], Awaitable[None]]
"""Returns when nothing is being written to the copy: where its log ends is known then."""
_log = structlog.get_logger(__name__)


class CatchUpControl:
    """The pull of a copy while it is a learner to which no primary sends."""

    def __init__(self, copy: Copy, node: NodeContext, receiver: Receiver, at_rest: AtRest) -> None:
        self._copy, self._node, self._receiver, self._at_rest = copy, node, receiver, at_rest
        self.pushed_s = NEVER
        """When the primary last sent something, a heartbeat too."""
        self._task: asyncio.Task[None] | None = None
        self.newest: CatchUp | None = None
        """Kept after its end, to show how the copy was filled."""

    def begin(self) -> None:
        """Pull, if it is not under way."""
        if self._task is None:
            self.newest = CatchUp(self._copy, self._node, self._receiver, self._at_rest)
            self._task = self._copy.spawn(self.newest.run(), f"learn {self._copy.shard}")

    def stop(self) -> asyncio.Task[None] | None:
        """End the pull; returns its task, which may still be ending."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    async def stopped(self) -> None:
        """End the pull before pushed batches are taken; nothing of it is in flight afterwards."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    def resume_if_silent(self) -> None:
        """The sending primary fell silent while we are a learner: pull again."""
        node = self._node
        if node.now_s() - self.pushed_s > node.config.follower_timeout_s:
            self.begin()


def direct_feed(copy: Copy, node: NodeContext) -> FeedSource:
    """Straight from the primary."""
    record = copy.record
    channel = node.channel_to(record.primary.instance)
    return DirectFeed(channel, copy.shard, copy.epoch, record.copy_bytes_per_s)


class CatchUp:
    """The pull of one copy; `phase` and the figures are in Status."""

    def __init__(
        self,
        copy: Copy,
        node: NodeContext,
        receiver: Receiver,
        at_rest: AtRest,
        source: Callable[[Copy, NodeContext], FeedSource] = direct_feed,
    ) -> None:
        self._copy, self._node, self._receiver, self._at_rest = copy, node, receiver, at_rest
        self._source = source
        self.phase = "snapshot"
        self.snapshot_end = 0
        self.bytes_copied = 0
        self.copy_seconds = 0.0
        self.source_high_watermark = 0
        self.feed = "direct"
        self.feed_error = ""
        self._from_end = False
        """The source was trimmed past our mark: its log is compared with ours at our end."""
        self._away_since_s: float | None = None
        self._rate = Rate()

    @property
    def feed_down_s(self) -> float:
        """How long the broker of our feed has not answered; 0: it does, or there is none."""
        if self._away_since_s is None:
            return 0.0
        return self._node.now_s() - self._away_since_s

    @property
    def records_per_s(self) -> float:
        return self._rate.per_s

    async def run(self) -> None:
        """Pull until cancelled; a copy that can never match stops with phase `failed: …`.

        A full disk shows this too, but the pull goes on trying: space may be freed."""
        node = self._node
        while True:
            try:
                await self._pull()
            except OutOfRangeError:
                await self._after_trim()
            except (DivergedError, CorruptBatchError) as e:
                if self._from_end and isinstance(e, DivergedError):
                    await self._after_trim()  # our end was never committed, the source's base is
                    continue
                _log.error("learner failed", shard=self._copy.shard, error=e.message)
                self.phase = f"failed: {e.message}"
                return
            except CorruptStorageError as e:  # a peer never says this of itself
                self._copy.report(DamageFound(e.message))
                self.phase = f"failed: {e.message}"
                return
            except StorageFullError as e:  # a move is rolled back on it; a repair waits for space
                self.phase = f"failed: {e.message}"
            except BrokerAwayError as e:
                self._broker_away(e.message)
            except LogstoreError as e:
                _log.info("pull broke", shard=self._copy.shard, error=e.message)
            await asyncio.sleep(node.config.retry_interval_s)

    def _broker_away(self, why: str) -> None:
        """The coordinator sees how long, and decides what follows (feed_fallback)."""
        _log.info("feed away", shard=self._copy.shard, error=why)
        self.feed_error = why
        if self._away_since_s is None:
            self._away_since_s = self._node.now_s()

    def _broker_heard(self) -> None:
        self._away_since_s, self.feed_error = None, ""

    async def _after_trim(self) -> None:
        """The source trimmed past our mark: go on at our end; if it trimmed past that too, or our
        end is not its log, copy again from its base."""
        copy = self._copy
        if not self._from_end:
            self._from_end = True
            return
        self._from_end = False
        async with self._receiver.lock:
            await self._at_rest()
            self._cut_above_mark()
            copy.log.drop()
            copy.report(Dropped())

    def _cut_above_mark(self) -> None:
        """Records above our mark are not the source's log, or come again from it (P5); those below
        were trimmed there, so all of this copy may go (I13)."""
        log = self._copy.log
        meta = log.meta()
        if meta is None:
            return
        mark = max(meta.high_watermark, meta.base.end)
        ends = range(mark, meta.base.end - 1, -1)
        cut = next(end for end in ends if log.position_at(end) is not None)
        log.truncate(cut, self._copy.options.durability)

    async def _pull(self) -> None:
        copy = self._copy
        direct = self._source(copy, self._node)
        topic = copy.record.feed_topic
        await self._at_rest()
        meta = self._copy.log.meta()
        if meta is None or meta.snapshot_target is not None:
            self.phase = "snapshot"
            with self._node.pace.copying():
                await self._take_snapshot(direct, meta)
        self.phase = "feed"
        await self._follow(self._feed_of(topic, direct), topic)

    def _feed_of(self, topic: str, direct: FeedSource) -> FeedSource:
        """Through the topic that the record names, else straight from the source."""
        node = self._node
        self.feed = "kafka" if topic else "direct"
        if not topic:
            self._broker_heard()
            return direct
        if node.broker is None:
            raise BrokerAwayError(f"instance {node.instance} has no broker configured")
        return TopicFeed(
            node.broker,
            topic,
            direct,
            self._copy.log.position_at,
            self._broker_heard,
        )

    async def _take_snapshot(self, source: FeedSource, meta: ReplicaMeta | None) -> None:
        copy, log = self._copy, self._copy.log
        started_s = self._node.now_s()
        start = 0 if meta is None else log.end().end
        async for part in source.snapshot(start, want_anchor=meta is None):
            if part.anchor is not None:
                meta = ReplicaMeta(
                    replica_id=log.id,
                    shard=copy.shard,
                    base=part.anchor.base,
                    high_watermark=part.anchor.base.end,
                    snapshot_target=part.end,
                )
                made = partial(log.create, meta, part.anchor, copy.options.key_index)
                await self._synced(made)
                copy.report(Created())
            self.snapshot_end = part.end
            await self._apply(list(part.batches), part.end)
            size = sum(len(b.data) for b in part.batches)
            self.bytes_copied += size
            self._node.reporter.copied(size)
            await self._node.pace.spend(size)
            self.copy_seconds = self._node.now_s() - started_s
        reached = self._copy.log.meta()
        if reached is not None and log.end().end >= self.snapshot_end:
            whole = ReplicaMeta(
                reached.replica_id, reached.shard, reached.base, reached.high_watermark
            )
            await self._synced(partial(log.set_meta, whole))

    async def _synced(self, work: Callable[[], None]) -> None:
        """Waits for the disk off the loop, which serves others' appends. The work is done when
        this returns, also by a cancellation, so nothing of a copy is under way after its end."""
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._node.readers, work)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise

    async def _follow(self, source: FeedSource, topic: str) -> None:
        """Until the record names another topic, or none."""
        copy = self._copy
        meta = self._copy.log.meta()
        if meta is None:
            return
        # Our own log is the truth (F3), but above its mark it may hold what was never committed.
        start = max(meta.high_watermark, meta.base.end)
        if self._from_end:  # with our last batch, so that it is compared
            start = max(start, copy.log.end().end - 1)
        async with aclosing(source.follow(start, meta.feed_cursor)) as parts:
            async for part in parts:
                self.source_high_watermark = part.high_watermark
                if self._from_end and part.high_watermark <= start:
                    raise DivergedError(
                        f"{copy.shard} reaches {start} here, its source is committed to "
                        f"{part.high_watermark}"
                    )
                await self._apply(list(part.batches), part.high_watermark, part.cursor)
                self._from_end = self._from_end and not part.batches
                self._node.reporter.copied(sum(len(b.data) for b in part.batches))
                self._rate.add(sum(b.count for b in part.batches), self._node.now_s())
                if copy.record.feed_topic != topic:
                    return

    async def _apply(
        self, batches: list[StoredBatch], new_mark: int, feed_cursor: int | None = None
    ) -> None:
        copy = self._copy
        if not batches:
            return
        async with self._receiver.lock:
            end = await self._receiver.apply(batches, copy.high_watermark, new_mark, feed_cursor)
            copy.report(Received(end, new_mark))


class Rate:
    """Records a second over the last moments, for the time that is left."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._count = 0
        self._since_s: float | None = None

    def add(self, count: int, now_s: float) -> None:
        if self._since_s is None:
            self._since_s = now_s
        self._count += count
        elapsed_s = now_s - self._since_s
        if elapsed_s >= RATE_S:
            now = self._count / elapsed_s
            self.per_s = now if self.per_s == 0 else 0.5 * (self.per_s + now)
            self._count, self._since_s = 0, now_s
