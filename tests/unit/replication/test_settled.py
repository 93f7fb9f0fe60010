"""What a primary may believe of its own log: settled terms (P4), older disks (P11), divergence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.meta.records import Member, PossibleLoss, ShardRecord
from logstore.replication.changes import set_aside
from logstore.replication.events import (
    Assigned,
    Cas,
    Damaged,
    Effect,
    HighWatermarkRose,
    PeerAcked,
    PeerAhead,
    PeerDiverged,
    PeerMatched,
    Push,
    Role,
    SetAppendGate,
    StopPush,
    Surveyed,
    Tick,
    Written,
)
from logstore.replication.recovery import Vote
from tests.unit.replication.test_machine import RECORD, Bench, S, T, at

U = Member("u", 1, 3)


def cases(effects: list[Effect]) -> list[Cas]:
    return [e for e in effects if isinstance(e, Cas)]


def record_of(bench: Bench) -> ShardRecord:
    assert bench.machine.record is not None
    return bench.machine.record


def restarted(end: int, mark: int, record: ShardRecord) -> Bench:
    """A primary's new process, whose disk ends at `end` and knows the high watermark `mark`."""
    bench = Bench(end=end, high_watermark=mark)
    bench.win(bench.config(record))
    return bench


# ---- P4: no read shows less than was committed -------------------------------------------------


@pytest.mark.parametrize("end", [0, 60])
@pytest.mark.parametrize("behind", [0, 10])
@pytest.mark.parametrize("others", [(), (T,), (T, U)], ids=["1", "2", "3"])
def test_a_restarted_primary_is_settled_once_all_were_heard_and_hold_its_end(
    end: int, behind: int, others: tuple[Member, ...]
) -> None:
    bench = restarted(end, max(0, end - behind), replace(RECORD, in_sync=(S, *others)))
    for member in others:
        assert not bench.machine.settled()
        assert not bench.machine.admitting
        bench.feed(PeerMatched(member.replica_id, bench.machine.epoch, at(end)))
    assert bench.machine.settled()
    assert bench.machine.admitting
    assert bench.machine.high_watermark == end


def test_a_member_that_is_behind_keeps_the_term_unsettled() -> None:
    bench = restarted(60, 50, replace(RECORD, in_sync=(S, T)))
    bench.feed(PeerMatched(2, bench.machine.epoch, at(55)))
    assert not bench.machine.settled()
    assert bench.feed(PeerAcked(2, bench.machine.epoch, at(60))) == [
        HighWatermarkRose(60),
        SetAppendGate(True),
    ]
    assert bench.machine.settled()


def test_who_is_silent_from_the_start_is_dropped_and_the_rest_settles() -> None:
    bench = restarted(60, 60, replace(RECORD, in_sync=(S, T)))
    bench.now_s = 2.5
    (cas,) = cases(bench.feed(Tick()))
    assert not bench.machine.settled()
    assert SetAppendGate(True) in bench.config(cas.record)
    assert bench.machine.settled()


def test_a_stream_that_breaks_later_does_not_unsettle() -> None:
    bench = restarted(60, 60, replace(RECORD, in_sync=(S, T)))
    bench.feed(PeerMatched(2, bench.machine.epoch, at(60)))
    bench.feed(Assigned(at(70)))
    bench.feed(Written(at(70)))
    assert bench.machine.settled()  # what is not committed yet was never shown


def test_the_only_copy_found_damaged_shows_all_it_has() -> None:
    """Alone, all of its log is committed; the disk's mark is behind."""
    bench = Bench(end=60, high_watermark=50)
    bench.machine.damaged = True
    bench.config(replace(RECORD, epoch=3))
    assert bench.machine.high_watermark == 60
    assert not bench.machine.settled()


def test_a_damaged_one_of_two_believes_nothing_above_its_mark() -> None:
    bench = Bench(end=60, high_watermark=50)
    bench.machine.damaged = True
    bench.config(replace(RECORD, epoch=3, in_sync=(S, T)))
    assert bench.machine.high_watermark == 50


# ---- P11: an older disk never leads ------------------------------------------------------------


def older(in_sync: tuple[Member, ...] = (S, T), mark: int = 2_000) -> tuple[Bench, list[Effect]]:
    """The primary's disk of yesterday, 1,000 records; T says that it holds `mark` committed."""
    bench = restarted(1_000, 1_000, replace(RECORD, in_sync=in_sync))
    return bench, bench.feed(PeerAhead(2, bench.machine.epoch, mark))


@pytest.mark.parametrize("in_sync", [(S, T), (S, T, U)], ids=["2", "3"])
def test_an_older_disk_stops_leading_and_drops_nobody(in_sync: tuple[Member, ...]) -> None:
    bench, effects = older(in_sync)
    assert bench.machine.lacks == 2_000
    assert StopPush(2) in effects
    assert not bench.machine.term_began
    bench.now_s = 1_000.0
    assert bench.feed(Tick()) == []
    assert bench.feed(PeerDiverged(2)) == []
    assert not bench.machine.admitting
    assert not bench.machine.settled()
    assert bench.machine.needs_survey()


