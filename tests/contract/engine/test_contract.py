"""The Engine's contract, the same for every implementation."""

from dataclasses import replace

import pytest

from logstore.base.errors import (
    AlreadyExistsError,
    CorruptStorageError,
    DivergedError,
    OutOfRangeError,
    StorageError,
    UnknownShardError,
)
from logstore.base.limits import PRODUCER_WINDOW
from logstore.base.types import CHAIN_ZERO, Durability, Position, ProducerSpan
from logstore.engine.batch import StoredBatch
from logstore.engine.port import (
    Anchor,
    CopyFacts,
    Engine,
    ProducerEntry,
    ReplicaMeta,
    ReplicaWrite,
    Retired,
    RetiredCopy,
)
from tests.support.engine import (
    ALL,
    append,
    batch_at,
    batches_of,
    copy_of,
    fill,
    index_all,
    keys_in,
)


def test_what_was_written_is_read_in_order(engine: Engine) -> None:
    r = copy_of(engine)
    written = [
        append(engine, r, [b"a", b"b"]),
        append(engine, r, [b"c"]),
        append(engine, r, [b"a"]),
    ]
    assert engine.read(r, 0, ALL, 1 << 30) == written
    assert engine.read(r, 1, 3, 1 << 30) == written[:2]
    assert engine.read(r, 2, 3, 1 << 30) == written[1:2]
    assert engine.read(r, 0, ALL, 1) == written[:1]
    assert engine.read(r, 4, ALL, 1 << 30) == []
    assert engine.read(r, 99, ALL, 1 << 30) == []
    assert engine.end(r) == Position(4, written[-1].chain_after)
    assert engine.bytes_stored(r) == sum(len(b.data) for b in written)


@pytest.mark.parametrize("durability", list(Durability))
def test_a_group_over_replicas_is_written_together(engine: Engine, durability: Durability) -> None:
    one, two = copy_of(engine, 1), copy_of(engine, 2)
    first = batch_at(Position(), [b"a"])
    second = batch_at(Position(1, first.chain_after), [b"b"])
    other = batch_at(Position(), [b"z", b"z"])
    engine.write(
        [ReplicaWrite(one, [first]), ReplicaWrite(two, [other], 2), ReplicaWrite(one, [second], 1)],
        durability,
    )
    assert engine.read(one, 0, ALL, 1 << 30) == [first, second]
    assert engine.read(two, 0, ALL, 1 << 30) == [other]
    assert {m.replica_id: m.high_watermark for m in engine.replicas()} == {one: 1, two: 2}


def test_a_batch_that_does_not_follow_writes_nothing(engine: Engine) -> None:
    one, two = copy_of(engine, 1), copy_of(engine, 2)
    good = append(engine, one, [b"a"])
    fine = batch_at(Position(), [b"x"])
    for bad in (
        batch_at(Position(2, good.chain_after), [b"b"]),  # a gap
        batch_at(Position(0, CHAIN_ZERO), [b"b"]),  # again
        batch_at(Position(1, b"\x01" * 16), [b"b"]),  # another chain
        replace(batch_at(Position(1, good.chain_after), [b"b"]), count=0),
    ):
        with pytest.raises(DivergedError, match="replica 1"):
            engine.write([ReplicaWrite(two, [fine]), ReplicaWrite(one, [bad])], Durability.OS)
    assert engine.end(one).end == 1
    assert engine.end(two) == Position()
    assert engine.read(two, 0, ALL, 1) == []


def test_copies_come_and_go(engine: Engine) -> None:
    meta = ReplicaMeta(5, "log/5", snapshot_target=10)
    engine.create_replica(meta)
    with pytest.raises(AlreadyExistsError, match="replica 5"):
        engine.create_replica(meta)
    assert engine.replicas() == [meta]
    engine.set_meta(replace(meta, snapshot_target=None, base=Position(99, b"x" * 16)))
    assert engine.replicas() == [replace(meta, snapshot_target=None)]
    append(engine, 5, [b"a"])
    engine.drop_replica(5)
    engine.drop_replica(5)
    assert engine.replicas() == []
    with pytest.raises(UnknownShardError, match="5"):
        engine.end(5)
    engine.create_replica(meta)
    assert engine.end(5) == Position()
    assert engine.read_key(5, b"a", 0, ALL) == []
    assert engine.count_key(5, b"a", 0) == 0


