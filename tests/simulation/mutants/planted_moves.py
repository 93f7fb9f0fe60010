"""Planted in the records' path: reads, and what moves, splits and merges do to the records."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=103,
        name="read-above-the-mark",
        what="A read goes past the high watermark, to the end of the copy (I5).",
        edits=(
            Edit(
                file="logstore/node/reads/reads.py",
                function="read",
                before="mark = copy.high_watermark at, trimmed",
                after="""
                    mark = copy._machine.end.end
                    at, trimmed
                """,
            ),
        ),
    ),
    Mutant(
        number=104,
        name="session-not-waited-for",
        what="A reader is not kept waiting until a copy has what the reader wrote (P8).",
        edits=(
            Edit(
                file="logstore/node/reads/reads.py",
                function="wait_for_mark",
                before="while copy.high_watermark < mark:",
                after="while copy.high_watermark < 0:",
            ),
        ),
    ),
    Mutant(
        number=105,
        name="session-not-told",
        what="A client forgets up to where it was acked when it reads (P8).",
        edits=(
            Edit(
                file="logstore/client/sender.py",
                function="Sender.on_result",
                before="self._host.shown(result.shard, result.base_offset + result.count)",
                after="",
            ),
        ),
    ),
    Mutant(
        number=106,
        name="follower-always-fresh",
        what="A follower serves though its primary does not know yet what is committed (P4, P8).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._pushed",
                before="if event.settled and self.high_watermark >= event.high_watermark:",
                after="if event.end.end >= 0:",
            ),
        ),
    ),
    Mutant(
        number=107,
        name="silent-follower-serves",
        what="A follower that hears nothing of its primary goes on serving (P8).",
        edits=(
            Edit(
                file="logstore/node/resources/copy.py",
                function="Copy.is_fresh",
                before="return not stale",
                after="return stale is not None",
            ),
        ),
    ),
    Mutant(
        number=108,
        name="successor-beside-its-parents",
        what="A read takes a successor's records while a parent is still being read (S4).",
        edits=(
            Edit(
                file="logstore/client/reader.py",
                function="Reader._fan_out",
                before="await finished[parent].wait()",
                after="await asyncio.sleep(0)",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=109,
        name="tail-leaves-parent-early",
        what="A tail leaves a sealed parent where the copy it asked ends, not at the seal (S4).",
        edits=(
            Edit(
                file="logstore/client/reader.py",
                function="Reader._at_seal",
                before="return end is not None and place.offset >= end",
                after="return end is not None",
            ),
            Edit(
                file="logstore/node/reads/reads.py",
                function="_ends",
                before="""
                    return is_sealed(copy.record) and
                        offset >= (copy.record.sealed_end or 0)
                """,
                after="return is_sealed(copy.record)",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=110,
        name="returning-source-not-verified",
        what="A source that learns again after the cutover joins unverified (H4, I8).",
        edits=(
            Edit(
                file="coordinator/migration/cutover.py",
                function="_learn_source",
                before="if found is None or found.replica_id != member.replica_id:",
                after="""
                    if record.id:
                        admit = (member.replica_id,)
                        return RecordWrite(record, replace(shard, admit=admit), "unseen")
                    if found is None or found.replica_id != member.replica_id:
                """,
            ),
        ),
        behind=(
            "`admit` only lets the primary look: it adds a copy whose end and chain it "
            "compared itself (P3, `PeerSender._probe`)."
        ),
    ),
    Mutant(
        number=111,
        name="way-back-without-the-target",
        what="A rolled back copy-on-write leaves out what was appended at the target (S4, I7).",
        edits=(
            Edit(
                file="coordinator/migration/copy_on_write.py",
                function="seal_back",
                before="successor(name, open_.range, [open_], (home,)",
                after="successor(name, open_.range, [shard], (home,)",
            ),
        ),
    ),
    Mutant(
        number=112,
        name="rolled-back-with-the-target-in-sync",
        what="A rollback ends while the target is still a member that acks wait for (I7).",
        edits=(
            Edit(
                file="coordinator/migration/cutover.py",
                function="rolling_back",
                before="if holds(shard.in_sync, target): if target.replica_id in shard.remove:",
                after="""
                    if holds(shard.in_sync, target):
                        after = advance(record, State.ROLLED_BACK, facts.now_us)
                        return RecordWrite(after, released(shard), "let it be")
                        if target.replica_id in shard.remove:
                """,
            ),
        ),
    ),
    Mutant(
        number=113,
        name="source-removed-before-the-soak",
        what="The source leaves the set at once after the cutover (H4, I7).",
        edits=(
            Edit(
                file="coordinator/migration/cutover.py",
                function="soaking",
                before='if soaked >= wanted or record.request == "complete":',
                after="if soaked <= wanted:",
            ),
        ),
    ),
    Mutant(
        number=114,
        name="move-without-revision",
        what="A move writes a shard's record over what changed since it was read (G1, I9).",
        edits=(
            Edit(
                file="coordinator/migration/driver.py",
                function="MigrationDriver._commit",
                before="compares += compares_of(writes)",
                after="",
            ),
        ),
    ),
    Mutant(
        number=115,
        name="reshape-without-revision",
        what="A split or merge writes its parents' records over what changed since (S1, G1).",
        edits=(
            Edit(
                file="coordinator/migration/reshape_driver.py",
                function="ReshapeDriver._commit",
                before="compares += compares_of(writes)",
                after="",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=116,
        name="merge-of-unlike-sets",
        what="Two shards whose in-sync sets differ are merged on the first one's (S1).",
        edits=(
            Edit(
                file="coordinator/migration/reshape.py",
                function="_open",
                before="if len(parents) > 1 and",
                after="if len(parents) > 2 and",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=117,
        name="successor-begins-anywhere",
        what="A successor's first member begins empty on a disk that was not there (S1).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._begins_here",
                before="""
                    return record.epoch == 1 or
                        any(p is not None and p.copy.holds_seal() for p in parents)
                """,
                after="return True or bool(parents)",
            ),
        ),
        splits=True,
        behind=(
            "a copy that begins in a later epoch than the first is perhaps short and learns "
            "again (P6, `Instance._open`, mutant 120)."
        ),
    ),
    Mutant(
        number=118,
        name="copies-differ-unnoticed",
        what="A move goes on though the chains of its two copies differ (I8).",
        edits=(
            Edit(
                file="coordinator/migration/machine.py",
                function="_verifying",
                before="if found.error is not None or found.chain != found.expected:",
                after="if found.error is not None:",
            ),
        ),
    ),
)
