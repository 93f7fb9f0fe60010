"""A copy that may not be whole: who leaves, who leads, what is recorded (P6)."""

from dataclasses import replace

import pytest

from logstore.base.types import Position, ShardStatus
from logstore.meta.records import Member, ShardRecord
from logstore.replication.events import Cas, ConfigRead, Damaged, Role, Surveyed, Tick
from logstore.replication.machine import ReplicationMachine, Timing
from logstore.replication.recovery import LOSSES_MAX, Vote, next_record, with_loss
from sharder.keys import KeyRange

S, T, U = (Member(name, 1, n) for n, name in enumerate("stu", 1))
RECORD = ShardRecord(
    "orders/0", "orders", KeyRange(), ShardStatus.OPEN, 3, 2, S, (S, T, U), min_in_sync=2
)


END = Position(9, b"t" * 16)


def vote(member: Member, end: int, *, vouches: bool = False, last_epoch: int = 2) -> Vote:
    return Vote(member.replica_id, RECORD.epoch, vouches, True, last_epoch, end)


def by_id(*votes: Vote) -> dict[int, Vote]:
    return {v.replica_id: v for v in votes}


def test_a_damaged_follower_goes_once_another_vouches() -> None:
    votes = by_id(vote(S, 9, vouches=True))  # U is away: one that is whole is enough
    step = next_record(RECORD, T, vote(T, 9), votes, END, leave=True)
    assert step is not None
    assert step[0].in_sync == (S, U)
    assert T not in step[0].members()
    assert (step[0].primary, step[0].epoch, step[0].primary_since) == (S, 4, 2)
    assert step[0].possible_loss == ()


def test_a_damaged_primary_hands_over_to_the_longest_that_vouches() -> None:
    votes = by_id(vote(T, 8, vouches=True), vote(U, 9, vouches=True))
    step = next_record(RECORD, S, vote(S, 9), votes, END, leave=True)
    assert step is not None
    assert (step[0].primary, step[0].in_sync) == (U, (T, U))
    assert (step[0].epoch, step[0].primary_since) == (4, 4)


def test_who_only_lost_its_tail_stays_as_a_learner() -> None:
    step = next_record(RECORD, T, vote(T, 9), by_id(vote(S, 9, vouches=True)), END, leave=False)
    assert step is not None
    assert step[0].learners == (T,)


def test_a_vote_of_another_epoch_counts_for_nothing() -> None:
    old = replace(vote(S, 9, vouches=True), epoch=2)
    assert next_record(RECORD, T, vote(T, 9), by_id(old, vote(U, 8)), END, leave=True) is None


def test_while_one_is_not_heard_nobody_leads() -> None:
    assert next_record(RECORD, S, vote(S, 99), by_id(vote(T, 1)), END, leave=False) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "leads"),
    [
        (vote(T, 9), (vote(S, 8), vote(U, 7)), True),
        (vote(T, 9), (vote(S, 12), vote(U, 7)), False),
        (vote(T, 9, last_epoch=3), (vote(S, 12), vote(U, 7)), True),  # a later term knew more
        (vote(T, 9), (vote(S, 9), vote(U, 9)), False),  # equal: the lowest replica id
        (vote(T, 9), (replace(vote(S, 12), readable=False), vote(U, 7)), True),
        (replace(vote(T, 9), readable=False), (vote(S, 8), vote(U, 7)), False),
    ],
)
def test_if_none_is_whole_the_longest_leads_alone(
    mine: Vote, theirs: tuple[Vote, ...], leads: bool
) -> None:
    step = next_record(RECORD, T, mine, by_id(*theirs), END, leave=False)
    assert (step is not None) == leads
    if step is not None:
        record = step[0]
        assert (record.primary, record.in_sync, set(record.learners)) == (T, (T,), {S, U})
        (loss,) = record.possible_loss
        assert (loss.epoch, loss.offset) == (record.epoch, 9)


SEALED = replace(
    RECORD,
    status=ShardStatus.SEALED,
    sealed_end=12,
    sealed_chain=b"s" * 16,
    successors=("orders/1",),
)


