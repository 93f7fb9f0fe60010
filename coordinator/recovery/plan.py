"""From copies on disks to the records of a new metadata store (design note 0008, Recover). Pure.

The rules, each with a test: 1. The newest record of a shard is the one with the highest (epoch,
revision) that any copy keeps. 2. The leader is, of the members of its in-sync set that were found
whole, the one with the highest (epoch of the last batch, end): it holds all that was acked (P2). It
begins alone in sync; the other members become learners that may be admitted. 3. If none of them is
there, the longest copy that can be read leads, with a `possible_loss` (P6). 4. A shard that a found
shard names as its predecessor is sealed, even if its own copies are not: a split or merge opens its
successors in the transaction that seals the parents (S1). 5. The open shards of a log cover its
keys exactly once (I1), or the log is left out and its copies stay as they are; with `fill_holes` an
empty shard with a possible loss is opened over each hole. 6. Epochs, shard numbers, replica ids and
revisions begin above everything that was seen. 7. No copy is retired: one that no record names
stays an orphan.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.recovery.cover import Hole, fill, holes, without_overlaps
from coordinator.recovery.facts import FoundCopy, FoundInstance
from logstore.base.errors import RefusedError
from logstore.base.types import ShardStatus
from logstore.meta.records import (
    InstanceRecord,
    LogRecord,
    Member,
    PossibleLoss,
    ShardRecord,
    mapping_log,
)
from logstore.meta.tombstones import is_deletion
from sharder.keys import Partitioner

EPOCH_STEP = 1_000
"""Above the highest epoch seen: a disk that was not read may have a higher one."""
REPLICA_ID_STEP = 1_000_000
REVISION_STEP = 1_000_000
NO_ADDRESS = "0.0.0.0:0"
"""Of an instance until it registers."""


@dataclass(frozen=True, slots=True)
class Notice:
    """`kind`: `lost` (records are gone), `possible` (they may be), `left` (not recovered, still on
    the disks) or `note`."""

    kind: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """The records to write, and the notes that people must read before they confirm."""

    cluster: str
    logs: tuple[LogRecord, ...]
    shards: tuple[ShardRecord, ...]
    instances: tuple[InstanceRecord, ...]
    next_replica_id: int
    revision: int
    """The store's revisions begin above it."""
    told: tuple[Notice, ...]
    records: Mapping[str, int] = field(default_factory=dict)
    """Log -> records that its shards hold."""


@dataclass(slots=True)
class _Draft:
    """One shard while its log is being put together."""

    record: ShardRecord
    leader: FoundCopy
    revision: int


class _Notes:
    """The notes, in order."""

    def __init__(self) -> None:
        self.items: list[Notice] = []

    def tell(self, kind: str, subject: str, text: str) -> None:
        self.items.append(Notice(kind, subject, text))


def make_plan(
    instances: Sequence[FoundInstance],
    copies: Sequence[FoundCopy],
    *,
    fill_holes: bool = False,
    revive: bool = False,
) -> RecoveryPlan:
    """The records that follow from `copies`. `revive`: retired copies count as members again (to
    bring back a deleted log).

    `RefusedError` when the directories are of several clusters, or two are one instance's.
    """
    cluster = _one_cluster(instances)
    notes = _Notes()
    usable = [c for c in copies if _usable(c, cluster, notes)]
    ids = max((c.replica_id for c in copies), default=0) + REPLICA_ID_STEP
    logs: list[LogRecord] = []
    shards: list[ShardRecord] = []
    records: dict[str, int] = {}
    homes = {i.instance: i.incarnation for i in instances}
    for name in sorted({c.log_name for c in usable}):
        held = _of_newest_log([c for c in usable if c.log_name == name], notes)
        if not revive and (retired := _deleted(held, name)) is not None:
            notes.tell("left", name, f"it was deleted ({retired}); its copies stay until their time"
                       f" is over; bring it back with: logstore log restore {name}")  # fmt: skip
            continue
        made = _log_of(name, held, homes, ids, notes, fill_holes=fill_holes, revive=revive)
        if made is None:
            continue
        log, drafts = made
        logs.append(log)
        shards += [d.record for d in drafts]
        ids = max([ids, *(m.replica_id + 1 for d in drafts for m in d.record.members())])
        records[name] = sum(d.leader.end - d.leader.base for d in drafts)
    _tell_mappings(logs, notes)
    named = {m.replica_id for s in shards for m in s.members()}
    _tell_left(usable, named, {log.name for log in logs}, notes)
    notes.tell("note", "cluster", "not kept with copies, so not recovered: the calendar of events, "
               "profiles, drains, migrations under way, the autopilot's mode, what `planner set` "
               "set")  # fmt: skip
    return RecoveryPlan(
        cluster=cluster,
        logs=tuple(logs),
        shards=tuple(shards),
        instances=tuple(
            InstanceRecord(i.instance, NO_ADDRESS, i.incarnation, process=i.process)
            for i in instances
        ),
        next_replica_id=ids,
        revision=_highest_revision(instances, copies) + REVISION_STEP,
        told=tuple(notes.items),
        records=records,
    )


