"""I13: bytes leave a disk only after a committed order that names them (P9).

A copy is retired after a tombstone for just it, and deleted after it was retired and its time is
over (on a disk with room); and whoever takes a copy out of a shard's record leaves a tombstone for
it in the same transaction.
"""

from collections.abc import Sequence

from logstore.meta.records import (
    SHARDS,
    TOMBSTONES,
    ShardRecord,
    decode_shard,
    decode_tombstone,
    tombstone_key,
)
from tests.support.checkers.history import Departure, Floor, MetadataTxn, Violation

DRIFT = 0.9
"""A clock that runs fast shortens a copy's time by less than this."""


def check(
    departures: Sequence[Departure], txns: Sequence[MetadataTxn], trims: Sequence[Floor] = ()
) -> list[Violation]:
    """Every departure was ordered, and every copy that left a record was buried.

    A copy whose source was trimmed past its end may be dropped: all of it was trimmed.
    """
    ordered: dict[tuple[str, int], float] = {}
    keep_s: dict[tuple[str, int], float] = {}
    for txn in txns:
        for key, value in txn.written.items():
            if key.startswith(TOMBSTONES) and value is not None:
                tombstone = decode_tombstone(value)
                copy = tombstone.instance, tombstone.replica_id
                ordered.setdefault(copy, txn.at_s)
                keep_s[copy] = min(tombstone.keep_s, keep_s.get(copy, tombstone.keep_s))
    found = _unburied(txns)
    retired: dict[tuple[str, int], float] = {}
    for left in departures:
        copy = left.instance, left.replica_id
        at_s = ordered.get(copy)
        if left.what == "retired":
            if at_s is None or at_s > left.at_s:
                found.append(_left(left, "without a tombstone"))
            retired[copy] = left.at_s
        elif left.what == "restored":
            retired.pop(copy, None)
        elif copy not in retired and not _is_trimmed(left, trims):
            found.append(_left(left, "without having been retired"))
        elif copy in retired and left.at_s < retired[copy] + DRIFT * keep_s.get(copy, 0.0):
            found.append(_left(left, f"after {left.at_s - retired[copy]:.1f} s"))
    return found


def _is_trimmed(left: Departure, trims: Sequence[Floor]) -> bool:
    return any(
        trim.at_s <= left.at_s and trim.shard == left.shard and trim.base >= left.end
        for trim in trims
    )


def _left(left: Departure, how: str) -> Violation:
    text = f"copy {left.replica_id} at {left.instance} was {left.what} {how}"
    return Violation("I13", text, left.at_s)


def _unburied(txns: Sequence[MetadataTxn]) -> list[Violation]:
    found = []
    shards: dict[str, ShardRecord] = {}
    for txn in txns:
        for key, value in txn.written.items():
            if not key.startswith(SHARDS):
                continue
            before = shards.pop(key, None)
            after = decode_shard(value) if value is not None else None
            if after is not None:
                shards[key] = after
            stay = {m.replica_id for m in after.members()} if after is not None else set()
            for member in before.members() if before is not None else ():
                tomb = tombstone_key(member.instance, member.replica_id)
                if member.replica_id not in stay and txn.written.get(tomb) is None:
                    text = (
                        f"revision {txn.revision}: {txn.author} took copy {member.replica_id} out "
                        f"of {key} without a tombstone"
                    )
                    found.append(Violation("I13", text, txn.at_s))
    return found
