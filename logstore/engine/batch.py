"""The stored batch: one envelope around an Arrow IPC record batch, the same bytes on each replica.

Layout (little-endian): magic u16, version u8, flags u8, crc32c u32 over all later bytes
and then version and flags,
epoch u64, base_offset u64, count u32, append_time_us i64, time_min_us i64, time_max_us i64,
span count u16, then spans (producer_id u64, sequence u64, count u32), then the payload: an Arrow
IPC *encapsulated record batch message* in the schema that the flags name. A null or absent
timestamp means `append_time_us`: the primary stamps without rebuilding the columns. A null list of
headers means none. (New batches have neither, see `wire`; older stored ones have both.)
The chain after a batch is xxh3-128(chain before + the envelope's bytes).
"""

import contextlib
import functools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import pyarrow as pa
import xxhash

from logstore.base.errors import CorruptBatchError, UnreadableBatchError
from logstore.base.types import CHAIN_BYTES, ProducerSpan

MAGIC = 0x4C42
VERSION = 1
FLAG_HEADERS = 1
"""The payload has the `headers` column."""
FLAG_TIMES = 2
"""The payload has the `timestamp` column."""

FLAG_OFFSETS = 4
"""Only in read answers: a leading `offset` column, because filtering left gaps."""

_FIXED = struct.Struct("<HBBIQQIqqqH")
_AFTER_CRC = struct.Struct("<QQIqqqH")
_SPAN = struct.Struct("<QQI")
_CRC_AT = 8
"""Where the checksummed part begins; version and flags are checksummed after it."""

OFFSET = pa.field("offset", pa.uint64(), nullable=False)
KEY = pa.field("key", pa.binary(), nullable=False)
VALUE = pa.field("value", pa.binary(), nullable=False)
TIMESTAMP = pa.field("timestamp", pa.int64(), nullable=False)
HEADERS = pa.field(
    "headers",
    pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())])),
)


@functools.cache
def schema_of(flags: int) -> pa.Schema:
    """The Arrow schema of a payload with these flags."""
    fields = [OFFSET, KEY, VALUE] if flags & FLAG_OFFSETS else [KEY, VALUE]
    if flags & FLAG_TIMES:
        fields.append(TIMESTAMP)
    if flags & FLAG_HEADERS:
        fields.append(HEADERS)
    return pa.schema(fields)


_SCHEMAS = {flags: schema_of(flags) for flags in range(8)}


def flags_of(batch: pa.RecordBatch) -> int:
    """The flags that describe `batch`; raises CorruptBatchError when it fits no schema."""
    for flags, schema in _SCHEMAS.items():
        if batch.schema.equals(schema):
            return flags
    raise CorruptBatchError(
        f"schema is {batch.schema}, expected key, value[, timestamp][, headers]"
    )


def header_column(rows: Iterable[Mapping[str, bytes]]) -> pa.ListArray:
    """The `headers` column of records with these headers; flat, which is 4 x faster than nested."""
    counts = [0]
    names: list[str] = []
    values: list[bytes] = []
    for row in rows:
        names.extend(row.keys())
        values.extend(row.values())
        counts.append(len(names))
    items = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), pa.array(values, pa.binary())], names=["name", "value"]
    )
    return pa.ListArray.from_arrays(pa.array(counts, pa.int32()), items, HEADERS.type)


def encode_payload(batch: pa.RecordBatch, compression: str = "none") -> bytes:
    """One Arrow IPC record batch message, without the schema."""
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    return bytes(batch.serialize() if compression == "none" else _serialize(batch, options))