def _one_cluster(instances: Sequence[FoundInstance]) -> str:
    """The cluster that all directories belong to."""
    if not instances:
        raise RefusedError("no data directory of an instance was found: nothing to recover from")
    by_name: dict[str, str] = {}
    for found in instances:
        if found.instance in by_name:
            raise RefusedError(
                f"two directories are those of instance {found.instance}: "
                f"{by_name[found.instance]} and {found.directory}; give the newer one only"
            )
        by_name[found.instance] = found.directory
    clusters = defaultdict(list)
    for found in instances:
        clusters[found.cluster].append(found.directory or found.instance)
    if len(clusters) > 1:
        named = "; ".join(f"{c or 'unknown'}: {', '.join(d)}" for c, d in sorted(clusters.items()))
        raise RefusedError(f"the directories belong to {len(clusters)} clusters ({named})")
    cluster = next(iter(clusters))
    if not cluster:
        raise RefusedError("the directories were written before they knew their cluster; start "
                           "them once with their metadata")  # fmt: skip
    return cluster


def _usable(copy: FoundCopy, cluster: str, notes: _Notes) -> bool:
    """Whether a copy can be placed; else why not."""
    subject = f"copy {copy.replica_id} of {copy.shard} on {copy.instance}"
    if copy.cluster not in ("", cluster):
        notes.tell("left", subject, f"it belongs to cluster {copy.cluster}")
    elif copy.record is None or copy.log is None:
        notes.tell("left", subject, "it keeps no record of its shard")
    elif copy.record.shard != copy.shard or copy.log.name != copy.log_name:
        notes.tell("left", subject, f"its record is of {copy.record.shard}")
    else:
        return True
    return False


def _of_newest_log(copies: list[FoundCopy], notes: _Notes) -> list[FoundCopy]:
    """A name may have been used again: only the log that was created last counts."""
    born = max(c.log.created_us for c in copies if c.log is not None)
    for copy in copies:
        if copy.log is not None and copy.log.created_us != born:
            notes.tell("left", f"copy {copy.replica_id} of {copy.shard} on {copy.instance}",
                       "it is of an earlier log of this name")  # fmt: skip
    return [c for c in copies if c.log is not None and c.log.created_us == born]


def _deleted(copies: Sequence[FoundCopy], log: str) -> str | None:
    """Why the log is known to be deleted, or None: no copy acted on anything later."""
    graves = [c for c in copies if c.retired is not None and is_deletion(c.retired, log)]
    if not graves or any(_is_later(c, graves) for c in copies if c.retired is None):
        return None
    return graves[0].retired


def _is_later(copy: FoundCopy, graves: Sequence[FoundCopy]) -> bool:
    """Whether the copy acted on what came after the deletion: the log was brought back, with
    epochs far above the old ones (revisions may be another store's)."""
    if copy.revision > max(grave.retired_revision for grave in graves):
        return True
    before = [grave.age()[0] for grave in graves if grave.shard == copy.shard]
    return bool(before) and copy.age()[0] >= min(before) + EPOCH_STEP


def _log_of(
    name: str,
    copies: Sequence[FoundCopy],
    homes: Mapping[str, int],
    first_id: int,
    notes: _Notes,
    *,
    fill_holes: bool,
    revive: bool,
) -> tuple[LogRecord, list[_Draft]] | None:
    """The log and its shards, or None when its keys cannot be covered."""
    by_shard: dict[str, list[FoundCopy]] = defaultdict(list)
    for copy in copies:
        by_shard[copy.shard].append(copy)
    newest = {shard: max(held, key=FoundCopy.age) for shard, held in by_shard.items()}
    records = {shard: copy.record for shard, copy in newest.items() if copy.record is not None}
    children: dict[str, list[str]] = defaultdict(list)
    for shard, record in records.items():
        for parent in record.predecessors:
            children[parent].append(shard)
    drafts: dict[str, _Draft] = {}
    for shard, record in sorted(records.items()):
        draft = _shard_of(
            record, by_shard[shard], homes, bool(children[shard]), notes, revive=revive
        )
        if draft is not None:
            drafts[shard] = draft
    log = max((c.log for c in copies if c.log is not None), key=lambda record: record.next_shard)
    seen = max(log.next_shard, *(c.number + 1 for c in copies))
    _take_out_overlaps(drafts, notes)
    gaps = holes([d.record for d in drafts.values()])
    if gaps and not (fill_holes and drafts):
        _tell_holes(name, gaps, drafts, children, notes)
        return None
    for hole in gaps:
        notes.tell("lost", name, f"no copy of the keys in {hole} was found: an empty shard "
                   f"{name}/{seen} is opened there")  # fmt: skip
        made = fill(name, seen, hole, [d.record for d in drafts.values()], homes, first_id)
        begun = FoundCopy(made.primary.instance, made.primary.replica_id, made.shard)
        drafts[made.shard] = _Draft(made, begun, 0)
        seen, first_id = seen + 1, first_id + 1
    _join_family(drafts, notes)
    return replace(log, next_shard=seen), list(drafts.values())


