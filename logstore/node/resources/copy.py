"""One copy for its parts: its identity, its content, and what it may be used for now.

A part gets facts only through this class, and its findings go up by `report`; a part knows no other
part except those that its constructor names.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from logstore.base.errors import NotServingError
from logstore.base.types import Position, ShardStatus
from logstore.engine.shard_log import ShardLog
from logstore.meta.records import LogOptions, ShardRecord
from logstore.node.resources.availability import Decision, Purpose, decide
from logstore.replication.events import NEVER, Event, Role
from logstore.replication.machine import ReplicationMachine


@dataclass(frozen=True, slots=True)
class DamageFound:
    """The copy's disk does not hold what was written, from `offset` on if that is known."""

    damage: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The copy is on the disk now."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The copy of this learner is gone from the disk, until it is created again."""


@dataclass(frozen=True, slots=True)
class Received:
    """The log is another copy's up to `end`, which came with that one's high watermark."""

    end: Position
    high_watermark: int


@dataclass(frozen=True, slots=True)
class LogEnds:
    """The log of this copy, which does not lead, ends there now, cut or longer (P5)."""

    end: Position


@dataclass(frozen=True, slots=True)
class Pushed:
    """The primary of this term sent batches or a heartbeat, and its high watermark.

    `matched`: how far our log, which ends at `end`, was compared with its log in this term;
    `settled`: its high watermark is all that was committed.
    """

    end: Position
    matched: Position
    high_watermark: int
    settled: bool


CopyEvent = DamageFound | Created | Dropped | Received | LogEnds | Pushed | Event


class Spawn(Protocol):
    """Starts a task that ends with the copy."""

    def __call__(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]": ...


def is_sealed(record: ShardRecord) -> bool:
    return record.status is ShardStatus.SEALED


def sealed_at(record: ShardRecord) -> Position | None:
    """Where a sealing or sealed shard ends."""
    if record.sealed_end is None or record.sealed_chain is None:
        return None
    return Position(record.sealed_end, record.sealed_chain)


class Copy:
    """Owned by its `Replica`, which alone sets the flags. Loop only."""

    def __init__(
        self,
        shard: str,
        log: ShardLog,
        options: LogOptions,
        machine: ReplicationMachine,
        *,
        instance: str,
        now_s: Callable[[], float],
        stale_s: float,
        report: Callable[[CopyEvent], None],
        spawn: Spawn,
    ) -> None:
        """`stale_s`: how long a follower serves what it knew to be committed (P8)."""
        self.shard, self.log, self.options = shard, log, options
        self.report, self.spawn = report, spawn
        self._machine, self._instance = machine, instance
        self._now_s, self._stale_s = now_s, stale_s
        meta = log.meta()
        self.error: str | None = None
        self.exists = meta is not None
        self.closed = False
        self.damage = meta.damage if meta is not None else ""
        """The damage of the disk that was found; empty while there is none."""
        self.landing = 0
        """More than 0: it is to lead as soon as the present writes have landed."""
        self.stepped_down = False
        self.fresh_s = NEVER
        """When this copy last knew all that was committed just then: as a primary that is settled,
        or by a message of one. Never after a start: the disk's mark is behind (P4, P8)."""
        self._held_end: Position | None = None
        """The sealed end that this copy was found to hold."""
        self._changed = asyncio.Event()
        self._marked = asyncio.Event()
        self._seen: tuple[object, ...] = ()

    # ---- facts -------------------------------------------------------------------------------

    @property
    def record(self) -> ShardRecord:
        if self._machine.record is None:
            raise NotServingError(f"shard {self.shard} is starting on {self._instance}")
        return self._machine.record

    @property
    def role(self) -> Role:
        return self._machine.role

    @property
    def epoch(self) -> int:
        return self._machine.epoch

    @property
    def high_watermark(self) -> int:
        return self._machine.high_watermark

    # ---- what it may be used for -----------------------------------------------------------------

    def availability(self, purpose: Purpose) -> Decision:
        """The state that decides whether the copy may be used so now."""
        return decide(purpose, self)

    def check(self, purpose: Purpose) -> None:
        """Raise the purpose's error unless the copy may be used so now."""
        decision = self.availability(purpose)
        if decision.error is not None:
            raise decision.error(
                decision.text.format(
                    shard=self.shard,
                    instance=self._instance,
                    role=self.role.value,
                    epoch=self.epoch,
                    error=self.error,
                    damage=self.damage,
                    why=self.error or self.damage or self._why_not(),
                )
            )

    def _why_not(self) -> str:
        machine = self._machine
        if machine.lacks is not None:
            return (
                f"it ends at {machine.end.end} here, a member holds committed records up to "
                f"{machine.lacks}"
            )
        waits = "" if machine.unsure else ", and what was committed is not known yet"
        return f"it is {self.role.value} here, in epoch {self.epoch}{waits}"

    def is_alone(self) -> bool:
        """This is the shard's only in-sync copy."""
        record = self._machine.record
        return self.role is Role.PRIMARY and record is not None and len(record.in_sync) == 1

    def is_unsure(self) -> bool:
        return self._machine.unsure

    def is_sealed(self) -> bool:
        return self._machine.record is not None and is_sealed(self._machine.record)

    def holds_seal(self) -> bool:
        """This copy is an in-sync one and has the sealed shard's end, by its own chain (S5)."""
        if self.role not in (Role.PRIMARY, Role.FOLLOWER) or not self.exists or self.error:
            return False
        end = sealed_at(self.record)
        if end is None or not self.is_sealed():
            return False
        if self._held_end != end and self.log.position_at(end.end) == end:
            self._held_end = end
            self._machine.adopt(end.end)  # before any read: the disk's mark is behind
        return self._held_end == end

    def is_in_term(self) -> bool:
        return self._machine.term_began

    def has_lease(self) -> bool:
        return self._machine.lease_valid(self._now_s())

    def is_settled(self) -> bool:
        return self._machine.settled()

    def is_fresh(self) -> bool:
        stale = self._now_s() - self.fresh_s > self._stale_s
        return not stale

    def was_fresh(self) -> bool:
        return self.fresh_s > NEVER

    # ---- waiting -------------------------------------------------------------------------------

    async def wait_change(self, timeout_s: float) -> None:
        """Return when high watermark, role or log end changed, or after `timeout_s`."""
        await _wait(self._changed, timeout_s)

    async def wait_mark(self, timeout_s: float) -> None:
        """For readers: return when high watermark, role or configuration changed, or in time."""
        await _wait(self._marked, timeout_s)

    def notify(self) -> None:
        """Something changed: wake those that it concerns."""
        self._changed.set()
        self._changed = asyncio.Event()
        seen = (self.high_watermark, self._machine.revision, self.role, self.error)
        if seen != self._seen:
            self._seen = seen
            self.wake_readers()

    def wake_readers(self) -> None:
        self._marked.set()
        self._marked = asyncio.Event()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
