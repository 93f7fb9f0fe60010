"""I8: no copy replaces another without equal hash chains."""

from collections.abc import Sequence

from coordinator.migration.records import MigrationRecord, State, decode_migration
from logstore.meta.records import MIGRATIONS, SHARDS, ShardRecord, decode_shard
from tests.support.checkers.history import CopyState, Divergence, MetadataTxn, Violation
from tests.support.checkers.i3_acked import holds


def check_joined(record: ShardRecord, joined: CopyState, end: int, chain: bytes) -> list[Violation]:
    """A copy that just joined the in-sync set has the chain that was acked last."""
    if holds(joined, end, chain):
        return []
    return [Violation("I8", f"{joined.instance} joined {record.shard} in epoch {record.epoch} with "
                      f"another chain at offset {end}")]  # fmt: skip


def check(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """A migration's target is in sync, leads, or outlives the source only after equal chains."""
    found = []
    migrations: dict[str, MigrationRecord] = {}
    for txn in txns:
        for key, value in txn.written.items():
            if key.startswith(MIGRATIONS) and value is not None:
                record = migrations[key] = decode_migration(value)
                if record.strategy == "switch":
                    continue  # both were in sync before: each batch was compared (P5)
                if record.strategy == "copy-on-write" and record.state is State.CUTOVER:
                    continue  # nothing is copied yet; the source's history stays until it is
                if record.state in _NEED_HASH and (record.hash is None or not record.hash.equal):
                    found.append(Violation("I8", f"{record.id} is {record.state} without equal "
                                           f"chains: {record.hash}", txn.at_s))  # fmt: skip
        for key, value in txn.written.items():
            if key.startswith(SHARDS) and value is not None:
                found += _unproven(decode_shard(value), migrations, txn)
    return found


def check_diverged(divergences: Sequence[Divergence], excused: frozenset[str]) -> list[Violation]:
    """No two copies differ in what was committed, so no copy is found to; but where all that was
    whole may be lost (`excused`)."""
    return [Violation("I8", d.text, d.at_s) for d in divergences if d.shard not in excused]


_NEED_HASH = frozenset({State.SHADOWING, State.RAMPING, State.CUTOVER, State.SOAKING})


def _unproven(
    shard: ShardRecord, migrations: dict[str, MigrationRecord], txn: MetadataTxn
) -> list[Violation]:
    ids = {m.replica_id for m in shard.in_sync}
    return [
        Violation(
            "I8",
            f"copy {m.target.replica_id} of {m.id} is in sync, its chain was not compared",
            txn.at_s,
        )
        for m in migrations.values()
        if m.target is not None
        and m.target.replica_id in ids
        and m.hash is None
        and m.strategy != "switch"
    ]