def test_the_member_with_the_whole_log_leads() -> None:
    bench, _ = older((S, T, U))
    epoch = bench.machine.epoch
    mine = Vote(1, epoch, False, True, 1, 1_000)
    votes = (Vote(2, epoch, True, True, 1, 2_000), Vote(3, epoch, True, True, 1, 1_990))
    (cas,) = cases(bench.feed(Surveyed(mine, votes)))
    assert (cas.record.primary, cas.record.in_sync, cas.record.learners) == (T, (T, U), (S,))
    assert cas.record.possible_loss == ()
    bench.config(cas.record)
    assert bench.machine.role is Role.LEARNER
    assert bench.machine.lacks is None  # it learns what it lacks
    assert not bench.machine.unsure


def test_nobody_leads_while_the_one_that_knows_more_is_away() -> None:
    bench, _ = older()
    mine = Vote(1, bench.machine.epoch, False, True, 1, 1_000)
    assert bench.feed(Surveyed(mine, ())) == []
    assert bench.config(replace(record_of(bench), migration="m")) == []
    assert bench.machine.lacks == 2_000


def test_left_alone_with_an_older_disk_it_leads_and_says_so() -> None:
    bench, _ = older()
    (cas,) = cases(bench.config(replace(record_of(bench), in_sync=(S,), epoch=9)))
    assert [x.offset for x in cas.record.possible_loss] == [1_000]
    assert "2000" in cas.record.possible_loss[0].cause
    bench.config(cas.record)
    assert bench.machine.settled()


@given(end=st.integers(0, 50), mark=st.integers(0, 100), known=st.booleans(), in_sync=st.booleans())
def test_only_an_unheard_in_sync_member_above_our_end_is_believed(
    end: int, mark: int, known: bool, in_sync: bool
) -> None:
    record = replace(RECORD, in_sync=(S, T) if in_sync else (S,))
    if not in_sync:
        record = replace(record, learners=(T,), admit=(2,))
    bench = restarted(end, end, record)
    if known and in_sync:
        bench.feed(PeerMatched(2, bench.machine.epoch, at(end)))
    found = cases(bench.feed(PeerAhead(2, bench.machine.epoch, mark)))
    if mark <= end:
        assert bench.machine.lacks is None
        assert found == []
    elif in_sync and not known:
        assert bench.machine.lacks == mark
        assert found == []
    else:  # in this term nothing was committed without us: its copy differs
        assert bench.machine.lacks is None
        assert T not in found[0].record.members()


def test_of_an_older_epoch_a_mark_counts_for_nothing() -> None:  # P1
    bench = restarted(1_000, 1_000, replace(RECORD, in_sync=(S, T), epoch=4))
    bench.feed(PeerAhead(2, 3, 2_000))
    assert bench.machine.lacks is None


def test_who_was_dropped_for_silence_and_knew_more_is_a_possible_loss() -> None:
    bench = restarted(1_000, 1_000, replace(RECORD, learners=(T,), admit=(2,)))
    (cas,) = cases(bench.feed(PeerAhead(2, bench.machine.epoch, 2_000)))
    assert cas.record.learners == ()
    (loss,) = cas.record.possible_loss
    assert loss.offset == 1_000
    assert "2000" in loss.cause


def test_who_matched_in_this_term_and_left_has_nothing_that_was_committed() -> None:
    bench = restarted(1_000, 1_000, replace(RECORD, in_sync=(S, T)))
    bench.feed(PeerMatched(2, bench.machine.epoch, at(1_000)))
    bench.now_s = 2.5
    bench.win(bench.feed(Tick()))
    bench.config(replace(record_of(bench), admit=(2,)))
    (cas,) = cases(bench.feed(PeerAhead(2, bench.machine.epoch, 2_000)))
    assert cas.record.members() == (S,)
    assert cas.record.possible_loss == ()


def test_a_loss_that_is_recorded_is_not_recorded_again() -> None:
    known = (PossibleLoss(1, 900, "power"),)
    bench = restarted(1_000, 1_000, replace(RECORD, learners=(T,), admit=(2,), possible_loss=known))
    (cas,) = cases(bench.feed(PeerAhead(2, bench.machine.epoch, 2_000)))
    assert cas.record.possible_loss == known


# ---- P5: a diverged copy is set aside ----------------------------------------------------------


@pytest.mark.parametrize("min_in_sync", [1, 2, 3])
def test_a_diverged_member_goes_altogether(min_in_sync: int) -> None:
    """Also below `min_in_sync`: it can never match, and nothing commits until another is built."""
    pair = replace(RECORD, in_sync=(S, T), min_in_sync=min_in_sync)
    bench = restarted(60, 50, pair)
    (cas,) = cases(bench.feed(PeerDiverged(2)))
    assert cas.record.members() == (S,)
    assert cas.record.epoch == pair.epoch + 2
    assert cas.record.possible_loss == ()
    effects = bench.config(cas.record)
    assert StopPush(2) in effects
    assert (SetAppendGate(True) in effects) == (min_in_sync == 1)
    assert cases(effects) == cases(bench.feed(Tick())) == []


