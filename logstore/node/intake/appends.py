"""Appends on their way in: checked once at arrival, then grouped into stored batches. No I/O."""

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
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES, header_column, schema_of
from logstore.engine.weight import (
    BATCH_FIXED_BYTES,
    check_header_count,
    check_header_name,
    check_weight,
    content_bytes,
    weight,
)
from logstore.engine.wire import open_wire
from logstore.node.intake.callers import client_group
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
    """Bytes as sent: counted by admission and statistics."""
    weight: int
    """Bytes as stored, uncompressed (`engine.weight`): the bound of stored batches."""
    time_min_us: int | None
    time_max_us: int | None
    producer_id: int
    sequence: int
    expected_version: int | None
    done: asyncio.Future[Ack]
    received_s: float
    group: str = ""
    """Client group, as the sender named it."""
    retry: bool = False
    """An earlier attempt was refused for want of capacity: it was counted as load then."""
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
        flags, size, weighs = check_rows(rows)
        times = [row.timestamp_us for row in rows] if flags & FLAG_TIMES else None
        expected = message.expected_version if message.HasField("expected_version") else None
        return cls(
            payload=b"",
            count=len(rows),
            flags=flags,
            size=size,
            weight=weighs,
            time_min_us=min(times) if times else None,
            time_max_us=max(times) if times else None,
            producer_id=message.producer_id,
            sequence=message.sequence,
            expected_version=expected,
            done=done,
            received_s=now_s,
            rows=rows,
            group=client_group(message.caller),
            retry=message.retry,
        )

    @property
    def held_bytes(self) -> int:
        """Its weight in a queue, which also bounds how many empty records may wait."""
        return self.weight + BATCH_FIXED_BYTES

    @property
    def write_bytes(self) -> int:
        """Its estimated part of a write."""
        return len(self.payload) or self.weight

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
    crc = google_crc32c.value(payload)
    if crc != message.crc32c:
        raise CorruptBatchError(
            f"crc32c of the payload is {crc:#010x}, the message says {message.crc32c:#010x}"
        )
    if message.flags & ~(FLAG_TIMES | FLAG_HEADERS):
        raise CorruptBatchError(f"flags is {message.flags}, an append may set 1 and 2")
    if message.HasField("expected_version") and message.count != 1:
        raise InvalidArgumentError(
            f"expected_version is set on {message.count} records, it is for 1 record"
        )
    opened = open_wire(payload, message.flags, message.count)
    check_routing(opened.rows.column("key"), key_range, partitioner)
    return PendingAppend(
        payload=payload,
        count=message.count,
        flags=message.flags,
        size=len(payload),
        weight=opened.weight,
        time_min_us=opened.time_min_us,
        time_max_us=opened.time_max_us,
        producer_id=message.producer_id,
        sequence=message.sequence,
        expected_version=message.expected_version if message.HasField("expected_version") else None,
        done=done,
        received_s=now_s,
        request=message,
        arrow=opened.rows,
        group=client_group(message.caller),
        retry=message.retry,
    )


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


def check_rows(rows: Sequence[log_pb2.Record]) -> tuple[int, int, int]:
    """Check protobuf records against every limit; returns (the columns they need as flags, their
    bytes as sent, their weight)."""
    if len(rows) > limits.BATCH_RECORDS_MAX:
        raise LimitExceededError.of("records", len(rows), limits.BATCH_RECORDS_MAX, "records")
    with_time = headers = total = 0
    for row in rows:
        if len(row.key) > limits.KEY_BYTES_MAX:
            raise LimitExceededError.of("key", len(row.key), limits.KEY_BYTES_MAX, "bytes")
        size = content_bytes(row.key, row.value, row.headers.items())
        if size > limits.RECORD_BYTES_MAX:
            raise LimitExceededError.of("record", size, limits.RECORD_BYTES_MAX, "bytes")
        with_time += row.HasField("timestamp_us")
        if row.headers:
            check_header_count(len(row.headers))
            check_header_name(max(len(name.encode()) for name in row.headers))
            headers += len(row.headers)
        total += size
        check_weight(weight(1, total, 0, headers))  # not only at the end: this holds up the loop
    if with_time not in (0, len(rows)):
        raise InvalidArgumentError(
            f"timestamp_us is set on {with_time} of {len(rows)} records: set it on all or none"
        )
    flags = (FLAG_TIMES if with_time else 0) | (FLAG_HEADERS if headers else 0)
    weighs = weight(len(rows), total, flags, headers)
    check_weight(weighs)
    return flags, total, weighs


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
        columns.append(header_column(row.headers for row in rows))
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
