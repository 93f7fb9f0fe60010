"""Which shard a key belongs to, and which instance to ask. Pure: plain functions over a shard map.

Batches are routed column-wise, so a record costs nanoseconds: with one shard the keys are not read,
few boundaries are compared over the Arrow column, many are searched by 8-byte key windows with an
exact search for the rows that tie with a boundary.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from sharder.keys import TOKEN_BYTES, KeyRange, Partitioner, routing_key
from sharder.shard_map import Shard, ShardMap

COMPARED_BOUNDARIES_MAX = 12
"""Up to this many boundaries, comparing the whole column with each (4 ns a record) is cheapest."""

Rows = npt.NDArray[np.int64]


class Dice(Protocol):
    """The part of `random.Random` that choosing a replica needs."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a batch that belong to one shard, ascending; `rows=None` means all of them."""

    shard: Shard
    rows: Rows | None


class Router:
    """Routes keys over one immutable map; a new map version needs a new router."""

    __slots__ = (
        "_boundaries",
        "_windows",
        "balanced",
        "compression",
        "created_us",
        "hashed",
        "map",
    )

    def __init__(self, shard_map: ShardMap, compression: str = "none", created_us: int = 0) -> None:
        """`created_us`: when the log was created; another log of its name has another one."""
        self.map = shard_map
        self.compression = compression
        self.created_us = created_us
        self.hashed = shard_map.partitioner is Partitioner.HASH
        self.balanced = shard_map.partitioner is Partitioner.BALANCED
        self._boundaries = [shard.range.start for shard in shard_map.open_shards[1:]]
        self._windows = np.array(
            [
                int.from_bytes(b[:TOKEN_BYTES].ljust(TOKEN_BYTES, b"\0"), "big")
                for b in self._boundaries
            ],
            dtype=np.uint64,
        )

    def find(self, key: bytes) -> Shard:
        """The open shard that holds `key` (of a balanced log: the virtual shard key, as in all
        calls)."""
        if not self._boundaries:
            return self.map.open_shards[0]
        return self.map.find(routing_key(self.map.partitioner, key))

    def split(self, keys: pa.BinaryArray) -> list[Part]:
        """The parts of a column of keys, one a shard that has any, in key order of the shards.

        Within a part the rows keep their order, so the records of one key do too.
        """
        shards = self.map.open_shards
        if not self._boundaries:
            return [Part(shards[0], None)] if len(keys) else []
        places = self._places(keys)
        counts = np.bincount(places, minlength=len(shards))
        used = np.flatnonzero(counts)
        if len(used) == 1:
            return [Part(shards[int(used[0])], None)]
        order = np.argsort(places, kind="stable")
        ends = np.cumsum(counts)
        return [Part(shards[i], order[ends[i] - counts[i] : ends[i]]) for i in used.tolist()]

    def _places(self, keys: pa.BinaryArray) -> npt.NDArray[Any]:
        """For each key the position of its shard among the open shards."""
        if not self.hashed and len(self._boundaries) <= COMPARED_BOUNDARIES_MAX:
            places: npt.NDArray[Any] = np.zeros(len(keys), dtype=np.uint8)
            for boundary in self._boundaries:
                above = pc.greater_equal(keys, pa.scalar(boundary, pa.binary()))
                places += above.to_numpy(zero_copy_only=False)
            return places
        windows = _tokens(keys) if self.hashed else _first_bytes(keys)
        low = np.searchsorted(self._windows, windows, side="left")
        places = np.searchsorted(self._windows, windows, side="right")
        ties = np.flatnonzero(low != places)
        if len(ties):
            kind = self.map.partitioner
            places[ties] = [
                bisect_right(self._boundaries, routing_key(kind, key))
                for key in keys.take(pa.array(ties)).to_pylist()
            ]
        return places.astype(np.uint16 if len(self._boundaries) < 65_536 else np.int64)

    def shards_to_read(
        self, start: bytes = b"", end: bytes | None = None, key: bytes | None = None
    ) -> list[Shard]:
        """The shards that may hold keys in [start, end), or `key`: history first, then key order.

        A shard comes after all its predecessors (S4).
        """
        if key is not None:
            at = routing_key(self.map.partitioner, key)
            found = self.map.overlapping(KeyRange(at, at + b"\0"), sealed=True)
        elif self.hashed or self.balanced:  # keys next to each other are anywhere
            found = list(self.map.shards)
        else:
            found = self.map.overlapping(KeyRange(start, end), sealed=True)
        depth = {shard.id: 0 for shard in found}
        for _ in found:
            before = dict(depth)
            for shard in found:
                above = [depth[p] + 1 for p in shard.predecessors if p in depth]
                depth[shard.id] = max(above, default=0)
            if depth == before:
                break
        return sorted(found, key=lambda s: (depth[s.id], s.range.start))


def append_instance(shard: Shard, draw: float) -> str:
    """Where a producer sends its appends, given its own fixed `draw` in [0, 1).

    One draw a producer, not one a batch: so as the target's share rises each producer switches
    once, and its order is kept (H3).
    """
    reached = 0.0
    for instance, share in sorted(shard.route.items()):
        reached += share
        if draw < reached and instance in shard.addresses:
            return instance
    return shard.primary


def read_instance(shard: Shard, dice: Dice, *, primary: bool = False) -> str:
    """Which replica a read asks: all in sync evenly, or by the route's shares (a ramp)."""
    if primary:
        return shard.primary
    if shard.spread_reads and not shard.route:
        reachable = sorted(i for i in shard.in_sync if i in shard.addresses)
        return reachable[int(dice.random() * len(reachable))] if reachable else shard.primary
    return append_instance(shard, dice.random()) if shard.route else shard.primary


def take(batch: pa.RecordBatch, rows: Rows | None) -> pa.RecordBatch:
    """The rows of a part; all of them cost no copy."""
    return batch if rows is None else batch.take(pa.array(rows))


def row_ranges(rows: Sequence[int] | Rows) -> list[tuple[int, int]]:
    """Ascending row numbers as half-open ranges."""
    numbers = np.asarray(rows, dtype=np.int64)
    if not len(numbers):
        return []
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(numbers, cuts)]


def _tokens(keys: pa.BinaryArray) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys.to_pylist()), np.uint64, len(keys))


def _first_bytes(keys: pa.BinaryArray) -> npt.NDArray[np.uint64]:
    """The first 8 bytes of each key as a big-endian number, short keys padded with zeros."""
    _, offset_buffer, data_buffer = keys.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[
        keys.offset : keys.offset + len(keys) + 1
    ]
    if data_buffer is None or not data_buffer.size:
        return np.zeros(len(keys), dtype=np.uint64)
    data = np.frombuffer(data_buffer, dtype=np.uint8)
    at = offsets[:-1, None] + np.arange(TOKEN_BYTES)
    window = np.where(at < offsets[1:, None], data[np.minimum(at, len(data) - 1)], 0)
    return window.astype(np.uint8).view(">u8").ravel().astype(np.uint64)
