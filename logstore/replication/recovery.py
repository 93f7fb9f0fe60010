"""What a copy does that may not be whole: damaged on its disk, or another incarnation (P6). Pure.

It acks, serves and leads nothing, and asks the other in-sync members (a survey):
 1. Another one vouches for its log (alive, in this epoch, whole): this copy leaves the set.
    A primary makes the voucher with the longest log primary in the same compare-and-swap (P4, H2).
 2. All were heard and none vouches (each machine lost power, or its disk rotted): the one with the
    longest log leads alone, and the record says from which offset on records may be missing.
    A log's length is (epoch of its last batch, end): the later term knew what was committed.
 3. A member is not heard: wait. It may have what this copy has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from logstore.base.types import Position
from logstore.meta.records import Member, PossibleLoss, ShardRecord
from logstore.replication.changes import without

LOSSES_MAX = 16
"""Possible losses that a record remembers."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A member's report on its own copy, in the epoch `epoch`. `vouches`: it is whole.

    `readable`: no hole, though its end may be missing: it may lead after a possible loss.
    """

    replica_id: int
    epoch: int
    vouches: bool
    readable: bool
    last_epoch: int
    end: int

    def length(self) -> tuple[int, int, int]:
        return self.last_epoch, self.end, -self.replica_id


def next_record(
    record: ShardRecord,
    me: Member,
    mine: Vote,
    votes: Mapping[int, Vote],
    end: Position,
    *,
    leave: bool,
) -> tuple[ShardRecord, str] | None:
    """What this copy writes after a survey, and why; None: nothing yet.

    `end`: of this copy, as in `mine`. `leave`: it leaves the record, to be built under another id
    (a damaged copy); else it stays as a learner (its bytes are whole, only its end may be missing).
    """
    others = [m for m in record.in_sync if m.replica_id != me.replica_id]
    heard = [
        votes[m.replica_id]
        for m in others
        if m.replica_id in votes and votes[m.replica_id].epoch == record.epoch
    ]
    vouching = [vote for vote in heard if vote.vouches]
    if vouching:
        voucher = max(vouching, key=Vote.length).replica_id
        return _left(record, me, voucher, leave=leave), "this copy may have lost records"
    if len(heard) < len(others) or not mine.readable:
        return None
    longest = max((v for v in (*heard, mine) if v.readable), key=Vote.length)
    if longest.replica_id != me.replica_id:
        return None
    return recovered(record, me, end), "no member is whole: the longest log leads"


def _left(record: ShardRecord, me: Member, voucher: int, *, leave: bool) -> ShardRecord:
    gone = {me.replica_id}
    learners = tuple(m for m in record.learners if m.replica_id not in gone)
    kept = () if leave else (me,)
    left = without(record, gone, (*learners, *kept))
    if record.primary.replica_id != me.replica_id:
        return left
    successor = next(m for m in record.in_sync if m.replica_id == voucher)
    return replace(left, primary=successor, primary_since=left.epoch, hand_over=None)


def recovered(record: ShardRecord, me: Member, end: Position) -> ShardRecord:
    """P6: this copy leads alone with what it has; the others become learners of it."""
    epoch = record.epoch + 1
    others = tuple(m for m in record.in_sync if m.replica_id != me.replica_id)
    return ending_at(
        replace(
            record,
            epoch=epoch,
            primary=me,
            primary_since=epoch,
            in_sync=(me,),
            learners=(*record.learners, *others),
            admit=(),
            hand_over=None,
            route={},
        ),
        end,
        "no in-sync copy was whole after all of them restarted",
    )


def led_by_learner(
    record: ShardRecord, mine: Vote, votes: Mapping[int, Vote]
) -> ShardRecord | None:
    """Which copy leads in place of the only in-sync one, which may lack what it acked: the learner
    with the longest log, if it is longer. It left the set some time ago, perhaps as its process
    stopped, so later records may be missing: a possible loss from its end on. None: no learner has
    more.
    """
    found = [
        vote
        for m in record.learners
        if (vote := votes.get(m.replica_id)) is not None
        and vote.epoch == record.epoch
        and vote.readable
    ]
    longest = max(found, key=Vote.length, default=None)
    if longest is None or (longest.last_epoch, longest.end) <= (mine.last_epoch, mine.end):
        return None
    heir = next(m for m in record.learners if m.replica_id == longest.replica_id)
    epoch = record.epoch + 1
    learners = (*(m for m in record.learners if m != heir), *record.in_sync)
    led = replace(
        record,
        epoch=epoch,
        primary=heir,
        primary_since=epoch,
        in_sync=(heir,),
        learners=learners,
        admit=(),
        hand_over=None,
        route={},
    )
    cause = f"the only in-sync copy ends at {mine.end}, a learner that ends at {longest.end} leads"
    return with_loss(led, longest.end, cause)


def left_learners(record: ShardRecord, me: Member) -> ShardRecord:
    """A learner whose copy is damaged leaves; repair draws another.

    The epoch and the set stay as they are: a copy that does not count may not change them (P3).
    """
    return replace(
        record,
        learners=tuple(m for m in record.learners if m.replica_id != me.replica_id),
        admit=tuple(r for r in record.admit if r != me.replica_id),
    )


def ending_at(record: ShardRecord, end: Position, cause: str) -> ShardRecord:
    """Record that acked records from `end` on may be missing, in the copy that leads from now on. A
    sealed shard gets no more records, so it ends there from now on (S5)."""
    lost = with_loss(record, end.end, cause)
    if record.sealed_end is None or end.end >= record.sealed_end:
        return lost
    return replace(lost, sealed_end=end.end, sealed_chain=end.chain)


def with_loss(record: ShardRecord, offset: int, cause: str) -> ShardRecord:
    """Record that acked records from `offset` on may be missing, and that it is assigned again."""
    loss = PossibleLoss(epoch=record.epoch, offset=offset, cause=cause)
    return replace(record, possible_loss=(*record.possible_loss, loss)[-LOSSES_MAX:])
