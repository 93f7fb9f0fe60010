"""The catch-up alone: what it writes and reports, by what its source says."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from logstore.base.background import Background
from logstore.base.errors import CorruptStorageError, LogstoreError, OutOfRangeError
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor, ReplicaWrite
from logstore.feed.port import FeedPart, FeedSource, SnapshotPart
from logstore.node.replication.catch_up import CatchUp
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.copy import Copy, CopyEvent, Created, DamageFound, Dropped, Received
from tests.support.one_copy import LEARNED, OneCopy, one_copy
from tests.unit.replication.test_follower import chain_of

LOG = chain_of(b"a", b"b", b"c")
OTHER = chain_of(b"x", b"y", b"z")


def end_of(batches: Sequence[StoredBatch]) -> Position:
    return Position(batches[-1].end, batches[-1].chain_after)


@dataclass
class Source:
    """A feed's source in memory; each `follow` begins with the next of `errors`, if one is left."""

    batches: Sequence[StoredBatch]
    copied: int
    """This many batches are in the snapshot."""
    errors: list[LogstoreError] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def snapshot(self, start: int, want_anchor: bool) -> AsyncGenerator[SnapshotPart, None]:
        part = tuple(self.batches[: self.copied])
        yield SnapshotPart(Anchor() if want_anchor else None, part, part[-1].end, 0)

    async def follow(self, start: int, cursor: int | None = None) -> AsyncGenerator[FeedPart, None]:
        self.starts.append(start)
        if self.errors:
            raise self.errors.pop(0)
        mark = self.batches[-1].end
        yield FeedPart(tuple(b for b in self.batches if b.end > start), mark, 1)
        self.idle.set()
        await asyncio.Event().wait()


def pull(one: OneCopy, copy: Copy, source: FeedSource) -> CatchUp:
    receiver = Receiver(copy.log, one.node.committer, Durability.OS)
    return CatchUp(copy, one.node, receiver, receiver.settled, lambda _, __: source)


def of_kind(reported: Sequence[CopyEvent], kind: type[CopyEvent]) -> list[CopyEvent]:
    return [event for event in reported if isinstance(event, kind)]


async def test_a_learner_without_a_copy_takes_the_snapshot_and_then_follows() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        copy, source = one.open(LEARNED), Source(LOG, copied=2)
        work = pull(one, copy, source)
        one.tasks.start(work.run())
        await source.idle.wait()
        assert one.reported == [Created(), Received(end_of(LOG[:2]), 4), Received(end_of(LOG), 6)]
        assert copy.log.end() == end_of(LOG)
        assert (work.phase, work.snapshot_end, source.starts) == ("feed", 4, [4])
        meta = copy.log.meta()
        assert meta is not None
        assert meta.snapshot_target is None


async def test_a_source_trimmed_past_the_mark_is_compared_at_the_end() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        one.create()
        one.node.engine.write([ReplicaWrite(1, LOG[:2], 2)], Durability.OS)
        copy = one.open(LEARNED)
        source = Source(LOG, copied=2, errors=[OutOfRangeError("trimmed below 4")])
        one.tasks.start(pull(one, copy, source).run())
        await source.idle.wait()
        assert source.starts == [2, 3]  # from its mark, then with its last batch
        assert of_kind(one.reported, Dropped) == []
        assert copy.log.end() == end_of(LOG)


async def test_a_copy_that_ends_below_the_source_begins_anew() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        one.create()
        one.node.engine.write([ReplicaWrite(1, OTHER[:2], 2)], Durability.OS)
        copy = one.open(LEARNED)
        gone = OutOfRangeError("trimmed below 6")
        source = Source(LOG, copied=3, errors=[gone, gone])
        one.tasks.start(pull(one, copy, source).run())
        await source.idle.wait()
        assert one.reported[:2] == [Dropped(), Created()]
        assert copy.log.end() == end_of(LOG)


async def test_damage_is_reported_and_ends_the_pull() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        one.create()
        source = Source(LOG, copied=1, errors=[CorruptStorageError("rotten")])
        work = pull(one, one.open(LEARNED), source)
        await work.run()
        assert one.reported == [DamageFound("rotten")]
        assert work.phase == "failed: rotten"


async def test_a_topic_without_a_broker_is_told_with_its_time() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        one.create()
        copy = one.open(replace(LEARNED, feed_topic="move-1"))
        work = pull(one, copy, Source(LOG, copied=1))
        tasks = Background("pull")
        tasks.start(work.run())
        while not work.feed_error:
            await asyncio.sleep(0)
        one.clock.advance(2.0)
        assert work.feed == "kafka"
        assert work.feed_down_s == pytest.approx(2.0)
        assert "no broker configured" in work.feed_error
        await tasks.stop()