FACTS = CopyFacts("cluster", "generation", 17, b"shard", b"log")
MARK = Retired("moved to i2", 18, 1_000, 2_000)


def test_facts_stay_with_the_copy_and_go_with_it(engine: Engine) -> None:
    r = copy_of(engine)
    assert engine.facts(r) is None
    engine.set_facts(r, FACTS)
    append(engine, r, [b"a"])
    engine.set_meta(replace(engine.replicas()[0], high_watermark=1))
    assert engine.facts(r) == FACTS
    newer = replace(FACTS, revision=18, shard_record=b"")
    engine.set_facts(r, newer)
    assert engine.facts(r) == newer
    engine.drop_replica(r)
    assert engine.facts(r) is None
    with pytest.raises(UnknownShardError, match="1"):
        engine.set_facts(r, FACTS)
    copy_of(engine)
    assert engine.facts(r) is None


ON_A_COPY: list[tuple[str, tuple[object, ...]]] = [
    ("set_meta", (ReplicaMeta(1, "log/1"),)),
    ("set_facts", (1, FACTS)),
    ("write", ([ReplicaWrite(1, (), 1)], Durability.OS)),
    ("end", (1,)),
    ("position_at", (1, 1)),
    ("read", (1, 0, 1, 1)),
    ("read_key", (1, b"a", 0, 1)),
    ("count_key", (1, b"a", 1)),
    ("offset_at_time", (1, 1)),
    ("producers", (1,)),
    ("truncate", (1, 0)),
    ("trim", (1, 1)),
    ("snapshot", (1, 1)),
    ("verify_chain", (1, Position(), 1)),
    ("index_backlog", (1,)),
    ("bytes_stored", (1,)),
]


def test_a_retired_copy_is_kept_and_not_served(engine: Engine) -> None:
    r, other = copy_of(engine), copy_of(engine, 2)
    fill(engine, r, batches=20, per_batch=4)
    append(engine, other, [b"a"])
    engine.trim(r, 12)
    engine.set_facts(r, FACTS)
    (meta, _), end, size = engine.replicas(), engine.end(r), engine.bytes_stored(r)
    engine.retire_replica(r, MARK)
    engine.retire_replica(r, replace(MARK, cause="again"))
    engine.retire_replica(99, MARK)
    assert [m.replica_id for m in engine.replicas()] == [other]
    assert engine.retired() == [RetiredCopy(meta, MARK, end, size)]
    assert engine.facts(r) == FACTS
    assert engine.index_step(1_000) <= 1  # of the other one's
    for call, arguments in ON_A_COPY:
        with pytest.raises(UnknownShardError, match="replica_id is 1"):
            getattr(engine, call)(*arguments)
    with pytest.raises(AlreadyExistsError, match="replica 1"):
        copy_of(engine)
    append(engine, other, [b"b"])
    assert len(batches_of(engine, other)) == 2


def test_a_retired_copy_comes_back_as_it_was(engine: Engine) -> None:
    r = copy_of(engine)
    fill(engine, r, batches=30, per_batch=4)
    engine.trim(r, 20)
    engine.index_step(50)
    engine.set_facts(r, FACTS)

    def answers() -> list[object]:
        return [
            engine.replicas(), engine.end(r), engine.facts(r), engine.bytes_stored(r),
            engine.producers(r), engine.snapshot(r, ALL).anchor, engine.read(r, 20, ALL, ALL),
            engine.read_key(r, b"key-1", 0, ALL), engine.count_key(r, b"key-1", ALL),
        ]  # fmt: skip

    before = answers()
    engine.retire_replica(r, MARK)
    engine.restore_replica(r)
    assert answers() == before
    assert engine.retired() == []
    append(engine, r, [b"key-1"], spans=[ProducerSpan(7, 999, 1)])
    assert engine.count_key(r, b"key-1", ALL) == before[-1] + 1  # type: ignore[operator]
    for unknown in (r, 99):  # one that is served, one that is not there
        with pytest.raises(StorageError, match=f"replica_id is {unknown}"):
            engine.restore_replica(unknown)


