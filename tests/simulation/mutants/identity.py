"""Identity of stores, disks and processes, and what absence means (I13, P9)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=27,
        name="absence-as-an-order",
        what="A copy that no record names is retired, tombstone or not (P9).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance",
                before="await self._close(shard, held)",
                after="""
                    await self._close(shard, held)
                    from logstore.meta.records import Tombstone
                    gone = Tombstone(self.claim.cluster, self.node.instance, shard,
                        held.member.replica_id, 0, "gone", 600.0, 0)
                    await self.copies.retire(gone, 0)
                """,
            ),
        ),
        mistakes="record deleted",
    ),
    Mutant(
        number=28,
        name="replica-buries-nobody",
        what="A replica that takes a copy out of the record writes no tombstone for it (P9).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._cas",
                before="result = await self.node.store.txn([write.compare], write.operations)",
                after="""
                    result = await self.node.store.txn([write.compare],
                        write.operations[:1])
                """,
            ),
        ),
        mistakes="",
    ),
    Mutant(
        number=29,
        name="coordinator-buries-nobody",
        what=("A coordinator that takes a copy out of a record writes no tombstone for it (P9)."),
        edits=(
            Edit(
                file="logstore/meta/shard_writes.py",
                function="change_shard",
                before="left = tombstones(before, after, revision, order)",
                after="left = tombstones(before, before, revision, order)",
            ),
        ),
        mistakes="",
    ),
    Mutant(
        number=30,
        name="generations-not-compared",
        what="Any store of the cluster holds what was acted on (I13).",
        edits=(
            Edit(
                file="logstore/meta/generations.py",
                function="Lineage.holds",
                before="if not point.generation:",
                after="if point.generation or not point.generation:",
            ),
        ),
        mistakes="rolled back and",
    ),
    Mutant(
        number=31,
        name="only-revisions-compared",
        what=(
            "A store that is written far enough holds what was acted on, whatever its "
            "generations (I13)."
        ),
        edits=(
            Edit(
                file="logstore/meta/generations.py",
                function="Lineage.holds",
                before="""
                    first = self.began.get(point.generation)
                    if first is None or point.revision > self.revision:
                        return False
                    later = [revision for revision in self.began.values() if revision >
                        first]
                    return not later or point.revision < min(later)
                """,
                after="return point.revision <= self.revision",
            ),
        ),
        mistakes="overtaken",
    ),
    Mutant(
        number=32,
        name="next-generation-not-compared",
        what="A point counts as held though the store's next generation began below it (I13).",
        edits=(
            Edit(
                file="logstore/meta/generations.py",
                function="Lineage.holds",
                before="return not later or point.revision < min(later)",
                after="return bool(later) or not later",
            ),
        ),
        mistakes="overtaken",
    ),
    Mutant(
        number=33,
        name="cluster-not-compared",
        what="Data of another cluster are taken for our own (I13).",
        edits=(
            Edit(
                file="logstore/meta/generations.py",
                function="check_holds",
                before="if cluster and cluster != lineage.cluster:",
                after="if cluster and not lineage.cluster:",
            ),
        ),
        mistakes="disk of another",
    ),
    Mutant(
        number=34,
        name="taken-name-not-waited-for",
        what="A name is taken whoever has it (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.make",
                before="await self._wait_until_free()",
                after="await self.store.get(process_key(self.instance))",
            ),
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.make",
                before="Compare(process_key(self.instance), 0),",
                after="",
            ),
        ),
        mistakes="copied",
    ),
    Mutant(
        number=35,
        name="process-number-not-compared",
        what="An old disk is trusted like the one that ran last (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim._is_stale",
                before="if self.identity.knows(known.process):",
                after="if self.identity.process:",
            ),
        ),
        mistakes="all disks",
    ),
    Mutant(
        number=36,
        name="old-copies-not-marked",
        what="An old disk's copies are not marked as perhaps short (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.make",
                before="await mark_short()",
                after="await asyncio.sleep(0)",
            ),
        ),
        mistakes="all disks",
    ),
    Mutant(
        number=37,
        name="generation-not-looked-at",
        what="A running instance does not look whether the store is still its own (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.look",
                before="if seat is None:",
                after="if seat is not None:",
            ),
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.is_accepted",
                before="""
                    return ids == [self.identity.generation] and newest.revision >=
                        self.point().revision
                """,
                after="return bool(ids) or not ids",
            ),
        ),
        mistakes="under running",
    ),
    Mutant(
        number=39,
        name="loser-not-fenced",
        what="A process whose name another one took goes on (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.check_name",
                before="self.taken.set()",
                after="",
            ),
        ),
        mistakes="taken over",
    ),
    Mutant(
        number=41,
        name="retired-bytes-deleted-at-once",
        what="The bytes of a retired copy are deleted before their time is over (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/copies.py",
                function="InstanceCopies._is_over",
                before="""
                    return now_us >= retired.keep_until_us and seen_s >= min(keep_s,
                        SEEN_S_MIN)
                """,
                after="return now_us >= 0 and seen_s >= 0 * keep_s",
            ),
        ),
        mistakes="",
    ),
)
