"""What a copy may be used for now, and the error where it may not: one table (P6, P8). Pure.

A purpose reads its rows from the top; the first whose state applies decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from logstore.base.errors import (
    CorruptStorageError,
    FencedError,
    LogstoreError,
    NotServingError,
    StorageError,
)
from logstore.replication.events import Role


class Availability(Enum):
    """A state of a copy. Several may apply at a time: each purpose has its own order of them."""

    FAILED = auto()
    """Out of service until the instance starts again."""
    ABSENT = auto()
    """Not on the disk (yet)."""
    CLOSED = auto()
    """Its service here has ended."""
    DAMAGED_ALONE = auto()
    """Damaged, and the shard's only in-sync copy: what is whole of it is all there is."""
    DAMAGED = auto()
    UNSURE = auto()
    """It may lack what it acked, or is damaged (P6, P11)."""
    LANDING = auto()
    """It is to lead as soon as what is being written to it has landed."""
    STEPPED_DOWN = auto()
    """It left the in-sync set, since this process stops."""
    SEAL_HELD = auto()
    """In sync, of a sealed shard, and it reaches the end by its own chain (S5)."""
    SEALED = auto()
    """Of a sealed shard, whole or not."""
    LEADS = auto()
    NOT_LEADING = auto()
    IN_TERM = auto()
    """It leads in a term that began: what it knows to be committed is committed."""
    NO_LEASE = auto()
    """Another copy may lead by now (P7)."""
    SETTLED = auto()
    """It leads an open shard and knows all that was committed before its term (P4)."""
    FRESH = auto()
    """In sync, of an open shard, and knew a moment ago all that was committed (P8)."""
    NEVER_FRESH = auto()
    """A follower that has heard no settled primary since its start."""
    IN_SYNC = auto()
    NOT_FILLED = auto()
    """Neither a follower nor a learner: no other copy sends it the log."""
    ELSE = auto()
    """Always applies."""


class Purpose(Enum):
    """The uses of a copy."""

    APPEND = auto()
    """Take appends in; an allowed one is answered by the seal, or queued."""
    SERVE = auto()
    """Answer reads, as Status reports it."""
    READ = auto()
    READ_LATEST = auto()
    """Answer a read that must see all that was acked (P7)."""
    WAIT_TO_SERVE = auto()
    """Be waited for: it serves as soon as it knows what was committed (P4)."""
    FEED = auto()
    """Send what is committed to a learner (F1). Also before its primary has settled (P4): a shard
    with fewer than `min_in_sync` members settles only once a learner was admitted."""
    RECEIVE = auto()
    """Be written to by its primary (P1)."""
    ANSWER_SEAL = auto()
    """Say what a sealed shard holds, for ever (S5)."""
    SHOW_LOG = auto()
    """Report to a survey where its log ends (P6)."""
    VOUCH = auto()
    """Vouch for the log in a survey (P6)."""
    SCRUB = auto()
    """Be read back as a whole; what is known to be damaged is not."""
    KEEP_MARK = auto()
    """Write its high watermark by itself."""


class CopyFlags(Protocol):
    """The facts that the states follow from."""

    error: str | None
    exists: bool
    closed: bool
    damage: str
    landing: int
    stepped_down: bool

    @property
    def role(self) -> Role: ...
    def is_alone(self) -> bool: ...
    def is_unsure(self) -> bool: ...
    def is_sealed(self) -> bool: ...
    def holds_seal(self) -> bool: ...
    def is_in_term(self) -> bool: ...
    def has_lease(self) -> bool: ...
    def is_settled(self) -> bool: ...
    def is_fresh(self) -> bool: ...
    def was_fresh(self) -> bool: ...


def _in_sync(copy: CopyFlags) -> bool:
    return copy.role in (Role.PRIMARY, Role.FOLLOWER)


