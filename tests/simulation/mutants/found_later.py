"""What styles and the real coordinator found, as it was before the mend ("What it found")."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=121,
        name="sent-appends-refused",
        what="A copy that ends refuses appends which its peers hold (I6).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica.close",
                before='self.writer.stop(UnavailableError(f"{error.message}, outcome unknown"))',
                after="self.writer.stop(error)",
            ),
        ),
    ),
    Mutant(
        number=122,
        name="dropped-copy-counts-as-there",
        what="A learner that drops its copy to begin anew goes on as if it had it (F3).",
        edits=(
            Edit(
                file="logstore/node/replication/catch_up.py",
                function="CatchUp._after_trim",
                before="copy.report(Dropped())",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=123,
        name="registered-before-a-generation",
        what="With etcd a coordinator writes before it begins a generation (I13).",
        edits=(
            Edit(
                file="coordinator/core.py",
                function="CoordinatorCore.begin",
                before="lineage = await open_generation(store, self.env, by)",
                after="""
                    from logstore.meta.generations import ensure_generation
                    lineage = await ensure_generation(store, self.env, by)
                """,
            ),
        ),
        mistakes="metadata rolled back",
    ),
    Mutant(
        number=124,
        name="extra-learner-stays",
        what="A learner that nobody needs is neither admitted nor removed (liveness).",
        edits=(
            Edit(
                file="coordinator/replicas/repair.py",
                function="decide",
                before="if len(holding) >= wanted and shard.learners:",
                after="if len(holding) >= wanted and shard.learners and wanted < 0:",
            ),
        ),
    ),
    Mutant(
        number=125,
        name="trimmed-mark-is-divergence",
        what="A peer whose mark was trimmed at its primary is set aside as diverged (I13).",
        edits=(
            Edit(
                file="logstore/node/replication/peer_sender.py",
                function="PeerSender._probe",
                before="if mark.end < copy.log.base().end:",
                after="if mark.end < 0:",
            ),
        ),
    ),
    Mutant(
        number=126,
        name="retry-of-a-trimmed-append",
        what="An append that comes again after its record was trimmed ends the commit task (P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._time_at",
                before="except OutOfRangeError: return self._last_time_us",
                after="except OutOfRangeError: raise",
            ),
        ),
    ),
    Mutant(
        number=127,
        name="drains-count-alone",
        what="A drain counts on places that another drain's copies need (liveness).",
        edits=(
            Edit(
                file="coordinator/replicas/drain.py",
                function="check_drain",
                before="m.instance not in cluster.draining]",
                after="m.instance != instance]",
            ),
        ),
    ),
    Mutant(
        number=128,
        name="drains-checked-together",
        what="Two drains are each checked before the other is written (liveness).",
        edits=(
            Edit(
                file="coordinator/replicas/drain.py",
                function="Drains.begin",
                before="async with self._beginning:",
                after="if True:",
            ),
        ),
    ),
    Mutant(
        number=129,
        name="drained-copy-never-joins",
        what="In a move a copy on a draining instance never joins, room or not (liveness).",
        edits=(
            Edit(
                file="coordinator/replicas/repair.py",
                function="_beside",
                before="waiting = next(iter(able), None)",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=130,
        name="whole-copy-dropped-after-a-trim",
        what="A learner that begins anew drops what lies above its mark with its copy (I13).",
        edits=(
            Edit(
                file="logstore/node/replication/catch_up.py",
                function="CatchUp._after_trim",
                before="self._cut_above_mark()",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=131,
        name="empty-instance-drained",
        what="An empty instance is drained though another drain counts on it (liveness).",
        edits=(
            Edit(
                file="coordinator/replicas/drain.py",
                function="check_drain",
                before="range(max(int(here), wanted - len(stay)))",
                after="range(max(1, wanted - len(stay)) if here else 0)",
            ),
        ),
    ),
    Mutant(
        number=132,
        name="tail-above-a-trimmed-source",
        what="A learner that reaches above its source waits for the mark (liveness).",
        edits=(
            Edit(
                file="logstore/node/replication/catch_up.py",
                function="CatchUp._follow",
                before="self._from_end and part.high_watermark <= start",
                after="False",
            ),
        ),
    ),
    Mutant(
        number=133,
        name="lease-granted-while-taking-over",
        what="A follower renews the lease of a primary that it is about to replace (P7).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.grants_lease",
                before="self.role is not Role.FOLLOWER or self.pending is None",
                after="True",
            ),
        ),
    ),
    Mutant(
        number=134,
        name="lease-without-the-new-member",
        what="A lease holds without who may have been admitted meanwhile (P7).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.lease_valid",
                before="members |= set(self.pending.record.in_sync)",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=135,
        name="reshape-by-any-cell",
        what="A cell carries out splits and merges of other cells' shards (I9).",
        edits=(
            Edit(
                file="coordinator/migration/reshape_driver.py",
                function="ReshapeDriver.start",
                before="if record.active and self.owns(record.parents):",
                after="if record.active:",
            ),
        ),
    ),
    Mutant(
        number=136,
        name="sealed-end-kept-above-a-loss",
        what="A sealed shard whose end was lost waits for it for ever (S5).",
        edits=(
            Edit(
                file="logstore/replication/recovery.py",
                function="ending_at",
                before="return replace(lost, sealed_end=end.end, sealed_chain=end.chain)",
                after="return lost",
            ),
        ),
    ),
    Mutant(
        number=137,
        name="older-store-takes-the-name",
        what="What an older copy of the metadata says of an instance's name is believed (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.check_name",
                before="if not result.succeeded or result.revision < self.point().revision:",
                after="if False:",
            ),
        ),
    ),
    Mutant(
        number=138,
        name="late-probe-cuts-what-counts",
        what="A probe that comes late cuts what a later one was answered to hold (P5).",
        edits=(
            Edit(
                file="logstore/node/replication/receiver.py",
                function="Receiver.probe",
                before="if sent_s < self.probed_s:",
                after="if False:",
            ),
        ),
    ),
)
