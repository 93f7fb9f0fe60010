"""A feed through a broker: the topic brings the batches, an in-sync replica the missing ones.

"Caught up" means the source's high watermark, on request, never the topic's end (F2): when the
topic is silent the source is asked for its mark, and the missing batches below it come from the
source.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from logstore.base.errors import CorruptBatchError, DivergedError
from logstore.base.types import Position
from logstore.feed.port import Broker, FeedMessage, FeedPart, FeedSource, SnapshotPart
from logstore.feed.sequence import Sequence, Take, verified

_log = structlog.get_logger(__name__)

QUIET_LOOKS = 2
"""Polls of a silent topic before the source's further batches are fetched directly."""


class TopicFeed:
    """A FeedSource whose batches come through `topic`. `direct` is an in-sync replica.

    `position_at` is the chain of the learner's own copy where a batch ends, to compare overlaps.
    `heard` is called whenever the broker answered.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        direct: FeedSource,
        position_at: Callable[[int], Position | None],
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker, self._topic, self._direct = broker, topic, direct
        self._position_at, self._heard = position_at, heard
        self.duplicates = 0
        self.refetched = 0
        """Batches that the topic did not bring."""

    async def snapshot(self, start: int, want_anchor: bool) -> AsyncGenerator[SnapshotPart, None]:
        async with aclosing(self._direct.snapshot(start, want_anchor)) as parts:
            async for part in parts:
                yield part

    async def follow(self, start: int, cursor: int | None = None) -> AsyncGenerator[FeedPart, None]:
        sequence = Sequence(start)
        quiet = 0
        await self._broker.ensure(self._topic)
        async with aclosing(self._broker.read(self._topic, cursor)) as looks:
            async for messages in looks:
                self._heard()
                for message in messages:
                    async with aclosing(self._take(sequence, message)) as parts:
                        async for part in parts:
                            yield part
                quiet = 0 if messages else quiet + 1
                if not messages:
                    stop = None if quiet >= QUIET_LOOKS else sequence.next_offset
                    async with aclosing(self._fetch(sequence, stop)) as parts:
                        async for part in parts:
                            yield part

    async def _take(
        self, sequence: Sequence, message: FeedMessage
    ) -> AsyncGenerator[FeedPart, None]:
        """The batches that follow from a message: itself, after missing ones, or none."""
        taken = sequence.look(message)
        if taken is Take.DUPLICATE:
            self.duplicates += 1
            self._compare(message)
        if taken in (Take.DUPLICATE, Take.OLD_EPOCH):
            return
        if taken is Take.GAP:
            fetching = self._fetch(sequence, message.base_offset)
            async with aclosing(fetching) as parts:
                async for part in parts:
                    yield part
            if sequence.look(message) is not Take.APPLY:
                return
        try:
            batch = verified(message)
        except CorruptBatchError as e:
            # The replica has the whole batch; the next message, or silence, shows the gap.
            _log.warning("feed message dropped", topic=self._topic, error=e.message)
            return
        sequence.applied(batch.end)
        yield FeedPart((batch,), message.high_watermark, message.epoch, message.cursor)

    async def _fetch(self, sequence: Sequence, stop: int | None) -> AsyncGenerator[FeedPart, None]:
        """Straight from the replica up to `stop`, or (None) to its high watermark; at least its
        mark. The cursor does not move: later messages of the topic with these batches are
        duplicates."""
        async with aclosing(self._direct.follow(sequence.next_offset)) as parts:
            async for part in parts:
                wanted = part.high_watermark if stop is None else stop
                batches = tuple(b for b in part.batches if b.base_offset < wanted)
                if batches:
                    self.refetched += len(batches)
                    sequence.applied(batches[-1].end)
                yield FeedPart(batches, part.high_watermark, part.epoch)
                if sequence.next_offset >= wanted:
                    return

    def _compare(self, message: FeedMessage) -> None:
        """F2: chains are compared on overlap."""
        ours = self._position_at(message.end)
        if ours is not None and ours.chain != message.chain_after:
            raise DivergedError(
                f"this copy's chain at offset {message.end} differs from the feed's"
            )