def test_a_retired_copy_that_is_dropped_is_gone(engine: Engine) -> None:
    r = copy_of(engine)
    fill(engine, r, batches=5, per_batch=4)
    engine.set_facts(r, FACTS)
    engine.retire_replica(r, MARK)
    engine.drop_replica(r)
    assert engine.retired() == []
    assert engine.replicas() == []
    assert engine.facts(r) is None
    with pytest.raises(StorageError, match="replica_id is 1"):
        engine.restore_replica(r)
    copy_of(engine)
    assert engine.end(r) == Position()
    assert engine.count_key(r, b"key-1", 0) == 0


def test_position_is_known_at_batch_ends_only(engine: Engine) -> None:
    r = copy_of(engine)
    first, second = append(engine, r, [b"a", b"b"]), append(engine, r, [b"c", b"d", b"e"])
    assert engine.position_at(r, 0) == Position()
    assert engine.position_at(r, 1) is None
    assert engine.position_at(r, 2) == Position(2, first.chain_after)
    assert engine.position_at(r, 5) == Position(5, second.chain_after)
    assert engine.position_at(r, 6) is None
    engine.trim(r, 2)
    assert engine.position_at(r, 2) == Position(2, first.chain_after)
    assert engine.position_at(r, 0) is None


@pytest.mark.parametrize("key_index", [True, False])
@pytest.mark.parametrize("indexed", [0, 100, 10_000])
def test_a_key_is_found_in_index_and_tail(engine: Engine, key_index: bool, indexed: int) -> None:
    r = copy_of(engine, key_index=key_index)
    fill(engine, r, batches=60, per_batch=5)
    engine.index_step(indexed)
    stored = engine.read(r, 0, ALL, 1 << 30)
    for n in range(41):
        key = b"key-%d" % n
        want = [b for b in stored if key in keys_in(b)]
        assert engine.read_key(r, key, 0, ALL) == want
        assert engine.count_key(r, key, ALL) == sum(keys_in(b).count(key) for b in stored)
        middle = [b for b in want if b.end > 101 and b.base_offset < 203]
        got = engine.read_key(r, key, 101, 203)
        assert [b for b in got if key in keys_in(b)[max(101 - b.base_offset, 0) :]] or not got
        assert set(middle) >= set(got)
        assert engine.count_key(r, key, 203) == sum(
            keys_in(b)[: 203 - b.base_offset].count(key) for b in stored if b.base_offset < 203
        )


def test_reading_a_key_in_pages_gives_the_same(engine: Engine) -> None:
    r = copy_of(engine)
    fill(engine, r, batches=50, per_batch=3)
    whole, paged, at = engine.read_key(r, b"key-1", 0, ALL), [], 0
    while page := engine.read_key(r, b"key-1", at, ALL, max_bytes=1):
        paged += page
        at = page[-1].end
    assert len(whole) > 2
    assert paged == whole


def test_backlog_falls_to_nothing(engine: Engine) -> None:
    r = copy_of(engine)
    plain = copy_of(engine, 2, key_index=False)
    fill(engine, r, batches=10, per_batch=10)
    fill(engine, plain, batches=2, per_batch=1)
    assert engine.index_backlog(r) == 100
    assert engine.index_backlog(plain) == 0
    assert engine.index_step(30) >= 30
    assert engine.index_backlog(r) <= 70
    index_all(engine)
    assert engine.index_backlog(r) == 0
    assert engine.index_step(1) == 0


def test_time_finds_the_first_batch_that_reaches_it(engine: Engine) -> None:
    r = copy_of(engine)
    times = [100, 300, 200, 500, 400]  # the producers' clocks go back and forth
    for i, time_us in enumerate(times):
        append(engine, r, [b"k"] * 3, time_us=time_us + i)
    assert [engine.offset_at_time(r, t) for t in (0, 100, 101, 301, 302, 503, 504)] == [
        0, 0, 3, 3, 9, 9, 15,
    ]  # fmt: skip
    engine.trim(r, 12)  # what was later than the rest is gone
    assert engine.offset_at_time(r, 301) == 12
    assert engine.offset_at_time(r, 405) == 15


