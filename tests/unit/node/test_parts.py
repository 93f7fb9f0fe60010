"""The smaller parts of a copy, each alone: mark, integrity, scrub, senders, publishing, waits."""

import asyncio
from dataclasses import replace

import pytest

from logstore.base.errors import CorruptStorageError, NotServingError
from logstore.base.types import Durability, Position
from logstore.engine.port import ReplicaWrite
from logstore.engine.shard_log import ShardLog
from logstore.feed.memory import MemoryBroker
from logstore.node.integrity.integrity import Integrity
from logstore.node.integrity.scrub import Scrubber
from logstore.node.publish.publishing import Publishing
from logstore.node.reads.reads import wait_for_mark, wait_for_settling
from logstore.node.replication.marks import MARK_INTERVAL_S, MarkKeeper
from logstore.node.replication.peer_senders import PeerSenders
from logstore.node.resources.copy import Copy, DamageFound
from logstore.replication.events import Surveyed, Written
from tests.support.one_copy import FOLLOWED, LEARNED, LED, PEER, US, OneCopy, one_copy
from tests.unit.replication.test_follower import chain_of

LOG = chain_of(b"a", b"b", b"c")
END = Position(LOG[-1].end, LOG[-1].chain_after)


def stored(one: OneCopy, mark: int = 0) -> ShardLog:
    """A copy that holds LOG."""
    log = one.create()
    one.node.engine.write([ReplicaWrite(log.id, LOG, mark)], Durability.OS)
    return log


async def mark_on_disk(log: ShardLog, mark: int) -> None:
    async with asyncio.timeout(5):
        while (meta := log.meta()) is None or meta.high_watermark != mark:
            await asyncio.sleep(0)


# ---- marks ------------------------------------------------------------------------------------


async def test_a_mark_that_rose_is_written_once_an_interval() -> None:
    async with one_copy() as one:
        log = stored(one)
        copy = one.open(FOLLOWED)
        keeper = MarkKeeper(copy, one.node)
        one.machine.adopt(2)
        keeper.keep_if_due()
        await mark_on_disk(log, 2)
        await keeper.settled()
        one.machine.adopt(4)
        keeper.keep_if_due()  # too soon
        one.clock.advance(MARK_INTERVAL_S)
        keeper.keep_if_due()
        await mark_on_disk(log, 4)


@pytest.mark.parametrize("why", ["learner", "damaged", "failed", "closed", "absent"])
async def test_no_mark_of_a_copy_that_is_not_whole_and_in_sync(why: str) -> None:
    async with one_copy() as one:
        log = stored(one)
        copy = one.open(LEARNED if why == "learner" else FOLLOWED)
        keeper = MarkKeeper(copy, one.node)
        one.machine.adopt(2)
        copy.damage = "rotten" if why == "damaged" else ""
        copy.error = "its disk is gone" if why == "failed" else None
        copy.closed, copy.exists = why == "closed", why != "absent"
        keeper.keep_now()
        meta = log.meta()
        assert meta is not None
        assert meta.high_watermark == 0


# ---- integrity --------------------------------------------------------------------------------


def integrity_of(one: OneCopy, copy: Copy) -> Integrity:
    """Damage that it reports is known to the copy at once, as in a `Replica`."""

    def report(event: object) -> None:
        one.reported.append(event)  # type: ignore[arg-type]
        if isinstance(event, DamageFound):
            copy.damage = event.damage

    copy.report = report
    return Integrity(copy, one.node, one.machine)


@pytest.mark.parametrize(
    ("alone", "for_peer", "error"),
    [
        (True, False, CorruptStorageError),
        (True, True, NotServingError),
        (False, False, NotServingError),
        (False, True, NotServingError),
    ],
)
async def test_damage_sends_a_reader_elsewhere_if_there_is_anyone(
    alone: bool, for_peer: bool, error: type[Exception]
) -> None:
    async with one_copy() as one:
        stored(one)
        copy = one.open(LED if alone else replace(LED, in_sync=(US, PEER)))
        integrity = integrity_of(one, copy)
        found = CorruptStorageError("rotten")
        found.offset = 4
        with pytest.raises(error) as caught, integrity.watching(for_peer=for_peer):
            raise found
        assert type(caught.value) is error
        assert one.reported == [DamageFound("rotten", 4)]


