"""The migration machine (pure): `decide(record, facts)` -> the one next effect.

Its only state is the ramp's share: its decisions follow from the migration
record, the shard record and the instances' answers, so any leader goes on where another one died
(I7). It writes intents only (`learners`, `admit`, `route`, `hand_over`, `remove`); the primary acts
on them (P3, H2). `table.py` holds the legal transitions.
"""

from collections.abc import Callable
from dataclasses import replace

from coordinator.migration import copy_on_write, cutover, ramp
from coordinator.migration.common import (
    IDLE_POLL_S,
    POLL_S,
    counted,
    differs,
    failed,
    feed_given_up,
    feed_topic,
    hash_result,
    holds,
    leads,
    past_snapshot,
    roll_back,
    set_back,
    soak,
    switches,
    target_of,
    with_copied,
    with_copy_figures,
    with_during,
    with_equal_ends,
)
from coordinator.migration.facts import (
    Effect,
    Facts,
    Finished,
    RecordWrite,
    Verify,
    Wait,
)
from coordinator.migration.records import (
    END_STATES,
    MigrationRecord,
    MoveOptions,
    State,
    decode_migration,
    encode_migration,
)
from coordinator.migration.table import COPY_ON_WRITE, TABLE, advance, noted
from coordinator.migration.windows import with_window
from logstore.meta.records import Member, ShardRecord

__all__ = [
    "END_STATES",
    "MigrationRecord",
    "MoveOptions",
    "State",
    "decide",
    "decode_migration",
    "encode_migration",
]


SNAPSHOT_WRITES = 10
"""What a snapshot has copied is written about this often, for those who watch it."""


def decide(record: MigrationRecord, facts: Facts) -> Effect:
    """The next effect. Raises `IllegalTransitionError` if a rule asked for a step off the table."""
    if record.state in END_STATES:
        return Finished()
    if facts.shard is None:
        return _shard_gone(record, facts)
    if record.state is State.PLANNED:
        return _planned(record, facts, facts.shard)
    if facts.shard.migration != record.id and record.state is not State.ROLLING_BACK:
        owner = f"the shard's migration is {facts.shard.migration}"
        return roll_back(record, facts, facts.shard, owner)
    if record.request == "rollback" and record.state is not State.ROLLING_BACK:
        if not record.removing:
            return roll_back(record, facts, facts.shard, record.cause or "asked for")
    elif record.paused:
        return Wait(IDLE_POLL_S, "paused")
    late = _late(record, facts) or _deserted(record, facts)
    if late is not None and not _went_through(record, facts.shard):
        return roll_back(record, facts, facts.shard, late)
    return _HANDLERS[record.state](record, facts, facts.shard)


# ---- from planned to ramping ---------------------------------------------------------------------


