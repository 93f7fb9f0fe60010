"""I3: an acked record survives any failure that leaves one in-sync replica, and any kill."""

from collections.abc import Iterable, Mapping, Sequence

from logstore.meta.records import SHARDS, ShardRecord, decode_shard, shard_key
from tests.support.checkers.history import (
    AppendCall,
    CopyState,
    MetadataTxn,
    Outcome,
    Row,
    Violation,
)


def holds(copy: CopyState, end: int, chain: bytes) -> bool:
    """True when the copy has the log up to `end`, with this chain there."""
    if end == 0 or end <= copy.base:
        return True
    for link in reversed(copy.links):
        if link.end == end:
            return link.chain == chain
        if link.end < end:
            return False
    return False


def check_in_sync(
    record: ShardRecord, copies: Mapping[int, CopyState], end: int, chain: bytes
) -> list[Violation]:
    """Each in-sync copy (by replica id) has all that was acked: up to `end`, where it is `chain`.

    Copies that are not in `copies` are not judged (their disk may have lost what was not synced).
    """
    return [
        Violation(
            "I3",
            f"{m.instance} (copy {m.replica_id}) is in sync for {record.shard} in epoch"
            f" {record.epoch} and lacks acked records below {end}",
        )
        for m in record.in_sync
        if m.replica_id in copies and not holds(copies[m.replica_id], end, chain)
    ]


def check_told(
    appends: Sequence[AppendCall],
    rows: Iterable[Row],
    excused: frozenset[str],
    txns: Sequence[MetadataTxn],
) -> list[Violation]:
    """P6: a shard that lost what was acked, since all its machines lost power, says so."""
    places = {(row.shard, row.offset): row.value for row in rows}
    told = {
        key
        for txn in txns
        for key, value in txn.written.items()
        if key.startswith(SHARDS) and value is not None and decode_shard(value).possible_loss
    }
    return [
        Violation("I3", f"{call.value!r} was acked at {call.shard}:{call.offset} and is lost, and "
                  "nobody says so", call.returned_s or 0.0)
        for call in appends
        if call.outcome is Outcome.ACKED
        and call.shard in excused
        and places.get((call.shard, call.offset)) != call.value
        and shard_key(call.shard) not in told
    ]  # fmt: skip


def check(
    appends: Sequence[AppendCall], rows: Iterable[Row], excused: frozenset[str] = frozenset()
) -> list[Violation]:
    """Each acked record is where its ack said, when all is read at the end.

    `excused`: shards all of whose in-sync copies lost power at once without fsync.
    """
    stored = {(row.shard, row.offset): row for row in rows}
    values = {row.value for row in stored.values()}
    found = []
    for call in appends:
        if call.outcome is not Outcome.ACKED or call.shard in excused:
            continue
        if not call.shard:  # an ack of many rows without each one's place
            if call.value not in values and not excused:
                found.append(Violation("I3", f"{call.value!r} was acked and is not stored",
                                       call.returned_s or 0.0))  # fmt: skip
            continue
        row = stored.get((call.shard, call.offset))
        if row is None or (row.key, row.value) != (call.key, call.value):
            what = "nothing" if row is None else repr(row.value)
            found.append(Violation("I3", f"{call.value!r} was acked at {call.shard}:{call.offset}, "
                                   f"there is {what}", call.returned_s or 0.0))  # fmt: skip
    return found
