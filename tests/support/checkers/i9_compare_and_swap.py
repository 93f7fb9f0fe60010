"""I9: metadata is only changed by compare-and-swap, by who may."""

from collections.abc import Mapping, Sequence

from coordinator.cells.assignment import LOG_WIDE, cell_of, cell_of_all
from coordinator.migration.records import decode_migration
from coordinator.migration.reshape import RESHAPES, decode_reshape
from logstore.meta.records import (
    MIGRATIONS,
    SHARDS,
    TOMBSTONES,
    ShardRecord,
    cell_leader_key,
    decode_shard,
    decode_tombstone,
    shard_key,
)
from tests.support.checkers.history import MetadataTxn, Violation


def check(
    txns: Sequence[MetadataTxn], instances: frozenset[str], cells: int = 0
) -> list[Violation]:
    """Each written key was compared, and each change of a configuration made by a copy's instance.

    `instances`: names of the authors that are instances; all others are coordinators. `cells`: how
    many there are (0: there is no election). Once a leader was elected, a coordinator's write to a
    move compares the election key of its shard's cell, and one to a split or merge that of its
    parents' cell. A write to a shard compares that of the shard's cell, of the move, split or merge
    that the transaction is of (whose successors may be of other cells), or the log-wide one's.
    """
    found = []
    shards: dict[str, ShardRecord] = {}
    moves: dict[str, str] = {}
    elected = False
    for txn in txns:
        elected |= any(key in txn.written for key in _leader_keys(cells))
        if elected and txn.author not in instances:
            found += _unfenced(txn, cells, moves, shards)
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


def _leader_keys(cells: int) -> list[str]:
    return [cell_leader_key(str(number)) for number in range(cells)]


def _unfenced(
    txn: MetadataTxn, cells: int, moves: dict[str, str], before: Mapping[str, ShardRecord]
) -> list[Violation]:
    """Shards, moves, splits and merges that a coordinator wrote without leading their cell.

    `moves`: move -> its shard, of those written so far; the transaction's are added. `before`: the
    shards' records until then.
    """
    moved, reshaped = set(), set()
    for key, value in txn.written.items():
        if key.startswith(MIGRATIONS) and value is not None:
            moved.add(decode_migration(value).shard)
            moves[key.removeprefix(MIGRATIONS)] = decode_migration(value).shard
        if key.startswith(RESHAPES) and value is not None:
            reshaped.add(cell_of_all(decode_reshape(value).parents, cells))
    found = []
    for key, value in txn.written.items():
        shards, leaders = set(), set()
        if key.startswith(SHARDS):
            leaders = {LOG_WIDE, *reshaped}
            shards.add(key.removeprefix(SHARDS))
            records = [before[key]] if key in before else []
            shards |= moved if not records else set()  # a move's way back opens a successor
            records += [decode_shard(value)] if value is not None else []
            shards |= {moves[r.migration] for r in records if r.migration in moves}
        elif key.startswith(MIGRATIONS) and value is not None:
            shards.add(moves[key.removeprefix(MIGRATIONS)])
        elif key.startswith(RESHAPES) and value is not None:
            leaders = {cell_of_all(decode_reshape(value).parents, cells)}
        leaders |= {cell_of(shard, cells) for shard in shards}
        if leaders and not set(map(cell_leader_key, leaders)) & txn.compared.keys():
            found.append(Violation("I9", f"revision {txn.revision}: {txn.author} wrote {key} "
                                   "without being the leader", txn.at_s))  # fmt: skip
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
