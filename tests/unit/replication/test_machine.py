"""The replication machine alone: order of effects, and the rules it cites."""

from dataclasses import replace

import pytest

from logstore.base.types import Position, ShardStatus
from logstore.meta.records import Member, PossibleLoss, ShardRecord
from logstore.replication.events import (
    Assigned,
    Become,
    Cas,
    ConfigRead,
    Effect,
    Event,
    HighWatermarkRose,
    PeerAcked,
    PeerDiverged,
    PeerMatched,
    PrimaryHeard,
    Push,
    Role,
    SetAppendGate,
    StopPush,
    Surveyed,
    Tick,
    Written,
)
from logstore.replication.machine import ReplicationMachine, Timing
from logstore.replication.recovery import Vote
from sharder.keys import KeyRange

S, T = Member("s", 1, 1), Member("t", 1, 2)
RECORD = ShardRecord("orders/0", "orders", KeyRange(), ShardStatus.OPEN, 1, 1, S, (S,))


def at(end: int, mark: bytes = b"c") -> Position:
    return Position(end, mark * 16) if end else Position()


TIMING = Timing(follower_timeout_s=2.0, lease_s=2.0, grace_s=2.6)
"""What the times of these tests go by."""


class Bench:
    """One machine, the store's revision, and a clock that the test moves."""

    def __init__(self, me: Member = S, end: int = 0, high_watermark: int = 0) -> None:
        self.machine = ReplicationMachine(me, at(end), high_watermark, TIMING)
        self.revision = 0
        self.now_s = 0.0

    def feed(self, event: Event) -> list[Effect]:
        return self.machine.handle(event, self.now_s)

    def config(self, record: ShardRecord) -> list[Effect]:
        self.revision += 1
        return self.feed(ConfigRead(record, self.revision))

    def win(self, effects: list[Effect]) -> list[Effect]:
        """The store accepts the compare-and-swap among `effects`."""
        (cas,) = [e for e in effects if isinstance(e, Cas)]
        assert cas.revision == self.revision
        return self.config(cas.record)


def vote(
    member: Member, end: int, *, whole: bool = True, last_epoch: int = 1, epoch: int = 3
) -> Vote:
    return Vote(member.replica_id, epoch, whole, True, last_epoch, end)


def leading(learners: tuple[Member, ...] = ()) -> Bench:
    bench = Bench()
    bench.win(bench.config(replace(RECORD, learners=learners)))
    return bench


def in_sync_pair() -> Bench:
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    effects = bench.config(replace(record, admit=(T.replica_id,)))
    assert Push(T) in effects
    effects = bench.feed(PeerMatched(T.replica_id, record.epoch, at(0)))
    bench.win(effects)
    assert bench.machine.required() == {1, 2}
    return bench


def test_restarted_primary_raises_the_epoch_before_it_admits() -> None:  # P6, effect 3
    bench = Bench(end=7, high_watermark=5)
    effects = bench.config(RECORD)
    assert [type(e) for e in effects] == [Become, Cas]
    assert not bench.machine.admitting
    effects = bench.win(effects)
    assert effects[-2:] == [HighWatermarkRose(7), SetAppendGate(True)]
    assert bench.machine.record is not None
    assert bench.machine.record.epoch == bench.machine.record.primary_since == 2


def test_nothing_above_the_end_of_a_sealed_shard_is_committed() -> None:  # S1
    bench = Bench(end=7, high_watermark=3)
    sealed = replace(
        RECORD, status=ShardStatus.SEALED, sealed_end=5, sealed_chain=at(5).chain, epoch=3
    )
    effects = bench.win(bench.config(sealed))
    assert [e for e in effects if isinstance(e, HighWatermarkRose)] == [HighWatermarkRose(5)]
    assert bench.machine.high_watermark == bench.machine.recommit_end == 5
    assert not bench.machine.admitting


