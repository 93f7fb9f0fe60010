"""A learner fills its copy by itself: snapshot, then feed (design note 0001; F1-F4).

Its own log end on the disk is the only truth: whatever breaks, it starts again from there. Chunks
are verified before they are written; what lies on the disk is verified again by the chain.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from logstore.base.errors import (
    CorruptBatchError,
    DivergedError,
    LogstoreError,
    OutOfRangeError,
    StorageFullError,
)
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.feed.direct import DirectFeed
from logstore.feed.port import FeedSource
from logstore.replication.events import Written

if TYPE_CHECKING:
    from logstore.node.replica import Replica

_log = structlog.get_logger(__name__)


class Learner:
    """The pull of one copy; `phase` and the figures are what Status tells."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self.phase = "snapshot"
        self.snapshot_end = 0
        self.bytes_copied = 0
        self.copy_seconds = 0.0
        self.source_high_watermark = 0

    async def run(self) -> None:
        """Pull until cancelled; a copy that can never match stops with phase `failed: …`."""
        node = self._replica.node
        while True:
            try:
                await self._pull()
            except (DivergedError, CorruptBatchError) as e:
                _log.error("learner failed", shard=self._replica.shard, error=e.message)
                self.phase = f"failed: {e.message}"
                return
            except OutOfRangeError:
                self._start_over()
            except StorageFullError as e:
                self.phase = f"failed: {e.message}"
                return
            except LogstoreError as e:
                _log.info("pull broke", shard=self._replica.shard, error=e.message)
            await asyncio.sleep(node.config.retry_interval_s)

    def _meta(self) -> ReplicaMeta | None:
        replica_id = self._replica.member.replica_id
        return next(
            (m for m in self._replica.node.engine.replicas() if m.replica_id == replica_id), None
        )

    def _start_over(self) -> None:
        """The source trimmed past our end: copy anew from its base."""
        self._replica.node.engine.drop_replica(self._replica.member.replica_id)

    async def _pull(self) -> None:
        replica = self._replica
        primary = replica.record.primary
        source: FeedSource = DirectFeed(
            replica.node.channel_to(primary.instance),
            replica.shard,
            replica.epoch,
            replica.record.copy_bytes_per_s,
        )
        meta = self._meta()
        if meta is None or meta.snapshot_target is not None:
            self.phase = "snapshot"
            await self._copy(source, meta)
        self.phase = "feed"
        await self._follow(source)

    async def _copy(self, source: FeedSource, meta: ReplicaMeta | None) -> None:
        replica, engine = self._replica, self._replica.node.engine
        started_s = replica.node.now_s()
        start = 0 if meta is None else engine.end(meta.replica_id).end
        async for part in source.snapshot(start, want_anchor=meta is None):
            if part.anchor is not None:
                meta = ReplicaMeta(
                    replica_id=replica.member.replica_id,
                    shard=replica.shard,
                    base=part.anchor.base,
                    high_watermark=part.anchor.base.end,
                    snapshot_target=part.end,
                )
                engine.create_replica(meta, part.anchor, key_index=replica.options.key_index)
                replica.created()
            self.snapshot_end = part.end
            await self._apply(list(part.batches), part.end)
            self.bytes_copied += sum(len(b.data) for b in part.batches)
            self.copy_seconds = replica.node.now_s() - started_s
        reached = self._meta()
        if reached is not None and engine.end(reached.replica_id).end >= self.snapshot_end:
            engine.set_meta(
                ReplicaMeta(reached.replica_id, reached.shard, reached.base, reached.high_watermark)
            )

    async def _follow(self, source: FeedSource) -> None:
        meta = self._meta()
        start = meta.high_watermark if meta is not None else 0
        async for part in source.follow(start):
            self.source_high_watermark = part.high_watermark
            await self._apply(list(part.batches), part.high_watermark)

    async def _apply(self, batches: list[StoredBatch], new_mark: int) -> None:
        replica = self._replica
        if not batches:
            return
        async with replica.apply_lock:
            end = await replica.receiver.apply(batches, replica.high_watermark, new_mark)
            replica.machine.adopt(min(new_mark, end.end))
            replica.handle(Written(end))
