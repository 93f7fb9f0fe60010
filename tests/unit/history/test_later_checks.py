"""What the checks that came with the later aims call wrong, and what they let pass."""

from dataclasses import replace

import pytest

from coordinator.migration.records import MigrationRecord, State
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, PossibleLoss, ShardRecord, encode, shard_key
from sharder.keys import KeyRange
from tests.support.checkers import (
    calm,
    i3_acked,
    i5_prefix,
    i6_once,
    i7_migrations_end,
    i8_equal_chains,
)
from tests.support.checkers.history import (
    AppendCall,
    CopyRead,
    Divergence,
    History,
    MetadataTxn,
    Outcome,
    Row,
    Silence,
)

NONE: frozenset[str] = frozenset()


def appended(value: bytes, at_s: float, offset: int, client: str = "c") -> AppendCall:
    return AppendCall(client, b"k", value, at_s, None, at_s + 0.1, Outcome.ACKED, "log/0", offset)


def row(value: bytes, offset: int) -> Row:
    return Row("log/0", offset, b"k", value, 0)


def test_acked_appends_of_a_client_stand_in_the_order_of_its_calls() -> None:
    calls = [appended(b"a", 0.0, 1), appended(b"b", 0.0, 0)]
    order = {b"k": [row(b"b", 0), row(b"a", 1)]}
    assert len(i5_prefix.check_sent_in_order(calls, order)) == 1
    assert i5_prefix.check_sent_in_order(calls[::-1], order) == []
    assert i5_prefix.check_sent_in_order([calls[0], replace(calls[1], client="d")], order) == []
    conditional = replace(calls[1], expected_version=0)
    assert i5_prefix.check_sent_in_order([calls[0], conditional], order) == []


@pytest.mark.parametrize(("called_s", "end", "wrong"), [
    (3.0, 0, 1), (3.0, 1, 0), (1.2, 0, 0), (9.0, 0, 0),
])  # fmt: skip
def test_a_copy_that_hears_nobody_stops_to_serve(called_s: float, end: int, wrong: int) -> None:
    reads = [CopyRead("c", "n1", "log/0", called_s, end)]
    silences = [Silence("n1", 1.0, 5.0)]
    found = i5_prefix.check_silent(reads, [appended(b"a", 1.1, 0)], silences, NONE, 1.0)
    assert len(found) == wrong


def test_a_conflict_is_told_on_records_that_stay() -> None:
    refused = AppendCall("c", b"k", b"x", 1.0, 1, 1.1, Outcome.REFUSED)
    early, late = appended(b"a", 0.0, 0), appended(b"b", 2.0, 1)
    calls = [early, refused, late]
    rows = [row(b"a", 0), row(b"b", 1)]
    assert len(i6_once.check_conflicts(calls, {b"x"}, rows)) == 1, "b came after it"
    on_none = replace(refused, expected_version=0)
    assert i6_once.check_conflicts([early, on_none, late], {b"x"}, rows) == []


def test_what_differs_is_told_but_for_shards_that_lost() -> None:
    found = [Divergence(1.0, "log/0", "peer diverged")]
    assert len(i8_equal_chains.check_diverged(found, NONE)) == 1
    assert i8_equal_chains.check_diverged(found, frozenset({"log/0"})) == []


MEMBERS = (Member("n1", 1, 1), Member("n2", 2, 2))
SHARD = ShardRecord(
    shard="log/0", log="log", range=KeyRange(b"", None), status=ShardStatus.OPEN, epoch=1,
    primary_since=1,
    primary=MEMBERS[0], in_sync=MEMBERS,
)  # fmt: skip


def txn(at_s: float, written: dict[str, bytes | None]) -> MetadataTxn:
    return MetadataTxn(at_s, "n1", {}, written, 1)


def terms(gap_s: float, count: int) -> list[MetadataTxn]:
    return [
        txn(n * gap_s, {shard_key("log/0"): encode(
            replace(SHARD, epoch=n + 1, primary_since=n + 1)
        )})
        for n in range(count)
    ]  # fmt: skip


def test_terms_do_not_follow_each_other_without_a_pause() -> None:
    assert calm.check(terms(0.5, 30)) == []
    found = calm.check(terms(0.05, 30))
    assert [v.text for v in found] == ["n1 began 11 terms of log/0 within a second"]


@pytest.mark.parametrize(("left_s", "request_", "wrong"), [
    (0.1, None, 1), (0.6, None, 0), (0.1, "complete", 0),
])  # fmt: skip
def test_the_source_soaks_before_it_leaves(left_s: float, request_: str | None, wrong: int) -> None:
    move = MigrationRecord(
        id="m1", shard="log/0", log="log", source=MEMBERS[0], target_instance="n2",
        strategy="shadow", created_us=0, since_us=0, state=State.SOAKING, request=request_,
        target=MEMBERS[1],
    )  # fmt: skip
    move = replace(move, options=replace(move.options, soak_s=0.5))
    leaving = replace(SHARD, primary=MEMBERS[1], migration="m1", remove=(1,))
    key, shard = "/migrations/m1", shard_key("log/0")
    txns = [txn(1.0, {key: encode(move)}), txn(1.0 + left_s, {shard: encode(leaving)})]
    assert len(i7_migrations_end.check_soaked(txns)) == wrong


def test_what_all_machines_lost_is_told() -> None:
    calls, lossy = [appended(b"a", 0.0, 0)], frozenset({"log/0"})
    untold = txn(1.0, {shard_key("log/0"): encode(SHARD)})
    record = replace(SHARD, possible_loss=(PossibleLoss(epoch=2, offset=0, cause="a power loss"),))
    told = txn(2.0, {shard_key("log/0"): encode(record)})
    assert len(i3_acked.check_told(calls, [], lossy, [untold])) == 1
    assert i3_acked.check_told(calls, [], lossy, [untold, told]) == []
    assert i3_acked.check_told(calls, [row(b"a", 0)], lossy, [untold]) == []
    assert i3_acked.check_told(calls, [], NONE, [untold]) == [], "that is what I3 is for"


def test_a_trimmed_record_whose_offset_was_given_again_is_no_part_of_the_log() -> None:
    history, trimmed = History(), [Row("log/0", n, b"k", b"old-%d" % n, 0) for n in range(3)]
    history.trimmed = {("log/0", row.offset): row for row in trimmed}
    again = Row("log/0", 1, b"k", b"new", 0)
    assert [r.value for r in history.whole([again])] == [b"old-0", b"new"]
    assert [r.value for r in history.whole(trimmed[1:])] == [b"old-0", b"old-1", b"old-2"]
