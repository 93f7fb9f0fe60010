"""The receiving side of replication and of the feed: compare, truncate, write, ack (P5, F2)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from logstore.base.errors import FencedError, LogstoreError, UnavailableError
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaWrite
from logstore.engine.shard_log import ShardLog
from logstore.node.resources.commit import GroupCommit
from logstore.replication.events import NEVER
from logstore.replication.follower import plan_apply, plan_probe


@dataclass(eq=False, slots=True)
class Receiver:
    """One copy's log as others fill it. A `Source` of the group commit; loop only.

    `matched` is the end that was compared with the primary of `term` (P5).
    """

    log: ShardLog
    committer: GroupCommit
    durability: Durability
    term: int = 0
    matched: Position = field(default_factory=Position)
    probed_s: float = NEVER
    """When the primary sent the newest probe of this term, by its own clock."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the log is compared, truncated or written."""
    _queue: deque[tuple[ReplicaWrite, "asyncio.Future[None]"]] = field(default_factory=deque)
    _writing: list["asyncio.Future[None]"] = field(default_factory=list)

    def enter_term(self, primary_since: int) -> None:
        """A new term, another primary's or our own: nothing is matched yet."""
        if self.term != primary_since:
            self.term = primary_since
            self.matched = Position()
            self.probed_s = NEVER

    def probe(self, primary_end: Position, high_watermark: int, sent_s: float) -> Position:
        """Answer a probe: truncate what the primary of this term never had; returns our end.

        `UnavailableError` for one that was sent before another that was answered: the primary
        counts what that answer said, and grew since it sent this one.
        """
        if sent_s < self.probed_s:
            raise UnavailableError(
                f"this probe was sent {self.probed_s - sent_s:.3f} s before one that was answered"
            )
        self.probed_s = sent_s
        own = self.log.end()
        cut = plan_probe(primary_end, own, high_watermark, self.matched.end, self._position_at)
        if cut is not None:
            self.log.truncate(cut, self.durability)
            own = self.log.end()
        if own.end <= primary_end.end and self._position_at(own.end) == own == primary_end:
            self.matched = max(self.matched, own)
        return own

    async def apply(
        self,
        batches: list[StoredBatch],
        own_mark: int,
        new_mark: int,
        feed_cursor: int | None = None,
    ) -> Position:
        """Write what is new of `batches`, after truncating what differs; durable at return.

        Nothing below `own_mark`, our high watermark, is ever truncated; `new_mark`, the sender's,
        is stored with the batches, bounded by what matches; so is `feed_cursor`, the place in the
        feed's topic after them (F3). Returns the end that now matches the sender. Errors:
        OutOfRangeError for a gap, DivergedError, FencedError if another term began meanwhile: a
        comparison with one primary's log does not hold for the next one's.
        """
        term = self.term
        await self.settled()
        self._check_term(term)
        own = self.log.end()
        plan = plan_apply(batches, own, own_mark, self._position_at)
        if plan.truncate_to is not None:
            self.log.truncate(plan.truncate_to, self.durability)
        if plan.batches:
            done = asyncio.get_running_loop().create_future()
            mark = min(new_mark, plan.end.end)
            write = ReplicaWrite(self.log.id, plan.batches, mark, feed_cursor)
            self._queue.append((write, done))
            self.committer.wake(self)
            await asyncio.shield(done)
            self._check_term(term)
        self.matched = max(self.matched, plan.end)
        return self.matched

    def _check_term(self, term: int) -> None:
        if term != self.term:
            raise FencedError(f"the term of epoch {term} ended while its batches were written")

    @property
    def writing(self) -> bool:
        return bool(self._queue or self._writing)

    async def settled(self) -> None:
        """Wait for writes whose caller was cancelled; they land all the same."""
        while self._queue or self._writing:
            last = self._queue[-1][1] if self._queue else self._writing[-1]
            await asyncio.wait([last])

    def _position_at(self, offset: int) -> Position | None:
        return self.log.position_at(offset)

    # ---- Source ------------------------------------------------------------------------------

    def next_write(self, max_bytes: int) -> ReplicaWrite | None:
        if not self._queue:
            return None
        write, done = self._queue.popleft()
        self._writing = [done]
        return write

    def written(self) -> None:
        for done in self._writing:
            if not done.done():
                done.set_result(None)
        self._writing = []

    def failed(self, error: LogstoreError) -> None:
        for done in self._writing:
            if not done.done():
                done.set_exception(error)
        self._writing = []
