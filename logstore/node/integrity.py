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
from logstore.node.availability import Purpose
from logstore.node.copy import DamageFound
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from logstore.replication.events import Surveyed
from logstore.replication.recovery import Vote

if TYPE_CHECKING:
    from logstore.node.replica import Replica

SURVEY_INTERVAL_S = 0.5
SURVEY_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


class Integrity:
    """Of one copy."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
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
            copy = self._replica.copy
            copy.report(DamageFound(e.message, e.offset))
            if copy.is_alone() and not for_peer:
                raise
            raise NotServingError(
                f"the copy of shard {copy.shard} on {self._replica.node.instance} is damaged: "
                f"{copy.damage}"
            ) from e

    # ---- the survey ----------------------------------------------------------------------------

    def vote(self) -> Vote:
        """What this copy says of itself."""
        replica = self._replica
        copy, last_epoch, end = replica.copy, 0, 0
        readable = copy.availability(Purpose.SHOW_LOG).allowed
        if readable:
            end = replica.log.end().end
            try:
                last = replica.log.read_last()
                last_epoch = last.epoch if last is not None else 0
            except CorruptStorageError as e:
                copy.report(DamageFound(e.message))
                readable = False
        return Vote(
            replica_id=replica.log.id,
            epoch=replica.epoch,
            vouches=copy.availability(Purpose.VOUCH).allowed,
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