def test_producers_keep_their_last_appends(engine: Engine) -> None:
    r = copy_of(engine)
    for n in range(1, 101):
        append(
            engine, r, [b"a", b"b", b"c"],
            spans=[ProducerSpan(7, n, 1), ProducerSpan(0, 0, 1), ProducerSpan(8, 2 * n, 1)],
        )  # fmt: skip
    table = engine.producers(r)
    assert set(table) == {7, 8}
    assert len(table[7]) == PRODUCER_WINDOW
    assert table[7][-1] == ProducerEntry(100, 297, 1)
    assert table[8][-1] == ProducerEntry(200, 299, 1)
    assert [e.sequence for e in table[7]] == list(range(37, 101))


@pytest.mark.parametrize("kept", [299, 250, 150, 20, 1, 0])
def test_truncation_restores_producers_index_and_counts(engine: Engine, kept: int) -> None:
    """P5: as if what was cut off had never been written."""
    r, twin = copy_of(engine, 1), copy_of(engine, 2)
    fill(engine, r, batches=300, per_batch=4)
    stored = batches_of(engine, r)
    engine.write([ReplicaWrite(twin, stored[:kept])], Durability.OS)
    engine.index_step(700)
    with pytest.raises(OutOfRangeError, match="no batch ends"):
        engine.truncate(r, 5)
    with pytest.raises(OutOfRangeError, match="1201"):
        engine.truncate(r, 1_201)
    engine.truncate(r, 4 * kept, Durability.FSYNC)
    assert engine.end(r) == engine.end(twin)
    assert engine.producers(r) == engine.producers(twin)
    assert engine.bytes_stored(r) == engine.bytes_stored(twin)
    again = append(engine, r, [b"key-1", b"new"], spans=[ProducerSpan(7, 999, 2)])
    engine.write([ReplicaWrite(twin, [again])], Durability.OS)
    index_all(engine)
    for key in (b"key-1", b"key-2", b"new"):
        assert engine.count_key(r, key, ALL) == engine.count_key(twin, key, ALL)
        assert engine.read_key(r, key, 0, ALL) == engine.read_key(twin, key, 0, ALL)
    assert engine.verify_chain(r, Position(), ALL) == engine.end(twin)


def test_trim_folds_what_goes_into_the_anchor(engine: Engine) -> None:  # F4
    r = copy_of(engine)
    fill(engine, r, batches=100, per_batch=4)
    before = {b"key-%d" % n: engine.count_key(r, b"key-%d" % n, ALL) for n in range(40)}
    producers, stored = engine.producers(r), engine.read(r, 0, ALL, 1 << 30)
    engine.index_step(200)
    base = engine.trim(r, 203)
    assert base == Position(200, stored[49].chain_after)
    assert engine.trim(r, 203) == base
    assert engine.replicas()[0].base == base == engine.base(r)
    assert {k: engine.count_key(r, k, ALL) for k in before} == before
    assert engine.producers(r) == producers
    assert engine.bytes_stored(r) == sum(len(b.data) for b in stored[50:])
    with pytest.raises(OutOfRangeError, match="200"):
        engine.read(r, 199, ALL, 1)
    with pytest.raises(OutOfRangeError, match="200"):
        engine.count_key(r, b"key-1", 199)
    assert engine.read(r, 200, ALL, 1 << 30) == stored[50:]
    index_all(engine)
    assert engine.read_key(r, b"key-1", 0, ALL) == [
        b for b in stored[50:] if b"key-1" in keys_in(b)
    ]
    assert engine.trim(r, ALL) == engine.end(r)
    assert {k: engine.count_key(r, k, ALL) for k in before} == before
    assert engine.read(r, engine.end(r).end, ALL, 1) == []
    append(engine, r, [b"key-1"])
    assert engine.count_key(r, b"key-1", ALL) == before[b"key-1"] + 1
    engine.truncate(r, engine.end(r).end - 1)
    assert engine.producers(r) == producers


