"""The largest batches that the door takes, and logs of every kind to put them in."""

import dataclasses
from collections.abc import Iterator
from itertools import product

import google_crc32c
import numpy as np
import pyarrow as pa

from logstore.base.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, HEADERS_MAX, RECORD_BYTES_MAX
from logstore.base.types import Compression, Durability
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES, HEADERS, encode_payload, schema_of
from logstore.engine.weight import BATCH_FIXED_BYTES, weight
from logstore.meta.records import Member
from logstore.proto.v1 import log_pb2
from sharder.keys import Partitioner
from tests.support.nodes import Nodes

SLOW = {"follower_timeout_s": 5.0, "lease_s": 6.0, "grace_s": 8.0}
"""Megabytes are checked on the loop of three instances and a test: none of them is dead."""
KEY_BYTES = 24
ROOM = BATCH_BYTES_MAX - BATCH_FIXED_BYTES


@dataclasses.dataclass(frozen=True)
class Kind:
    """A log's options. `number` makes its name and its replica ids its own."""

    number: int
    partitioner: Partitioner = Partitioner.RANGE
    compression: Compression = Compression.NONE
    durability: Durability = Durability.OS
    replicas: int = 1

    @property
    def shard(self) -> str:
        return f"log{self.number}/{self.number}"

    @property
    def log(self) -> str:
        return f"log{self.number}"


def kinds() -> list[Kind]:
    """Every partitioner with every compression, and every pair of the four options."""
    pairs = product(Partitioner, Compression)
    made = []
    for number, (partitioner, compression) in enumerate(pairs):
        durability = Durability.FSYNC if number % 2 else Durability.OS
        made.append(Kind(number, partitioner, compression, durability, 1 if number % 4 > 1 else 3))
    return made


async def create(n: Nodes, kind: Kind) -> None:
    """The log's one shard, led by i1, in sync on as many instances as the log has replicas."""
    await n.create(
        kind.shard, "i1", partitioner=kind.partitioner, compression=kind.compression,
        durability=kind.durability, replicas=kind.replicas,
    )  # fmt: skip
    await n.until(kind.shard, lambda r: r.epoch == 2)
    await connected(n)
    if kind.replicas == 1:
        return
    ids = [1_000 + 2 * kind.number, 1_001 + 2 * kind.number]
    learners = tuple(
        Member(i, n.servers[i].instance.node.incarnation, id_)
        for i, id_ in zip(("i2", "i3"), ids, strict=True)
    )
    await n.change(kind.shard, learners=learners, admit=tuple(ids))
    await n.until(kind.shard, lambda r: len(r.in_sync) == 3)


async def connected(n: Nodes) -> None:
    """A handshake may last 100 ms at most; what is sent next holds up the loop for longer."""
    n.log_stub("i1")
    await n._channels["i1"].channel_ready()


def names(tag: str, count: int) -> list[bytes]:
    return [f"{tag}-{i:0{KEY_BYTES - len(tag) - 1}d}".encode() for i in range(count)]


def arrays(tag: str, flags: int, count: int, headers: int, over: int = 0) -> pa.RecordBatch:
    """`count` records with so many headers each, and values that fill the batch to its limit."""
    letters = [{"name": chr(0x30 + i), "value": b""} for i in range(headers)]
    content = ROOM + over - weight(count, 0, flags, count * headers)
    sizes = np.full(count, content // count - KEY_BYTES - headers)
    sizes[0] += content % count
    assert sizes.min() >= 0
    assert sizes.max() + KEY_BYTES + headers <= RECORD_BYTES_MAX
    filling = np.random.default_rng(count).integers(0, 2, int(sizes.max()), np.uint8).tobytes()
    columns = [
        pa.array(names(tag, count), pa.binary()),
        pa.array([filling[:size] for size in sizes.tolist()], pa.binary()),
    ]
    if flags & FLAG_TIMES:
        columns.append(pa.array(np.arange(count, dtype=np.int64)))
    if flags & FLAG_HEADERS:
        items = pa.array(letters, HEADERS.type.value_type).take(
            pa.array(np.tile(np.arange(headers), count))
        )
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * headers)
        columns.append(pa.ListArray.from_arrays(offsets, items).cast(HEADERS.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(flags))


def shapes(over: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(flags, batch): most records, largest records, most headers, a bit of each."""
    yield 0, arrays("many", 0, BATCH_RECORDS_MAX, 0, over)
    yield FLAG_TIMES, arrays("large", FLAG_TIMES, 9, 0, over)
    most = ROOM // (weight(1, KEY_BYTES + HEADERS_MAX, FLAG_HEADERS, HEADERS_MAX) + 1)
    yield FLAG_HEADERS, arrays("named", FLAG_HEADERS, most, HEADERS_MAX, over)
    both = FLAG_HEADERS | FLAG_TIMES
    yield both, arrays("mixed", both, 40_000, 3, over)


def message_of(kind: Kind, flags: int, batch: pa.RecordBatch, id_: int = 1) -> log_pb2.AppendBatch:
    payload = encode_payload(batch, kind.compression.value)
    return log_pb2.AppendBatch(
        id=id_,
        shard=kind.shard,
        count=batch.num_rows,
        flags=flags,
        crc32c=google_crc32c.value(payload),
        payload=payload,
    )
