"""I7: kill -9 of any party at any step of a migration ends in an end state without a person."""

from collections.abc import Sequence

from coordinator.migration.records import MigrationRecord, State, decode_migration
from coordinator.migration.table import may_go_to
from logstore.meta.records import MIGRATIONS, SHARDS, ShardRecord, decode_shard, shard_key
from tests.support.checkers.history import MetadataTxn, Violation

SOAKED_SHARE = 0.9
"""Clocks may run so much faster than that of the history."""


def check_table(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """Every step of every migration is in the transition table."""
    states: dict[str, State] = {}
    found = []
    for txn in txns:
        for key, value in txn.written.items():
            if not key.startswith(MIGRATIONS) or value is None:
                continue
            record = decode_migration(value)
            before = states.get(key, State.PLANNED)
            if record.state not in (before, *may_go_to(record.strategy, before)):
                found.append(Violation("I7", f"{record.id} went from {before} to {record.state}",
                                       txn.at_s))  # fmt: skip
            states[key] = record.state
    return found


def check_ended(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """After the run has healed: all migrations have ended, and own no shard."""
    last: dict[str, bytes | None] = {}
    for txn in txns:
        last.update(txn.written)
    found = []
    for key, value in last.items():
        if value is None:
            continue
        if key.startswith(MIGRATIONS) and decode_migration(value).active:
            record = decode_migration(value)
            found.append(Violation("I7", f"{record.id} is still in {record.state}"))
        elif key.startswith(SHARDS) and decode_shard(value).migration is not None:
            shard = decode_shard(value)
            found.append(Violation("I7", f"{shard.shard} still belongs to {shard.migration}"))
    return found


def check_reversed(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """A migration is rolled back only when its target's copy is no member any more.

    Not of a switch, whose target stays the follower that it was, and not of a copy on write, which
    leaves a sealed shard behind.
    """
    shards: dict[str, ShardRecord] = {}
    done: set[str] = set()
    found = []
    for txn in txns:
        for key, value in txn.written.items():
            if key.startswith(SHARDS) and value is not None:
                shards[key] = decode_shard(value)
        for key, value in txn.written.items():
            if not key.startswith(MIGRATIONS) or value is None or key in done:
                continue
            record = decode_migration(value)
            shard = shards.get(shard_key(record.shard))
            if record.state is not State.ROLLED_BACK or shard is None or record.target is None:
                continue
            if record.strategy not in ("shadow", "log-shipping"):
                continue
            done.add(key)
            if any(m.replica_id == record.target.replica_id for m in shard.members()):
                found.append(Violation("I7", f"{record.id} is rolled back, its target "
                                       f"{record.target_instance} is still a member",
                                       txn.at_s))  # fmt: skip
    return found


def check_soaked(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """H4: the source is asked to leave when it has soaked for as long as the move says, or when
    somebody asked to complete the move."""
    moves: dict[str, MigrationRecord] = {}
    since_s: dict[str, float] = {}
    asked: set[str] = set()
    found = []
    for txn in txns:
        for key, value in txn.written.items():
            if key.startswith(MIGRATIONS) and value is not None:
                record = decode_migration(value)
                before = moves.get(record.id)
                moves[record.id] = record
                if before is None or before.state is not record.state:
                    since_s[record.id] = txn.at_s
        for key, value in txn.written.items():
            if not key.startswith(SHARDS) or value is None:
                continue
            shard = decode_shard(value)
            move = moves.get(shard.migration or "")
            if move is None or move.state is not State.SOAKING or move.id in asked:
                continue
            if move.strategy == "switch" or move.source.replica_id not in shard.remove:
                continue
            asked.add(move.id)
            soaked_s = txn.at_s - since_s[move.id]
            if soaked_s < SOAKED_SHARE * move.options.soak_s and move.request != "complete":
                text = f"the source of {move.id} must leave after {soaked_s:.3f} s"
                found.append(Violation("I7", f"{text}, soak_s is {move.options.soak_s}", txn.at_s))
    return found


def check(txns: Sequence[MetadataTxn]) -> list[Violation]:
    return check_table(txns) + check_reversed(txns) + check_ended(txns) + check_soaked(txns)