@pytest.mark.parametrize("intent", [{"seal": "r1"}, {"hand_over": T.replica_id}], ids=str)
def test_an_empty_log_is_drained_only_when_each_peer_was_asked(intent: dict[str, object]) -> None:
    """A follower may hold what was never committed: the probe of this term cuts it off (P5, S1)."""
    bench = Bench()
    pair = replace(RECORD, in_sync=(S, T))
    bench.win(bench.config(pair))
    assert bench.machine.record is not None
    effects = bench.config(replace(bench.machine.record, migration="r1", **intent))  # type: ignore[arg-type]
    assert not [e for e in effects if isinstance(e, Cas)]
    effects = bench.feed(PeerMatched(T.replica_id, bench.machine.epoch, at(0)))
    assert len([e for e in effects if isinstance(e, Cas)]) == 1


def test_lost_raise_is_raised_again() -> None:
    bench = Bench()
    bench.config(RECORD)
    effects = bench.config(replace(RECORD, migration="m"))  # the coordinator wrote in between
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert cas.record.migration == "m"
    assert SetAppendGate(True) not in effects
    assert SetAppendGate(True) in bench.win(effects)


def test_own_vote_counts_only_once_written() -> None:  # P2
    bench = leading()
    assert bench.feed(Assigned(at(3))) == []
    assert bench.feed(Written(at(3))) == [HighWatermarkRose(3)]


def test_ack_waits_for_old_and_new_while_a_change_is_undecided() -> None:  # P2, P3
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,)))
    effects = bench.feed(PeerMatched(2, record.epoch, at(0)))
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert cas.record.in_sync == (S, T)
    bench.feed(Assigned(at(4)))
    assert bench.feed(Written(at(4))) == []  # T is counted from before the CAS
    assert bench.feed(PeerAcked(2, record.epoch, at(4))) == [HighWatermarkRose(4)]


def test_progress_before_the_term_is_dropped() -> None:  # P1
    bench = in_sync_pair()
    since = bench.machine.record.primary_since if bench.machine.record else 0
    bench.feed(Assigned(at(4)))
    bench.feed(Written(at(4)))
    assert bench.feed(PeerAcked(2, since - 1, at(4))) == []
    assert bench.feed(PeerAcked(2, since, at(4))) == [HighWatermarkRose(4)]


def test_learner_behind_the_high_watermark_is_not_added() -> None:  # P3
    bench = leading((T,))
    bench.feed(Assigned(at(9)))
    bench.feed(Written(at(9)))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,)))
    assert bench.feed(PeerMatched(2, record.epoch, at(5))) == []
    effects = bench.feed(PeerAcked(2, record.epoch, at(9)))
    assert [e.record.in_sync for e in effects if isinstance(e, Cas)] == [(S, T)]


def test_hand_over_stops_drains_and_then_swaps() -> None:  # H1, H2
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    record = bench.machine.record
    assert record is not None
    effects = bench.config(replace(record, hand_over=2))
    assert effects == [SetAppendGate(False)]
    assert bench.feed(Written(at(4))) == []
    effects = bench.feed(PeerAcked(2, record.epoch, at(4)))
    assert [type(e) for e in effects] == [HighWatermarkRose, Cas]
    cas = effects[1]
    assert isinstance(cas, Cas)
    assert (cas.record.primary, cas.record.epoch) == (T, record.epoch + 1)
    assert cas.record.hand_over is None
    effects = bench.config(cas.record)
    assert effects[0] == Become(Role.FOLLOWER, T)
    assert StopPush(2) in effects


def test_hand_over_needs_equal_chains() -> None:  # H1
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    bench.feed(Written(at(4)))
    record = bench.machine.record
    assert record is not None
    bench.feed(PeerAcked(2, record.epoch, at(4, b"x")))
    effects = bench.config(replace(record, hand_over=2))
    assert [type(e) for e in effects] == [SetAppendGate]


