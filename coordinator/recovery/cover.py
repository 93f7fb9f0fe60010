"""Whether open shards cover a log's keys exactly once (I1), and shards to fill a hole. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from logstore.base.types import ShardStatus
from logstore.meta.records import Member, PossibleLoss, ShardRecord
from sharder.keys import KeyRange


@dataclass(frozen=True, slots=True)
class Hole:
    """Keys that no open shard holds."""

    range: KeyRange

    def __str__(self) -> str:
        return str(self.range)


def without_overlaps(records: Sequence[ShardRecord]) -> list[tuple[str, str]]:
    """(shard, the earlier one that holds some of its keys) for those that must be left out."""
    kept: list[ShardRecord] = []
    gone = []
    for record in records:
        other = next((k for k in kept if k.range.overlaps(record.range)), None)
        if other is None:
            kept.append(record)
        else:
            gone.append((record.shard, other.shard))
    return gone


def holes(records: Sequence[ShardRecord]) -> list[Hole]:
    """The ranges that no open shard of the log holds. Open shards must not overlap."""
    open_ = [r.range for r in records if r.status is not ShardStatus.SEALED]
    found: list[Hole] = []
    at: bytes | None = b""
    for keys in sorted(open_, key=lambda keys: keys.start):
        assert at is not None
        if at < keys.start:
            found.append(Hole(KeyRange(at, keys.start)))
        at = keys.end
    if at is not None:
        found.append(Hole(KeyRange(at, None)))
    return found


def fill(
    log: str,
    number: int,
    hole: Hole,
    records: Sequence[ShardRecord],
    homes: Mapping[str, int],
    replica_id: int,
) -> ShardRecord:
    """An empty shard over the hole, with a possible loss. `homes`: instance -> its
    incarnation; the one that leads fewest shards gets it. Sealed shards that held its keys, and
    whose successors are gone, become its predecessors.
    """
    leads = Counter(r.primary.instance for r in records)
    home = min(homes, key=lambda name: (leads[name], name))
    member = Member(home, homes[home], replica_id)
    parents = [
        r
        for r in records
        if r.status is ShardStatus.SEALED
        and r.range.overlaps(hole.range)
        and not set(r.successors) <= {x.shard for x in records}
    ]
    cause = f"recovered from disks: no copy of the keys in {hole} was found"
    return ShardRecord(
        shard=f"{log}/{number}",
        log=log,
        range=hole.range,
        status=ShardStatus.OPEN,
        epoch=1,
        primary_since=1,
        primary=member,
        in_sync=(member,),
        min_in_sync=max((r.min_in_sync for r in records), default=1),
        predecessors=tuple(p.shard for p in parents),
        possible_loss=(PossibleLoss(1, 0, cause),),
    )
