"""Tombstones: the only order to retire a copy (P9, I13). Pure.

A writer of a shard record that names fewer copies than the one before writes, in the same
transaction, a tombstone for each copy that left. A copy without a record and a tombstone
is an orphan: kept, shown, and handled by hand.
"""

from dataclasses import dataclass

from logstore.meta.port import Put
from logstore.meta.records import Member, ShardRecord, Tombstone, encode, tombstone_key

KEEP_S = 600.0
"""How long a copy stays after it left by a move, split, merge or repair."""
KEEP_DELETED_LOG_S = 86_400.0
"""How long the copies of a deleted log stay."""


def deletion_of(log: str) -> str:
    """The cause of the tombstones of a deleted log's copies."""
    return f"log {log} was deleted"


def is_deletion(cause: str, log: str) -> bool:
    """Whether a copy was retired because its whole log was deleted."""
    return cause.startswith(deletion_of(log))


@dataclass(frozen=True, slots=True)
class Order:
    """The common content of all tombstones of one change. `now_us`: the writer's wall clock, shown
    to people."""

    cluster: str
    cause: str
    now_us: int
    keep_s: float = KEEP_S


def tombstones(
    before: ShardRecord, after: ShardRecord | None, revision: int, order: Order
) -> list[Put]:
    """A tombstone for each copy that `before`, read at `revision`, names and `after` does not.

    `after` is None when the record is deleted.
    """
    stay = {m.replica_id for m in after.members()} if after is not None else set()
    left = [m for m in before.members() if m.replica_id not in stay]
    return [bury(member, before.shard, revision, order) for member in left]


def bury(member: Member, shard: str, revision: int, order: Order) -> Put:
    """The tombstone of one copy."""
    tombstone = Tombstone(
        cluster=order.cluster,
        instance=member.instance,
        shard=shard,
        replica_id=member.replica_id,
        revision=revision,
        cause=order.cause,
        keep_s=order.keep_s,
        created_us=order.now_us,
    )
    return Put(tombstone_key(member.instance, member.replica_id), encode(tombstone))
