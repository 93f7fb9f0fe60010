"""The replication machine of one copy: pure, one per replica, driven by events.

Order of effects, which the edge keeps (each number has a test):
 1. A batch is durable here before `Written` is reported, and the peer's before its ack (P2).
 2. `HighWatermarkRose(hw)` alone lets acks go out, never while a hand-over's CAS is undecided (H2).
 3. A restarted primary's first effect is the CAS that raises its epoch; `SetAppendGate(open)` comes
    only after that CAS was read and the log end at take-over is committed again (P4, P6).
 4. One CAS at a time. It is resolved by reading a newer revision, never by a timeout (P3); until
    then old ∪ new must hold a batch before it commits.
 5. `Become` precedes any `SetAppendGate(open)` of the new role.
"""

from logstore.base.types import START, Position, ShardStatus
from logstore.meta.records import ShardRecord
from logstore.replication import changes, recovery
from logstore.replication.doubt import Doubt
from logstore.replication.events import (
    Assigned,
    Become,
    ConfigRead,
    Damaged,
    Effect,
    Event,
    HighWatermarkRose,
    PeerAcked,
    PeerAhead,
    PeerDiverged,
    PeerLost,
    PeerMatched,
    PrimaryHeard,
    Push,
    Role,
    StopPush,
    Surveyed,
    Tick,
    Written,
)
from logstore.replication.handing import Handing
from logstore.replication.progress import Progress, ProgressMode
from logstore.replication.state import Timing

__all__ = ["ReplicationMachine", "Timing"]

WRITE_RETRY_GRACES = 2
"""A primary whose writes keep failing is silent for this many graces before it tries again."""


