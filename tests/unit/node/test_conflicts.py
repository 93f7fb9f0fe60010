"""P10: a conflict is answered only once what it cites is committed."""

import asyncio

import pytest

from logstore.base.errors import UnavailableError, VersionAheadError, VersionConflictError
from logstore.base.types import Ack, Durability
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import ReplicaMeta
from logstore.engine.shard_log import ShardLog
from logstore.meta.records import LogOptions
from logstore.node.appends.writer import ShardWriter
from logstore.node.intake.appends import PendingAppend
from logstore.proto.v1 import log_pb2


def _append(expected: int) -> PendingAppend:
    message = log_pb2.AppendBatch(expected_version=expected)
    done: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
    return PendingAppend.of_records([log_pb2.Record(key=b"k", value=b"v")], message, done, 0.0)


def _writer(engine: MemoryEngine) -> ShardWriter:
    engine.create_replica(ReplicaMeta(1, "log/0"))
    writer = ShardWriter(
        "log/0",
        ShardLog(engine, 1),
        LogOptions(),
        lambda: 1,
        lambda _: False,
        lambda _: None,
        lambda _: None,
    )
    writer.lead(1)
    writer.set_open(True, 0)
    return writer


async def test_a_conflict_waits_for_the_commit_of_what_it_cites() -> None:
    engine = MemoryEngine()
    writer = _writer(engine)
    first, second = _append(0), _append(0)
    writer.submit(first)
    writer.submit(second)  # conflicts with what is in the same group
    write = writer.next_write(1 << 20)
    assert write is not None
    engine.write([write], Durability.OS)
    writer.written()
    third, fourth = _append(0), _append(7)
    writer.submit(third)
    writer.submit(fourth)
    assert writer.next_write(1 << 20) is None
    assert not any(a.done.done() for a in (first, second, third, fourth))
    assert writer.commit(1) == [first]
    assert first.done.result().version == 1
    for conflict, kind in (
        (second, VersionConflictError),
        (third, VersionConflictError),
        (fourth, VersionAheadError),
    ):
        with pytest.raises(VersionConflictError, match="key b'k' has 1") as answer:
            conflict.done.result()
        assert type(answer.value) is kind
    late = _append(0)
    writer.submit(late)
    assert writer.next_write(1 << 20) is None
    with pytest.raises(VersionConflictError):
        late.done.result()


async def test_an_append_sent_twice_at_once_is_stored_once_and_both_are_acked() -> None:
    """A retry that overtakes: both lie in the queue when the group is cut (I6)."""
    engine = MemoryEngine()
    writer = _writer(engine)
    message = log_pb2.AppendBatch(producer_id=7, sequence=1)
    record = log_pb2.Record(key=b"k", value=b"v")
    sent: list[PendingAppend] = []
    for _ in range(2):
        done: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        sent.append(PendingAppend.of_records([record], message, done, 0.0))
        writer.submit(sent[-1])
    write = writer.next_write(1 << 20)
    assert write is not None
    assert sum(b.count for b in write.batches) == 1
    engine.write([write], Durability.OS)
    writer.written()
    assert len(writer.commit(1)) == 2
    first, second = (a.done.result() for a in sent)
    assert (first.offset, first.timestamp) == (second.offset, second.timestamp) == (0, 1)
    assert [a.duplicate for a in sent] == [False, True]


async def test_what_was_being_written_when_it_ceased_to_lead_is_waited_for() -> None:
    """Its disk is another's to fill only then: a probe would cut too early."""
    engine = MemoryEngine()
    writer = _writer(engine)
    await writer.settled()
    writer.submit(_append(0))
    write = writer.next_write(1 << 20)
    assert write is not None
    writer.stop(UnavailableError("moved"))
    settled = asyncio.create_task(writer.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    engine.write([write], Durability.OS)
    writer.written()
    async with asyncio.timeout(5):
        await settled
    await writer.settled()
