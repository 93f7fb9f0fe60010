"""Routing keys: the bytes that shard ranges divide.

A `range` log routes by the key itself, so neighbouring keys share a shard. A `hash` log routes by
an 8-byte big-endian xxh3 token followed by the key, so that load spreads whatever the keys are. A
`balanced` log routes by the virtual shard key that was drawn for a key before its first write: an
8-byte token and then the key; its records are stored under it.
"""

from dataclasses import dataclass
from enum import StrEnum

import xxhash

TOKEN_BYTES = 8

RoutingKey = bytes
"""The bytes that shard ranges divide."""


class Partitioner(StrEnum):
    """How a key becomes a routing key (docs/glossary.md)."""

    RANGE = "range"
    HASH = "hash"
    BALANCED = "balanced"


def routing_key(partitioner: Partitioner, key: bytes) -> bytes:
    """The routing key of a stored key: xxh3 token + key for hash logs, else the key itself."""
    if partitioner is Partitioner.HASH:
        return xxhash.xxh3_64_digest(key) + key
    return key


@dataclass(frozen=True, slots=True, order=True)
class KeyRange:
    """Half-open range [start, end) of routing keys; `end=None` means no upper bound."""

    start: bytes = b""
    end: bytes | None = None

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"range end {self.end!r} is not above its start {self.start!r}")

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key and (self.end is None or key < self.end)

    def contains_range(self, other: "KeyRange") -> bool:
        """True when every key of `other` is in this range."""
        if other.start < self.start:
            return False
        if self.end is None:
            return True
        return other.end is not None and other.end <= self.end

    def overlaps(self, other: "KeyRange") -> bool:
        """True when at least one key is in both ranges."""
        return (other.end is None or self.start < other.end) and (
            self.end is None or other.start < self.end
        )

    def split(self, at: bytes) -> tuple["KeyRange", "KeyRange"]:
        """[start, at) and [at, end); `at` must lie strictly inside the range."""
        if at <= self.start or (self.end is not None and at >= self.end):
            raise ValueError(f"split key {at!r} is not strictly inside {self}")
        return KeyRange(self.start, at), KeyRange(at, self.end)

    def __str__(self) -> str:
        end = "+inf" if self.end is None else repr(self.end)[1:]
        return f"[{repr(self.start)[1:]}, {end})"


def even_ranges(partitioner: Partitioner, count: int) -> list[KeyRange]:
    """`count` ranges that cover the key space, divided evenly over the first two routing-key
    bytes."""
    if not 1 <= count <= 65_536:
        raise ValueError(f"shards is {count}, it must be within 1..65536")
    cuts = [(i * 65_536 // count).to_bytes(2, "big") for i in range(1, count)]
    return ranges_from_cuts(cuts)


def ranges_from_cuts(cuts: list[bytes]) -> list[KeyRange]:
    """The ranges into which strictly increasing `cuts` divide the key space."""
    starts = [b"", *cuts]
    ends: list[bytes | None] = [*cuts, None]
    return [KeyRange(start, end) for start, end in zip(starts, ends, strict=True)]
