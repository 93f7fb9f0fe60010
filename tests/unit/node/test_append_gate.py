"""The append gate alone: where an append goes by what the copy is, and who answers what is held."""

import asyncio
from dataclasses import replace

import pytest

from logstore.base.errors import (
    FencedError,
    LogstoreError,
    NotServingError,
    OutcomeUnknownError,
    ShardSealedError,
    StorageError,
    UnavailableError,
    VersionConflictError,
)
from logstore.base.types import Durability, Position, ShardStatus
from logstore.meta.records import LogOptions, ShardRecord
from logstore.node.appends.append_gate import AppendGate
from logstore.node.appends.writer import ShardWriter, new_future
from logstore.node.intake.appends import PendingAppend
from logstore.node.resources.copy import Copy
from logstore.proto.v1 import log_pb2
from logstore.replication.events import Role
from tests.support.one_copy import FOLLOWED, LEARNED, LED, PEER, SHARD, OneCopy, one_copy


def append_of(sequence: int = 1, expected: int | None = None, key: bytes = b"k") -> PendingAppend:
    message = log_pb2.AppendBatch(shard=SHARD, producer_id=7, sequence=sequence)
    if expected is not None:
        message.expected_version = expected
    return PendingAppend.of_records([log_pb2.Record(key=key, value=b"v")], message, new_future(), 0)


def writer_of(one: OneCopy, copy: Copy) -> ShardWriter:
    """It acks what is written: this copy is alone."""

    def written(end: Position) -> None:
        writer.commit(end.end)

    writer = ShardWriter(
        shard=copy.shard,
        log=copy.log,
        options=LogOptions(),
        wall_us=one.clock.wall_us,
        on_assigned=lambda _: False,
        on_written=written,
        on_failed=lambda _: None,
    )
    return writer


def gate_of(one: OneCopy, copy: Copy) -> tuple[AppendGate, ShardWriter]:
    writer = writer_of(one, copy)
    return AppendGate(copy, one.node, writer), writer


def sealed(one: OneCopy, appends: list[PendingAppend], **more: object) -> ShardRecord:
    """A sealed shard whose end is what these appends fill."""
    log = one.create()
    writer = writer_of(one, one.open())
    writer.lead(1)
    writer.set_open(True, 0)
    for append in appends:
        writer.submit(append)
    write = writer.next_write(1 << 20)
    assert write is not None
    one.node.engine.write([write], Durability.OS)
    end = log.end()
    record = replace(LED, status=ShardStatus.SEALED, sealed_end=end.end, sealed_chain=end.chain)
    return replace(record, **more)  # type: ignore[arg-type]


async def test_a_leading_copy_stores_what_comes() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        one.create()
        gate, writer = gate_of(one, one.open())
        writer.lead(1)
        writer.set_open(True, 0)
        append = append_of()
        gate.submit(append)
        assert (await append.done).offset == 0
        again = append_of()
        gate.submit(again)
        assert (await again.done).offset == 0
        assert again.duplicate


async def test_what_comes_while_the_writer_is_shut_is_held_and_passed_on() -> None:
    async with one_copy() as one:
        one.create()
        gate, writer = gate_of(one, one.open())
        gate.hold()
        held = [append_of(1), append_of(2)]
        for append in held:
            gate.submit(append)
        assert list(writer.queue) == held
        one.clock.advance(0.25)
        gate.pass_on(Role.LEARNER, PEER)
        assert gate.blackout_ms == 250
        assert not writer.queue
        for append in held:
            with pytest.raises(FencedError, match="led by i2 now"):
                await append.done


async def test_what_was_sent_on_is_not_sent_on_again() -> None:
    async with one_copy() as one:
        gate, _ = gate_of(one, one.open(FOLLOWED))
        gate.pass_on(Role.FOLLOWER, PEER)
        forwarded = append_of()
        forwarded.request = log_pb2.AppendBatch(forwarded=True)
        with pytest.raises(FencedError, match="is follower on i1, in epoch 1"):
            gate.submit(forwarded)


async def test_an_append_is_answered_when_the_leader_is_not_known() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        gate, _ = gate_of(one, one.open(FOLLOWED))
        gate.pass_on(Role.FOLLOWER, PEER)
        append = append_of()
        gate.submit(append)
        with pytest.raises(UnavailableError, match="address of instance i2 is not known"):
            await append.done


async def test_a_learner_and_a_broken_copy_refuse() -> None:
    async with one_copy() as one:
        learner = one.open(LEARNED)
        with pytest.raises(FencedError, match="is learner on i1"):
            gate_of(one, learner)[0].submit(append_of())
        learner.damage = "rotten"
        with pytest.raises(NotServingError, match="is damaged: rotten"):
            gate_of(one, learner)[0].submit(append_of())
        learner.error = "its disk is gone"
        with pytest.raises(StorageError, match="its disk is gone"):
            gate_of(one, learner)[0].submit(append_of())


async def test_a_sealed_shard_answers_retries_from_what_it_holds() -> None:
    async with one_copy() as one:
        record = sealed(one, [append_of(1), append_of(2)])
        gate, _ = gate_of(one, one.open(record))
        retry = append_of(2)
        gate.submit(retry)
        assert (retry.duplicate, (await retry.done).offset) == (True, 1)
        with pytest.raises(ShardSealedError):
            gate.submit(append_of(3))


@pytest.mark.parametrize(("sequence", "error"), [(3, ShardSealedError), (0, OutcomeUnknownError)])
async def test_what_is_held_is_settled_by_the_seal(
    sequence: int, error: type[LogstoreError]
) -> None:
    async with one_copy() as one:
        record = sealed(one, [append_of(1), append_of(2)])
        gate, writer = gate_of(one, one.open(record))
        stored, other = append_of(1), append_of(sequence)
        writer.submit(stored)
        writer.submit(other)
        gate.settle_at_seal()
        assert (await stored.done).offset == 0
        with pytest.raises(error):
            await other.done


async def test_a_copy_that_is_short_of_the_seal_answers_nothing() -> None:
    async with one_copy() as one:
        record = sealed(one, [append_of(1)], sealed_end=9)
        with pytest.raises(NotServingError, match="does not reach its end yet"):
            gate_of(one, one.open(record))[0].submit(append_of(1))


async def test_a_version_counts_the_sealed_ancestors() -> None:
    async with one_copy() as one, asyncio.timeout(5):
        ancestor = one.open(sealed(one, [append_of(1), append_of(2)]))
        one.node.shard_record = lambda _: ancestor.record
        one.node.open_copy = lambda _: ancestor
        child = replace(LED, shard="orders/1", predecessors=(SHARD,))
        me = replace(child.primary, replica_id=3)
        one.create(3, "orders/1")
        copy = one.open(replace(child, primary=me, in_sync=(me,)), me)
        gate, writer = gate_of(one, copy)
        writer.lead(1)
        writer.set_open(True, 0)
        fits, late = append_of(1, expected=2), append_of(2, expected=2)
        gate.submit(fits)
        assert (await fits.done).version == 3
        gate.submit(late)
        with pytest.raises(VersionConflictError, match="has 3"):
            await late.done
