"""The intake of pushes alone: which it refuses, what it writes and acks, what it reports."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from logstore.base.errors import FencedError, LogstoreError, NotServingError
from logstore.base.types import Durability, Position, ShardStatus
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaWrite
from logstore.node.integrity.integrity import Integrity
from logstore.node.replication.catch_up import CatchUpControl
from logstore.node.replication.messages import batch_message
from logstore.node.replication.pushes import PushIntake
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.copy import Copy, LogEnds, Pushed
from logstore.proto.v1 import node_pb2
from logstore.replication.events import NEVER, Cas, PrimaryHeard
from tests.support.one_copy import FOLLOWED, LED, SHARD, US, OneCopy, one_copy
from tests.unit.replication.test_follower import chain_of

LOG = chain_of(b"a", b"b", b"c")
OTHER = LOG[:1] + chain_of(b"x", base=2, before=LOG[0].chain_after)


def end_of(batches: Sequence[StoredBatch]) -> Position:
    return Position(batches[-1].end, batches[-1].chain_after)


def push(batches: Sequence[StoredBatch] = (), **fields: object) -> node_pb2.ReplicateRequest:
    values = {"shard": SHARD, "replica_id": US.replica_id, "epoch": 1, "sent_s": 3.0, **fields}
    request = node_pb2.ReplicateRequest(**values)  # type: ignore[arg-type]
    request.batches.extend(batch_message(b) for b in batches)
    return request


def probe(log: Sequence[StoredBatch]) -> node_pb2.ReplicateRequest:
    end = end_of(log)
    return push(probe=True, end=end.end, chain=end.chain)


def intake_of(one: OneCopy, copy: Copy) -> PushIntake:
    """Of the copy that is open here; it reads no configuration."""
    receiver = Receiver(copy.log, one.node.committer, Durability.OS)
    one.node.open_copy = lambda _: copy
    return PushIntake(
        copy,
        one.node,
        one.machine,
        receiver,
        CatchUpControl(copy, one.node, receiver, receiver.settled),
        Integrity(copy, one.node, one.machine),
        receiver.settled,
        one.nothing,
    )


def holding(one: OneCopy, batches: Sequence[StoredBatch], mark: int = 0) -> Copy:
    log = one.create()
    one.node.engine.write([ReplicaWrite(log.id, batches, mark)], Durability.OS)
    return one.open(FOLLOWED)


async def test_a_probe_cuts_what_the_primary_never_had_and_batches_follow() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        copy = holding(one, OTHER)
        intake = intake_of(one, copy)
        ack = await intake.take(probe(LOG[:1]))
        assert (ack.probe, ack.end, ack.chain) == (True, 2, LOG[0].chain_after)
        ack = await intake.take(push(LOG[1:], high_watermark=4, settled=True))
        assert (ack.end, ack.chain, ack.sent_s) == (6, LOG[-1].chain_after, 3.0)
        assert copy.log.end() == end_of(LOG)
        assert one.reported == [
            PrimaryHeard(),
            LogEnds(end_of(LOG[:1])),
            PrimaryHeard(),
            LogEnds(end_of(LOG)),
            Pushed(end_of(LOG), end_of(LOG), 4, True),
        ]
        assert intake.catch_up.pushed_s == one.node.now_s()


async def test_a_heartbeat_matches_nothing_that_was_not_compared() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        copy = holding(one, OTHER)
        ack = await intake_of(one, copy).take(push(high_watermark=4))
        assert ack.end == 0
        assert one.reported[1:] == [Pushed(end_of(OTHER), Position(), 4, False)]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (push(replica_id=9), FencedError),
        (push(epoch=0), FencedError),
    ],
)
async def test_a_push_of_another_copy_or_epoch_is_fenced(
    request_: node_pb2.ReplicateRequest, error: type[LogstoreError]
) -> None:
    async with one_copy() as one:
        with pytest.raises(error):
            await intake_of(one, holding(one, LOG)).take(request_)
        assert one.reported == []


@pytest.mark.parametrize("why", ["left", "leads", "lands", "steps down", "unsure"])
async def test_a_copy_that_must_not_be_written_to_takes_no_push(why: str) -> None:
    async with one_copy() as one:
        copy = holding(one, LOG)
        intake = intake_of(one, copy)
        if why == "left":
            one.node.open_copy = lambda _: None
        elif why == "leads":
            one.config(LED)
        copy.landing, copy.stepped_down = int(why == "lands"), why == "steps down"
        one.machine.suspect = why == "unsure"
        with pytest.raises(NotServingError):
            await intake.take(push(OTHER))
        assert copy.log.end() == end_of(LOG)


@pytest.mark.parametrize("told", [push(epoch=2), push(sealed=True)])
async def test_a_push_that_knows_more_has_the_record_read_first(
    told: node_pb2.ReplicateRequest,
) -> None:
    async with one_copy() as one, asyncio.timeout(5):
        intake = intake_of(one, holding(one, LOG))

        async def read_config() -> None:
            newer = replace(FOLLOWED, epoch=2) if told.epoch == 2 else FOLLOWED
            sealed = replace(newer, status=ShardStatus.SEALED, sealed_end=6)
            one.config(sealed if told.sealed else newer)

        intake.read_config = read_config
        ack = await intake.take(told)
        assert ack.epoch == told.epoch


async def test_who_asks_to_lead_acks_without_renewing_the_lease() -> None:  # P7
    async with one_copy() as one, asyncio.timeout(5):
        intake = intake_of(one, holding(one, LOG))
        one.machine.pending = Cas(FOLLOWED, 1, "take over from i2")
        ack = await intake.take(push())
        assert ack.sent_s == NEVER
