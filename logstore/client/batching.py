"""Records on their way into batches, and outcomes on their way back to the callers.

`Gathering` collects one-by-one appends while the lane is busy. A sink stands for the callers of one
batch: futures of single appends, or one part of an `append_many`.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from logstore.base.errors import AppendManyError, LogstoreError, OutcomeUnknownError
from logstore.base.types import Ack
from logstore.client.lane import LaneEntry
from logstore.client.router import Rows, row_ranges
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES, encode_payload, header_column, schema_of

BATCH_RECORDS_GOAL = 4_096
BATCH_BYTES_GOAL = 512 * 1024
"""Larger batches save little more per record, and delay others on the stream."""

COMPRESSED_BYTES_MIN = 512


def make_entry(
    rows: pa.RecordBatch,
    flags: int,
    sink: Any,
    *,
    deadline: float,
    charge: int,
    compression: str = "none",
    expected_version: int | None = None,
) -> LaneEntry:
    """Encode a batch for the wire."""
    small = rows.num_rows == 1 and charge < COMPRESSED_BYTES_MIN
    payload = encode_payload(rows, "none" if small else compression)
    return LaneEntry(
        rows=rows,
        payload=payload,
        crc32c=google_crc32c.value(payload),
        flags=flags,
        deadline=deadline,
        sink=sink,
        charge=charge,
        expected_version=expected_version,
    )


class SingleSink:
    """Futures of one-by-one appends; row i of the batch answers future i."""

    __slots__ = ("futures",)

    def __init__(self, futures: list[asyncio.Future[Ack]]) -> None:
        self.futures = futures

    def stored(self, ack: Ack) -> None:
        shard, offset, timestamp, version = ack.shard, ack.offset, ack.timestamp, ack.version
        for place, future in enumerate(self.futures):
            if not future.done():
                future.set_result(Ack(shard, offset + place, timestamp, 1, version))

    def failed(self, error: LogstoreError) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(error)

    def part(self, rows: Rows | None) -> "SingleSink":
        return self if rows is None else SingleSink([self.futures[i] for i in rows.tolist()])


class Gathering:
    """Single appends that wait together; they become one batch when the lane is free."""

    __slots__ = ("bytes", "deadline", "futures", "headers", "keys", "timed", "times", "values")

    def __init__(self, timed: bool, deadline: float) -> None:
        self.timed = timed
        self.deadline = deadline
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.times: list[int] = []
        self.headers: dict[int, Mapping[str, bytes]] = {}
        self.futures: list[asyncio.Future[Ack]] = []
        self.bytes = 0

    def fits(self, timed: bool, size: int) -> bool:
        """Whether one more record of `size` bytes may join."""
        return (
            self.timed is timed
            and len(self.keys) < BATCH_RECORDS_GOAL
            and self.bytes + size <= BATCH_BYTES_GOAL
        )

    def build(self, compression: str) -> LaneEntry:
        """The batch."""
        flags = (FLAG_TIMES if self.timed else 0) | (FLAG_HEADERS if self.headers else 0)
        schema = schema_of(flags)
        columns = [pa.array(self.keys, pa.binary()), pa.array(self.values, pa.binary())]
        if self.timed:
            columns.append(pa.array(self.times, pa.int64()))
        if self.headers:
            none: Mapping[str, bytes] = {}
            columns.append(header_column(self.headers.get(i, none) for i in range(len(self.keys))))
        return make_entry(
            pa.RecordBatch.from_arrays(columns, schema=schema),
            flags,
            SingleSink(self.futures),
            deadline=self.deadline,
            charge=self.bytes,
            compression=compression,
        )


class ManyJob:
    """The outcome of one `append_many`, put together from its batches."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._open = 1
        self._sinks: list[ManySink] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sink(self, rows: Rows | range) -> "ManySink":
        """The sink of one batch that holds these rows of the call."""
        self._open += 1
        sink = ManySink(self, rows)
        self._sinks.append(sink)
        return sink

    def settled(self) -> None:
        """One batch, or the call's own loop of sending, is finished."""
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)

    def result(self) -> list[Ack]:
        """The acks in the order of the batches; raises AppendManyError if any batch failed."""
        sinks = [s for s in self._sinks if not s.replaced]
        acks = [s.ack for s in sinks if s.ack is not None]
        failed = [s for s in sinks if s.error is not None]
        if not failed:
            return acks
        stored = _ranges([s for s in sinks if s.ack is not None])
        unknown = _ranges([s for s in failed if isinstance(s.error, OutcomeUnknownError)])
        missing = _ranges([s for s in failed if not isinstance(s.error, OutcomeUnknownError)])
        cause = failed[0].error
        assert cause is not None
        count = sum(stop - start for start, stop in stored)
        raise AppendManyError(
            f"{count} of {self._rows} rows are stored; not stored: {_text(missing)}; "
            f"unknown: {_text(unknown)}; first failure: {cause.message}",
            stored=stored,
            not_stored=missing,
            unknown=unknown,
            acks=acks,
            cause=cause,
        ) from cause


