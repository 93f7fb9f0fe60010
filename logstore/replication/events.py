"""Events and effects of the replication machine. Plain data."""

from dataclasses import dataclass
from enum import StrEnum

from logstore.base.types import Position
from logstore.meta.records import Member, ShardRecord
from logstore.replication.recovery import Vote

NEVER = float("-inf")
"""A time before all others."""


class Role(StrEnum):
    """The role of this copy, by the last configuration read."""

    LOADING = "loading"
    """No configuration was read yet: accepts nothing (P6)."""
    PRIMARY = "primary"
    FOLLOWER = "follower"
    LEARNER = "learner"
    REMOVED = "removed"
    """The configuration does not name this copy any more."""


# ---- events ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """The shard's record as of `revision`: from a linearizable read, a watch, or our own CAS."""

    record: ShardRecord
    revision: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """The primary gave offsets to batches up to `end`; they are being written and sent."""

    end: Position


@dataclass(frozen=True, slots=True)
class Written:
    """This copy's log is durable (at the log's durability) up to `end`."""

    end: Position


@dataclass(frozen=True, slots=True)
class PeerMatched:
    """A probe was answered: the peer's log equals ours up to `end`; sending starts there.

    `sent_s` is our monotonic time when the probe was sent (P7), `incarnation` the peer's now.
    """

    replica_id: int
    epoch: int
    end: Position
    sent_s: float = NEVER
    incarnation: int | None = None


@dataclass(frozen=True, slots=True)
class PeerAcked:
    """The peer holds our log up to `end` durably, matched in `epoch`.

    `sent_s` is our monotonic time when the message that it answers was sent (P7).
    """

    replica_id: int
    epoch: int
    end: Position
    sent_s: float = NEVER


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The stream to the peer broke; it must be probed again."""

    replica_id: int


@dataclass(frozen=True, slots=True)
class PeerDiverged:
    """The peer's committed part differs from ours: it must not be counted."""

    replica_id: int


@dataclass(frozen=True, slots=True)
class PeerAhead:
    """The peer reports in `epoch` that it holds committed records up to `mark`, above our end."""

    replica_id: int
    epoch: int
    mark: int


@dataclass(frozen=True, slots=True)
class PrimaryHeard:
    """A valid message of the primary of our epoch arrived."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A checksum or the chain of this copy does not hold: it must not ack, lead or be counted."""

    missing_from: int | None = None
    """The first offset that cannot be read, if it is known."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The answers of the other in-sync members about their copies, and ours (P6)."""

    mine: Vote
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    ConfigRead
    | Assigned
    | Written
    | PeerMatched
    | PeerAcked
    | PeerLost
    | PeerDiverged
    | PeerAhead
    | PrimaryHeard
    | Damaged
    | Surveyed
    | Tick
)


# ---- effects --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Become:
    """The role changed; `primary` is the present primary."""

    role: Role
    primary: Member


@dataclass(frozen=True, slots=True)
class SetAppendGate:
    """Start or stop taking appends; while stopped, arrivals wait in the bounded queue (H1)."""

    open: bool


@dataclass(frozen=True, slots=True)
class HighWatermarkRose:
    """The high watermark rose: acks up to it may be sent (P2)."""

    high_watermark: int


@dataclass(frozen=True, slots=True)
class Cas:
    """Write `record` if the key's revision is still `revision`; feed the outcome as ConfigRead.

    An unknown outcome is resolved by repeating the same compare-and-swap or reading a newer
    revision; until then the machine counts old ∪ new.
    """

    record: ShardRecord
    revision: int
    why: str


@dataclass(frozen=True, slots=True)
class Push:
    """Open (or re-open) a stream to the peer: probe, then send from where it matches."""

    member: Member


@dataclass(frozen=True, slots=True)
class StopPush:
    replica_id: int


Effect = Become | SetAppendGate | HighWatermarkRose | Cas | Push | StopPush