def test_hand_over_that_does_not_drain_is_given_up_by_cas() -> None:
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, hand_over=2))
    bench.now_s = 5.5
    effects = bench.feed(PeerAcked(2, record.epoch, at(0)))  # alive, but behind
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert (cas.record.primary, cas.record.hand_over) == (S, None)
    assert bench.config(cas.record) == [SetAppendGate(True)]


def test_silent_peer_becomes_a_learner_and_counts_until_that_is_read() -> None:
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    bench.feed(Written(at(4)))
    bench.now_s = 2.5
    effects = bench.feed(Tick())
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert (cas.record.in_sync, cas.record.learners) == ((S,), (T,))
    assert bench.machine.high_watermark == 0
    assert HighWatermarkRose(4) in bench.config(cas.record)


@pytest.mark.parametrize("losses", [(), (PossibleLoss(1, 0, "power"),)], ids=["no", "loss"])
def test_a_diverged_learner_is_set_aside(losses: tuple[PossibleLoss, ...]) -> None:
    """It can never match, so it is not asked again: repair builds another one (P5)."""
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,), possible_loss=losses))
    effects = bench.feed(PeerDiverged(2))
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert (cas.record.admit, cas.record.in_sync) == ((), (S,))
    assert cas.record.learners == ()
    assert cas.record.epoch == record.epoch
    assert cas.record.possible_loss == losses
    assert StopPush(2) in bench.win(effects)
    assert not [e for e in bench.feed(Tick()) if isinstance(e, Cas)]


def test_new_primary_recommits_its_whole_log_before_it_admits() -> None:  # P4
    bench = Bench(me=T, end=6, high_watermark=4)
    bench.config(replace(RECORD, epoch=3, in_sync=(S, T)))
    assert bench.machine.role is Role.FOLLOWER
    effects = bench.config(replace(RECORD, epoch=4, primary_since=4, primary=T, in_sync=(S, T)))
    assert effects == [Become(Role.PRIMARY, T), Push(S)]
    assert bench.feed(PeerMatched(1, 4, at(4))) == []
    assert bench.feed(PeerAcked(1, 4, at(6))) == [HighWatermarkRose(6), SetAppendGate(True)]


def test_failed_write_with_peers_begins_a_new_epoch() -> None:
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    epoch = bench.machine.epoch
    effects = bench.machine.write_failed(at(0), bench.now_s)
    assert SetAppendGate(False) in effects
    assert StopPush(2) in effects
    effects = bench.win(effects)
    assert bench.machine.epoch == epoch + 1
    assert effects == [Push(T)]  # T may know of more: it is heard first
    effects = bench.feed(PeerMatched(2, bench.machine.epoch, at(0)))
    assert effects == [SetAppendGate(True)]  # nothing is left to commit again
    bench.feed(Assigned(at(2)))
    bench.feed(Written(at(2)))
    assert bench.feed(PeerAcked(2, epoch, at(4))) == []  # of before the new term
    assert bench.feed(PeerAcked(2, epoch + 1, at(2))) == [HighWatermarkRose(2)]


def test_writes_that_go_on_failing_leave_time_for_a_take_over() -> None:  # P4
    bench = in_sync_pair()
    first = bench.machine.write_failed(at(0), bench.now_s)
    bench.win(first)
    assert bench.machine.term_began
    again = bench.machine.write_failed(at(0), bench.now_s)
    assert not [e for e in again if isinstance(e, Cas)]
    assert StopPush(2) in again
    bench.now_s += bench.machine.timing.grace_s + bench.machine.timing.stagger_s
    assert bench.feed(Tick()) == []
    bench.now_s += bench.machine.timing.grace_s
    (cas,) = bench.feed(Tick())
    assert isinstance(cas, Cas)


def test_older_revision_is_ignored() -> None:  # G1
    bench = leading()
    assert bench.feed(ConfigRead(replace(RECORD, primary=T), 1)) == []
    assert bench.machine.role is Role.PRIMARY