def _planned(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    why = None
    if record.request == "rollback":
        why = record.cause or "abort asked for"
    elif shard.migration not in (None, record.id):
        why = f"shard {shard.shard} is in migration {shard.migration}"
    elif (member := shard.member_on(record.target_instance)) is not None and not switches(record):
        why = f"shard {shard.shard} already has a copy on {record.target_instance}"
    elif switches(record) and (member is None or not holds(shard.in_sync, member)):
        why = f"shard {shard.shard} has no copy in sync on {record.target_instance}"
    elif member is not None and leads(shard, member):
        why = f"shard {shard.shard} is on {record.target_instance} already"
    elif shard.seal is not None:
        why = f"shard {shard.shard} is being sealed"
    elif record.target_instance not in facts.incarnations:
        why = f"instance {record.target_instance} is not registered"
    if why is not None:
        after = replace(advance(record, State.ABORTED, facts.now_us), cause=why)
        return RecordWrite(after, None, why)
    if record.paused:
        return Wait(IDLE_POLL_S, "paused")
    after = replace(advance(record, State.PREPARING, facts.now_us), source=shard.primary)
    if facts.source is not None:
        after = replace(after, bytes=facts.source.bytes_stored)
    after = with_window(after, "before", facts.figures.source)
    return RecordWrite(after, replace(shard, migration=record.id), "the shard is ours")


def _preparing(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    if switches(record):
        return _hand_over_at_once(record, facts, shard)
    if record.strategy == COPY_ON_WRITE:
        return copy_on_write.preparing(record, facts, shard)
    return _add_target(record, facts, shard)


def _hand_over_at_once(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """`switch`: the target is in sync, so its chain was compared with each batch (P5)."""
    target = shard.member_on(record.target_instance)
    if target is None or not holds(shard.in_sync, target):
        why = f"{record.target_instance} is not in sync any more"
        return roll_back(record, facts, shard, why)
    if not facts.target_heard:
        return Wait(POLL_S, f"{target.instance} is silent")
    after = replace(advance(record, State.CUTOVER, facts.now_us), target=target)
    after = with_equal_ends(after, facts)
    return RecordWrite(after, replace(shard, hand_over=target.replica_id), "hand over (H1)")


def _add_target(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """A fresh replica id, so that a late deletion cannot hit this copy (P9)."""
    incarnation = facts.incarnations.get(record.target_instance)
    if incarnation is None:
        return Wait(IDLE_POLL_S, f"{record.target_instance} is not registered")
    member = Member(record.target_instance, incarnation, facts.next_replica_id)
    after = replace(advance(record, State.SNAPSHOT, facts.now_us), target=member)
    changed = replace(
        shard,
        learners=(*shard.learners, member),
        copy_bytes_per_s=record.options.throttle_bytes_per_s,
        feed_topic=feed_topic(record, facts, member.replica_id),
    )
    return RecordWrite(after, changed, "the target learns", draws=member.replica_id)


def _snapshot(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    target = target_of(record)
    if not holds(shard.learners, target):
        return roll_back(record, facts, shard, f"{target.instance} is no learner any more")
    copy = facts.target
    if copy is None:
        return Wait(POLL_S, f"{target.instance} has not opened its copy")
    if failed(copy):
        return roll_back(record, facts, shard, f"the copy failed: {failed(copy)}")
    given_up = feed_given_up(record, facts, shard)
    if given_up is not None:
        return given_up
    if not past_snapshot(copy):
        if copy.bytes_copied - record.bytes_copied >= max(1, record.bytes // SNAPSHOT_WRITES):
            return RecordWrite(with_copied(record, copy), None, "a part is copied")
        return Wait(POLL_S, "the snapshot is being copied")
    after = with_copy_figures(advance(record, State.CATCHING_UP, facts.now_us), copy)
    return RecordWrite(after, None, "past the snapshot")


def _catching_up(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    target = target_of(record)
    if holds(shard.in_sync, target):  # it came back before our write that took it for lost
        return set_back(record, facts, shard, "the target is in sync without leave")
    if not holds(shard.learners, target):
        noticed = noted(record, f"{target.instance}'s copy was dropped, a new one is made")
        return _add_target(counted(noticed), facts, shard)
    copy = facts.target
    if copy is None or facts.source is None:
        return Wait(POLL_S, "a side is silent")
    if failed(copy):
        return roll_back(record, facts, shard, f"the copy failed: {failed(copy)}")
    if copy.learner_phase == "snapshot":
        return RecordWrite(advance(record, State.SNAPSHOT, facts.now_us), None, "a new snapshot")
    given_up = feed_given_up(record, facts, shard)
    if given_up is not None:
        return given_up
    lag = facts.source.high_watermark - copy.end
    if lag > record.options.lag_records_max:
        return Wait(POLL_S, f"{lag} records behind")
    record = with_copy_figures(record, copy)
    return RecordWrite(advance(record, State.VERIFYING, facts.now_us), None, "caught up")


def _verifying(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    target = target_of(record)
    if not holds(shard.learners, target):
        return RecordWrite(
            advance(counted(record), State.CATCHING_UP, facts.now_us), None, "no learner any more"
        )
    if facts.target is not None and facts.target.learner_phase == "snapshot":
        return RecordWrite(
            advance(counted(record), State.CATCHING_UP, facts.now_us), None, "a new snapshot"
        )
    found = facts.verified
    if found is None or found.replica_id != target.replica_id:
        if facts.target is None or facts.source is None:
            return Wait(POLL_S, "a side is silent")
        # Above the high watermark the copy may hold records that were never committed.
        end = min(facts.target.end, facts.source.high_watermark)
        return Verify(target, shard.primary, end)
    record = replace(record, hash=hash_result(found, facts.now_us))
    if found.error is not None or found.chain != found.expected:
        return roll_back(record, facts, shard, differs(found))
    if record.strategy == COPY_ON_WRITE:
        return copy_on_write.verified(record, facts, shard)
    after = advance(record, State.SHADOWING, facts.now_us)
    # From here on the source sends: the topic is not needed any more, and is swept.
    changed = replace(shard, admit=(target.replica_id,), feed_topic="")
    return RecordWrite(after, changed, "chains are equal (I8)")


def _shadowing(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    target = target_of(record)
    if leads(shard, target):
        return soak(record, facts, shard)
    if holds(shard.in_sync, target):
        if facts.now_us - record.since_us < record.options.shadow_s * 1e6:
            return Wait(POLL_S, "in sync; shadowing")
        if record.strategy == "log-shipping":
            after = advance(with_during(record, facts), State.CUTOVER, facts.now_us)
            return RecordWrite(after, replace(shard, hand_over=target.replica_id), "hand over (H1)")
        after = advance(record, State.RAMPING, facts.now_us)
        return RecordWrite(after, None, "reads may go to the target", ramp=ramp.RampState())
    if holds(shard.learners, target) and target.replica_id in shard.admit:
        return Wait(POLL_S, "the primary has yet to add the target")
    return set_back(record, facts, shard, f"{target.instance} was not added, or fell out")


def _ramping(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    target = target_of(record)
    if leads(shard, target):
        return soak(record, facts, shard)
    if not holds(shard.in_sync, target):
        return set_back(record, facts, shard, f"{target.instance} fell out of sync")
    if not facts.target_heard:
        if shard.route:
            why = f"{target.instance} is silent, reads go to the source"
            return RecordWrite(record, replace(shard, route={}), why, ramp=ramp.RampState())
        return Wait(POLL_S, f"{target.instance} is silent")
    before = record.windows.get("before")
    step = ramp.step(facts.ramp, facts.figures, record.options, facts.now_us, before)
    if step.note and step.note not in record.notes:
        return RecordWrite(noted(record, step.note), None, step.note)
    share = {target.instance: step.state.p} if step.state.p > 0 else {}
    match step.move:
        case ramp.RampAction.WAIT:
            seconds = (facts.ramp.due_us - facts.now_us) / 1e6
            return Wait(seconds if seconds > 0 else POLL_S, step.why or f"p is {facts.ramp.p:g}")
        case ramp.RampAction.SET:
            p = f"p = {step.state.p:g}"
            return RecordWrite(record, replace(shard, route=share), p, ramp=step.state)
        case ramp.RampAction.BACK:
            after = noted(record, f"ramp stepped back to {step.state.p:g}: {step.why}")
            return RecordWrite(after, replace(shard, route=share), step.why, ramp=step.state)
        case ramp.RampAction.ROLL_BACK:
            return roll_back(record, facts, shard, step.why)
        case ramp.RampAction.DONE:
            after = advance(with_during(record, facts), State.CUTOVER, facts.now_us)
            return RecordWrite(after, replace(shard, hand_over=target.replica_id), "hand over (H1)")


def _late(record: MigrationRecord, facts: Facts) -> str | None:
    name = TABLE[record.state].timeout
    if name is None:
        return None
    limit = float(getattr(record.options, name))
    if facts.now_us - record.since_us <= limit * 1e6:
        return None
    return f"{record.state.value} took longer than {name} = {limit:g} s"


_BEFORE_CUTOVER = frozenset(
    {
        State.PREPARING, State.SNAPSHOT, State.CATCHING_UP, State.VERIFYING, State.SHADOWING,
        State.RAMPING,
    }
)  # fmt: skip


def _deserted(record: MigrationRecord, facts: Facts) -> str | None:
    """Why a move that cannot go on is given up: a side is dead, the shard is still the source's.

    Every state would wait for the dead side. After a cutover the roles have
    changed, and `soaking` has its own rules; copy-on-write has no way back from its successor.
    """
    if record.state not in _BEFORE_CUTOVER or record.successor is not None:
        return None
    options = record.options
    if facts.target_silent_s > options.target_dead_after_s:
        return (
            f"{record.target_instance} is silent for {facts.target_silent_s:.0f} s, more than "
            f"target_dead_after_s = {options.target_dead_after_s:g} s"
        )
    if facts.source_silent_s > options.source_dead_after_s:
        return (
            f"{record.source.instance} is silent for {facts.source_silent_s:.0f} s, more than "
            f"source_dead_after_s = {options.source_dead_after_s:g} s"
        )
    return None


def _went_through(record: MigrationRecord, shard: ShardRecord) -> bool:
    """The hand-over that a late cutover waits for has happened after all."""
    return record.target is not None and shard.primary == record.target


def _shard_gone(record: MigrationRecord, facts: Facts) -> Effect:
    why = f"shard {record.shard} does not exist any more"
    if record.state is State.PLANNED:
        return RecordWrite(advance(record, State.ABORTED, facts.now_us, cause=why), None, why)
    if record.state is State.ROLLING_BACK:
        return RecordWrite(advance(record, State.ROLLED_BACK, facts.now_us, cause=why), None, why)
    return RecordWrite(advance(record, State.ROLLING_BACK, facts.now_us, cause=why), None, why)


_HANDLERS: dict[State, Callable[[MigrationRecord, Facts, ShardRecord], Effect]] = {
    State.PREPARING: _preparing,
    State.SNAPSHOT: _snapshot,
    State.CATCHING_UP: _catching_up,
    State.VERIFYING: _verifying,
    State.SHADOWING: _shadowing,
    State.RAMPING: _ramping,
    State.CUTOVER: cutover.cutover,
    State.SOAKING: cutover.soaking,
    State.ROLLING_BACK: cutover.rolling_back,
}