class ManySink:
    """One batch of an `append_many`."""

    __slots__ = ("_job", "ack", "error", "replaced", "rows")

    def __init__(self, job: ManyJob, rows: Rows | range) -> None:
        self._job = job
        self.rows = rows
        self.ack: Ack | None = None
        self.error: LogstoreError | None = None
        self.replaced = False

    def stored(self, ack: Ack) -> None:
        self.ack = ack
        self._job.settled()

    def failed(self, error: LogstoreError) -> None:
        self.error = error
        self._job.settled()

    def part(self, rows: Rows | None) -> "ManySink":
        """The sink of some rows after the batch was divided again; the first call replaces this."""
        if rows is None:
            return self
        mine = np.asarray(self.rows, dtype=np.int64)[rows]
        sink = self._job.sink(mine)
        if not self.replaced:
            self.replaced = True
            self._job.settled()
        return sink


def _ranges(sinks: list[ManySink]) -> list[tuple[int, int]]:
    if not sinks:
        return []
    return row_ranges(np.sort(np.concatenate([np.asarray(s.rows, np.int64) for s in sinks])))


def _text(ranges: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{start}..{stop}" for start, stop in ranges[:4])
    return (shown + (", ..." if len(ranges) > 4 else "")) or "none"


def chunks(
    rows: pa.RecordBatch, records_max: int = BATCH_RECORDS_GOAL, bytes_max: int = BATCH_BYTES_GOAL
) -> Iterator[tuple[int, pa.RecordBatch, int]]:
    """(first row, its batch, bytes) of batches near the goals; a large record goes alone."""
    sizes = np.zeros(rows.num_rows + 1, dtype=np.int64)
    for column in rows.columns[:2]:
        offsets = _offsets(column, 0, rows.num_rows)
        sizes += offsets - offsets[0]
    at = 0
    while at < rows.num_rows:
        stop = int(np.searchsorted(sizes, sizes[at] + bytes_max, side="right")) - 1
        stop = min(max(stop, at + 1), at + records_max, rows.num_rows)
        part = [_exactly(column, at, stop - at) for column in rows.columns]
        batch = pa.RecordBatch.from_arrays(part, schema=rows.schema)
        yield at, batch, int(sizes[stop] - sizes[at])
        at = stop


def _exactly(column: pa.Array, at: int, count: int) -> pa.Array:
    """A slice whose buffers end with it. Arrow sends up to 64 bytes after a slice,
    which the append gate refuses (logstore/engine/wire.py). No value is copied."""
    buffers = column.buffers()
    if pa.types.is_int64(column.type):
        own = buffers[1].slice(8 * (column.offset + at), 8 * count)
        return pa.Array.from_buffers(column.type, count, [None, own])
    offsets = _offsets(column, at, count)
    low, high = int(offsets[0]), int(offsets[-1])
    data = pa.py_buffer(b"") if buffers[2] is None else buffers[2].slice(low, high - low)
    own = pa.py_buffer(offsets - np.int32(low))
    return pa.Array.from_buffers(column.type, count, [None, own, data])


def _offsets(column: pa.Array, at: int, count: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
    start = 4 * (column.offset + at)
    return np.frombuffer(column.buffers()[1], np.int32, count + 1, start)
