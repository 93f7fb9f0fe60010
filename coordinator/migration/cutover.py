"""The machine from the cutover on: soaking, removing the source, and every way back.

A rollback after the cutover is another cutover; a source that fell out of the in-sync set learns
again and is verified first (H4), so no record is lost.
"""

from dataclasses import replace

from coordinator.migration import copy_on_write, ramp
from coordinator.migration.common import (
    IDLE_POLL_S,
    POLL_S,
    counted,
    differs,
    failed,
    holds,
    leads,
    past_snapshot,
    released,
    roll_back,
    set_back,
    soak,
    switches,
    target_of,
    with_after,
    with_blackout,
    with_during,
    without_learner,
)
from coordinator.migration.facts import Effect, Facts, RecordWrite, Verify, Wait
from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.table import COPY_ON_WRITE, advance, noted
from coordinator.migration.windows import SETTLED_S
from logstore.meta.records import Member, ShardRecord

SOAK_WRITE_S = 1.0
"""Soaked time is written this often, so a new leader loses no more than this of it."""


def cutover(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    if record.strategy == COPY_ON_WRITE:
        return copy_on_write.cutover(record, facts, shard)
    target = target_of(record)
    if leads(shard, target):
        return soak(record, facts, shard)
    if not holds(shard.in_sync, target):
        why = f"{target.instance} fell out before the hand-over"
        if switches(record):
            return roll_back(record, facts, shard, why)
        return set_back(record, facts, shard, why)
    if shard.hand_over == target.replica_id:
        return Wait(POLL_S / 5, "the source drains and hands over")
    if record.setbacks >= record.options.setbacks_max:
        return roll_back(record, facts, shard, f"{record.setbacks} setbacks")
    after = counted(noted(record, "the source gave up or restarted before it handed over"))
    if switches(record):
        return RecordWrite(advance(after, State.PREPARING, facts.now_us), None, "once more")
    if record.strategy == "log-shipping":
        again = counted(advance(after, State.CATCHING_UP, facts.now_us))
        return RecordWrite(again, replace(shard, admit=()), "once more")
    return RecordWrite(
        advance(after, State.RAMPING, facts.now_us),
        replace(shard, route={}),
        "ramp again",
        ramp=ramp.RampState(),
    )


def soaking(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    if record.strategy == COPY_ON_WRITE:
        return copy_on_write.soaking(record, facts, shard)
    if not leads(shard, target_of(record)):
        return roll_back(record, facts, shard, f"{shard.primary.instance} became the primary")
    record = with_blackout(record, facts)
    source = record.source
    if record.removing:
        return _remove_source(record, facts, shard)
    wanted = record.options.soak_s
    if not holds(shard.in_sync, source):
        done = record.request == "complete"
        if done or facts.source_silent_s > record.options.source_dead_after_s:
            why = "complete asked for" if done else f"{source.instance} is declared dead"
            return RecordWrite(replace(noted(record, why), removing=True), None, why)
        return _learn_source(record, facts, shard)
    broken = ramp.soak_breach(facts.figures, record.options, record.windows.get("before"))
    if broken is not None and facts.ramp.breaches:
        return roll_back(record, facts, shard, f"soaking: {broken}")
    if broken is not None:
        rest_us = facts.now_us + round(ramp.SOAK_REST_S * 1e6)
        seen = replace(facts.ramp, breaches=1, judged_us=rest_us)
        return RecordWrite(noted(record, f"soaking: {broken}"), None, broken, ramp=seen)
    soaked = min(wanted, record.soaked_s + _unwritten_s(record, facts))
    if "during" not in record.windows and soaked >= min(wanted, SETTLED_S):
        record = with_during(record, facts)  # no ramp: what both sides served around the cutover
    if soaked >= wanted or record.request == "complete":
        after = with_after(replace(record, soaked_s=soaked, removing=True), facts)
        remove = () if switches(record) else (source.replica_id,)
        return RecordWrite(after, replace(shard, remove=remove), "soaked")
    if soaked - record.soaked_s >= SOAK_WRITE_S:
        return RecordWrite(
            replace(record, soaked_s=soaked, since_us=facts.now_us), None, f"soaked {soaked:.1f} s"
        )
    return Wait(min(IDLE_POLL_S, max(0.01, wanted - soaked)), f"soaking, {wanted - soaked:.1f} s")


def _remove_source(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    if switches(record):
        after = advance(record, State.COMPLETED, facts.now_us)
        return RecordWrite(after, released(shard), "the source stays a follower")
    member = shard.member_on(record.source.instance)
    if member is None:
        after = advance(record, State.COMPLETED, facts.now_us)
        return RecordWrite(after, released(shard), "the source is relieved")
    if holds(shard.in_sync, member):
        if member.replica_id in shard.remove:
            return Wait(POLL_S, "the target removes the source")
        return RecordWrite(record, replace(shard, remove=(member.replica_id,)), "remove the source")
    return RecordWrite(record, without_learner(shard, member), "the source's copy is no learner")


def _learn_source(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """The source fell out after the cutover: it learns again and is verified first (H4)."""
    member = shard.member_on(record.source.instance)
    text = f"{record.source.instance} fell out of sync; it is repaired and verified first (H4)"
    if text not in record.notes:
        return RecordWrite(noted(record, text), None, text)
    if member is None:
        incarnation = facts.incarnations.get(record.source.instance)
        if incarnation is None:
            return Wait(IDLE_POLL_S, f"{record.source.instance} is not registered")
        member = Member(record.source.instance, incarnation, facts.next_replica_id)
        return RecordWrite(
            replace(noted(record, f"{member.instance} learns again"), source=member),
            replace(shard, learners=(*shard.learners, member)),
            "the source learns again (H4)",
            draws=member.replica_id,
        )
    if member.replica_id != record.source.replica_id:
        return RecordWrite(replace(record, source=member), None, "the source's copy is another")
    if member.replica_id in shard.admit:
        return Wait(POLL_S, "the target has yet to add the source")
    copy, leader = facts.source, facts.target
    if copy is None or leader is None:
        return Wait(POLL_S, "a side is silent")
    if failed(copy):
        return RecordWrite(record, without_learner(shard, member), f"copy failed: {failed(copy)}")
    if not past_snapshot(copy):
        return Wait(POLL_S, "the source copies a snapshot")
    if leader.high_watermark - copy.end > record.options.lag_records_max:
        return Wait(POLL_S, "the source catches up")
    found = facts.verified
    if found is None or found.replica_id != member.replica_id:
        # Above the leader's high watermark the copy may hold records that were never committed.
        return Verify(member, shard.primary, min(copy.end, leader.high_watermark))
    if found.error is not None or found.chain != found.expected:
        return RecordWrite(noted(record, differs(found)), without_learner(shard, member), "unequal")
    return RecordWrite(record, replace(shard, admit=(member.replica_id,)), "the source may join")


def rolling_back(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    if record.successor is not None:
        back = copy_on_write.seal_back(record, facts, shard)
        if back is not None:
            return back
    target = shard.member_on(record.target_instance)
    ours = shard.migration == record.id
    if target is None or not ours:
        after = advance(record, State.ROLLED_BACK, facts.now_us)
        return RecordWrite(after, released(shard) if ours else None, "the target is no member")
    if leads(shard, target):
        return _hand_back(record, facts, shard)
    if switches(record):
        after = advance(record, State.ROLLED_BACK, facts.now_us)
        return RecordWrite(after, released(shard), "the target stays a follower")
    if holds(shard.in_sync, target):
        if target.replica_id in shard.remove:
            return Wait(POLL_S, "the source removes the target")
        changed = replace(shard, remove=(target.replica_id,), admit=(), route={}, hand_over=None)
        return RecordWrite(record, changed, "remove the target")
    return RecordWrite(record, without_learner(shard, target), "the target stops learning")


def _hand_back(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    """The target leads: another cutover, back to the source, loses no record."""
    source = record.source
    if holds(shard.in_sync, source):
        if shard.hand_over == source.replica_id:
            return Wait(POLL_S / 5, "the target hands back")
        changed = replace(shard, hand_over=source.replica_id, route={}, remove=())
        return RecordWrite(record, changed, "hand back (H1)")
    if facts.source_silent_s > record.options.source_dead_after_s:
        member = shard.member_on(source.instance)
        if member is not None:
            return RecordWrite(
                record, without_learner(shard, member), "the source is declared dead"
            )
        after = noted(record, f"{source.instance} is declared dead, the target stays the primary")
        return RecordWrite(
            advance(after, State.COMPLETED, facts.now_us), released(shard), "no source"
        )
    return _learn_source(record, facts, shard)


def _unwritten_s(record: MigrationRecord, facts: Facts) -> float:
    """Seconds of soaking since the last write, as far as this leader saw the source in sync."""
    if facts.soaking_since_us is None:
        return 0.0
    return max(0.0, (facts.now_us - max(record.since_us, facts.soaking_since_us)) / 1e6)