async def test_a_vote_tells_the_end_and_vouches_for_a_whole_copy() -> None:
    async with one_copy() as one:
        stored(one)
        copy = one.open(FOLLOWED)
        vote = integrity_of(one, copy).vote()
        assert (vote.readable, vote.vouches, vote.end, vote.last_epoch) == (True, True, END.end, 1)
        copy.damage = "rotten"
        vote = integrity_of(one, copy).vote()
        assert (vote.readable, vote.vouches, vote.end) == (False, False, 0)


async def test_a_survey_counts_who_answers() -> None:
    async with one_copy() as one:
        stored(one)
        copy = one.open(FOLLOWED)
        one.machine.suspect = True
        integrity = integrity_of(one, copy)
        integrity.survey_if_due()
        integrity.survey_if_due()  # one at a time
        async with asyncio.timeout(5):
            while not one.reported:
                await asyncio.sleep(0)
        (survey,) = one.reported
        assert isinstance(survey, Surveyed)
        assert (survey.mine.replica_id, survey.votes) == (US.replica_id, ())


async def test_a_scrub_says_that_a_copy_is_whole_and_leaves_a_damaged_one() -> None:
    async with one_copy() as one:
        stored(one)
        copy = one.open()
        integrity = integrity_of(one, copy)
        one.node.config.scrub_bytes_per_s = 1 << 40
        scrubber = Scrubber(one.node, lambda: [integrity])
        copy.damage = "rotten"
        await scrubber.scrub(integrity)
        assert (integrity.scrub_result, integrity.scrubbed_s) == ("", None)
        copy.damage = ""
        await scrubber.scrub(integrity)
        assert (integrity.scrub_result, integrity.scrubbed_s) == ("whole", one.node.now_s())


# ---- senders ----------------------------------------------------------------------------------


async def test_senders_keep_what_is_assigned_and_read_the_rest() -> None:
    async with one_copy() as one:
        one.create()
        one.node.engine.write([ReplicaWrite(1, LOG[:1], 0)], Durability.OS)
        copy = one.open(replace(LED, in_sync=(US, PEER)))
        senders = PeerSenders(copy, one.node, one.machine, one.nothing)
        assert not senders
        senders.remember(LOG[1:2])  # nobody to send to
        assert senders.batches_from(2, 1 << 20) == []
        senders.push(PEER)
        assert senders
        senders.remember(LOG[1:])
        assert senders.batches_from(0, 1) == LOG[:1]  # what is written
        assert senders.batches_from(2, 1 << 20) == LOG[1:]  # what is being written
        assert senders.batches_from(0, 1 << 20) == LOG  # both, in one message
        one.node.engine.write([ReplicaWrite(1, LOG[1:], 0)], Durability.OS)
        one.machine.handle(Written(END), 0.0)
        assert senders.batches_from(0, 1 << 20) == LOG
        assert not senders._unwritten  # kept once, by the engine
        one.node.engine.truncate(1, LOG[0].end)
        senders.forget()
        assert senders.batches_from(2, 1 << 20) == []
        senders.stop(PEER.replica_id)
        assert not senders


# ---- publishing -------------------------------------------------------------------------------


async def test_what_is_committed_goes_to_the_topic_while_the_record_names_it() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        stored(one)
        broker = one.node.broker = MemoryBroker()
        copy = one.open(replace(LED, feed_topic="move-1"))
        publishing = Publishing(copy, one.node)
        publishing.follow()
        publisher = publishing.publisher
        assert publisher is not None
        while not publisher.began:
            await asyncio.sleep(0)
        one.machine.adopt(END.end)
        copy.notify()
        while publisher.end < END.end:
            await asyncio.sleep(0)
        assert [m.end for m in broker.held["move-1"]] == [b.end for b in LOG]
        one.config(LED)
        publishing.follow()
        assert publishing.publisher is None


# ---- waits ------------------------------------------------------------------------------------


async def test_a_reader_waits_for_a_mark_and_no_longer_than_it_may() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        stored(one)
        copy = one.open(FOLLOWED)
        waiting = one.tasks.answer(wait_for_mark(copy, one.node, 4, 2.0))
        await asyncio.sleep(0)
        one.machine.adopt(4)
        copy.notify()
        await waiting
        with pytest.raises(NotServingError, match="is at 4 on i1, the caller has seen 6"):
            await wait_for_mark(copy, one.node, 6, 0.0)


async def test_a_reader_waits_for_a_follower_that_hears_its_first_message() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        stored(one)
        copy = one.open(FOLLOWED)
        waiting = one.tasks.answer(wait_for_settling(copy, one.node, 2.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        copy.fresh_s = one.node.now_s()
        copy.notify()
        await waiting