APPLIES: Mapping[Availability, Callable[[CopyFlags], bool]] = {
    Availability.FAILED: lambda c: c.error is not None,
    Availability.ABSENT: lambda c: not c.exists,
    Availability.CLOSED: lambda c: c.closed,
    Availability.DAMAGED_ALONE: lambda c: bool(c.damage) and c.is_alone(),
    Availability.DAMAGED: lambda c: bool(c.damage),
    Availability.UNSURE: lambda c: bool(c.damage) or c.is_unsure(),
    Availability.LANDING: lambda c: c.landing > 0,
    Availability.STEPPED_DOWN: lambda c: c.stepped_down,
    Availability.SEAL_HELD: lambda c: c.is_sealed() and c.holds_seal(),
    Availability.SEALED: lambda c: c.is_sealed(),
    Availability.LEADS: lambda c: c.role is Role.PRIMARY,
    Availability.NOT_LEADING: lambda c: c.role is not Role.PRIMARY,
    Availability.IN_TERM: lambda c: c.role is Role.PRIMARY and c.is_in_term(),
    Availability.NO_LEASE: lambda c: not c.has_lease(),
    Availability.SETTLED: lambda c: c.role is Role.PRIMARY and not c.is_sealed() and c.is_settled(),
    Availability.FRESH: lambda c: _in_sync(c) and not c.is_sealed() and c.is_fresh(),
    Availability.NEVER_FRESH: lambda c: c.role is Role.FOLLOWER and not c.was_fresh(),
    Availability.IN_SYNC: _in_sync,
    Availability.NOT_FILLED: lambda c: c.role not in (Role.FOLLOWER, Role.LEARNER),
    Availability.ELSE: lambda c: True,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One row: in this state the purpose is allowed (no error), or refused with it."""

    state: Availability
    error: type[LogstoreError] | None = None
    text: str = ""
    """May name shard, instance, role, epoch, error, damage and `why` it does not serve."""

    @property
    def allowed(self) -> bool:
        return self.error is None


def _yes(state: Availability) -> Decision:
    return Decision(state)


def _no(state: Availability, text: str = "{why}") -> Decision:
    return Decision(state, NotServingError, text)


IS_DAMAGED = "the copy of shard {shard} on {instance} is damaged: {damage}"
NOT_SERVED = "shard {shard} is not served by {instance}: {why}"
ROLE_HERE = "shard {shard} is {role} here"

_SERVE = (
    _no(Availability.FAILED, NOT_SERVED),
    _yes(Availability.DAMAGED_ALONE),
    _no(Availability.UNSURE, NOT_SERVED),
    _yes(Availability.SEAL_HELD),
    _yes(Availability.SETTLED),
    _yes(Availability.FRESH),
    _no(Availability.ELSE, NOT_SERVED),
)

TABLE: Mapping[Purpose, tuple[Decision, ...]] = {
    Purpose.APPEND: (
        Decision(Availability.FAILED, StorageError, "shard {shard} on {instance}: {error}"),
        Decision(
            Availability.DAMAGED_ALONE, CorruptStorageError, IS_DAMAGED + "; it takes no appends"
        ),
        _no(Availability.DAMAGED, IS_DAMAGED),
        _yes(Availability.SEALED),
        _yes(Availability.LEADS),
        Decision(
            Availability.ELSE,
            FencedError,
            "shard {shard} is {role} on {instance}, in epoch {epoch}",
        ),
    ),
    Purpose.SERVE: _SERVE,
    Purpose.READ: (_yes(Availability.SEAL_HELD), *_SERVE),
    Purpose.READ_LATEST: (
        _yes(Availability.SEAL_HELD),  # no newer record will ever come
        Decision(Availability.NOT_LEADING, FencedError, "shard {shard} is not led by {instance}"),
        _no(Availability.NO_LEASE, "the lease of {instance} on {shard} ran out"),
        _no(Availability.FAILED, NOT_SERVED),
        _yes(Availability.DAMAGED_ALONE),
        _no(Availability.UNSURE, NOT_SERVED),
        _no(Availability.SEALED, NOT_SERVED),
        _yes(Availability.ELSE),  # a lease is a settled primary's
    ),
    Purpose.WAIT_TO_SERVE: (
        _no(Availability.FAILED),
        _no(Availability.UNSURE),
        _no(Availability.SEAL_HELD),
        _no(Availability.SETTLED),
        _no(Availability.FRESH),
        _yes(Availability.LEADS),
        _yes(Availability.NEVER_FRESH),
        _no(Availability.ELSE),
    ),
    Purpose.FEED: (
        _no(Availability.FAILED, NOT_SERVED),
        _yes(Availability.SEAL_HELD),
        _yes(Availability.DAMAGED_ALONE),
        _no(Availability.UNSURE, NOT_SERVED),
        _yes(Availability.IN_TERM),
        _yes(Availability.FRESH),
        _no(Availability.ELSE, NOT_SERVED),
    ),
    Purpose.RECEIVE: (
        _no(Availability.NOT_FILLED, ROLE_HERE),
        _no(Availability.FAILED, ROLE_HERE),
        _no(Availability.LANDING, "shard {shard} is to be led by {instance}"),
        _no(Availability.STEPPED_DOWN, "instance {instance} stops"),
        _no(Availability.UNSURE, "this copy of {shard} may not be whole (P6)"),
        _no(Availability.ABSENT, "the copy of {shard} is not created yet"),
        _yes(Availability.ELSE),
    ),
    Purpose.ANSWER_SEAL: (
        _yes(Availability.SEAL_HELD),
        _no(
            Availability.SEALED,
            "the copy of sealed shard {shard} on {instance} does not reach its end yet",
        ),
        _no(Availability.ELSE, "shard {shard} is not sealed on {instance}"),
    ),
    Purpose.SHOW_LOG: (
        _no(Availability.FAILED),
        _no(Availability.ABSENT),
        _no(Availability.DAMAGED, IS_DAMAGED),
        _yes(Availability.ELSE),
    ),
    Purpose.VOUCH: (
        _no(Availability.FAILED),
        _no(Availability.ABSENT),
        _no(Availability.UNSURE),
        _yes(Availability.IN_SYNC),
        _no(Availability.ELSE),
    ),
    Purpose.SCRUB: (_no(Availability.DAMAGED, IS_DAMAGED), _yes(Availability.ELSE)),
    Purpose.KEEP_MARK: (
        _no(Availability.FAILED),
        _no(Availability.ABSENT),
        _no(Availability.CLOSED),
        _no(Availability.DAMAGED),
        _yes(Availability.IN_SYNC),
        _no(Availability.ELSE),
    ),
}


def decide(purpose: Purpose, copy: CopyFlags) -> Decision:
    """The row that decides; later rows are not read."""
    return next(row for row in TABLE[purpose] if APPLIES[row.state](copy))
