"""One order of forgetting producers, wherever a table comes from (I6)."""

import asyncio
import random
from pathlib import Path

import pytest

from logstore.base import limits
from logstore.base.errors import OutOfSequenceError
from logstore.base.types import Ack, Durability
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import Engine, ProducerEntry, ReplicaMeta, ReplicaWrite
from logstore.engine.producers import ProducerTable
from logstore.engine.rocks import RocksEngine
from logstore.engine.shard_log import ShardLog
from logstore.meta.records import LogOptions
from logstore.node.appends.writer import ShardWriter
from logstore.node.intake.appends import PendingAppend
from logstore.proto.v1 import log_pb2

ALL = 1 << 62
PRODUCERS = range(1, 13)
KEPT_MAX = 5


@pytest.fixture(autouse=True)
def few_producers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_PER_SHARD_MAX", KEPT_MAX)
    monkeypatch.setattr(limits, "PRODUCER_WINDOW", 3)


def append(producer: int, sequence: int, records: int = 1) -> PendingAppend:
    message = log_pb2.AppendBatch(producer_id=producer, sequence=sequence)
    done: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
    rows = [log_pb2.Record(key=b"k", value=b"v") for _ in range(records)]
    return PendingAppend.of_records(rows, message, done, 0.0)


def writer_on(engine: Engine) -> ShardWriter:
    log = ShardLog(engine, 1)
    writer = ShardWriter(
        "log/0", log, LogOptions(), lambda: 1, lambda _: False, lambda _: None, lambda _: None
    )
    writer.lead(1)
    writer.set_open(True, 0)
    return writer


def written(writer: ShardWriter, copies: list[Engine]) -> None:
    """One group of what waits, on the primary's disk and on the others'."""
    write = writer.next_write(1 << 20)
    assert write is not None
    for copy in copies:
        copy.write([ReplicaWrite(1, write.batches)], Durability.OS)
    writer.written()


def restored(source: Engine) -> Engine:
    """A copy made from a snapshot: the anchor, then the batches above it."""
    snapshot, made = source.snapshot(1, ALL), MemoryEngine()
    made.create_replica(ReplicaMeta(1, "log/0"), snapshot.anchor)
    for batch in snapshot.batches(snapshot.anchor.base.end):
        made.write([ReplicaWrite(1, [batch])], Durability.OS)
    snapshot.close()
    return made


def remembered(engine: Engine) -> list[tuple[int, tuple[ProducerEntry, ...]]]:
    """The producers in the order in which they will be forgotten, with what is kept of each."""
    return list(ProducerTable(engine.producers(1)).view().items())


@pytest.mark.parametrize("seed", range(6))
async def test_primary_follower_and_restored_copy_forget_the_same_producers_in_the_same_order(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    primary, follower = MemoryEngine(), RocksEngine.open(tmp_path / "db")
    copies: list[Engine] = [primary, follower]
    for copy in copies:
        copy.create_replica(ReplicaMeta(1, "log/0"))
    writer, forgotten = writer_on(primary), 0
    for turn in range(60):
        known = set(writer._producers.ids())
        for producer in rng.sample(PRODUCERS, rng.randint(1, 3)):
            sequence = writer._producers.last(producer) + 1
            writer.submit(append(producer, sequence, rng.randint(1, 3)))
        written(writer, copies)
        forgotten += len(known - set(writer._producers.ids()))
        if rng.random() < 0.1:  # each at a place of its own
            for copy in copies:
                copy.trim(1, rng.randrange(copy.end(1).end))
        if rng.random() < 0.1:
            follower.close()
            follower = RocksEngine.open(tmp_path / "db")
            copies[1] = follower
        if turn % 6 == 0:
            again = restored(rng.choice(copies))
            assert (
                list(writer._producers.view().items())
                == remembered(primary) == remembered(follower) == remembered(again)
            )  # fmt: skip
    assert forgotten > 20
    follower.close()


async def test_who_appends_all_the_time_is_not_forgotten_for_who_came_later() -> None:
    engine = MemoryEngine()
    engine.create_replica(ReplicaMeta(1, "log/0"))
    writer = writer_on(engine)
    for turn in range(1, 10):
        writer.submit(append(100, turn))
        writer.submit(append(turn, 1))
        written(writer, [engine])
    late, early = append(100, 10), append(2, 2)
    writer.submit(late)
    writer.submit(early)
    written(writer, [engine])
    assert not late.done.done()  # taken, to be acked with its commit
    with pytest.raises(OutOfSequenceError, match="this producer's next one is 1"):
        early.done.result()


def test_of_two_last_appends_at_one_offset_the_smaller_id_is_forgotten_first() -> None:
    """An append of no records ends where it begins."""
    entries = {producer: [ProducerEntry(1, 7, 0)] for producer in (9, 4, 6, 5, 8)}
    for loaded in (entries, dict(sorted(entries.items()))):
        table = ProducerTable(loaded)
        for producer in (20, 21):
            table.remember(producer, ProducerEntry(1, producer, 1))
        assert table.ids() == [6, 8, 9, 20, 21]
    table = ProducerTable()
    for producer in (9, 4, 6, 5, 8):
        table.remember(producer, ProducerEntry(1, 7, 0))
    table.remember(20, ProducerEntry(1, 20, 1))
    assert table.ids() == [5, 6, 8, 9, 20]


def test_a_table_finds_the_window_and_nothing_older() -> None:
    table = ProducerTable()
    for sequence in range(1, 6):
        table.remember(7, ProducerEntry(sequence, 10 * sequence, 1))
    assert [table.find(7, s) is not None for s in range(8)] == [
        False, False, False, True, True, True, False, False
    ]  # fmt: skip
    assert table.find(7, 4) == ProducerEntry(4, 40, 1)
    assert (table.last(7), table.last(8), table.find(8, 1)) == (5, 0, None)
