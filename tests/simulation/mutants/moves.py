"""Moves, their driver and its fence (I7-I9)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=8,
        name="hash-not-checked",
        what="A move goes on without comparing the chains (I8).",
        edits=(
            Edit(
                file="coordinator/migration/machine.py",
                function="_verifying",
                before="found = facts.verified",
                after="""
                    found = facts.verified
                    if True:
                        after = advance(record, State.SHADOWING, facts.now_us)
                        return RecordWrite(after, replace(shard, admit=(target.replica_id,)),
                            'unseen')
                """,
            ),
        ),
    ),
    Mutant(
        number=12,
        name="rollback-without-reverse",
        what="A rollback ends while the target still leads (I7).",
        edits=(
            Edit(
                file="coordinator/migration/cutover.py",
                function="rolling_back",
                before="return _hand_back(record, facts, shard)",
                after="""
                    after = advance(record, State.ROLLED_BACK, facts.now_us)
                    return RecordWrite(after, released(shard), "let it be")
                """,
            ),
        ),
    ),
    Mutant(
        number=18,
        name="coordinator-not-fenced",
        what="A coordinator writes without its fence (I9).",
        edits=(
            Edit(
                file="logstore/meta/election.py",
                function="FencedStore.txn",
                before="result = await self._store.txn([*compares, fence], operations)",
                after="result = await self._store.txn(list(compares), operations)",
            ),
        ),
    ),
)