@pytest.mark.parametrize(("end", "sealed_end"), [(9, 9), (12, 12)])
def test_a_sealed_shard_ends_where_the_copy_that_leads_ends(end: int, sealed_end: int) -> None:
    """It gets no more records: nothing could bring it to the end that was lost (S5)."""
    held = Position(end, b"t" * 16 if end == 9 else b"s" * 16)
    step = next_record(SEALED, T, vote(T, end), by_id(vote(S, 8), vote(U, 7)), held, leave=False)
    assert step is not None
    record = step[0]
    assert Position(record.sealed_end or 0, record.sealed_chain or b"") == held
    assert record.sealed_end == sealed_end
    assert (record.status, record.successors) == (ShardStatus.SEALED, ("orders/1",))
    assert [loss.offset for loss in record.possible_loss] == [end]


def test_a_sealed_only_copy_that_lost_its_end_ends_there() -> None:
    alone = replace(SEALED, primary=S, in_sync=(S,), learners=(), min_in_sync=1)
    copy = machine(replace(S, incarnation=2))
    (cas,) = [e for e in copy.handle(ConfigRead(alone, 1), 0.0) if isinstance(e, Cas)]
    assert (cas.record.sealed_end, cas.record.sealed_chain) == (6, b"c" * 16)
    copy.handle(ConfigRead(cas.record, 2), 0.0)
    assert copy.high_watermark == 6


def test_losses_are_bounded() -> None:
    record = RECORD
    for offset in range(LOSSES_MAX + 5):
        record = with_loss(record, offset, "test")
    assert [x.offset for x in record.possible_loss] == list(range(5, LOSSES_MAX + 5))


def machine(me: Member, *, damaged: bool = False, tail_lost: bool = False) -> ReplicationMachine:
    return ReplicationMachine(
        me, Position(6, b"c" * 16), 4, Timing(), damaged=damaged, tail_lost=tail_lost
    )


def test_an_only_copy_after_a_power_loss_leads_and_says_so() -> None:
    alone = replace(RECORD, primary=S, in_sync=(S,), min_in_sync=1)
    for copy in (machine(replace(S, incarnation=2)), machine(S, tail_lost=True)):
        (cas,) = [e for e in copy.handle(ConfigRead(alone, 1), 0.0) if isinstance(e, Cas)]
        assert [x.offset for x in cas.record.possible_loss] == [6]
        copy.handle(ConfigRead(cas.record, 2), 0.0)
        assert copy.term_began
        assert not copy.unsure
    whole = machine(S)
    (cas,) = [e for e in whole.handle(ConfigRead(alone, 1), 0.0) if isinstance(e, Cas)]
    assert cas.record.possible_loss == ()


def test_a_damaged_primary_admits_nothing_and_leaves_by_survey() -> None:
    copy = machine(S)
    pair = replace(RECORD, in_sync=(S, T), min_in_sync=1)
    (cas,) = [e for e in copy.handle(ConfigRead(pair, 1), 0.0) if isinstance(e, Cas)]
    copy.handle(ConfigRead(cas.record, 2), 0.0)
    copy.handle(Damaged(), 0.0)
    assert copy.needs_survey()
    assert not copy.admitting
    mine = replace(vote(S, 6), epoch=copy.epoch)
    theirs = replace(vote(T, 6, vouches=True), epoch=copy.epoch)
    (cas,) = [e for e in copy.handle(Surveyed(mine, (theirs,)), 0.1) if isinstance(e, Cas)]
    assert (cas.record.primary, cas.record.in_sync) == (T, (T,))
    copy.handle(ConfigRead(cas.record, 3), 0.2)
    assert copy.role is Role.REMOVED


def test_a_damaged_follower_does_not_take_over() -> None:
    copy = machine(T, damaged=True)
    copy.handle(ConfigRead(RECORD, 1), 0.0)
    assert copy.handle(Tick(), 1_000.0) == []


def test_a_damaged_learner_goes_at_once() -> None:
    copy = machine(T)
    copy.handle(ConfigRead(replace(RECORD, in_sync=(S,), learners=(T, U)), 1), 0.0)
    (cas,) = [e for e in copy.handle(Damaged(), 0.0) if isinstance(e, Cas)]
    assert cas.record.learners == (U,)
