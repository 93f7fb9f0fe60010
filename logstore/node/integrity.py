"""Whether a copy is whole, at the edge: damage is noticed here, the other members are asked (P6).

Damage shows as `CorruptStorageError` wherever the disk is read (a client's read, replication, the
feed, a verification, the scrub). From then on the copy acks, serves and leads nothing; as soon as
another in-sync member vouches for the log it leaves, is deleted, and repair builds another one.

With one replica nobody can vouch. Its batches are checked one by one, so it goes on serving reads
of those that are whole, answers the others with the error that names their place, and takes no
appends: a disk that rots must get no new records.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from logstore.base.errors import (
    CorruptStorageError,
    LogstoreError,
    NotServingError,
    UnavailableError,
)
from logstore.meta.records import Member
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from logstore.replication.events import Damaged, Role, Surveyed
from logstore.replication.recovery import Vote

if TYPE_CHECKING:
    from logstore.node.replica import Replica

SURVEY_INTERVAL_S = 0.5
SURVEY_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


class Integrity:
    """Of one copy. `damage` says what was found, empty while nothing was."""

    def __init__(self, replica: "Replica", damage: str) -> None:
        self._replica = replica
        self.damage = damage
        self.scrubbed_s: float | None = None
        """When the last scrub of the whole copy ended (monotonic)."""
        self.scrub_result = ""
        self._survey_due_s = float("-inf")
        self._survey: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watching(self, *, for_peer: bool = False) -> Iterator[None]:
        """Around reads of this copy's disk: damage takes it out of service.

        The caller gets an error that sends it elsewhere, or the damage itself if nowhere else is;
        a peer never the latter, which it would take for its own disk's.
        """
        try:
            yield
        except CorruptStorageError as e:
            self.found(e.message, e.offset)
            if self.alone() and not for_peer:
                raise
            raise NotServingError(self._sentence()) from e

    def found(self, damage: str, offset: int | None = None) -> None:
        """This copy is damaged (from `offset` on, if that is known); the rest follows by itself."""
        if self.damage:
            return
        replica = self._replica
        _log.error("copy is damaged", shard=replica.shard, role=replica.role.value, error=damage)
        self.damage = damage
        asyncio.get_running_loop().call_soon(replica.handle, Damaged(offset))

    def alone(self) -> bool:
        """This is the shard's only in-sync copy."""
        record = self._replica.machine.record
        primary = self._replica.role is Role.PRIMARY
        return primary and record is not None and len(record.in_sync) == 1

    def check_appends(self) -> None:
        """Raise unless this copy may take part in appends."""
        if self.damage:
            if self.alone():
                raise CorruptStorageError(f"{self._sentence()}; it takes no appends")
            raise NotServingError(self._sentence())

    def _sentence(self) -> str:
        replica = self._replica
        where = f"the copy of shard {replica.shard} on {replica.node.instance}"
        return f"{where} is damaged: {self.damage}"

    # ---- the survey ----------------------------------------------------------------------------

    def vote(self) -> Vote:
        """What this copy says of itself."""
        replica = self._replica
        machine, last_epoch, end = replica.machine, 0, 0
        readable = replica.exists and replica.error is None and not self.damage
        if readable:
            end = replica.log.end().end
            try:
                last = replica.log.read_last()
                last_epoch = last.epoch if last is not None else 0
            except CorruptStorageError as e:
                self.found(e.message)
                readable = False
        in_sync = replica.role in (Role.PRIMARY, Role.FOLLOWER)
        return Vote(
            replica_id=replica.log.id,
            epoch=replica.epoch,
            vouches=readable and in_sync and not machine.unsure,
            readable=readable,
            last_epoch=last_epoch,
            end=end,
        )

    def survey_if_due(self) -> None:
        """Called each tick: ask the other in-sync members when the machine wants to know."""
        replica = self._replica
        now_s = replica.node.now_s()
        if not replica.machine.needs_survey() or now_s < self._survey_due_s:
            return
        if self._survey is None or self._survey.done():
            self._survey_due_s = now_s + SURVEY_INTERVAL_S
            self._survey = replica.spawn(self._ask_all(), f"survey {replica.shard}")

    async def _ask_all(self) -> None:
        replica = self._replica
        others = replica.machine.to_survey()
        votes = await asyncio.gather(*(self._ask(member) for member in others))
        replica.handle(Surveyed(self.vote(), tuple(v for v in votes if v is not None)))

    async def _ask(self, member: Member) -> Vote | None:
        replica = self._replica
        try:
            stub = NodeAdminStub(replica.node.channel_to(member.instance))
            async with called():
                answer = await stub.Status(
                    node_pb2.StatusRequest(shard=replica.shard), timeout=SURVEY_TIMEOUT_S
                )
        except LogstoreError as e:
            if not isinstance(e, UnavailableError):
                _log.info("no vote", shard=replica.shard, of=member.instance, error=e.message)
            return None
        found = next((s for s in answer.replicas if s.replica_id == member.replica_id), None)
        if found is None:
            return None
        return Vote(
            replica_id=member.replica_id,
            epoch=found.epoch,
            vouches=found.vouches,
            readable=found.readable,
            last_epoch=found.last_epoch,
            end=found.end,
        )