def encode_stream(batch: pa.RecordBatch) -> bytes:
    """A complete Arrow IPC stream of one batch: the schema, the batch, the end."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _serialize(batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    return memoryview(reader.read_next_message().serialize())


def decode_payload(payload: bytes | memoryview, flags: int) -> pa.RecordBatch:
    """Open a payload without copying; raises CorruptBatchError when it holds no readable records.

    The result is safe to use: Arrow's full validation holds, and keys, values and the parts of
    headers are not null. It costs about 1 ns a record.
    """
    rows = open_message(payload).rows(flags)
    missing = _missing(rows, flags)
    if missing:
        raise CorruptBatchError(f"column {missing} has nulls, expected none")
    return rows


def open_message(payload: bytes | memoryview) -> "Message":
    """The Arrow message of a payload, its rows not opened yet; raises CorruptBatchError."""
    try:
        return Message(pa.ipc.read_message(pa.py_buffer(payload)))
    except (*ARROW_ERRORS, EOFError) as e:
        raise CorruptBatchError(f"payload is no Arrow record batch: {e}") from e


class Message:
    """An Arrow IPC message."""

    __slots__ = ("_message",)

    def __init__(self, message: Any) -> None:
        if message.type != "record batch":
            raise CorruptBatchError(f"payload is an Arrow {message.type}, expected a record batch")
        self._message = message

    @property
    def metadata(self) -> pa.Buffer:
        """As received."""
        return self._message.metadata

    @property
    def body(self) -> pa.Buffer | None:
        """As received."""
        return self._message.body

    def rows(self, flags: int) -> pa.RecordBatch:
        """The rows in the schema of `flags`, fully validated; raises CorruptBatchError."""
        schema = _SCHEMAS.get(flags)
        if schema is None:
            raise CorruptBatchError(f"flags is {flags}, known flags are 0..7")
        try:
            rows = pa.ipc.read_record_batch(self._message, schema)
            rows.validate(full=True)
        except ARROW_ERRORS as e:
            raise CorruptBatchError(f"payload is no valid Arrow batch: {e}") from e
        return rows


ARROW_ERRORS = (pa.ArrowException, OSError, MemoryError, OverflowError)
"""Exceptions of Arrow for bytes that are not a batch."""


def _missing(rows: pa.RecordBatch, flags: int) -> str | None:
    """The first column with nulls that readers need without."""
    first = 1 if flags & FLAG_OFFSETS else 0
    for index, name in ((first, "key"), (first + 1, "value")):
        if rows.column(index).null_count:
            return name
    if flags & FLAG_HEADERS:
        items = rows.column("headers").values
        if items.null_count:
            return "headers: header"
        for name in ("name", "value"):
            if items.field(name).null_count:
                return f"headers: {name}"
    return None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch with its place in the shard. `data` is the whole envelope, payload included."""

    base_offset: int
    count: int
    epoch: int
    append_time_us: int
    time_min_us: int
    time_max_us: int
    flags: int
    chain_before: bytes
    chain_after: bytes
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the last record."""
        return self.base_offset + self.count

    def spans(self) -> list[ProducerSpan]:
        """The producer of each append in the batch, in order; empty for appends without a
        producer."""
        count = _FIXED.unpack_from(self.data)[-1]
        return [
            ProducerSpan(*_SPAN.unpack_from(self.data, _FIXED.size + i * _SPAN.size))
            for i in range(count)
        ]

    def payload(self) -> memoryview:
        return memoryview(self.data)[self._payload_at() :]

    def _payload_at(self) -> int:
        return _FIXED.size + int(_FIXED.unpack_from(self.data)[-1]) * _SPAN.size

    def records(self) -> pa.RecordBatch:
        """The Arrow batch in its stored schema, zero copy; raises UnreadableBatchError."""
        try:
            rows = decode_payload(self.payload(), self.flags)
            if rows.num_rows != self.count:
                raise CorruptBatchError(f"{rows.num_rows} records, the envelope says {self.count}")
        except CorruptBatchError as e:
            raise UnreadableBatchError(
                f"batch at offsets {self.base_offset}..{self.end - 1} cannot be read: {e.message}; "
                f"reading goes on at offset {self.end}"
            ) from e
        return rows


def time_at(batch: StoredBatch, offset: int) -> int:
    """The timestamp of a record; the append time if the batch cannot be read."""
    if batch.flags & FLAG_TIMES:
        with contextlib.suppress(UnreadableBatchError):
            stamp = batch.records().column("timestamp")[offset - batch.base_offset].as_py()
            return batch.append_time_us if stamp is None else int(stamp)
    return batch.append_time_us


def build(
    *,
    base_offset: int,
    epoch: int,
    chain_before: bytes,
    count: int,
    append_time_us: int,
    time_min_us: int,
    time_max_us: int,
    flags: int,
    spans: Sequence[ProducerSpan],
    payload: bytes | memoryview,
) -> StoredBatch:
    """Seal a payload into an envelope at its place; computes checksum and chain."""
    head = _AFTER_CRC.pack(
        epoch, base_offset, count, append_time_us, time_min_us, time_max_us, len(spans)
    )
    body = b"".join(
        [head, *(_SPAN.pack(s.producer_id, s.sequence, s.count) for s in spans), payload]
    )
    crc = google_crc32c.extend(google_crc32c.value(body), bytes((VERSION, flags)))
    data = struct.pack("<HBBI", MAGIC, VERSION, flags, crc) + body
    return StoredBatch(
        base_offset=base_offset,
        count=count,
        epoch=epoch,
        append_time_us=append_time_us,
        time_min_us=time_min_us,
        time_max_us=time_max_us,
        flags=flags,
        chain_before=chain_before,
        chain_after=link(chain_before, data),
        data=data,
    )


def link(chain_before: bytes, data: bytes) -> bytes:
    """The chain after a batch, from the chain before it and the envelope's bytes."""
    hasher = xxhash.xxh3_128(chain_before)
    hasher.update(data)
    return hasher.digest()


def parse(data: bytes, chain_before: bytes, chain_after: bytes | None = None) -> StoredBatch:
    """Open an envelope from a disk or a wire; verifies length, magic and checksum.

    `chain_after=None` computes it. Raises CorruptBatchError that names the failed check.
    """
    if len(data) < _FIXED.size:
        raise CorruptBatchError(f"envelope is {len(data)} bytes, the header alone is {_FIXED.size}")
    if len(chain_before) != CHAIN_BYTES:
        raise CorruptBatchError(f"chain is {len(chain_before)} bytes, expected {CHAIN_BYTES}")
    (magic, version, flags, crc, epoch, base, count, at, lo, hi, spans) = _FIXED.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise CorruptBatchError(
            f"magic {magic:#x} version {version}, expected {MAGIC:#x} {VERSION}"
        )
    actual = google_crc32c.extend(google_crc32c.value(data[_CRC_AT:]), bytes((version, flags)))
    if actual != crc:
        raise CorruptBatchError(
            f"batch at offset {base}: crc32c is {actual:#010x}, header says {crc:#010x}"
        )
    if len(data) < _FIXED.size + spans * _SPAN.size or flags not in _SCHEMAS:
        raise CorruptBatchError(f"batch at offset {base}: {spans} spans, flags {flags}")
    return StoredBatch(
        base_offset=base,
        count=count,
        epoch=epoch,
        append_time_us=at,
        time_min_us=lo,
        time_max_us=hi,
        flags=flags,
        chain_before=chain_before,
        chain_after=chain_after if chain_after is not None else link(chain_before, data),
        data=data,
    )
