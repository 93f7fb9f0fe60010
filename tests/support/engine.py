"""Batches and copies that the engine tests share."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from logstore.base.types import Durability, Position, ProducerSpan
from logstore.engine.batch import StoredBatch, build, encode_payload, schema_of
from logstore.engine.port import Engine, ReplicaMeta, ReplicaWrite

ALL = 1 << 62


def batch_at(
    position: Position,
    keys: Sequence[bytes],
    *,
    spans: Sequence[ProducerSpan] = (),
    time_us: int = 1_000,
    value: bytes = b"v",
    compression: str = "none",
) -> StoredBatch:
    columns = [
        pa.array(keys, pa.binary()),
        pa.array([value + b"%d" % (position.end + i) for i in range(len(keys))], pa.binary()),
    ]
    payload = pa.RecordBatch.from_arrays(columns, schema=schema_of(0))
    return build(
        base_offset=position.end,
        epoch=1,
        chain_before=position.chain,
        count=len(keys),
        append_time_us=time_us,
        time_min_us=time_us,
        time_max_us=time_us,
        flags=0,
        spans=spans,
        payload=encode_payload(payload, compression),
    )


def append(
    engine: Engine,
    replica_id: int,
    keys: Sequence[bytes],
    *,
    spans: Sequence[ProducerSpan] = (),
    time_us: int = 1_000,
    durability: Durability = Durability.OS,
    value: bytes = b"v",
) -> StoredBatch:
    batch = batch_at(engine.end(replica_id), keys, spans=spans, time_us=time_us, value=value)
    engine.write([ReplicaWrite(replica_id, [batch])], durability)
    return batch


def batches_of(engine: Engine, replica_id: int) -> list[StoredBatch]:
    """All batches from the log's begin on, page by page."""
    found: list[StoredBatch] = []
    while page := engine.read(replica_id, found[-1].end if found else 0, ALL, ALL):
        found += page
    return found


def copy_of(engine: Engine, replica_id: int = 1, *, key_index: bool = True) -> int:
    engine.create_replica(ReplicaMeta(replica_id, f"log/{replica_id}"), key_index=key_index)
    return replica_id


def fill(engine: Engine, replica_id: int, batches: int, per_batch: int, seed: int = 1) -> None:
    """Batches of keys from a small set, one producer each third batch."""
    rng = random.Random(seed)
    sequences = dict.fromkeys((7, 8, 9), 0)
    for i in range(batches):
        keys = [b"key-%d" % rng.randrange(40) for _ in range(per_batch)]
        spans = []
        if i % 3 == 0:
            producer = rng.choice((7, 8, 9))
            sequences[producer] += 1
            spans = [ProducerSpan(producer, sequences[producer], per_batch)]
        append(engine, replica_id, keys, spans=spans, time_us=1_000 + 10 * i)


def keys_in(batch: StoredBatch) -> list[bytes]:
    keys: list[bytes] = batch.records().column("key").to_pylist()
    return keys


def index_all(engine: Engine) -> None:
    while engine.index_step(10_000):
        pass


def wal_of(path: Path) -> Path:
    return max((path / "wal").glob("*.log"), key=lambda p: p.stat().st_size)


def flip(file: Path, at: float) -> None:
    """Change 16 bytes at this share of the file, in place, as a rotten disk would."""
    with file.open("r+b") as handle:
        handle.seek(int(file.stat().st_size * at))
        before = handle.read(16)
        handle.seek(-len(before), os.SEEK_CUR)
        handle.write(bytes(b ^ 0x55 for b in before))
