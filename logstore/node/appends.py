"""Appends on their way in: checked once at the door, then grouped into stored batches. No I/O."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base import limits
from logstore.base.errors import (
    CorruptBatchError,
    InvalidArgumentError,
    LimitExceededError,
    LogstoreError,
    WrongShardError,
)
from logstore.base.types import Ack
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_TIMES,
    decode_payload,
    schema_of,
)
from logstore.node.callers import client_group
from logstore.proto.v1 import log_pb2
from sharder.keys import KeyRange, Partitioner, routing_key


@dataclass(slots=True)
class PendingAppend:
    """One admitted append: its records with their facts, and the future its sender waits on.

    Records came as an Arrow payload, or one by one (`rows`) and become Arrow with their neighbours.
    """

    payload: bytes
    count: int
    flags: int
    size: int
    time_min_us: int | None
    time_max_us: int | None
    producer_id: int
    sequence: int
    expected_version: int | None
    done: asyncio.Future[Ack]
    received_s: float
    group: str = ""
    """Of clients, as the sender named it."""
    duplicate: bool = False
    forwarded: bool = False
    refusal: LogstoreError | None = None
    """The answer instead of an ack, once what it cites is committed (P10)."""
    version: int | None = None
    version_before: int = 0
    """Records of the key in the shard's sealed ancestors (S3)."""
    offset: int = -1
    timestamp: int = 0
    request: log_pb2.AppendBatch | None = field(default=None, repr=False)
    rows: Sequence[log_pb2.Record] = ()
    arrow: pa.RecordBatch | None = None

    def refuse(self, error: LogstoreError) -> None:
        """Answer with `error`, unless the sender is gone or has its answer."""
        if not self.done.done():
            self.done.set_exception(error)

    @classmethod
    def of_records(
        cls,
        rows: Sequence[log_pb2.Record],
        message: log_pb2.AppendBatch,
        done: asyncio.Future[Ack],
        now_s: float,
    ) -> "PendingAppend":
        """An append that came as protobuf records: checked here, made Arrow with its neighbours."""
        flags = check_rows(rows)
        size = sum(len(row.key) + len(row.value) for row in rows)
        if size > limits.BATCH_BYTES_MAX:
            raise LimitExceededError.of("batch", size, limits.BATCH_BYTES_MAX, "bytes")
        times = [row.timestamp_us for row in rows] if flags & FLAG_TIMES else None
        expected = message.expected_version if message.HasField("expected_version") else None
        return cls(
            payload=b"",
            count=len(rows),
            flags=flags,
            size=size,
            time_min_us=min(times) if times else None,
            time_max_us=max(times) if times else None,
            producer_id=message.producer_id,
            sequence=message.sequence,
            expected_version=expected,
            done=done,
            received_s=now_s,
            rows=rows,
            group=client_group(message.caller),
        )

    @property
    def batch(self) -> pa.RecordBatch:
        """The records in Arrow; made from `rows` at the first call."""
        if self.arrow is None:
            self.arrow = rows_to_batch(self.rows, self.flags)
        return self.arrow

    def record_keys(self) -> Sequence[Any]:
        """One key a record, as bytes or Arrow scalars."""
        if self.arrow is None:
            return [row.key for row in self.rows]
        keys: Sequence[Any] = self.arrow.column("key")
        return keys

    def event_times(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]] | None":
        """The records' own timestamps (µs), or None when the primary stamps them."""
        if not self.flags & FLAG_TIMES:
            return None
        times: np.ndarray[tuple[int], np.dtype[np.int64]] = self.batch.column(2).to_numpy()
        return times


def check_batch(
    message: log_pb2.AppendBatch,
    key_range: KeyRange,
    partitioner: Partitioner,
    done: asyncio.Future[Ack],
    now_s: float,
) -> PendingAppend:
    """Check a batch from the wire against every limit; raises an error that names what is wrong."""
    payload = message.payload
    if message.count == 0:
        raise InvalidArgumentError("count is 0, a batch holds at least 1 record")
    if message.count > limits.BATCH_RECORDS_MAX:
        raise LimitExceededError.of("count", message.count, limits.BATCH_RECORDS_MAX, "records")
    if len(payload) > limits.BATCH_BYTES_MAX:
        raise LimitExceededError.of("batch", len(payload), limits.BATCH_BYTES_MAX, "bytes")
    crc = google_crc32c.value(payload)
    if crc != message.crc32c:
        raise CorruptBatchError(
            f"crc32c of the payload is {crc:#010x}, the message says {message.crc32c:#010x}"
        )
    if message.flags & ~(FLAG_TIMES | FLAG_HEADERS):
        raise CorruptBatchError(f"flags is {message.flags}, an append may set 1 and 2")
    batch = decode_payload(payload, message.flags)
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as e:
        raise CorruptBatchError(f"payload is no valid Arrow batch: {e}") from e
    if batch.num_rows != message.count:
        raise CorruptBatchError(f"payload has {batch.num_rows} records, count is {message.count}")
    if message.HasField("expected_version") and message.count != 1:
        raise InvalidArgumentError(
            f"expected_version is set on {message.count} records, it is for 1 record"
        )
    low, high = _check_columns(batch, message.flags)
    check_routing(batch.column("key"), key_range, partitioner)
    return PendingAppend(
        payload=payload,
        count=message.count,
        flags=message.flags,
        size=len(payload),
        time_min_us=low,
        time_max_us=high,
        producer_id=message.producer_id,
        sequence=message.sequence,
        expected_version=message.expected_version if message.HasField("expected_version") else None,
        done=done,
        received_s=now_s,
        request=message,
        arrow=batch,
        group=client_group(message.caller),
    )