def test_the_copy_that_repair_builds_is_admitted_under_its_own_id() -> None:
    bench = restarted(60, 60, replace(RECORD, in_sync=(S, T), min_in_sync=2))
    bench.win(bench.feed(PeerDiverged(2)))
    new = replace(T, replica_id=9)
    effects = bench.config(replace(record_of(bench), learners=(new,), admit=(9,)))
    assert Push(new) in effects
    (cas,) = cases(bench.feed(PeerMatched(9, bench.machine.epoch, at(60))))
    assert cas.record.in_sync == (S, new)
    assert SetAppendGate(True) in bench.config(cas.record)


def test_a_damaged_primary_sets_nobody_aside() -> None:
    bench = restarted(60, 60, replace(RECORD, in_sync=(S, T)))
    bench.feed(Damaged())
    assert cases(bench.feed(PeerDiverged(2))) == []


@given(st.sets(st.sampled_from([2, 3, 4, 5])))
def test_set_aside_leaves_all_others_as_they_are(bad: set[int]) -> None:
    members = [Member(f"m{n}", 1, n) for n in range(2, 6)]
    record = replace(
        RECORD, in_sync=(S, *members[:2]), learners=tuple(members[2:]), admit=(4, 5), remove=(3,)
    )
    after = set_aside(record, bad)
    assert {m.replica_id for m in after.members()} == {1, 2, 3, 4, 5} - bad
    assert set(after.admit) == {4, 5} - bad
    assert set(after.remove) == {3} - bad
    assert after.epoch == record.epoch + bool(bad & {2, 3})


# ---- an only in-sync copy that lost its end, and a learner that has it ---------------------------


def alone_again(learners: tuple[Member, ...] = (T,), **changed: object) -> Bench:
    """All stopped, T last but one: it left the set. Then an older disk of S was put back."""
    bench = Bench(end=1_000, high_watermark=1_000)
    bench.machine.tail_lost = True
    record = replace(RECORD, epoch=5, learners=learners, **changed)  # type: ignore[arg-type]
    assert cases(bench.config(record)) == []
    return bench


def surveyed(bench: Bench, *votes: Vote) -> list[Cas]:
    bench.feed(Surveyed(Vote(1, 5, False, True, 1, 1_000), votes))
    return [bench.machine.pending] if bench.machine.pending is not None else []


def test_a_learner_that_holds_more_than_the_only_copy_leads() -> None:
    bench = alone_again((T, U))
    assert bench.machine.needs_survey()
    assert bench.machine.to_survey() == (T, U)
    (cas,) = surveyed(bench, Vote(2, 5, False, True, 1, 2_000), Vote(3, 5, False, True, 1, 1_900))
    assert (cas.record.primary, cas.record.in_sync) == (T, (T,))
    assert cas.record.learners == (U, S)
    assert cas.record.epoch == cas.record.primary_since == 6
    assert [x.offset for x in cas.record.possible_loss] == [2_000]


@pytest.mark.parametrize(
    "theirs",
    [
        Vote(2, 5, False, True, 1, 1_000),
        Vote(2, 5, False, True, 1, 10),
        Vote(2, 5, False, True, 0, 2_000),
        Vote(2, 5, False, False, 1, 2_000),
    ],
    ids=["equal", "shorter", "older", "unreadable"],
)
def test_a_learner_that_holds_no_more_changes_nothing(theirs: Vote) -> None:
    (cas,) = surveyed(alone_again(), theirs)
    assert (cas.record.primary, cas.record.learners) == (S, (T,))
    assert [x.offset for x in cas.record.possible_loss] == [1_000]


def test_learners_are_asked_for_a_bounded_time() -> None:
    bench = alone_again()
    bench.now_s = 7.7
    assert cases(bench.feed(Tick())) == []
    bench.now_s = 7.9
    (cas,) = cases(bench.feed(Tick()))
    assert cas.record.primary == S
    assert [x.offset for x in cas.record.possible_loss] == [1_000]


def test_the_longest_of_those_heard_in_time_leads() -> None:
    bench = alone_again((T, U))
    assert surveyed(bench, Vote(3, 5, False, True, 1, 1_900)) == []
    bench.now_s = 7.9
    (cas,) = cases(bench.feed(Tick()))
    assert cas.record.primary == U


def test_of_a_vote_of_another_epoch_nothing_is_known() -> None:
    bench = alone_again()
    assert surveyed(bench, Vote(2, 4, False, True, 1, 2_000)) == []


@pytest.mark.parametrize("changed", [{"migration": "m1"}, {"learners": ()}], ids=str)
def test_without_learners_or_in_a_move_it_leads_and_says_so(changed: dict[str, object]) -> None:
    bench = Bench(end=1_000, high_watermark=1_000)
    bench.machine.tail_lost = True
    record = replace(RECORD, epoch=5, learners=(T,))
    (cas,) = cases(bench.config(replace(record, **changed)))  # type: ignore[arg-type]
    assert cas.record.primary == S
    assert [x.offset for x in cas.record.possible_loss] == [1_000]
