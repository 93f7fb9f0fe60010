"""The shard map of a log: which range of routing keys is where, at one map version.

Immutable. Every change makes a new version, and every version is checked at construction: its open
shards cover the key space exactly once (invariant I1).
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sharder.keys import KeyRange, Partitioner


class ShardStatus(StrEnum):
    """`sealing` still counts as open for the cover: the shard keeps its range (S1)."""

    OPEN = "open"
    SEALING = "sealing"
    SEALED = "sealed"


class ShardMapError(ValueError):
    """A shard map that breaks I1, or a shard that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One range of one log and the instances that serve it. The mappings must not be changed.

    `addresses` maps instance to gRPC address. `route` maps instance to its share (0..1) of reads
    and forwarded appends; the rest goes to the primary. `spread_reads`: reads go to all in-sync
    instances evenly. `sealed_end`: where a sealed shard ends, in records.
    """

    id: str
    log: str
    range: KeyRange
    epoch: int
    primary: str
    in_sync: tuple[str, ...]
    status: ShardStatus = ShardStatus.OPEN
    addresses: Mapping[str, str] = field(default_factory=dict)
    route: Mapping[str, float] = field(default_factory=dict)
    predecessors: tuple[str, ...] = ()
    successors: tuple[str, ...] = ()
    spread_reads: bool = False
    sealed_end: int | None = None

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ShardMapError(f"shard {self.id}: epoch is {self.epoch}, it must be at least 0")
        if self.primary not in self.in_sync:
            raise ShardMapError(
                f"shard {self.id}: primary {self.primary} is not in the in-sync set {self.in_sync}"
            )
        for instance, share in self.route.items():
            if not 0.0 <= share <= 1.0:
                raise ShardMapError(
                    f"shard {self.id}: route to {instance} is {share}, it must be within 0..1"
                )
        if (total := sum(self.route.values())) > 1.0 + 1e-9:
            raise ShardMapError(f"shard {self.id}: route shares add up to {total}, above 1")

    @property
    def address(self) -> str | None:
        """Where the primary listens, if known."""
        return self.addresses.get(self.primary)

    @property
    def is_open(self) -> bool:
        """True while this shard owns its range (open or sealing)."""
        return self.status is not ShardStatus.SEALED


@dataclass(frozen=True, slots=True)
class MapDiff:
    """What changed between two versions: shard ids, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The shards of `log` at map `version`, in key order; sealed shards are kept for readers.

    Raises ShardMapError that names the gap, the overlap or the doubled id.
    """

    log: str
    version: int
    partitioner: Partitioner
    shards: tuple[Shard, ...]
    _open: tuple[Shard, ...] = field(init=False, repr=False, compare=False)
    _starts: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _by_id: Mapping[str, Shard] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.shards, key=lambda s: (s.range.start, s.id)))
        by_id: dict[str, Shard] = {}
        for shard in ordered:
            if shard.log != self.log:
                raise ShardMapError(f"shard {shard.id} is of log {shard.log}, not {self.log}")
            if shard.id in by_id:
                raise ShardMapError(f"log {self.log}: shard id {shard.id} appears twice")
            by_id[shard.id] = shard
        opened = tuple(s for s in ordered if s.is_open)
        check_cover(self.log, opened)
        object.__setattr__(self, "shards", ordered)
        object.__setattr__(self, "_open", opened)
        object.__setattr__(self, "_starts", tuple(s.range.start for s in opened))
        object.__setattr__(self, "_by_id", by_id)

    @property
    def open_shards(self) -> tuple[Shard, ...]:
        """Open and sealing shards in key order."""
        return self._open

    def find(self, routing_key: bytes) -> Shard:
        """The open shard that holds `routing_key`; there is always exactly one (I1)."""
        return self._open[bisect_right(self._starts, routing_key) - 1]

    def get(self, shard_id: str) -> Shard | None:
        """The shard with this id, open or sealed."""
        return self._by_id.get(shard_id)

    def overlapping(self, keys: KeyRange, *, sealed: bool = False) -> list[Shard]:
        """Open shards (with `sealed`: history too) that share a key with `keys`, in key order."""
        if sealed:
            return [s for s in self.shards if s.range.overlaps(keys)]
        first = max(bisect_right(self._starts, keys.start) - 1, 0)
        found: list[Shard] = []
        for shard in self._open[first:]:
            if keys.end is not None and shard.range.start >= keys.end:
                break
            found.append(shard)
        return found

    def with_shard(self, shard: Shard, *more: Shard) -> "ShardMap":
        """The next version, with these shards added, or replacing those with the same ids.

        Several at once, because a split seals one shard and opens two in one step.
        """
        shards = dict(self._by_id)
        shards.update((s.id, s) for s in (shard, *more))
        return ShardMap(self.log, self.version + 1, self.partitioner, tuple(shards.values()))

    def diff(self, newer: "ShardMap") -> MapDiff:
        """What `newer` has added, removed and changed against this version."""
        if newer.log != self.log:
            raise ShardMapError(f"cannot compare maps of {self.log} and {newer.log}")
        old, new = self._by_id, newer._by_id
        return MapDiff(
            added=tuple(sorted(new.keys() - old.keys())),
            removed=tuple(sorted(old.keys() - new.keys())),
            changed=tuple(sorted(k for k in new.keys() & old.keys() if new[k] != old[k])),
        )


def check_cover(log: str, shards: Iterable[Shard]) -> None:
    """Raise ShardMapError unless `shards`, in key order, cover the key space exactly once (I1)."""
    reached: bytes | None = b""
    last: Shard | None = None
    for shard in shards:
        start = shard.range.start
        if reached is None or start < reached:
            assert last is not None
            raise ShardMapError(
                f"log {log}: shards {last.id} {last.range} and {shard.id} {shard.range} overlap"
            )
        if start > reached:
            raise ShardMapError(f"log {log}: no open shard covers {KeyRange(reached, start)}")
        reached, last = shard.range.end, shard
    if reached is not None:
        raise ShardMapError(f"log {log}: no open shard covers {KeyRange(reached, None)}")