def _check_columns(batch: pa.RecordBatch, flags: int) -> tuple[int | None, int | None]:
    """Sizes and nulls; returns the smallest and largest timestamp where there is one."""
    for name in ("key", "value"):
        if batch.column(name).null_count:
            raise CorruptBatchError(f"column {name} has {batch.column(name).null_count} nulls")
    longest_key = _longest(batch.column("key"))
    if longest_key > limits.KEY_BYTES_MAX:
        raise LimitExceededError.of("key", longest_key, limits.KEY_BYTES_MAX, "bytes")
    longest_value = _longest(batch.column("value"))
    if longest_key + longest_value > limits.RECORD_BYTES_MAX:
        raise LimitExceededError.of(
            "record", longest_key + longest_value, limits.RECORD_BYTES_MAX, "bytes"
        )
    if flags & FLAG_HEADERS:
        most = pc.max(pc.list_value_length(batch.column("headers"))).as_py() or 0
        if most > limits.HEADERS_MAX:
            raise LimitExceededError.of("headers", most, limits.HEADERS_MAX, "headers")
    if not flags & FLAG_TIMES:
        return None, None
    if batch.column("timestamp").null_count:
        raise CorruptBatchError("column timestamp has nulls")
    times = batch.column("timestamp").to_numpy()
    return int(times.min()), int(times.max())


def _longest(column: pa.Array) -> int:
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)
    window = offsets[column.offset : column.offset + len(column) + 1]
    return int(np.max(np.diff(window)))


def check_routing(keys: pa.Array, key_range: KeyRange, partitioner: Partitioner) -> None:
    """Every key's routing key lies in the shard's range, else WrongShardError naming one."""
    if key_range.start == b"" and key_range.end is None:
        return
    if partitioner is Partitioner.HASH:
        tokens = [routing_key(partitioner, key) for key in keys.to_pylist()]
        low, high = min(tokens), max(tokens)
    else:
        bounds = pc.min_max(keys).as_py()
        low, high = bounds["min"], bounds["max"]
    for key in (low, high):
        if key not in key_range:
            raise WrongShardError(f"routing key {key!r} is outside the shard's range {key_range}")


def check_rows(rows: Sequence[log_pb2.Record]) -> int:
    """Check protobuf records against every limit; returns the columns they need as flags."""
    if len(rows) > limits.BATCH_RECORDS_MAX:
        raise LimitExceededError.of("records", len(rows), limits.BATCH_RECORDS_MAX, "records")
    with_time = with_headers = 0
    for row in rows:
        if len(row.key) > limits.KEY_BYTES_MAX:
            raise LimitExceededError.of("key", len(row.key), limits.KEY_BYTES_MAX, "bytes")
        size = len(row.key) + len(row.value)
        if size > limits.RECORD_BYTES_MAX:
            raise LimitExceededError.of("record", size, limits.RECORD_BYTES_MAX, "bytes")
        with_time += row.HasField("timestamp_us")
        if row.headers:
            with_headers += 1
            if len(row.headers) > limits.HEADERS_MAX:
                raise LimitExceededError.of(
                    "headers", len(row.headers), limits.HEADERS_MAX, "headers"
                )
    if with_time not in (0, len(rows)):
        raise InvalidArgumentError(
            f"timestamp_us is set on {with_time} of {len(rows)} records: set it on all or none"
        )
    return (FLAG_TIMES if with_time else 0) | (FLAG_HEADERS if with_headers else 0)


def rows_to_batch(rows: Sequence[log_pb2.Record], flags: int) -> pa.RecordBatch:
    """Protobuf records as one Arrow batch with the columns that `flags` names."""
    schema = schema_of(flags)
    columns = [
        pa.array([row.key for row in rows], pa.binary()),
        pa.array([row.value for row in rows], pa.binary()),
    ]
    if flags & FLAG_TIMES:
        columns.append(pa.array([row.timestamp_us for row in rows], pa.int64()))
    if flags & FLAG_HEADERS:
        headers = [[{"name": k, "value": v} for k, v in row.headers.items()] for row in rows]
        columns.append(pa.array(headers, schema.field("headers").type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def check_row_routing(
    rows: Sequence[log_pb2.Record], key_range: KeyRange, partitioner: Partitioner
) -> None:
    """As `check_routing`, for protobuf records."""
    if key_range.start == b"" and key_range.end is None:
        return
    for row in rows:
        key = routing_key(partitioner, row.key)
        if key not in key_range:
            raise WrongShardError(f"routing key {key!r} is outside the shard's range {key_range}")
