"""Each rule of I13 with a history that keeps it and one that breaks it."""

from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord, encode, shard_key, tombstone_key
from logstore.meta.tombstones import Order, bury
from sharder.keys import KeyRange
from tests.support.checkers.history import Departure, MetadataTxn
from tests.support.checkers.i13_bytes_stay import check

ONE, TWO = Member("n1", 1, 1), Member("n2", 1, 2)
KEEP_S = 60.0


def record(*members: Member) -> bytes:
    return encode(
        ShardRecord(
            shard="log/0",
            log="log",
            range=KeyRange(b"", None),
            status=ShardStatus.OPEN,
            epoch=1,
            primary_since=1,
            primary=ONE,
            in_sync=members,
            min_in_sync=1,
        )
    )


def txn(at_s: float, written: dict[str, bytes | None]) -> MetadataTxn:
    return MetadataTxn(at_s, "n1", {}, written, int(at_s))


BOTH = txn(1.0, {shard_key("log/0"): record(ONE, TWO)})
TOMB = bury(TWO, "log/0", 1, Order("c", "a test", 0, KEEP_S))
BURIED = txn(2.0, {shard_key("log/0"): record(ONE), TOMB.key: TOMB.value})


def left(at_s: float, what: str) -> Departure:
    return Departure(at_s, "n2", 2, what)


def texts(departures: list[Departure], txns: list[MetadataTxn]) -> list[str]:
    return [violation.text for violation in check(departures, txns)]


def test_an_ordered_copy_is_retired_and_later_deleted() -> None:
    departures = [left(3.0, "retired"), left(3.0 + KEEP_S, "dropped")]
    assert texts(departures, [BOTH, BURIED]) == []


def test_a_copy_is_retired_on_a_tombstone_only() -> None:
    assert texts([left(3.0, "retired")], [BOTH]) == ["copy 2 at n2 was retired without a tombstone"]


def test_a_tombstone_that_comes_later_was_no_order() -> None:
    assert texts([left(1.5, "retired")], [BOTH, BURIED]) == [
        "copy 2 at n2 was retired without a tombstone"
    ]


def test_a_tombstone_is_for_one_copy() -> None:
    assert texts([Departure(3.0, "n2", 1, "retired")], [BOTH, BURIED]) == [
        "copy 1 at n2 was retired without a tombstone"
    ]


def test_only_what_was_retired_is_deleted() -> None:
    how = ["copy 2 at n2 was dropped without having been retired"]
    assert texts([left(3.0, "dropped")], [BOTH, BURIED]) == how
    brought_back = [left(3.0, "retired"), left(4.0, "restored"), left(3.0 + KEEP_S, "dropped")]
    assert texts(brought_back, [BOTH, BURIED]) == how


def test_bytes_stay_until_their_time_is_over() -> None:
    departures = [left(3.0, "retired"), left(10.0, "dropped")]
    assert texts(departures, [BOTH, BURIED]) == ["copy 2 at n2 was dropped after 7.0 s"]


def test_who_takes_a_copy_out_of_a_record_buries_it() -> None:
    alone = txn(2.0, {shard_key("log/0"): record(ONE)})
    assert texts([], [BOTH, alone]) == [
        "revision 2: n1 took copy 2 out of /shards/log/0 without a tombstone"
    ]
    later = txn(3.0, {TOMB.key: TOMB.value})
    assert len(texts([], [BOTH, alone, later])) == 1  # in the same transaction, or not at all


def test_a_deleted_record_buries_all_its_copies() -> None:
    gone: dict[str, bytes | None] = {shard_key("log/0"): None, TOMB.key: TOMB.value}
    assert texts([], [BOTH, txn(2.0, gone)]) == [
        "revision 2: n1 took copy 1 out of /shards/log/0 without a tombstone"
    ]
    first = bury(ONE, "log/0", 1, Order("c", "a test", 0))
    assert first.key == tombstone_key("n1", 1)
    assert texts([], [BOTH, txn(2.0, {**gone, first.key: first.value})]) == []
