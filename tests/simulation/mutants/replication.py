"""Who leads, who counts, what is committed (P1-P7, H1)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=1,
        name="ack-before-followers",
        what="The primary acks what only it holds (P2).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._advance",
                before="""
                    held = self._at_most_sealed(min(self._held_to(r).end for r in
                        self.required()))
                """,
                after="held = self.end.end",
            ),
        ),
    ),
    Mutant(
        number=2,
        name="no-fence-on-epoch",
        what="Messages and progress of older epochs count (P1).",
        edits=(
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake._check",
                before="if request.epoch < self.copy.epoch:",
                after="if request.epoch < 0:",
            ),
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._on_config",
                before="if event.revision <= self.revision:",
                after="""
                    if event.revision <= self.revision or (self.term_began and self.peers
                        and event.record.primary != self.me):
                """,
            ),
            Edit(
                file="logstore/replication/state.py",
                function="MachineState._counts",
                before="and self._record().primary_since <= epoch <= self.epoch",
                after="and epoch <= self.epoch",
            ),
        ),
    ),
    Mutant(
        number=3,
        name="promote-a-learner",
        what="A learner that hears nothing takes over (P4).",
        edits=(
            Edit(
                file="logstore/replication/changes.py",
                function="taken_over",
                before="""
                    in_sync = tuple(me if m.replica_id == me.replica_id else m for m in
                        without_old.in_sync)
                """,
                after="""
                    in_sync = (me, *(m for m in without_old.in_sync if m.replica_id !=
                        me.replica_id))
                """,
            ),
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._act",
                before="if self.role is Role.FOLLOWER and self.pending is None:",
                after="if self.role in (Role.FOLLOWER, Role.LEARNER) and self.pending is None:",
            ),
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._act_as_follower",
                before="""
                    ranks = sorted(m.replica_id for m in record.in_sync if m !=
                        record.primary)
                """,
                after="""
                    ranks = sorted(m.replica_id for m in record.members() if m !=
                        record.primary)
                """,
            ),
        ),
    ),
    Mutant(
        number=4,
        name="lease-ignored",
        what="Reads of the latest need no lease (P7).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.lease_valid",
                before="return all(",
                after="return True or all(",
            ),
        ),
    ),
    Mutant(
        number=5,
        name="cutover-without-drain",
        what=(
            "The hand-over does not wait until all hold the end, and acks what was under "
            "way as if it had (H1)."
        ),
        edits=(
            Edit(
                file="logstore/replication/handing.py",
                function="Handing._fulfil_hand_over",
                before="if self._drained():",
                after="if self._stopped_s is not None:",
            ),
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter.stop",
                before="append.refuse(error)",
                after="_resolve(append, self.shard)",
            ),
        ),
    ),
    Mutant(
        number=7,
        name="high-watermark-one-too-high",
        what="A record is committed one too early (P2).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._advance",
                before="""
                    held = self._at_most_sealed(min(self._held_to(r).end for r in
                        self.required()))
                """,
                after="""
                    held = min(min(self._held_to(r).end for r in self.required()) + 1,
                        self.assigned.end)
                """,
            ),
        ),
    ),
    Mutant(
        number=9,
        name="cas-without-revision",
        what="A replica writes its configuration over whatever is there (G1, I9).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._cas",
                before="result = await self.node.store.txn([write.compare], write.operations)",
                after="result = await self.node.store.txn([], write.operations)",
            ),
        ),
    ),
    Mutant(
        number=10,
        name="feed-gap-skipped",
        what="A learner applies what comes next, gap or not (F2).",
        edits=(
            Edit(
                file="logstore/node/rpc/peer_service.py",
                function="PeerService.Feed",
                before="at, told = request.start_offset, replica.high_watermark",
                after="at, told = replica.high_watermark, replica.high_watermark",
            ),
            Edit(
                file="logstore/replication/follower.py",
                function="plan_apply",
                before="""
                    raise OutOfRangeError(
                        f"batch starts at offset {first.base_offset}, this copy ends at
                            {own_end.end}"
                    )
                """,
                after="""
                    return Apply(None, tuple(incoming), Position(incoming[-1].end,
                        incoming[-1].chain_after))
                """,
            ),
        ),
    ),
    Mutant(
        number=11,
        name="restarted-replica-counts",
        what="After a power loss a replica counts and leads without learning again (P6).",
        edits=(
            Edit(
                file="logstore/replication/doubt.py",
                function="Doubt._is_suspect",
                before="self.loses_on_power",
                after="not self.loses_on_power",
            ),
            Edit(
                file="logstore/replication/doubt.py",
                function="Doubt._is_itself",
                before="""
                    return stored is None or incarnation is None or stored.incarnation ==
                        incarnation
                """,
                after="return True",
            ),
        ),
    ),
    Mutant(
        number=13,
        name="epoch-not-raised-at-restart",
        what="A restarted primary goes on in its epoch (P6).",
        edits=(
            Edit(
                file="logstore/replication/state.py",
                function="MachineState",
                before="_raise_needed: bool = True",
                after="_raise_needed: bool = False",
            ),
        ),
    ),
    Mutant(
        number=14,
        name="only-the-old-configuration-counts",
        what="While a change is undecided only the old members count (P3).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.required",
                before="ids |= {m.replica_id for m in self.pending.record.in_sync}",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=15,
        name="learner-added-unmatched",
        what="A learner is added wherever its log ends (P3).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._fulfil_admit",
                before="and progress.match.end >= max(self.high_watermark, self.recommit_end)",
                after="",
            ),
        ),
    ),
    Mutant(
        number=16,
        name="own-vote-before-the-write",
        what="The primary counts itself before its write is done (P2).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._held_to",
                before="return self.end",
                after="return self.assigned",
            ),
        ),
    ),
    Mutant(
        number=20,
        name="commit-below-min-in-sync",
        what="The high watermark rises with fewer than min_in_sync copies (P2).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._advance",
                before="""
                    if len(self._record().in_sync) < self._record().min_in_sync:
                        return
                """,
                after="",
            ),
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._act",
                before="and len(record.in_sync) >= record.min_in_sync",
                after="",
            ),
        ),
    ),
    Mutant(
        number=38,
        name="member-with-more-dropped",
        what=(
            "A primary that meets an in-sync member with more than it holds drops that "
            "member (P11)."
        ),
        edits=(
            Edit(
                file="logstore/replication/doubt.py",
                function="Doubt._on_ahead",
                before="if in_sync and not heard:",
                after="if in_sync and heard:",
            ),
        ),
        mistakes="disk rolled back",
    ),
    Mutant(
        number=40,
        name="reads-before-settled",
        what="A primary serves before it knows all that was committed before its term (P4).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.settled",
                before="""
                    and self.high_watermark >= self.recommit_end
                    and all(
                """,
                after="""
                    and self.high_watermark >= 0
                    or all(
                """,
            ),
        ),
    ),
)
