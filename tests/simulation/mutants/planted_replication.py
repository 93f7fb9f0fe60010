"""Planted in the records' path: what a copy takes, holds, counts and cuts (P1-P11, F1)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=61,
        name="term-not-checked-under-the-lock",
        what="A push that waited while the term changed is applied all the same (P1).",
        edits=(
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake.take",
                before="self._check(request)",
                after="",
            ),
        ),
    ),
    Mutant(
        number=62,
        name="progress-of-older-terms",
        what="Progress that was reported before this primary's term counts in it (P1).",
        edits=(
            Edit(
                file="logstore/replication/state.py",
                function="MachineState._counts",
                before="and self._record().primary_since <= epoch <= self.epoch",
                after="and epoch <= self.epoch",
            ),
        ),
        behind=(
            "each term's streams end with it (`PeerSenders.stop`), a copy that leads again "
            "followed or raised its epoch in between, and a peer answers a message with an "
            "epoch that is no older than the message's."
        ),
    ),
    Mutant(
        number=63,
        name="push-of-older-epochs",
        what="A follower takes batches of an older epoch (P1).",
        edits=(
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake._check",
                before="if request.epoch < self.copy.epoch:",
                after="if request.epoch < 0:",
            ),
        ),
    ),
    Mutant(
        number=64,
        name="mark-taken-late",
        what="A follower takes a high watermark that is one record behind what it was told (P2).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._pushed",
                before="self.machine.adopt(min(event.high_watermark, event.matched.end))",
                after="""
                    self.machine.adopt(
                        max(0, min(event.high_watermark, event.matched.end) - 1))
                """,
            ),
        ),
    ),
    Mutant(
        number=65,
        name="mark-raised-early",
        what="A follower shows all that it matched, committed or not (P2, P5).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._pushed",
                before="self.machine.adopt(min(event.high_watermark, event.matched.end))",
                after="self.machine.adopt(event.matched.end)",
            ),
        ),
    ),
    Mutant(
        number=66,
        name="mark-above-the-match",
        what="A follower's high watermark counts up to its own end, matched or not (P5).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._pushed",
                before="self.machine.adopt(min(event.high_watermark, event.matched.end))",
                after="""
                    self.machine.adopt(min(event.high_watermark, event.end.end))
                """,
            ),
        ),
    ),
    Mutant(
        number=67,
        name="probe-cuts-nothing",
        what="A follower keeps what the primary of the term never had (P5).",
        edits=(
            Edit(
                file="logstore/replication/follower.py",
                function="plan_probe",
                before="return primary_end.end",
                after="return None",
            ),
        ),
    ),
    Mutant(
        number=68,
        name="follower-compares-offsets",
        what="A follower takes a batch for the one it has by its end alone, not by the chain (P5).",
        edits=(
            Edit(
                file="logstore/replication/follower.py",
                function="plan_apply",
                before="if batch.end <= own_end.end and position_at(batch.end) == after:",
                after="if batch.end <= own_end.end and position_at(batch.end) is not None:",
            ),
        ),
    ),
    Mutant(
        number=69,
        name="primary-compares-offsets",
        what="A primary takes a peer's end for matched by its offset alone, not by the chain (P5).",
        edits=(
            Edit(
                file="logstore/node/replication/peer_sender.py",
                function="PeerSender._probe",
                before="copy.log.position_at(candidate.end) == candidate:",
                after="copy.log.position_at(candidate.end) is not None:",
            ),
        ),
    ),
    Mutant(
        number=70,
        name="match-outlives-the-term",
        what="A copy that comes to lead keeps what it matched with the primary before (P5).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica.on_config",
                before="self.receiver.enter_term(record.primary_since)",
                after="""
                    if record.primary.replica_id != self.member.replica_id:
                        self.receiver.enter_term(record.primary_since)
                """,
            ),
        ),
        behind=(
            "a copy comes to lead only once what is being written to it has landed "
            "(`Replica._leads_at_once`), and the next primary's term is entered anew."
        ),
    ),
    Mutant(
        number=71,
        name="cut-beside-a-write",
        what="A push is compared while an earlier term's write to the copy is under way (P5).",
        edits=(
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake.take",
                before="await self.at_rest()",
                after="",
            ),
        ),
    ),
    Mutant(
        number=72,
        name="group-ack-before-sync",
        what="With fsync a group is acked before it was synced (P2).",
        edits=(
            Edit(
                file="logstore/node/resources/commit.py",
                function="GroupCommit._write_group",
                before="if source.durability is Durability.FSYNC:",
                after="if source.durability is Durability.FSYNC and size >= GROUP_BYTES_MAX:",
            ),
        ),
    ),
    Mutant(
        number=73,
        name="follower-ack-before-sync",
        what="With fsync a follower acks before its write was synced (P2).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica.__init__",
                before="""
                    Receiver(self.log, node.committer,
                        options.durability)
                """,
                after="Receiver(self.log, node.committer, Durability.OS)",
            ),
        ),
    ),
    Mutant(
        number=74,
        name="lease-margin-dropped",
        what="A follower takes over as soon as a lease is over, without a margin for drift (P7).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._act_as_follower",
                before="self.timing.grace_s + rank * self.timing.stagger_s",
                after="self.timing.lease_s",
            ),
        ),
    ),
    Mutant(
        number=75,
        name="lease-from-the-answer",
        what="The lease counts from when an answer came, not from when it was asked for (P7).",
        edits=(
            Edit(
                file="logstore/replication/progress.py",
                function="Progress.acked",
                before="self.lease_from_s = max(self.lease_from_s, sent_s)",
                after="self.lease_from_s = now_s",
            ),
        ),
    ),
    Mutant(
        number=76,
        name="acks-while-handing-over",
        what="A primary goes on acking while its hand-over is undecided (H2).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._advance",
                before="if not self.term_began or self._handing_over():",
                after="if not self.term_began:",
            ),
        ),
        behind=(
            "a hand-over's compare-and-swap goes out only when all that was assigned is "
            "committed and the gate is closed (H1, `Handing._drained`): nothing is left to "
            "ack."
        ),
    ),
    Mutant(
        number=77,
        name="timeout-is-an-outcome",
        what="A compare-and-swap that got no answer counts as not done (P3).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._cas",
                before="await self.wait_change(self.node.config.retry_interval_s)",
                after="""
                    self.machine.pending = None
                    return
                """,
            ),
        ),
    ),
    Mutant(
        number=78,
        name="snapshot-of-uncommitted",
        what="A snapshot holds what is not committed yet (F1).",
        edits=(
            Edit(
                file="logstore/node/rpc/peer_service.py",
                function="PeerService.Snapshot",
                before="log.snapshot(replica.high_watermark)",
                after="log.snapshot(replica.machine.end.end)",
            ),
        ),
    ),
    Mutant(
        number=79,
        name="feed-of-uncommitted",
        what="A feed sends what is not committed yet (F1).",
        edits=(
            Edit(
                file="logstore/node/rpc/peer_service.py",
                function="PeerService.Feed",
                before="mark = replica.high_watermark with",
                after="""
                    mark = replica.machine.end.end
                    with
                """,
            ),
        ),
    ),
    Mutant(
        number=80,
        name="newest-mark-not-kept",
        what="A follower's disk does not get the newest high watermark (P11).",
        edits=(
            Edit(
                file="logstore/node/replication/marks.py",
                function="MarkKeeper._wanted",
                before="kept and copy.high_watermark > self._stored",
                after="kept and copy.high_watermark < self._stored",
            ),
        ),
        mistakes="disk rolled back",
    ),
    Mutant(
        number=81,
        name="closed-before-writes-land",
        what="A copy may be deleted while something is still being written to it (P9).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._close",
                before="await held.settled()",
                after="",
            ),
        ),
    ),
    Mutant(
        number=82,
        name="missed-events-not-read",
        what="A watch whose history was compacted goes on from now, without what it missed (G1).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._follow_metadata",
                before="except ConflictError: self.metadata_view.filled = False",
                after="""
                    except ConflictError:
                        self.metadata_view.revision = (await store.range(GENERATION)).revision
                """,
            ),
        ),
    ),
    Mutant(
        number=119,
        name="learner-below-the-take-over",
        what="A learner joins that lacks what the new primary has yet to commit again (P4).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._fulfil_admit",
                before="and progress.match.end >= max(self.high_watermark, self.recommit_end)",
                after="and progress.match.end >= self.high_watermark",
            ),
        ),
    ),
)
