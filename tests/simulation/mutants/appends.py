"""Appends sent again, and conditional ones (I6, P10)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=6,
        name="dedupe-state-dropped",
        what="Who begins to lead forgets the producers (I6).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter.reload",
                before="ProducerTable(self.log.producers())",
                after="ProducerTable()",
            ),
        ),
    ),
    Mutant(
        number=17,
        name="version-not-counted",
        what="A conditional append is not counted for the next one of its key (I6).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._settle",
                before="if version != append.expected_version:",
                after="if version < append.expected_version:",
            ),
        ),
    ),
)