def _shard_of(
    record: ShardRecord,
    copies: Sequence[FoundCopy],
    homes: Mapping[str, int],
    has_children: bool,
    notes: _Notes,
    *,
    revive: bool,
) -> _Draft | None:
    """The shard's new record, with the best leader that was found; None: no copy can be read."""
    chosen = _leader(record, copies, revive=revive)
    if chosen is None:
        why = "; ".join(f"{c.instance}: {c.damage}" for c in copies)
        notes.tell("lost", record.shard, f"no copy can be read ({why})")
        return None
    leader, whole = chosen
    epoch = max(record.epoch, *(c.last_epoch for c in copies), *(c.age()[0] for c in copies))
    epoch += EPOCH_STEP
    first = _member(record, leader, homes)
    learners = _learners(record, copies, leader, revive=revive)
    made = replace(
        record,
        epoch=epoch,
        primary_since=epoch,
        primary=first,
        in_sync=(first,),
        learners=tuple(learners),
        admit=tuple(m.replica_id for m in learners),
        migration=None,
        hand_over=None,
        remove=(),
        seal=None,
        route={},
        copy_bytes_per_s=0.0,
        feed_topic="",
    )
    made = _status(made, record, leader, has_children, notes)
    if not whole:
        cause = "no member of the newest in-sync set was found; the longest copy leads"
        made = _with_loss(made, leader.end, cause)
        notes.tell("possible", record.shard, f"{cause}: {leader.instance} has {leader.end} records,"
                   f" what was acked behind them is missing")  # fmt: skip
    _tell_missing(record, copies, notes)
    if leader.tail_lost:
        notes.tell("possible", record.shard, f"the end of the copy on {leader.instance} was damaged"
                   f" or is old: records behind offset {leader.end} may be missing")  # fmt: skip
    return _Draft(made, leader, max(c.revision for c in copies))


def _leader(
    record: ShardRecord, copies: Sequence[FoundCopy], *, revive: bool
) -> tuple[FoundCopy, bool] | None:
    """The copy that leads, and whether it holds all that was acked (rules 2 and 3)."""
    in_sync = {(m.instance, m.replica_id) for m in record.in_sync}
    readable = [c for c in copies if not c.damage]
    live = [c for c in readable if revive or c.retired is None]
    vouching = [c for c in live if (c.instance, c.replica_id) in in_sync]
    whole = [c for c in vouching if not c.tail_lost]
    led = record.primary.replica_id  # of equal ones the last leader goes on
    for candidates in (whole, vouching):
        if candidates:
            best = max(candidates, key=lambda c: (*c.length()[:2], c.replica_id == led))
            return best, True
    for candidates in (live, readable):
        if candidates:
            return max(candidates, key=FoundCopy.length), False
    return None


def _member(record: ShardRecord, copy: FoundCopy, homes: Mapping[str, int]) -> Member:
    """The member as the record names it: its incarnation decides whether its end counts (P6)."""
    for member in record.members():
        if (member.instance, member.replica_id) == (copy.instance, copy.replica_id):
            return member
    return Member(copy.instance, homes.get(copy.instance, 0), copy.replica_id)


def _learners(
    record: ShardRecord, copies: Sequence[FoundCopy], leader: FoundCopy, *, revive: bool
) -> list[Member]:
    """The other members that were found: they catch up from the leader and may join."""
    held = {(c.instance, c.replica_id) for c in copies
            if not c.damage and (revive or c.retired is None)}  # fmt: skip
    return [
        m
        for m in record.members()
        if (m.instance, m.replica_id) in held and m.instance != leader.instance
    ]


