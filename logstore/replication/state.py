"""The state of one copy's replication machine, and how it emits effects. Pure.

The parts that decide are `doubt` (a copy that may not be whole), `handing` (hand-over and seal) and
`machine` (everything else, and the entry point).
"""

from dataclasses import dataclass, field

from logstore.base.types import START, Position
from logstore.meta.records import Member, ShardRecord
from logstore.replication.events import Cas, Effect, Role, SetAppendGate, StopPush
from logstore.replication.progress import Progress
from logstore.replication.recovery import Vote


@dataclass(frozen=True, slots=True)
class Timing:
    """Bounds of the machine, in seconds."""

    follower_timeout_s: float = 1.5
    """An in-sync peer that acks nothing for this long is removed."""
    lease_s: float = 1.5
    """The primary's lease for latest reads, from the sending of what a follower answered (P7)."""
    grace_s: float = 1.9
    """A follower that hears nothing for this long takes over: the lease, and a margin of a quarter
    for drift; clocks only need to run at about the same speed, not to show the same time."""
    stagger_s: float = 0.3
    """Each further follower waits this much longer, so that one of them tries first."""
    hand_over_timeout_s: float = 5.0
    """A hand-over or seal that does not drain in this time is given up by a CAS."""
    seal_timeout_s: float = 10.0
    """A sealing shard without successors is opened again by a CAS after this."""

    def __post_init__(self) -> None:
        if self.grace_s < 1.1 * self.lease_s:
            raise ValueError(
                f"grace_s is {self.grace_s} s, the least is 1.1 x lease_s ({self.lease_s} s)"
            )


@dataclass(slots=True)
class MachineState:
    """One copy's view. `end`/`high_watermark` come from the disk at start."""

    me: Member
    end: Position
    high_watermark: int
    timing: Timing = field(default_factory=Timing)
    loses_on_power: bool = True
    """With `os` durability a copy of another incarnation may have lost what it acked (P6)."""
    damaged: bool = False
    """A checksum or the chain of this copy does not hold: it leaves the set and is built again."""
    tail_lost: bool = False
    """The end of this copy is or may be missing, whatever the durability: its WAL was damaged, or
    it is shorter than it was known to be."""
    known_end: int | None = None
    """How far the log was known to reach, if the disk returned less of it."""
    missing_from: int | None = None
    """With `damaged`: the first offset that cannot be read, if it is known."""
    lacks: int | None = None
    """P11: an in-sync member holds committed records up to here, and this primary's log ends below
    it: an older disk. It steps down, and never drops that member."""

    role: Role = Role.LOADING
    record: ShardRecord | None = None
    revision: int = 0
    assigned: Position = START
    peers: dict[int, Progress] = field(default_factory=dict)
    pending: Cas | None = None
    term_began: bool = False
    """True once this process leads in an epoch that it raised or was handed."""
    recommit_end: int = 0
    admitting: bool = False
    heard_s: float | None = None
    """When a follower last heard its primary."""
    suspect: bool = False
    """P6: another incarnation than the stored one, in sync: acks, serves and leads nothing until
    it was removed and learned again."""
    _raise_needed: bool = True
    _raised_epoch: int | None = None
    _stopped_s: float | None = None
    _sealing_s: float | None = None
    """Since when this primary sees the shard sealing (S1)."""
    _heard: set[int] = field(default_factory=set)
    """The peers that matched in this term, also if they left since: without us nothing was
    committed then."""
    _own_vote: Vote | None = None
    _learner_votes: dict[int, Vote] = field(default_factory=dict)
    _learners_until_s: float | None = None
    """Until when learners are asked before the only in-sync copy leads with a possible loss."""
    _failed_s: float | None = None
    """When a write failed last."""
    _raise_from_s: float = 0.0
    """The epoch is not raised before."""
    _out: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.assigned = self.end

    @property
    def epoch(self) -> int:
        return self.record.epoch if self.record else 0

    def _leave_primary(self) -> None:
        self.term_began = False
        for replica_id in self.peers:
            self._emit(StopPush(replica_id))
        self.peers.clear()
        self._stopped_s = self._sealing_s = None
        self._set_admission(False)

    def _counts(self, replica_id: int, epoch: int) -> bool:
        """P1: only progress of this term counts."""
        return (
            self.term_began
            and replica_id in self.peers
            and self._record().primary_since <= epoch <= self.epoch
        )

    def _record(self) -> ShardRecord:
        assert self.record is not None
        return self.record

    def _set_admission(self, open_: bool) -> None:
        if open_ != self.admitting:
            self.admitting = open_
            self._emit(SetAppendGate(open_))

    def _cas(self, record: ShardRecord, why: str) -> None:
        self.pending = Cas(record, self.revision, why)
        self._emit(self.pending)

    def _emit(self, effect: Effect) -> None:
        self._out.append(effect)