@pytest.mark.parametrize("intent", ["hand_over", "remove"])
def test_intent_about_a_stranger_is_cleared(intent: str) -> None:
    bench = leading()
    record = bench.machine.record
    assert record is not None
    fields = {"hand_over": 99} if intent == "hand_over" else {"remove": (99,)}
    effects = bench.config(replace(record, **fields))
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert (cas.record.hand_over, cas.record.remove) == (None, ())
    assert cas.record.in_sync == (S,)


def following(rank_of: Member = T, peers: tuple[Member, ...] = (S, T)) -> Bench:
    bench = Bench(me=rank_of, end=6, high_watermark=4)
    bench.config(replace(RECORD, epoch=3, primary_since=2, in_sync=peers))
    return bench


def test_follower_takes_over_only_after_the_grace() -> None:  # P4, P7
    bench = following()
    bench.now_s = 2.0
    bench.feed(PrimaryHeard())
    bench.now_s = 4.5
    assert bench.feed(Tick()) == []
    bench.now_s = 4.7
    (cas,) = bench.feed(Tick())
    assert isinstance(cas, Cas)
    assert (cas.record.primary, cas.record.in_sync, cas.record.learners) == (T, (T,), (S,))
    assert cas.record.epoch == cas.record.primary_since == 4
    assert bench.config(cas.record) == [
        Become(Role.PRIMARY, T),
        HighWatermarkRose(6),
        SetAppendGate(True),
    ]


def test_a_follower_grants_no_lease_while_its_take_over_is_undecided() -> None:  # P7
    bench = following()
    assert bench.machine.grants_lease()
    bench.now_s = 2.7
    (cas,) = bench.feed(Tick())
    assert isinstance(cas, Cas)
    bench.now_s = 2.8
    bench.feed(PrimaryHeard())
    assert not bench.machine.grants_lease()  # the store may still carry it out
    bench.config(replace(RECORD, epoch=4, primary_since=2, in_sync=(S, T)))
    assert bench.machine.grants_lease()


def test_second_follower_waits_longer() -> None:
    third = Member("u", 1, 3)
    bench = following(third, (S, T, third))
    bench.now_s = 2.7
    assert bench.feed(Tick()) == []
    bench.now_s = 3.0
    assert [type(e) for e in bench.feed(Tick())] == [Cas]


def test_lease_counts_from_sending() -> None:  # P7
    bench = in_sync_pair()
    epoch = bench.machine.epoch
    bench.now_s = 10.0
    bench.feed(PeerAcked(2, epoch, at(0), sent_s=8.5))
    assert bench.machine.lease_valid(10.4)
    assert not bench.machine.lease_valid(10.5)


def test_lease_is_not_needed_alone() -> None:
    assert leading().machine.lease_valid(1e9)


def test_lease_needs_who_may_have_been_admitted() -> None:  # P7
    """The store may have carried the admission out, and its answer be lost: then the new member
    takes over once it hears nothing."""
    bench = leading()
    record = replace(bench.machine._record(), learners=(T,), admit=(2,))
    bench.config(record)
    bench.now_s = 10.0
    bench.feed(PeerMatched(2, bench.machine.epoch, at(4), sent_s=9.9, incarnation=T.incarnation))
    assert bench.machine.pending is not None
    assert T.replica_id in {m.replica_id for m in bench.machine.pending.record.in_sync}
    assert bench.machine.lease_valid(11.8)
    assert not bench.machine.lease_valid(12.0)


def test_copy_of_another_incarnation_leaves_and_is_learned_again() -> None:  # P6
    bench = Bench(me=replace(T, incarnation=2), end=6, high_watermark=4)
    effects = bench.config(replace(RECORD, epoch=3, primary_since=2, in_sync=(S, T)))
    assert bench.machine.suspect
    assert not any(isinstance(e, Cas) for e in effects)  # no copy vouched for the log yet
    effects = bench.feed(Surveyed(vote(T, 6, whole=False), (vote(S, 6),)))
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert (cas.record.in_sync, cas.record.learners) == ((S,), (replace(T, incarnation=2),))
    bench.config(cas.record)
    assert not bench.machine.suspect


