"""Keys and values in RocksDB. Integers in keys are big-endian, so that byte order is their order.

| column family | key | value |
|---|---|---|
| data | replica u64, base offset u64 | chain before 16, after 16, largest time i64, envelope |
| meta | replica u64, kind 1 | `m` copy, `d` owner's facts, `h` watermark, `f` feed cursor, |
| | | `s` sums, `r` index runs, `x` retired |
| producers | replica u64, kind 1, producer u64 | forgot u8, entries; of base `a`, checkpoint `c` |
| counts | replica u64, record key | trimmed records of the key, u64 |
| index | replica u64, run u64, first entry u64 | sorted entries u64 little-endian (`key_index`) |

The chain before is stored beside the one after so that a read from the middle needs no second one.
"Largest time so far" rises with the offset whatever the producers' clocks do: time can be searched.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from logstore.base.errors import CorruptBatchError, CorruptStorageError
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch, parse
from logstore.engine.port import CopyFacts, ProducerEntry, ReplicaMeta, Retired

_ONE = struct.Struct(">Q")
_TWO = struct.Struct(">QQ")
_THREE = struct.Struct(">QQQ")
_PREFIX = struct.Struct("<16s16sq")
_U64 = struct.Struct("<Q")
_ENTRY = struct.Struct("<QQI")

META_KIND, HIGH_WATERMARK, CHECKPOINT, RUNS, UNREADABLE = b"m", b"h", b"s", b"r", b"u"
FEED_CURSOR, FACTS, RETIRED = b"f", b"d", b"x"
ANCHOR, CURRENT = b"a", b"c"
REPLICA_ID_BYTES = 8
"""Every key starts with the replica id."""


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """The facts of a copy as the disk holds them (the high watermark has its own key)."""

    meta: ReplicaMeta
    key_index: bool


@dataclass(frozen=True, slots=True)
class StoredRetired:
    """The mark of a retired copy, with its size at that time."""

    retired: Retired
    end: Position
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State that is a sum over the log, as of the log end `end`; the open replays what is later."""

    end: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class IndexRun:
    """A sorted run of the key index: entries of the records [base, end)."""

    run_id: int
    base: int
    end: int


def replica_range(replica_id: int) -> tuple[bytes, bytes]:
    """Half-open range of all keys of a copy, the same in every column family."""
    return _ONE.pack(replica_id), _ONE.pack(replica_id + 1)


def data_key(replica_id: int, offset: int) -> bytes:
    return _TWO.pack(replica_id, offset)


def offset_of(key: bytes) -> int:
    return int(_TWO.unpack(key)[1])


def meta_key(replica_id: int, kind: bytes) -> bytes:
    return _ONE.pack(replica_id) + kind


def producers_range(replica_id: int, kind: bytes) -> tuple[bytes, bytes]:
    prefix = _ONE.pack(replica_id)
    return prefix + kind, prefix + bytes((kind[0] + 1,))


def producer_key(replica_id: int, kind: bytes, producer: int) -> bytes:
    return _ONE.pack(replica_id) + kind + _ONE.pack(producer)


def producer_of(key: bytes) -> int:
    return int(_ONE.unpack_from(key, 9)[0])


def count_key(replica_id: int, key: bytes) -> bytes:
    return _ONE.pack(replica_id) + key


def index_key(replica_id: int, run_id: int, entry: int) -> bytes:
    return _THREE.pack(replica_id, run_id, entry)


def index_key_of(key: bytes) -> tuple[int, int, int]:
    """(replica, run, first entry)."""
    replica_id, run_id, entry = _THREE.unpack(key)
    return replica_id, run_id, entry


def data_value(batch: StoredBatch, time_max_us: int) -> bytes:
    return (
        _PREFIX.pack(batch.chain_before, batch.chain_after, max(time_max_us, batch.time_max_us))
        + batch.data
    )


def time_max_of(value: bytes) -> int:
    """The largest timestamp of this batch and all before it, those since trimmed included."""
    return int(_PREFIX.unpack_from(value)[2])


def open_batch(who: str, key: bytes, value: bytes) -> StoredBatch:
    """A stored value as a verified batch; raises CorruptStorageError naming copy and offset."""
    offset = offset_of(key)
    try:
        if len(value) < _PREFIX.size:
            raise CorruptBatchError(f"value is {len(value)} bytes")
        before, after, _ = _PREFIX.unpack_from(value)
        batch = parse(value[_PREFIX.size :], before, after)
    except CorruptBatchError as e:
        raise CorruptStorageError(f"{who}: batch at offset {offset}: {e.message}") from e
    if batch.base_offset != offset:
        raise CorruptStorageError(
            f"{who}: batch at offset {offset}: its header says offset {batch.base_offset}"
        )
    return batch


def pack_u64(value: int) -> bytes:
    return _U64.pack(value)


def unpack_u64(value: bytes) -> int:
    return int(_U64.unpack(value)[0])


def pack_entries(entries: Iterable[ProducerEntry], forgot: bool) -> bytes:
    packed = (_ENTRY.pack(e.sequence, e.offset, e.count) for e in entries)
    return b"".join([bytes((forgot,)), *packed])


def unpack_entries(value: bytes) -> tuple[tuple[ProducerEntry, ...], bool]:
    """Entries, and whether earlier ones were forgotten."""
    return tuple(ProducerEntry(*e) for e in _ENTRY.iter_unpack(value[1:])), bool(value[0])


def encode(
    record: StoredMeta | StoredRetired | CopyFacts | Checkpoint | tuple[IndexRun, ...],
) -> bytes:
    return msgspec.msgpack.encode(record)


def decode_meta(value: bytes) -> StoredMeta:
    return msgspec.msgpack.decode(value, type=StoredMeta)


def decode_checkpoint(value: bytes) -> Checkpoint:
    return msgspec.msgpack.decode(value, type=Checkpoint)


def pack_spans(spans: dict[int, int]) -> bytes:
    """Half-open ranges of offsets, by their start."""
    return msgspec.msgpack.encode(spans)


def unpack_spans(value: bytes) -> dict[int, int]:
    return msgspec.msgpack.decode(value, type=dict[int, int])


def decode_runs(value: bytes) -> tuple[IndexRun, ...]:
    return msgspec.msgpack.decode(value, type=tuple[IndexRun, ...])


def decode_facts(value: bytes) -> CopyFacts:
    return msgspec.msgpack.decode(value, type=CopyFacts)


def decode_retired(value: bytes) -> StoredRetired:
    return msgspec.msgpack.decode(value, type=StoredRetired)
