"""Whether a copy is whole, at the edge: damage is noticed here, the other members are asked (P6).

Damage shows as `CorruptStorageError` wherever the disk is read (a client's read, replication, the
feed, a verification, the scrub). From then on the copy acks, serves and leads nothing; as soon as
another in-sync member vouches for the log it leaves, is deleted, and repair builds another one.

With one replica no other member can vouch. Its batches are checked one by one, so it goes on
serving reads of whole ones, answers the others with an error that names their place, and takes no
appends: a failing disk must get no new records.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog

from logstore.base.errors import (
    CorruptStorageError,
    LogstoreError,
    UnavailableError,
)
from logstore.meta.records import Member
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, DamageFound
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from logstore.replication.events import Surveyed
from logstore.replication.machine import ReplicationMachine
from logstore.replication.recovery import Vote

SURVEY_INTERVAL_S = 0.5
SURVEY_TIMEOUT_S = 1.0

_log = structlog.get_logger(__name__)


class Integrity:
    """Integrity of one copy."""

    def __init__(self, copy: Copy, node: NodeContext, machine: ReplicationMachine) -> None:
        self.copy, self._node, self._machine = copy, node, machine
        self.scrubbed_s: float | None = None
        """When the last scrub of the whole copy ended (monotonic)."""
        self.scrub_result = ""
        self._survey_due_s = float("-inf")
        self._survey: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watching(self, *, for_peer: bool = False) -> Iterator[None]:
        """Around reads of this copy's disk: damage takes it out of service.

        The caller gets an error that sends it elsewhere, or the damage itself if there is no other
        copy; a peer never gets the latter, which it would take for its own disk's.
        """
        try:
            yield
        except CorruptStorageError as e:
            self.copy.report(DamageFound(e.message, e.offset))
            if self.copy.availability(Purpose.SERVE).allowed and not for_peer:
                raise  # the only copy serves its whole batches
            self.copy.check(Purpose.SHOW_LOG)
            raise

    # ---- the survey ----------------------------------------------------------------------------

    def vote(self) -> Vote:
        """This copy's report on itself."""
        copy = self.copy
        copy, last_epoch, end = copy, 0, 0
        readable = copy.availability(Purpose.SHOW_LOG).allowed
        if readable:
            end = copy.log.end().end
            try:
                last = copy.log.read_last()
                last_epoch = last.epoch if last is not None else 0
            except CorruptStorageError as e:
                copy.report(DamageFound(e.message))
                readable = False
        return Vote(
            replica_id=copy.log.id,
            epoch=copy.epoch,
            vouches=copy.availability(Purpose.VOUCH).allowed,
            readable=readable,
            last_epoch=last_epoch,
            end=end,
        )

    def survey_if_due(self) -> None:
        """Called each tick: ask the other in-sync members when the machine needs it."""
        copy = self.copy
        now_s = self._node.now_s()
        if not self._machine.needs_survey() or now_s < self._survey_due_s:
            return
        if self._survey is None or self._survey.done():
            self._survey_due_s = now_s + SURVEY_INTERVAL_S
            self._survey = copy.spawn(self._ask_all(), f"survey {copy.shard}")

    async def _ask_all(self) -> None:
        copy = self.copy
        others = self._machine.to_survey()
        votes = await asyncio.gather(*(self._ask(member) for member in others))
        copy.report(Surveyed(self.vote(), tuple(v for v in votes if v is not None)))

    async def _ask(self, member: Member) -> Vote | None:
        copy = self.copy
        try:
            stub = NodeAdminStub(self._node.channel_to(member.instance))
            async with called():
                answer = await stub.Status(
                    node_pb2.StatusRequest(shard=copy.shard), timeout=SURVEY_TIMEOUT_S
                )
        except LogstoreError as e:
            if not isinstance(e, UnavailableError):
                _log.info("no vote", shard=copy.shard, of=member.instance, error=e.message)
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