def test_primary_of_another_incarnation_does_not_lead() -> None:  # P6
    bench = Bench(me=replace(S, incarnation=2), end=6, high_watermark=4)
    effects = bench.config(replace(RECORD, epoch=3, primary_since=2, in_sync=(S, T)))
    assert [type(e) for e in effects] == [Become]
    assert not bench.machine.admitting
    bench.now_s = 100.0
    assert bench.feed(Tick()) == []


def test_in_sync_peer_of_another_incarnation_does_not_count() -> None:  # P6
    bench = in_sync_pair()
    bench.feed(Assigned(at(4)))
    bench.feed(Written(at(4)))
    assert bench.feed(PeerMatched(2, bench.machine.epoch, at(4), 0.0, incarnation=9)) == []


def test_with_fsync_a_peer_counts_after_a_reboot() -> None:
    """It lost nothing; and with two members and `min_in_sync` 2 it could not even be removed."""
    bench = in_sync_pair()
    bench.machine.loses_on_power = False
    bench.feed(Assigned(at(4)))
    bench.feed(Written(at(4)))
    epoch = bench.machine.epoch
    assert HighWatermarkRose(4) in bench.feed(PeerMatched(2, epoch, at(4), 0.0, incarnation=9))


def test_learner_is_admitted_under_its_present_incarnation() -> None:
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,)))
    effects = bench.feed(PeerMatched(2, record.epoch, at(0), 0.0, incarnation=9))
    (cas,) = [e for e in effects if isinstance(e, Cas)]
    assert cas.record.in_sync == (S, replace(T, incarnation=9))


def test_grace_must_outlast_the_lease() -> None:
    with pytest.raises(ValueError, match=r"grace_s is 2.0 s, the least is 1.1 x lease_s"):
        Timing(lease_s=2.0, grace_s=2.0)


def test_a_learner_that_keeps_up_is_admitted_under_load() -> None:  # P3
    """It is always one batch behind the high watermark: then that waits for it, once, briefly."""
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,)))
    epoch = record.epoch
    bench.feed(Written(at(1)))
    bench.feed(PeerMatched(2, epoch, at(0)))
    admitted: list[Effect] = []
    for end in range(2, 12):
        bench.now_s += 0.1
        bench.feed(Written(at(end)))
        admitted += bench.feed(PeerAcked(2, epoch, at(end - 1)))
    (cas,) = [e for e in admitted if isinstance(e, Cas)]
    assert [m.replica_id for m in cas.record.in_sync] == [1, 2]
    held = bench.machine.high_watermark
    bench.feed(Written(at(20)))
    assert bench.machine.high_watermark == held  # old and new must hold it while undecided


def test_a_learner_that_stops_keeping_up_is_waited_for_no_longer() -> None:
    bench = leading((T,))
    record = bench.machine.record
    assert record is not None
    bench.config(replace(record, admit=(2,)))
    bench.feed(Written(at(9)))
    bench.feed(PeerMatched(2, record.epoch, at(1)))
    bench.feed(PeerAcked(2, record.epoch, at(8)))
    bench.feed(Written(at(10)))
    bench.feed(Written(at(11)))
    bench.feed(PeerAcked(2, record.epoch, at(10)))
    assert bench.machine.required() == {1, 2}
    bench.feed(Written(at(30)))
    assert bench.machine.high_watermark < 30
    bench.now_s += TIMING.follower_timeout_s + 0.1
    bench.feed(Tick())
    bench.feed(Tick())
    assert bench.machine.required() == {1}
    assert bench.machine.high_watermark == 30
