"""Split and merge (pure): `decide(record, facts)` -> the next effect. Rules S1-S5, note 0005.

The coordinator asks the parents' primaries to seal, and when all are `sealing` opens the successors
in one transaction that compares every record it was decided from. If a process dies in between, the
next leader goes on from the records alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from logstore.base.errors import IllegalTransitionError, InvalidArgumentError
from logstore.base.types import ShardStatus
from logstore.meta.records import LogRecord, Member, ShardRecord
from sharder.keys import KeyRange

RESHAPES = "/reshapes/"
POLL_S = 0.01
TIMEOUT_S = 30.0
NOTES_MAX = 16


class ReshapeState(StrEnum):
    """`sealing`: the primaries close the gate, drain and seal; appends wait."""

    PLANNED = "planned"
    SEALING = "sealing"
    COMPLETED = "completed"
    ABORTED = "aborted"


RESHAPE_TABLE: dict[ReshapeState, frozenset[ReshapeState]] = {
    ReshapeState.PLANNED: frozenset({ReshapeState.SEALING, ReshapeState.ABORTED}),
    ReshapeState.SEALING: frozenset({ReshapeState.COMPLETED, ReshapeState.ABORTED}),
    ReshapeState.COMPLETED: frozenset(),
    ReshapeState.ABORTED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ReshapePhase:
    state: ReshapeState
    at_us: int


@dataclass(frozen=True, slots=True)
class ReshapeRecord:
    """A split of one parent at routing key `at`, or a merge of two neighbours (`at` None).

    `sealed_ends`: parent -> its end in records. `stall_ms`: parent -> how long its primary held
    appends until the successors stood.
    """

    id: str
    log: str
    kind: str
    parents: tuple[str, ...]
    created_us: int
    at: bytes | None = None
    state: ReshapeState = ReshapeState.PLANNED
    trigger: str = "manual"
    reason: str = ""
    cause: str | None = None
    request: str | None = None
    timeout_s: float = TIMEOUT_S
    phases: tuple[ReshapePhase, ...] = ()
    successors: tuple[str, ...] = ()
    sealed_ends: dict[str, int] = field(default_factory=dict)
    stall_ms: dict[str, float] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return bool(RESHAPE_TABLE[self.state])


@dataclass(frozen=True, slots=True)
class ReshapeFacts:
    """Read for one decision: the parents that exist, the log, the next replica id to draw."""

    now_us: int
    parents: Mapping[str, ShardRecord]
    log: LogRecord | None
    next_replica_id: int


@dataclass(frozen=True, slots=True)
class ReshapeCommit:
    """One transaction that compares everything the decision was read from (G1)."""

    record: ReshapeRecord
    why: str
    shards: tuple[ShardRecord, ...] = ()
    created: tuple[ShardRecord, ...] = ()
    log: LogRecord | None = None
    drawn: int = 0
    """Replica ids that it takes from the counter."""


@dataclass(frozen=True, slots=True)
class ReshapeWait:
    seconds: float
    why: str


ReshapeEffect = ReshapeCommit | ReshapeWait | None


def reshape_key(reshape: str) -> str:
    return f"{RESHAPES}{reshape}"


def decode_reshape(value: bytes) -> ReshapeRecord:
    return msgspec.json.decode(value, type=ReshapeRecord)


def check_split(parent: ShardRecord, at: bytes) -> None:
    """InvalidArgumentError unless `parent` may be split at routing key `at`."""
    check_open(parent)
    try:
        parent.range.split(at)
    except ValueError as e:
        raise InvalidArgumentError(f"shard {parent.shard}: {e}") from None


def check_merge(left: ShardRecord, right: ShardRecord) -> None:
    """InvalidArgumentError unless both are open neighbours on the same instances."""
    for parent in (left, right):
        check_open(parent)
    if left.log != right.log or left.range.end != right.range.start:
        raise InvalidArgumentError(
            f"shards {left.shard} {left.range} and {right.shard} {right.range} are no neighbours"
        )
    why = apart(left, right)
    if why is not None:
        raise InvalidArgumentError(why)


def check_open(parent: ShardRecord) -> None:
    if parent.status is not ShardStatus.OPEN:
        raise InvalidArgumentError(f"shard {parent.shard} is {parent.status.value}, not open")
    if parent.migration is not None:
        raise InvalidArgumentError(f"shard {parent.shard} is in {parent.migration}")


def apart(left: ShardRecord, right: ShardRecord) -> str | None:
    """Why two shards cannot be merged in place, with the move that is missing; None: they can."""
    if left.primary.instance != right.primary.instance:
        return (
            f"shard {left.shard} is on {left.primary.instance}, {right.shard} on "
            f"{right.primary.instance}: move one first (logstore move {right.shard} "
            f"{left.primary.instance})"
        )
    mine = {(m.instance, m.incarnation) for m in left.in_sync}
    other = {(m.instance, m.incarnation) for m in right.in_sync}
    if mine != other:
        return (
            f"the in-sync sets differ: {left.shard} has {sorted(i for i, _ in mine)}, "
            f"{right.shard} {sorted(i for i, _ in other)}, as of now"
        )
    return None


def advance(record: ReshapeRecord, to: ReshapeState, now_us: int) -> ReshapeRecord:
    """`record` in state `to`; a step off the table raises."""
    if to not in RESHAPE_TABLE[record.state]:
        raise IllegalTransitionError(
            f"{record.kind} {record.id} of {', '.join(record.parents)} cannot go from "
            f"{record.state.value} to {to.value}"
        )
    return replace(record, state=to, phases=(*record.phases, ReshapePhase(to, now_us)))


def decide(record: ReshapeRecord, facts: ReshapeFacts) -> ReshapeEffect:
    """The next effect; None at the end."""
    if not record.active:
        return None
    parents = [facts.parents[p] for p in record.parents if p in facts.parents]
    if facts.log is None or len(parents) < len(record.parents):
        return _abort(record, facts, parents, "a parent or its log is gone")
    if record.request == "abort":
        return _abort(record, facts, parents, record.cause or "asked for")
    if record.state is ReshapeState.PLANNED:
        return _begin(record, facts, parents)
    if facts.now_us - record.phases[-1].at_us > record.timeout_s * 1e6:
        return _abort(record, facts, parents, f"not sealed within {record.timeout_s:g} s")
    for parent in parents:
        if parent.migration != record.id:
            return _abort(record, facts, parents, f"{parent.shard} is in {parent.migration}")
        if parent.seal != record.id:
            return _abort(record, facts, parents, f"the primary of {parent.shard} gave up")
    waiting = [p.shard for p in parents if p.status is not ShardStatus.SEALING]
    if waiting:
        return ReshapeWait(POLL_S, f"{', '.join(waiting)} drains")
    return _open(record, facts, parents, facts.log)


def _begin(record: ReshapeRecord, facts: ReshapeFacts, parents: list[ShardRecord]) -> ReshapeEffect:
    try:
        if record.at is not None:
            check_split(parents[0], record.at)
        else:
            check_merge(parents[0], parents[1])
    except InvalidArgumentError as e:
        return _abort(record, facts, parents, e.message)
    asked = tuple(replace(p, migration=record.id, seal=record.id) for p in parents)
    return ReshapeCommit(advance(record, ReshapeState.SEALING, facts.now_us), "seal", asked)


def _abort(
    record: ReshapeRecord, facts: ReshapeFacts, parents: list[ShardRecord], why: str
) -> ReshapeCommit:
    """Parents that are sealing for us open again; their revisions are compared (S1)."""
    changed = []
    for parent in parents:
        if parent.migration != record.id:
            continue
        status = ShardStatus.OPEN if parent.status is ShardStatus.SEALING else parent.status
        free = replace(
            parent, migration=None, seal=None, status=status, sealed_end=None, sealed_chain=None
        )
        changed.append(free)
    after = replace(advance(record, ReshapeState.ABORTED, facts.now_us), cause=why)
    return ReshapeCommit(after, why, tuple(changed))


def _open(
    record: ReshapeRecord, facts: ReshapeFacts, parents: list[ShardRecord], log: LogRecord
) -> ReshapeEffect:
    """Every parent is sealing: seal them and open the successors, all or nothing (S1)."""
    first = parents[0]
    if len(parents) > 1 and (why := apart(parents[0], parents[1])) is not None:
        return _abort(record, facts, parents, why)
    ranges = (
        first.range.split(record.at)
        if record.at is not None
        else (KeyRange(first.range.start, parents[-1].range.end),)
    )
    names = tuple(f"{log.name}/{log.next_shard + i}" for i in range(len(ranges)))
    created = tuple(
        successor(
            name, keys, parents, first.in_sync, first.primary.instance,
            facts.next_replica_id + i * len(first.in_sync),
        )
        for i, (name, keys) in enumerate(zip(names, ranges, strict=True))
    )  # fmt: skip
    after = replace(
        advance(record, ReshapeState.COMPLETED, facts.now_us),
        successors=names,
        sealed_ends={p.shard: p.sealed_end or 0 for p in parents},
    )
    return ReshapeCommit(
        after,
        "the successors are open",
        tuple(sealed(p, names) for p in parents),
        created,
        replace(log, next_shard=log.next_shard + len(names)),
        len(names) * len(first.in_sync),
    )


def sealed(parent: ShardRecord, successors: tuple[str, ...]) -> ShardRecord:
    """A sealing parent in its final form (S5)."""
    return replace(
        parent,
        status=ShardStatus.SEALED,
        successors=successors,
        seal=None,
        migration=None,
        hand_over=None,
        route={},
    )


def successor(
    name: str,
    keys: KeyRange,
    parents: list[ShardRecord],
    members: tuple[Member, ...],
    primary: str,
    first_id: int,
) -> ShardRecord:
    """A new open shard on `members`' instances, each with a fresh replica id (S1, P9)."""
    fresh = tuple(Member(m.instance, m.incarnation, first_id + i) for i, m in enumerate(members))
    return ShardRecord(
        shard=name,
        log=parents[0].log,
        range=keys,
        status=ShardStatus.OPEN,
        epoch=1,
        primary_since=1,
        primary=next(m for m in fresh if m.instance == primary),
        in_sync=fresh,
        min_in_sync=parents[0].min_in_sync,
        predecessors=tuple(p.shard for p in parents),
        first_members=tuple(m.replica_id for m in fresh),
    )
