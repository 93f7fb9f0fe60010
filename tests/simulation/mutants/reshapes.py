"""Splits and merges (S1-S3)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=22,
        name="seal-without-drain",
        what="The seal is written before all hold the end (S1).",
        edits=(
            Edit(
                file="logstore/replication/handing.py",
                function="Handing._fulfil_seal",
                before="if self._drained():",
                after="if self._stopped_s is not None:",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=23,
        name="boundary-key-lost",
        what="A split leaves out the key it splits at (I1).",
        edits=(
            Edit(
                file="coordinator/migration/reshape.py",
                function="_open",
                before="first.range.split(record.at)",
                after="""
                    (
                        KeyRange(first.range.start, record.at),
                        KeyRange(record.at + bytes(1), first.range.end),
                    )
                """,
            ),
        ),
    ),
    Mutant(
        number=24,
        name="dedupe-state-dropped-at-split",
        what="A sealed parent forgot which appends it stored (S2).",
        edits=(
            Edit(
                file="logstore/node/appends/sealed.py",
                function="SealedAnswers._known",
                before="e.offset + e.count <= end",
                after="e.offset + e.count < 0 * end",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=25,
        name="successor-before-the-seal",
        what="Successors open before the parent is sealed (S1).",
        edits=(
            Edit(
                file="coordinator/migration/reshape.py",
                function="decide",
                before="if waiting:",
                after="if waiting and not facts.log:",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=26,
        name="ancestors-not-counted",
        what="A successor counts a key's version from 0 (S3).",
        edits=(
            Edit(
                file="logstore/node/appends/sealed.py",
                function="AncestorVersions.fetch",
                before="total += await self._ask(record, key)",
                after="total += 0 * await self._ask(record, key)",
            ),
        ),
        splits=True,
    ),
)