def _status(
    made: ShardRecord, before: ShardRecord, leader: FoundCopy, has_children: bool, notes: _Notes
) -> ShardRecord:
    """Sealed if it was, or if a successor was opened; else open, also in the midst of a seal."""
    if before.status is not ShardStatus.SEALED and not has_children:
        return replace(made, status=ShardStatus.OPEN, sealed_end=None, sealed_chain=None)
    made = replace(made, status=ShardStatus.SEALED)
    if before.sealed_end is None:
        return replace(made, sealed_end=leader.end, sealed_chain=leader.chain)
    if leader.end >= before.sealed_end:
        return made
    cause = f"it was sealed at {before.sealed_end}, the longest copy ends at {leader.end}"
    notes.tell("lost", made.shard, f"{before.sealed_end - leader.end} records: {cause}")
    short = replace(made, sealed_end=leader.end, sealed_chain=leader.chain)
    return _with_loss(short, leader.end, cause)


def _with_loss(record: ShardRecord, offset: int, cause: str) -> ShardRecord:
    loss = PossibleLoss(record.epoch, offset, f"recovered from disks: {cause}")
    return replace(record, possible_loss=(*record.possible_loss, loss))


def _tell_missing(record: ShardRecord, copies: Sequence[FoundCopy], notes: _Notes) -> None:
    """Members that were not found may have gone on without the others, by these records."""
    found = {(c.instance, c.replica_id) for c in copies}
    missing = [m.instance for m in record.in_sync if (m.instance, m.replica_id) not in found]
    if not missing:
        return
    text = f"its copies on {', '.join(missing)} were not found"
    if len(missing) >= record.min_in_sync:
        text += "; should they have gone on without the others, what was acked then is missing"
    notes.tell("note", record.shard, text)


def _take_out_overlaps(drafts: dict[str, _Draft], notes: _Notes) -> None:
    """Two open shards over the same keys are of different histories: the newer one counts."""
    open_ = [d for d in drafts.values() if d.record.status is not ShardStatus.SEALED]
    newest_first = sorted(open_, key=lambda d: (-d.revision, d.record.shard))
    for shard, other in without_overlaps([d.record for d in newest_first]):
        notes.tell("left", shard, f"{other} is newer and holds the same keys")
        del drafts[shard]


def _tell_holes(
    name: str,
    gaps: Sequence[Hole],
    drafts: Mapping[str, _Draft],
    children: Mapping[str, Sequence[str]],
    notes: _Notes,
) -> None:
    for hole in gaps:
        sealed = [d.record for d in drafts.values() if d.record.range.overlaps(hole.range)]
        lost = sorted({s for r in sealed for s in r.successors if s not in drafts})
        named = f" (missing: {', '.join(lost)})" if lost else ""
        what = f"no copy of the keys in {hole} was found{named}; give the missing data directories"
        notes.tell("left", name, f"{what}, or --fill-holes to go on with an empty shard there")


def _join_family(drafts: dict[str, _Draft], notes: _Notes) -> None:
    """Predecessors and successors name only existing shards; missing history is noted."""
    for draft in drafts.values():
        record = draft.record
        gone = [p for p in record.predecessors if p not in drafts]
        kept = tuple(p for p in record.predecessors if p in drafts)
        draft.record = replace(record, predecessors=kept)
        if gone:
            cause = f"no copy of {', '.join(gone)} was found, which held what was before"
            draft.record = _with_loss(draft.record, 0, cause)
            notes.tell("lost", record.shard, cause)
    for draft in drafts.values():
        name = draft.record.shard
        after = tuple(sorted(c for c, d in drafts.items() if name in d.record.predecessors))
        draft.record = replace(draft.record, successors=after)


def _tell_mappings(logs: Sequence[LogRecord], notes: _Notes) -> None:
    names = {log.name for log in logs}
    for log in logs:
        mapping = mapping_log(log.name)
        if log.options.partitioner is Partitioner.BALANCED and mapping not in names:
            what = f"{mapping} was not recovered, which remembers where each key is"
            notes.tell("lost", log.name, f"{what}: old records are found by a scan only")


def _tell_left(copies: Iterable[FoundCopy], named: set[int], logs: set[str], notes: _Notes) -> None:
    """Copies of recovered logs that no record names: kept as orphans, for people to decide."""
    for copy in copies:
        if copy.replica_id in named or copy.retired is not None or copy.log_name not in logs:
            continue
        why = f"damaged: {copy.damage}" if copy.damage else "it is no member by the newest record"
        notes.tell("note", f"copy {copy.replica_id} of {copy.shard} on {copy.instance}",
                   f"it stays as an orphan ({why})")  # fmt: skip


def _highest_revision(instances: Sequence[FoundInstance], copies: Sequence[FoundCopy]) -> int:
    return max([0, *(i.revision for i in instances), *(c.revision for c in copies)])
