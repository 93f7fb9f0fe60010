"""A copy that may lack what it acked: damaged, restarted or put back from an old disk. Pure.

P6: it acks, serves and leads nothing until a survey of the other members shows which copies are
whole. P11: a primary that hears of an in-sync member with more than it holds steps down, and never
drops that member. `recovery` decides what follows from a survey.
"""

from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord
from logstore.replication import recovery
from logstore.replication.events import PeerAhead, Role, Surveyed
from logstore.replication.state import MachineState

LEARNERS_ASKED_GRACES = 3
"""An only copy that may lack what it acked asks its learners for this many graces, then leads."""


class Doubt(MachineState):
    """The part of the machine that surveys other members before it relies on its own copy."""

    __slots__ = ()

    def _is_suspect(self, record: ShardRecord) -> bool:
        """True when acked records may be missing on our disk, and another member may have them."""
        stored = next((m for m in record.in_sync if m.replica_id == self.me.replica_id), None)
        return (
            self.loses_on_power
            and stored is not None
            and stored.incarnation != self.me.incarnation
            and len(record.in_sync) > 1
        )

    def _is_itself(self, replica_id: int, incarnation: int | None) -> bool:
        """P6: an in-sync peer that may lose what it acked counts under its stored incarnation only;
        others, and learners, under any."""
        if not self.loses_on_power:
            return True
        stored = next((m for m in self._record().in_sync if m.replica_id == replica_id), None)
        return stored is None or incarnation is None or stored.incarnation == incarnation

    @property
    def unsure(self) -> bool:
        """True while this copy may lack what it acked, or is damaged: acks and leads nothing."""
        return self.suspect or self.damaged or self.tail_lost or self.lacks is not None

    def _silent(self) -> bool:
        """P6: unsure, and another member may be whole; a damaged copy is silent in any case."""
        return self.unsure and (self.damaged or len(self._record().in_sync) > 1)

    def to_survey(self) -> tuple[Member, ...]:
        """The members to ask: the other in-sync ones, or the learners of an only one."""
        record = self._record()
        others = tuple(m for m in record.in_sync if m.replica_id != self.me.replica_id)
        return others or record.learners

    def needs_survey(self) -> bool:
        """The edge must ask the members in `to_survey` and report `Surveyed`."""
        if self.role is Role.PRIMARY and self._asks_learners():
            return self.pending is None and not self.term_began
        return (
            self.unsure
            and self.role in (Role.PRIMARY, Role.FOLLOWER)
            and self.pending is None
            and len(self._record().in_sync) > 1
        )

    def _on_survey(self, event: Surveyed) -> None:
        if not self.needs_survey() or event.mine.epoch != self.epoch:
            return
        if self._asks_learners():  # decided when it is about to lead
            self._own_vote = event.mine
            self._learner_votes = {vote.replica_id: vote for vote in event.votes}
            return
        votes = {vote.replica_id: vote for vote in event.votes}
        leave = self.damaged or self.tail_lost
        step = recovery.next_record(
            self._record(), self.me, event.mine, votes, self.end, leave=leave
        )
        if step is not None:
            self._raised_epoch = step[0].primary_since
            self._cas(*step)

    def _on_ahead(self, event: PeerAhead) -> None:
        """P11: an in-sync member that was not heard in this term may know of more than we do: then
        the survey decides which copy leads. Any other peer that holds more can never match us: a
        learner may have what was committed before our term; one that matched in it has what was
        never committed."""
        if not self._counts(event.replica_id, event.epoch) or event.mark <= self.assigned.end:
            return
        progress = self.peers[event.replica_id]
        in_sync = any(m.replica_id == event.replica_id for m in self._record().in_sync)
        heard = event.replica_id in self._heard
        if in_sync and not heard:
            self.lacks = event.mark
            self._leave_primary()
            self._raise_needed, self._raised_epoch = True, None
        else:
            progress.diverged, progress.ahead = True, None if heard else event.mark

    def _leave_if_learner(self) -> None:
        lossy = self.damaged or self.tail_lost
        if lossy and self.role is Role.LEARNER and self.pending is None:
            self._cas(recovery.left_learners(self._record(), self.me), "this copy is damaged")

    def _may_have_lost(self, record: ShardRecord) -> bool:
        """P6 with one replica: its own disk is the only one, and may lack what it acked."""
        stored = next(m for m in record.in_sync if m.replica_id == self.me.replica_id)
        rebooted = self.loses_on_power and stored.incarnation != self.me.incarnation
        lossy = rebooted or self.tail_lost or self.lacks is not None
        return len(record.in_sync) == 1 and record.epoch > 1 and lossy

    def _asks_learners(self) -> bool:
        """Whether a learner may hold more than this only in-sync copy: it left the set when its
        process stopped, and then this disk was put back or lost its end. A move decides itself."""
        record = self._record()
        idle = record.migration is None and record.status is ShardStatus.OPEN
        return self._may_have_lost(record) and bool(record.learners) and idle and not self.damaged

    def _waits_for_learners(self, now_s: float) -> bool:
        """P6: hear the learners too, for a bounded time; the longest log leads."""
        if not self._asks_learners():
            return False
        if self._learners_until_s is None:
            self._learners_until_s = now_s + LEARNERS_ASKED_GRACES * self.timing.grace_s
        record = self._record()
        heard = {v.replica_id for v in self._learner_votes.values() if v.epoch == self.epoch}
        if now_s < self._learners_until_s and any(
            m.replica_id not in heard for m in record.learners
        ):
            return True
        led = None
        if self._own_vote is not None:
            led = recovery.led_by_learner(record, self._own_vote, self._learner_votes)
        if led is not None:
            self._cas(led, "a learner holds more than the only in-sync copy")
        return led is not None

    def _tell_missing(self) -> None:
        """The only copy is damaged: it steps down, and the record says from which offset on."""
        record = self._record()
        missing_from = self.missing_from
        if not self.damaged or len(record.in_sync) > 1 or missing_from is None:
            return
        cause = f"the disk of its only copy is damaged, its log reached {self.end.end}"
        noted = recovery.with_loss(record, missing_from, cause)
        if not any(x.cause == cause and x.offset <= missing_from for x in record.possible_loss):
            self._cas(noted, "record what is missing")

    def _with_loss(self, record: ShardRecord, bad: list[int]) -> ShardRecord:
        """P11: committed records that are not in the log of the present primary are a possible
        loss."""
        ahead = [a for r in bad if (a := self.peers[r].ahead) is not None]
        if not ahead or any(loss.offset <= self.recommit_end for loss in record.possible_loss):
            return record
        cause = f"a copy that was set aside held committed records up to {max(ahead)}"
        return recovery.with_loss(record, self.recommit_end, cause)
