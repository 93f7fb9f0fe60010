"""What a copy matched counts in the term of the primary it was compared with, only there (P5)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from logstore.base.errors import FencedError, UnavailableError
from logstore.base.types import Durability, Position
from logstore.engine.port import ReplicaMeta, ReplicaWrite
from logstore.engine.rocks import RocksEngine
from logstore.engine.shard_log import ShardLog
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.commit import GroupCommit
from tests.unit.replication.test_follower import chain_of

OURS = chain_of(b"a", b"b", b"c")
THEIRS = OURS[:1] + chain_of(b"x", base=2, before=OURS[0].chain_after)
"""The log of the next primary, which never had OURS[1:]."""


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A copy that holds OURS[:1], in term 1; nothing is written before `writing`."""
    engine = RocksEngine.open(tmp_path / "db")
    engine.create_replica(ReplicaMeta(1, "log/0"))
    engine.write([ReplicaWrite(1, tuple(OURS[:1]), 0)], Durability.OS)
    receiver = Receiver(ShardLog(engine, 1), GroupCommit(engine), Durability.FSYNC)
    receiver.enter_term(1)
    yield receiver
    engine.close()


@asynccontextmanager
async def writing(receiver: Receiver) -> AsyncIterator[None]:
    commits = asyncio.create_task(receiver.committer.run())
    yield
    commits.cancel()
    await asyncio.gather(commits, return_exceptions=True)


async def queued(receiver: Receiver) -> None:
    async with asyncio.timeout(5):
        while not receiver._queue:
            await asyncio.sleep(0)


async def test_a_write_that_outlives_its_term_matches_nothing(receiver: Receiver) -> None:
    applied = asyncio.create_task(receiver.apply(OURS[1:], 0, 0))
    await queued(receiver)
    receiver.enter_term(2)
    async with writing(receiver):
        with pytest.raises(FencedError, match="term of epoch 1 ended"):
            await applied
        assert receiver.log.end().end == 6  # it is on the disk all the same
        assert receiver.matched == Position()

        # So the next primary's probe cuts it off, and only what that primary sends is acked to it.
        end = Position(2, OURS[0].chain_after)
        assert receiver.probe(end, high_watermark=0, sent_s=1.0) == end
        assert (await receiver.apply(THEIRS[1:], 0, 0)).end == 4
        assert receiver.log.end() == Position(4, THEIRS[1].chain_after)


async def test_a_late_probe_cuts_nothing_that_a_later_one_was_told_of(receiver: Receiver) -> None:
    """What this copy pulled is not matched here: only the primary compares its end."""
    async with writing(receiver):
        pulled = asyncio.create_task(receiver.apply(OURS[1:], 0, 0))
        await queued(receiver)
        pulled.cancel()  # by the first push; the write lands
        await asyncio.gather(pulled, return_exceptions=True)
        await receiver.settled()
    longer = Position(7, b"p" * 16)
    held = receiver.log.end()
    assert receiver.probe(longer, high_watermark=0, sent_s=2.0) == held
    assert receiver.matched == Position()  # the primary found it to be its own, and counts it
    with pytest.raises(UnavailableError, match=r"sent 1.000 s before one that was answered"):
        receiver.probe(Position(2, OURS[0].chain_after), high_watermark=0, sent_s=1.0)
    assert receiver.log.end() == held
    receiver.enter_term(2)  # another primary, another clock
    assert receiver.probe(Position(2, OURS[0].chain_after), 0, sent_s=0.5).end == 2


async def test_what_waits_for_another_write_into_the_next_term_is_refused(
    receiver: Receiver,
) -> None:
    broken = asyncio.create_task(receiver.apply(OURS[1:2], 0, 0))
    await queued(receiver)
    broken.cancel()  # its stream broke; the write is made all the same
    await asyncio.gather(broken, return_exceptions=True)
    waiting = asyncio.create_task(receiver.apply(OURS[1:], 0, 0))
    await asyncio.sleep(0)
    receiver.enter_term(2)
    async with writing(receiver):
        with pytest.raises(FencedError, match="term of epoch 1 ended"):
            await waiting
        assert receiver.log.end().end == 4
        assert receiver.matched == Position()


async def test_a_copy_has_settled_when_the_write_of_a_broken_stream_has_landed(
    receiver: Receiver,
) -> None:
    """Deleted earlier, it would fail the writes of other shards in the same group."""
    broken = asyncio.create_task(receiver.apply(OURS[1:], 0, 0))
    await queued(receiver)
    broken.cancel()
    await asyncio.gather(broken, return_exceptions=True)
    settled = asyncio.create_task(receiver.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    async with writing(receiver), asyncio.timeout(5):
        await settled
        assert receiver.log.end().end == 6