def test_a_snapshot_is_one_point_in_time(engine: Engine) -> None:
    r = copy_of(engine)
    fill(engine, r, batches=40, per_batch=5)
    engine.trim(r, 50)
    counts, stored = engine.count_key(r, b"key-1", 50), engine.read(r, 50, ALL, 1 << 30)
    snapshot, early = engine.snapshot(r, ALL), engine.snapshot(r, 62)
    fill(engine, r, batches=3, per_batch=5)
    engine.trim(r, 120)
    engine.truncate(r, 205)
    assert list(snapshot.batches(50)) == stored
    assert list(snapshot.batches(66)) == [b for b in stored if b.end > 66]
    assert snapshot.end == Position(200, stored[-1].chain_after)
    assert snapshot.anchor.base.end == 50
    assert snapshot.anchor.key_counts[b"key-1"] == counts
    assert early.end == Position(60, stored[1].chain_after)
    assert list(early.batches(50)) == stored[:2]
    engine.drop_replica(r)
    assert list(snapshot.batches(50)) == stored
    snapshot.close()
    early.close()
    with pytest.raises(StorageError, match="closed"):
        list(snapshot.batches(50))


def test_a_copy_made_from_a_snapshot_is_equal(engine: Engine) -> None:
    source = copy_of(engine, 1)
    fill(engine, source, batches=60, per_batch=5)
    engine.trim(source, 150)
    snapshot = engine.snapshot(source, ALL)
    engine.create_replica(ReplicaMeta(2, "log/1", snapshot_target=300), snapshot.anchor)
    assert engine.end(2) == snapshot.anchor.base
    for batch in snapshot.batches(snapshot.anchor.base.end):
        engine.write([ReplicaWrite(2, [batch])], Durability.OS)
    snapshot.close()
    assert engine.verify_chain(2, engine.snapshot(2, ALL).anchor.base, ALL) == engine.end(source)
    assert engine.producers(2) == engine.producers(source)
    for n in range(40):
        key = b"key-%d" % n
        assert engine.count_key(2, key, ALL) == engine.count_key(source, key, ALL)
    assert engine.trim(2, 200) == engine.trim(source, 200)
    mine, theirs = engine.snapshot(2, ALL), engine.snapshot(source, ALL)
    assert mine.anchor == theirs.anchor
    assert isinstance(mine.anchor, Anchor)


def test_verification_names_the_batch_whose_chain_does_not_hold(engine: Engine) -> None:  # F4
    r = copy_of(engine)
    fill(engine, r, batches=6, per_batch=5)
    assert engine.verify_chain(r, Position(), 12).end == 10
    with pytest.raises(CorruptStorageError, match=r"offsets 10\.\.14"):
        engine.verify_chain(r, Position(10, b"x" * 16), ALL)
    other: StoredBatch = batch_at(engine.end(r), [b"a"])
    forged = replace(other, chain_after=b"\x07" * 16)  # the checksum holds, the chain does not
    engine.write([ReplicaWrite(r, [forged])], Durability.OS)
    with pytest.raises(CorruptStorageError, match=r"offsets 30\.\.30"):
        engine.verify_chain(r, Position(), ALL)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    r = copy_of(engine)
    engine.close()
    with pytest.raises((StorageError, UnknownShardError)):
        engine.read(r, 0, 1, 1)
    engine.close()


def test_a_feed_cursor_is_stored_with_its_batches_and_goes_with_the_copy(engine: Engine) -> None:
    r = copy_of(engine)
    assert engine.replicas()[0].feed_cursor is None
    batch = batch_at(engine.end(r), [b"a"])
    engine.write([ReplicaWrite(r, [batch], 1, feed_cursor=17)], Durability.OS)
    assert engine.replicas()[0].feed_cursor == 17
    with pytest.raises(DivergedError):  # nothing of it, so the cursor neither
        engine.write([ReplicaWrite(r, [batch], 1, feed_cursor=18)], Durability.OS)
    append(engine, r, [b"b"])
    assert engine.replicas()[0].feed_cursor == 17
    engine.drop_replica(r)
    copy_of(engine)
    assert engine.replicas()[0].feed_cursor is None
