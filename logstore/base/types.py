"""Plain data that several floors share. Frozen, slotted, without behaviour beyond their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import msgspec

from logstore.base.public import public
from sharder.shard_map import ShardStatus as ShardStatus

NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})

CHAIN_BYTES = 16
CHAIN_ZERO = bytes(CHAIN_BYTES)
"""The hash chain's value at offset 0 of a new shard."""


class Durability(StrEnum):
    """When an append counts as written: in the page cache, or on the disk."""

    OS = "os"
    FSYNC = "fsync"


class Compression(StrEnum):
    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


class TimestampPolicy(StrEnum):
    """What becomes of a producer's timestamp that is too far ahead of the primary's clock."""

    REFUSE = "refuse"
    CLAMP = "clamp"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a shard's log: `end` records precede it, `chain` is the hash chain there."""

    end: int = 0
    chain: bytes = CHAIN_ZERO


START = Position()
"""Where a new shard begins."""


@dataclass(frozen=True, slots=True, order=True)
class ProducerSpan:
    """The consecutive records of a stored batch that came as one append of one producer.

    `sequence` counts the producer's appends to this shard from 1; `count` is in records.
    """

    producer_id: int
    sequence: int
    count: int


@public
@dataclass(frozen=True, slots=True)
class Ack:
    """What an append returns: the shard, the first record's offset, its timestamp (µs), the count.

    `version` is the key's record count after the append; only conditional appends know it.

    Example:
        ack = await log.append(b"user-1", b"12 apples", expected_version=0)
        print(ack.shard, ack.offset, ack.timestamp, ack.version)
    """

    shard: str
    offset: int
    timestamp: int
    count: int = 1
    version: int | None = None


@public
@dataclass(frozen=True, slots=True)
class Placed:
    """Where a key of a balanced log has its place: the shard, its primary's instance, and the
    virtual shard key that its records are stored under.

    Example:
        log = await db.create_log("carts", partitioner="balanced")
        placed = await log.place(b"user-1", size=1_000)
        print(placed.shard, placed.instance, placed.virtual_key.hex())
    """

    shard: str
    instance: str
    virtual_key: bytes


@public
class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as a reader sees it. `timestamp` is in microseconds since 1970 UTC.

    A struct that the cyclic collector does not track (it cannot be part of a cycle): readers make
    millions of these, at a quarter of a named tuple's cost.

    Example:
        async for record in log.read(limit=1):
            print(record.key, record.value, record.timestamp, record.headers)
    """

    key: bytes
    value: bytes
    timestamp: int
    shard: str
    offset: int
    headers: Mapping[str, bytes]
