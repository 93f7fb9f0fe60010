"""I9: metadata is only changed by compare-and-swap, by who may."""

from collections.abc import Sequence

from logstore.meta.records import (
    MIGRATIONS,
    SHARDS,
    TOMBSTONES,
    ShardRecord,
    decode_shard,
    decode_tombstone,
    shard_key,
)
from tests.checkers.history import MetadataTxn, Violation


def check(
    txns: Sequence[MetadataTxn], instances: frozenset[str], leader_key: str = ""
) -> list[Violation]:
    """Each written key was compared, and each change of a configuration made by a copy's instance.

    `instances`: names of the authors that are instances; all others are coordinators, whose moves
    and intents also compare `leader_key` once one was elected.
    """
    found = []
    shards: dict[str, ShardRecord] = {}
    elected = False
    for txn in txns:
        elected |= leader_key in txn.written
        plans = any(key.startswith((SHARDS, MIGRATIONS)) for key in txn.written)
        if elected and plans and txn.author not in instances and leader_key not in txn.compared:
            found.append(Violation("I9", f"revision {txn.revision}: {txn.author} wrote without "
                                   "being the leader", txn.at_s))  # fmt: skip
        for key, value in txn.written.items():
            if key not in txn.compared and not _buries(key, value, txn):
                found.append(Violation("I9", f"revision {txn.revision}: {txn.author} wrote {key} "
                                       "without a compare", txn.at_s))  # fmt: skip
            if not key.startswith(SHARDS) or value is None:
                continue
            record, before = decode_shard(value), shards.get(key)
            shards[key] = record
            if before is not None and _reconfigured(before, record):
                members = {m.instance for m in before.in_sync}
                if txn.author not in instances or txn.author not in members:
                    found.append(Violation("I9", f"revision {txn.revision}: {txn.author} changed "
                                           f"the configuration of {record.shard} (P3)",
                                           txn.at_s))  # fmt: skip
    return found


def _buries(key: str, value: bytes | None, txn: MetadataTxn) -> bool:
    """A tombstone is new by its replica id, and its shard's record is compared (P9)."""
    if value is None or not key.startswith(TOMBSTONES):
        return False
    return shard_key(decode_tombstone(value).shard) in txn.compared


def _reconfigured(before: ShardRecord, after: ShardRecord) -> bool:
    return (before.epoch, before.primary, before.in_sync) != (
        after.epoch,
        after.primary,
        after.in_sync,
    )
