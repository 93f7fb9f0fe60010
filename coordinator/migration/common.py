"""Shared by the states of the machine: falls back, small changes of a shard record, figures."""

from dataclasses import replace

from coordinator.migration import ramp
from coordinator.migration.facts import CopyReport, Effect, Facts, RecordWrite, Verified
from coordinator.migration.records import HashResult, MigrationRecord, State
from coordinator.migration.table import advance, noted
from coordinator.migration.windows import with_window
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord

POLL_S = 0.1
IDLE_POLL_S = 0.5


def holds(members: tuple[Member, ...], member: Member) -> bool:
    """Whether this copy is among them. A copy is its replica id; its incarnation may have
    changed."""
    return any(m.replica_id == member.replica_id for m in members)


def leads(shard: ShardRecord, member: Member) -> bool:
    return shard.primary.replica_id == member.replica_id


def switches(record: MigrationRecord) -> bool:
    """The target was a follower before, and the source stays one: the set of copies is the same."""
    return record.strategy == "switch"


def soak(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect:
    after = replace(advance(record, State.SOAKING, facts.now_us), soaked_s=0.0)
    changed = replace(shard, route={}, hand_over=None, admit=())
    return RecordWrite(after, changed, "the target is the primary", ramp=ramp.RampState())


def roll_back(record: MigrationRecord, facts: Facts, shard: ShardRecord, why: str) -> Effect:
    after = with_copied(advance(record, State.ROLLING_BACK, facts.now_us, cause=why), facts.target)
    if shard.migration != record.id:
        return RecordWrite(after, None, why)
    changed = replace(shard, admit=(), hand_over=None, remove=(), route={}, feed_topic="")
    return RecordWrite(after, unsealed(changed), why)


def unsealed(shard: ShardRecord) -> ShardRecord:
    """Withdraw a seal that we asked for; a sealed shard stays sealed (S1, S5)."""
    if shard.status is ShardStatus.SEALED:
        return replace(shard, seal=None)
    return replace(shard, seal=None, status=ShardStatus.OPEN, sealed_end=None, sealed_chain=None)


def noted_once(record: MigrationRecord, text: str) -> MigrationRecord:
    return record if text in record.notes else noted(record, text)


def set_back(record: MigrationRecord, facts: Facts, shard: ShardRecord, why: str) -> Effect:
    """Back to catching-up; from there the target is verified and admitted again."""
    if record.setbacks >= record.options.setbacks_max or record.state is State.CATCHING_UP:
        return roll_back(record, facts, shard, f"{why}; {record.setbacks} setbacks before")
    after = advance(counted(noted(record, why)), State.CATCHING_UP, facts.now_us)
    changed = replace(shard, admit=(), route={}, hand_over=None)
    return RecordWrite(after, changed, why, ramp=ramp.RampState())


def target_of(record: MigrationRecord) -> Member:
    assert record.target is not None, f"{record.id} is in {record.state.value} without a target"
    return record.target


def counted(record: MigrationRecord) -> MigrationRecord:
    return replace(record, setbacks=record.setbacks + 1)


def past_snapshot(copy: CopyReport) -> bool:
    return copy.learner_phase in ("feed", "pushed") or copy.role in ("follower", "primary")


def failed(copy: CopyReport) -> str:
    if copy.learner_phase.startswith("failed"):
        return copy.learner_phase.removeprefix("failed").lstrip(": ") or "no reason given"
    return copy.error


def released(shard: ShardRecord) -> ShardRecord:
    return replace(
        shard,
        migration=None,
        route={},
        admit=(),
        hand_over=None,
        remove=(),
        copy_bytes_per_s=0.0,
        feed_topic="",
    )


def feed_topic(record: MigrationRecord, facts: Facts, replica_id: int) -> str:
    """F3: one topic for each attempt; a replica id is drawn once, so no attempt shares one."""
    if record.options.feed != "kafka" or not facts.feed_prefix:
        return ""
    return f"{facts.feed_prefix}{record.id}.{replica_id}"


def feed_given_up(record: MigrationRecord, facts: Facts, shard: ShardRecord) -> Effect | None:
    """The broker was away too long: go on directly, or roll back, by the move's options."""
    copy, limit_s = facts.target, record.options.feed_deadline_s
    if not shard.feed_topic or copy is None or copy.feed_down_s <= limit_s:
        return None
    why = f"the feed was away for more than feed_deadline_s = {limit_s:g} s: {copy.feed_error}"
    if record.options.feed_fallback == "rollback":
        return roll_back(record, facts, shard, why)
    after = noted(record, f"{why}; it goes on directly")
    return RecordWrite(after, replace(shard, feed_topic=""), why)


def without_learner(shard: ShardRecord, member: Member) -> ShardRecord:
    return replace(
        shard,
        learners=tuple(m for m in shard.learners if m.replica_id != member.replica_id),
        admit=tuple(r for r in shard.admit if r != member.replica_id),
    )


def differs(found: Verified) -> str:
    if found.error is not None:
        return f"verification of replica {found.replica_id} failed: {found.error}"
    where = f"; they differ first at {found.where}" if found.where else ""
    return (
        f"hash chains differ at offset {found.end}: the copy's is {found.chain.hex()}, "
        f"the primary's {found.expected.hex()}{where}"
    )


def hash_result(found: Verified, now_us: int) -> HashResult:
    equal = found.error is None and found.chain == found.expected
    return HashResult(found.end, found.expected.hex(), found.chain.hex(), equal, now_us)


def with_equal_ends(record: MigrationRecord, facts: Facts) -> MigrationRecord:
    """Both chains where source and target happen to be at one offset; reported, not relied on."""
    source, target = facts.source, facts.target
    if source is None or target is None or source.end != target.end:
        return record
    equal = source.chain == target.chain
    found = HashResult(
        source.end, source.chain.hex(), target.chain.hex(), equal, at_us=facts.now_us
    )
    return replace(record, hash=found)


def with_copied(record: MigrationRecord, copy: CopyReport | None) -> MigrationRecord:
    if copy is None or copy.bytes_copied <= record.bytes_copied:
        return record
    return replace(record, bytes_copied=copy.bytes_copied)


def with_copy_figures(record: MigrationRecord, copy: CopyReport) -> MigrationRecord:
    if not copy.bytes_copied:
        return record
    record = with_copied(record, copy)
    rate = copy.bytes_copied / 1e6 / copy.copy_seconds if copy.copy_seconds > 0 else None
    return replace(record, bytes=copy.bytes_copied, copy_mb_per_s=rate or record.copy_mb_per_s)


def with_during(record: MigrationRecord, facts: Facts) -> MigrationRecord:
    return with_window(record, "during", facts.figures.source, facts.figures.target)


def with_after(record: MigrationRecord, facts: Facts) -> MigrationRecord:
    return with_window(record, "after", facts.figures.target)


def with_blackout(record: MigrationRecord, facts: Facts) -> MigrationRecord:
    if record.blackout_ms is not None or facts.source is None or not facts.source.blackout_ms:
        return record
    return replace(record, blackout_ms=facts.source.blackout_ms)