class ReplicationMachine(Doubt, Handing):
    """The entry point of the machine, and the behaviour of a whole copy."""

    __slots__ = ()

    # ---- entry point -----------------------------------------------------------------------

    def handle(self, event: Event, now_s: float) -> list[Effect]:  # noqa: C901 (one case an event)
        """Take one event; `now_s` is monotonic. Returns the effects in the order to carry out."""
        self._out = []
        match event:
            case ConfigRead():
                self._on_config(event, now_s)
            case Assigned(end):
                self.assigned = max(self.assigned, end)
            case Written(end):
                self.end = max(self.end, end)
                self.assigned = max(self.assigned, end)
            case PeerMatched(replica_id, epoch, end, sent_s, incarnation):
                if self._counts(replica_id, epoch) and self._is_itself(replica_id, incarnation):
                    self.peers[replica_id].matched(end, now_s, sent_s, incarnation)
                    self._heard.add(replica_id)
            case PeerAcked(replica_id, epoch, end, sent_s):
                if self._counts(replica_id, epoch):
                    self.peers[replica_id].acked(end, now_s, sent_s)
            case PrimaryHeard():
                self.heard_s = now_s
            case PeerLost(replica_id):
                if replica_id in self.peers:
                    self.peers[replica_id].lost()
            case PeerDiverged(replica_id):
                if replica_id in self.peers:
                    self.peers[replica_id].diverged = True
            case PeerAhead():
                self._on_ahead(event)
            case Damaged(missing_from):
                self.damaged = True
                self.missing_from = missing_from if self.missing_from is None else self.missing_from
                self._set_admission(False)
                if self.role is Role.PRIMARY and self.pending is None:
                    self._tell_missing()
            case Surveyed():
                self._on_survey(event)
            case Tick():
                pass
        self._leave_if_learner()
        self._advance()
        self._act(now_s)
        return self._out

    def write_failed(self, end: Position, now_s: float) -> list[Effect]:
        """A group was not written: the log ends at `end` again.

        Peers may hold what we do not: a new epoch must begin before an offset is assigned again,
        so that a probe truncates it there. A primary whose writes fail again and again
        is silent in between, long enough for a follower to take over (P4).
        """
        self._out = []
        self.end = self.assigned = end
        if self.peers and self.role is Role.PRIMARY:
            self._leave_primary()
            self._raise_needed, self._raised_epoch = True, None
            silence_s = WRITE_RETRY_GRACES * self.timing.grace_s
            if self._failed_s is not None and now_s - self._failed_s < 2 * silence_s:
                self._raise_from_s = now_s + silence_s
            self._failed_s = now_s
            self._raise_if_due(now_s)
        return self._out

    def truncated(self, end: Position) -> None:
        """Report where the log of a copy that does not lead ends, by its disk (truncation: P5)."""
        self.end = end
        self.assigned = end

    def emptied(self) -> None:
        """A learner's copy left its disk; another one begins where its source begins."""
        self.truncated(Position())
        self.high_watermark = 0

    def adopt(self, high_watermark: int) -> None:
        """A member that does not lead learned a high watermark, which never falls."""
        self.high_watermark = max(self.high_watermark, high_watermark)

    # ---- configuration -----------------------------------------------------------------------

    def _on_config(self, event: ConfigRead, now_s: float) -> None:
        if event.revision <= self.revision:
            return
        before = self.record
        self.record, self.revision = event.record, event.revision
        self.pending = None  # a newer revision decides any CAS on an older one
        role = self._role_in(event.record)
        if role not in (Role.PRIMARY, Role.FOLLOWER):
            self.lacks = None  # it catches up on what it lacks
        self.suspect = self._is_suspect(event.record)
        new_term = before is None or before.primary_since != event.record.primary_since
        if role is not self.role or before is None or before.primary != event.record.primary:
            self.role = role
            self._emit(Become(role, event.record.primary))
        if role is not Role.PRIMARY:
            if before is None or before.primary != event.record.primary:
                self.heard_s = now_s
            self._leave_primary()
            if before is None:
                self._raise_needed = False
            return
        if self._silent():
            self._leave_primary()
            if len(event.record.in_sync) == 1:  # it leads nothing, but all it has is committed
                self.adopt(self._at_most_sealed(self.end.end))
            self._tell_missing()
            return  # silent, until a survey decides which copy leads (P6)
        if self._raise_needed and event.record.primary_since != self._raised_epoch:
            self._raise_if_due(now_s)
        elif new_term or not self.term_began:
            self._raise_needed = False
            self._begin_term(now_s)
        if self.term_began:
            self._forget_who_left(before)
            self._follow_members(now_s)

    def _forget_who_left(self, before: ShardRecord | None) -> None:
        """P6: a peer that left the in-sync set may have lost what it acked; it is probed again."""
        left = {m.replica_id for m in before.in_sync} if before is not None else set()
        for replica_id in left - {m.replica_id for m in self._record().in_sync}:
            if self.peers.pop(replica_id, None) is not None:
                self._emit(StopPush(replica_id))

    def _role_in(self, record: ShardRecord) -> Role:
        ids = {m.replica_id for m in record.in_sync}
        if record.primary.replica_id == self.me.replica_id:
            return Role.PRIMARY
        if self.me.replica_id in ids:
            return Role.FOLLOWER
        if any(m.replica_id == self.me.replica_id for m in record.learners):
            return Role.LEARNER
        return Role.REMOVED

    def _raise_if_due(self, now_s: float) -> None:
        """One CAS at a time; after failed writes not before its time."""
        if self.pending is not None or now_s < self._raise_from_s:
            return
        if self._waits_for_learners(now_s):
            return
        record = changes.raised(self._record(), self.me)
        if self._may_have_lost(self._record()):
            cause = "its only copy restarted after a power loss or a damaged WAL"
            if self.known_end is not None and self.tail_lost:
                cause = f"its only copy ends here, its log was known to reach {self.known_end}"
            if self.lacks is not None:
                cause = f"a member that left held records up to {self.lacks}, this copy does not"
            record = recovery.ending_at(record, self.end, cause)
        self._raised_epoch = record.epoch
        self._cas(record, "raise the epoch")

    def _begin_term(self, now_s: float) -> None:
        self.term_began = True
        self.tail_lost = False  # alone, and the possible loss is recorded
        self.lacks = None
        self._heard.clear()
        self.peers.clear()
        self.recommit_end = self._at_most_sealed(self.assigned.end)
        self._stopped_s = self._sealing_s = None
        self._follow_members(now_s)

    def _follow_members(self, now_s: float) -> None:
        """Send to every other in-sync member and to each learner that may be admitted."""
        record = self._record()
        wanted = {
            m.replica_id: m
            for m in record.members()
            if m.replica_id != self.me.replica_id
            and (m in record.in_sync or m.replica_id in record.admit)
        }
        for replica_id in [r for r in self.peers if r not in wanted]:
            del self.peers[replica_id]
            self._emit(StopPush(replica_id))
        for replica_id, member in wanted.items():
            if replica_id not in self.peers:
                self.peers[replica_id] = Progress(heard_s=now_s)
                self._emit(Push(member))

    # ---- commit ------------------------------------------------------------------------------

    def required(self) -> set[int]:
        """Replica ids whose copy an ack waits for: old ∪ new while a change is undecided (P2)."""
        ids = {m.replica_id for m in self._record().in_sync}
        ids |= {r for r, progress in self.peers.items() if progress.joining_s is not None}
        if self.pending is not None:
            ids |= {m.replica_id for m in self.pending.record.in_sync}
        return ids

    def _held_to(self, replica_id: int) -> Position:
        if replica_id == self.me.replica_id:
            return self.end
        progress = self.peers.get(replica_id)
        return progress.match if progress is not None else START

    def _advance(self) -> None:
        if not self.term_began or self._handing_over():
            return
        if len(self._record().in_sync) < self._record().min_in_sync:
            return
        held = self._at_most_sealed(min(self._held_to(r).end for r in self.required()))
        if held > self.high_watermark:
            self.high_watermark = held
            self._emit(HighWatermarkRose(held))

    def _at_most_sealed(self, offset: int) -> int:
        """Nothing above a sealed shard's end is ever committed, whatever a copy holds (S1)."""
        record = self._record()
        if record.status is not ShardStatus.SEALED or record.sealed_end is None:
            return offset
        return min(offset, record.sealed_end)

    def settled(self) -> bool:
        """P4: this primary knows all that was committed before its term: each in-sync member was
        heard in it, and its whole log end at take-over is committed again. Before, it serves no
        reads, admits nothing, and hands nothing over."""
        return (
            self.term_began
            and self.high_watermark >= self.recommit_end
            and all(
                m.replica_id == self.me.replica_id
                or (m.replica_id in self.peers and self.peers[m.replica_id].known)
                for m in self._record().in_sync
            )
        )

    def lease_valid(self, now_s: float) -> bool:
        """True while no other copy can lead: reads that claim to be the latest need it (P7).

        While a change is undecided its new members may be in sync already, and take over.
        """
        if self.role is not Role.PRIMARY or not self.term_began or self._handing_over():
            return False
        if not self.settled():
            return False
        members = set(self._record().in_sync)
        if self.pending is not None:
            members |= set(self.pending.record.in_sync)
        return all(
            m.replica_id in self.peers
            and now_s < self.peers[m.replica_id].lease_from_s + self.timing.lease_s
            for m in members
            if m.replica_id != self.me.replica_id
        )

    def grants_lease(self) -> bool:
        """What this copy answers its primary renews the primary's lease; not while a take-over of
        this copy is undecided, which may still be carried out, however late (P7)."""
        return self.role is not Role.FOLLOWER or self.pending is None

    # ---- what to do next -----------------------------------------------------------------------

    def _act(self, now_s: float) -> None:
        if self.role is Role.FOLLOWER and self.pending is None:
            self._act_as_follower(now_s)
        if self.role is not Role.PRIMARY or self._silent():
            return
        if not self.term_began:
            if self._raise_needed:
                self._raise_if_due(now_s)
            return
        reconciled = self.settled()
        if self.pending is None:
            self._drop_failed(now_s)
        if self.pending is None and reconciled:
            self._fulfil_remove()
        if self.pending is None:
            self._follow_learners(now_s)
            self._fulfil_admit()
        if reconciled:
            self._fulfil_hand_over(now_s)
            self._fulfil_seal(now_s)
        record = self._record()
        self._set_admission(
            reconciled
            and record.status is ShardStatus.OPEN
            and not self._sealing()
            and self._stopped_s is None
            and not self._handing_over()
            and len(record.in_sync) >= record.min_in_sync
        )

    def _act_as_follower(self, now_s: float) -> None:
        """Leave if suspect (P6); take over when the primary's lease surely ended (P4, P7)."""
        record = self._record()
        if self.unsure:
            return  # the survey decides
        ranks = sorted(m.replica_id for m in record.in_sync if m != record.primary)
        rank = ranks.index(self.me.replica_id)
        silent_s = now_s - (self.heard_s if self.heard_s is not None else now_s)
        if silent_s <= self.timing.grace_s + rank * self.timing.stagger_s:
            return
        self._cas(changes.taken_over(record, self.me), f"take over from {record.primary.instance}")

    def _drop_failed(self, now_s: float) -> None:
        """Silent in-sync peers become learners; a diverged copy leaves the record and is built
        again.

        It can never match again, so it leaves also where fewer than `min_in_sync` are left: nothing
        commits until another is admitted.
        """
        record = self._record()
        bad = [r for r, progress in self.peers.items() if progress.diverged]
        if bad:
            aside = changes.set_aside(record, bad)
            self._cas(self._with_loss(aside, bad), f"copies {bad} diverged, set aside")
            return
        for member in record.in_sync:
            progress = self.peers.get(member.replica_id)
            if progress is None or len(record.in_sync) - 1 < record.min_in_sync:
                continue
            if now_s - progress.heard_s > self.timing.follower_timeout_s:
                self._cas(changes.demoted(record, member), f"{member.instance} is silent")
                return

    def _fulfil_remove(self) -> None:
        record = self._record()
        if not record.remove:
            return
        ids = [r for r in record.remove if r != self.me.replica_id]
        left = [m for m in record.in_sync if m.replica_id not in ids]
        if len(left) < record.min_in_sync:
            return
        self._cas(changes.removed(record, ids), "asked to remove")

    def _follow_learners(self, now_s: float) -> None:
        """Under load a learner is always some batches behind, so one that keeps up is counted
        before it is added (P3 counts it from before the CAS): the high watermark waits for it."""
        record = self._record()
        learners = {m.replica_id for m in record.learners} & set(record.admit)
        for replica_id, progress in self.peers.items():
            if replica_id not in learners or progress.diverged:
                progress.leave()
            elif progress.mode is ProgressMode.REPLICATE:
                round_s_max = self.timing.follower_timeout_s / 2
                progress.follow(self.high_watermark, round_s_max, now_s)

    def _fulfil_admit(self) -> None:
        """P3: add a learner that matches up to the high watermark, counting it from now on.

        Also before the log end at take-over is committed again (P4), but then only one that has all
        of it: with fewer than `min_in_sync` members nothing commits until one is added.
        """
        record = self._record()
        for member in record.learners:
            progress = self.peers.get(member.replica_id)
            if (
                member.replica_id in record.admit
                and progress is not None
                and progress.mode is ProgressMode.REPLICATE
                and not progress.diverged
                and progress.match.end >= max(self.high_watermark, self.recommit_end)
            ):
                record = changes.admitted(record, member, progress.incarnation)
                self._cas(record, f"admit {member.instance}")
                return
