"""Copy-on-write (pure): the source seals, a successor opens at the target at once, then the sealed
history is copied and verified (I8). Rules S1-S5, note 0005.

The way back seals the successor and opens another one at the source, so records written at
the target are kept; the target then holds a sealed shard like any other.
"""

from dataclasses import replace

from coordinator.migration.common import (
    IDLE_POLL_S,
    POLL_S,
    counted,
    holds,
    leads,
    noted_once,
    released,
    roll_back,
    target_of,
    with_after,
    with_blackout,
    with_during,
    without_learner,
)
from coordinator.migration.facts import Effect, Facts, RecordWrite, Wait
from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.reshape import sealed, successor
from coordinator.migration.table import advance, noted
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord

SEAL_POLL_S = POLL_S / 10


def preparing(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """Ask the source to seal (S1), once the target can take over."""
    if not facts.target_heard or record.target_instance not in facts.incarnations:
        return Wait(POLL_S, f"{record.target_instance} is silent")
    after = advance(record, State.CUTOVER, facts.now_us)
    return RecordWrite(after, replace(shard, seal=record.id), "the source must seal")


def cutover(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """Sealing: one transaction seals the source and opens the successor at the target."""
    if shard.seal != record.id:
        if record.setbacks >= record.options.setbacks_max:
            return roll_back(record, facts, shard, f"{record.setbacks} setbacks")
        again = counted(noted(record, "the source gave its seal up"))
        return RecordWrite(advance(again, State.PREPARING, facts.now_us), None, "once more")
    if shard.status is not ShardStatus.SEALING:
        return Wait(SEAL_POLL_S, "the source drains and seals")
    incarnation = facts.incarnations.get(record.target_instance)
    if facts.log is None or incarnation is None:
        return Wait(POLL_S, "the log or the target is not known")
    home = Member(record.target_instance, incarnation, facts.next_replica_id)
    name = f"{shard.log}/{facts.log.next_shard}"
    created = replace(
        successor(name, shard.range, [shard], (home,), home.instance, facts.next_replica_id),
        migration=record.id,
    )
    learner = replace(home, replica_id=facts.next_replica_id + 1)
    after = advance(record, State.SNAPSHOT, facts.now_us)
    after = replace(after, target=learner, successor=name, source=shard.primary)
    closed = replace(
        sealed(shard, (name,)),
        migration=record.id,
        learners=(*shard.learners, learner),
        copy_bytes_per_s=record.options.throttle_bytes_per_s,
    )
    return RecordWrite(
        after,
        closed,
        "the successor is open at the target",
        draws=learner.replica_id,
        created=created,
        log=replace(facts.log, next_shard=facts.log.next_shard + 1),
    )


def verified(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """The chains are equal: the copy may join, and the source's history soaks (I8)."""
    after = advance(with_blackout(with_during(record, facts), facts), State.SOAKING, facts.now_us)
    admit = (target_of(record).replica_id,)
    return RecordWrite(
        replace(after, soaked_s=0.0), replace(shard, admit=admit), "chains are equal"
    )


def soaking(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """Both hold the sealed history; then the target leads it and the source's copy is removed."""
    target, source = target_of(record), record.source
    if not holds(shard.in_sync, target):
        if holds(shard.learners, target) and target.replica_id not in shard.admit:
            return RecordWrite(
                record, replace(shard, admit=(target.replica_id,)), "it may join again"
            )
        return Wait(POLL_S, "the copy has yet to join")
    soaked_s = (facts.now_us - record.since_us) / 1e6
    done = record.request == "complete" or soaked_s >= record.options.soak_s or record.removing
    if not done:
        return Wait(min(IDLE_POLL_S, record.options.soak_s - soaked_s), "soaking")
    if not leads(shard, target):
        if shard.hand_over == target.replica_id:
            return Wait(POLL_S, "the source hands its history over")
        return RecordWrite(record, replace(shard, hand_over=target.replica_id), "hand over (H1)")
    member = shard.member_on(source.instance)
    if not record.removing:
        removing = with_after(replace(record, removing=True, soaked_s=soaked_s), facts)
        remove = () if member is None else (member.replica_id,)
        return RecordWrite(removing, replace(shard, remove=remove), "the source's copy may go")
    if member is not None and holds(shard.in_sync, member):
        if member.replica_id in shard.remove:
            return Wait(POLL_S, "the target removes the source")
        return RecordWrite(record, replace(shard, remove=(member.replica_id,)), "remove the source")
    if member is not None:
        return RecordWrite(
            record, without_learner(shard, member), "the source's copy is no learner"
        )
    after = advance(record, State.COMPLETED, facts.now_us)
    return RecordWrite(
        after, released(shard), "the history is moved", successor=_free(record, facts)
    )


def seal_back(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect | None:
    """The way back of an open successor: seal it, open another at the source. None: it is done."""
    open_ = facts.successor
    if open_ is None or open_.status is ShardStatus.SEALED:
        return None
    if open_.status is ShardStatus.OPEN and open_.seal != record.id:
        asked = replace(open_, seal=record.id, migration=record.id)
        return RecordWrite(record, None, "the successor must seal", successor=asked)
    if open_.status is not ShardStatus.SEALING:
        return Wait(SEAL_POLL_S, "the successor drains and seals")
    incarnation = facts.incarnations.get(record.source.instance)
    if facts.log is None or incarnation is None:
        return Wait(POLL_S, "the log or the source is not known")
    home = Member(record.source.instance, incarnation, facts.next_replica_id)
    name = f"{shard.log}/{facts.log.next_shard}"
    created = successor(name, open_.range, [open_], (home,), home.instance, home.replica_id)
    return RecordWrite(
        noted_once(record, f"{open_.shard} stays sealed on {open_.primary.instance}"),
        None,
        "another successor is open at the source",
        draws=home.replica_id,
        created=created,
        log=replace(facts.log, next_shard=facts.log.next_shard + 1),
        successor=sealed(open_, (name,)),
    )


def _free(record: MigrationRecord, facts: Facts) -> ShardRecord | None:
    found = facts.successor
    if found is None or found.migration != record.id:
        return None
    return replace(found, migration=None)
