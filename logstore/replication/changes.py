"""The changes of a shard's configuration that replicas make, each as the record to write."""

from collections.abc import Iterable
from dataclasses import replace

from logstore.base.types import Position, ShardStatus
from logstore.meta.records import Member, ShardRecord


def raised(record: ShardRecord, me: Member) -> ShardRecord:
    """P6: a (re)started primary takes a new epoch, under its present incarnation."""
    epoch = record.epoch + 1
    return replace(
        record,
        epoch=epoch,
        primary_since=epoch,
        primary=me,
        in_sync=tuple(me if m.replica_id == me.replica_id else m for m in record.in_sync),
        hand_over=None,
    )


def without(record: ShardRecord, ids: Iterable[int], learners: tuple[Member, ...]) -> ShardRecord:
    """The next epoch, with `ids` out of the in-sync set and of every intent."""
    gone = set(ids)
    instances = {m.instance for m in record.in_sync if m.replica_id in gone}
    return replace(
        record,
        epoch=record.epoch + 1,
        in_sync=tuple(m for m in record.in_sync if m.replica_id not in gone),
        learners=learners,
        admit=tuple(r for r in record.admit if r not in gone),
        remove=tuple(r for r in record.remove if r not in gone),
        hand_over=None if record.hand_over in gone else record.hand_over,
        route={i: p for i, p in record.route.items() if i not in instances},
    )


def demoted(record: ShardRecord, member: Member) -> ShardRecord:
    """An in-sync member that failed becomes a learner: it keeps its copy and may come back."""
    return without(record, [member.replica_id], (*record.learners, member))


def removed(record: ShardRecord, ids: Iterable[int]) -> ShardRecord:
    """Members that leave the record."""
    gone = set(ids)
    learners = tuple(m for m in record.learners if m.replica_id not in gone)
    return replace(without(record, gone, learners), remove=())


def admitted(record: ShardRecord, learner: Member, incarnation: int | None) -> ShardRecord:
    """P3: a learner that caught up joins the in-sync set, under its present incarnation."""
    now = replace(learner, incarnation=incarnation or learner.incarnation)
    return replace(
        record,
        epoch=record.epoch + 1,
        in_sync=(*record.in_sync, now),
        learners=tuple(m for m in record.learners if m != learner),
        admit=tuple(r for r in record.admit if r != learner.replica_id),
    )


def set_aside(record: ShardRecord, ids: Iterable[int]) -> ShardRecord:
    """Members whose committed part differs leave the record: they can never match, and repair draws
    other copies under new ids.

    Learners do not count, so without an in-sync member among them the epoch stays.
    """
    bad = set(ids)
    learners = tuple(m for m in record.learners if m.replica_id not in bad)
    if any(m.replica_id in bad for m in record.in_sync):
        return without(record, bad, learners)
    admit = tuple(r for r in record.admit if r not in bad)
    return replace(record, learners=learners, admit=admit)


def handed_over(record: ShardRecord, target: Member) -> ShardRecord:
    """H2: another in-sync member leads from the next epoch on."""
    epoch = record.epoch + 1
    return replace(record, epoch=epoch, primary_since=epoch, primary=target, hand_over=None)


def taken_over(record: ShardRecord, me: Member) -> ShardRecord:
    """P4: a follower leads, under its present incarnation; the silent primary becomes a learner."""
    without_old = demoted(record, record.primary)
    in_sync = tuple(me if m.replica_id == me.replica_id else m for m in without_old.in_sync)
    return replace(without_old, primary=me, primary_since=without_old.epoch, in_sync=in_sync)


def sealing(record: ShardRecord, end: Position) -> ShardRecord:
    """S1: the drained primary writes where the shard ends; no append is acked above it."""
    return replace(record, status=ShardStatus.SEALING, sealed_end=end.end, sealed_chain=end.chain)


def reopened(record: ShardRecord) -> ShardRecord:
    """S1: giving up a seal without successors is a compare-and-swap as well."""
    return replace(record, status=ShardStatus.OPEN, seal=None, sealed_end=None, sealed_chain=None)
