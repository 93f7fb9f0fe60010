"""Stored batches as answers to readers: the one way from a copy to a message. No I/O.

The rule: for every request and every layout on the disk, an answer is cut by its bytes
*as sent*. Batches are unpacked one at a time, so an answer costs what it returns and one batch.

 1. A large batch that qualifies as a whole is sent as it lies on the disk, compressed or not.
 2. Others are unpacked, filtered, cut into pieces of about `ANSWER_BYTES` and joined up to that.
 3. For a request of streams nothing is sent as it lies on the disk: its answers explain themselves.
 4. Every answer passes `_answer`: a record above all message limits is an error
    with its offset; it never reaches the transport.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import CorruptBatchError, LimitExceededError, UnreadableBatchError
from logstore.base.limits import MESSAGE_BYTES_MAX, SCAN_CHUNK_BYTES
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_OFFSETS,
    FLAG_TIMES,
    StoredBatch,
    encode_payload,
    encode_stream,
    schema_of,
)
from logstore.proto.v1 import log_pb2

SMALL_BATCH_BYTES = 128 * 1024
"""Batches below this are joined with their neighbours: a message's cost is per message."""
ANSWER_BYTES = SCAN_CHUNK_BYTES
"""Records are joined, and large batches cut, to about this many bytes as sent."""
JOINED_RECORDS_MAX = 65_536
ROOM_BYTES = 64 * 1024
"""Room in a message for its other fields."""
PAYLOAD_BYTES_MAX = MESSAGE_BYTES_MAX - ROOM_BYTES
"""Limit of one answer; a stored batch above it is never sent as it lies on the disk."""


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """A message and the bytes of its payload; asking the message for them would copy it."""

    message: log_pb2.ReadResponse
    bytes: int


@dataclass(frozen=True, slots=True)
class Query:
    """The request of one read; offsets are half-open. `start=None`: from the first kept record."""

    start: int | None
    stop: int | None
    key: bytes | None
    low: bytes | None
    high: bytes | None
    since_us: int | None
    limit: int
    routing_hash: bool = False
    stream: bool = False
    """Answers are complete Arrow IPC streams that say offset and timestamp of each record."""

    @classmethod
    def of(cls, request: log_pb2.ReadRequest) -> "Query":
        has_range = request.HasField("range")
        return cls(
            start=request.start_offset if request.HasField("start_offset") else None,
            stop=request.stop_offset if request.HasField("stop_offset") else None,
            key=request.key if request.HasField("key") else None,
            low=request.range.start if has_range and request.range.start else None,
            high=request.range.end if has_range and request.range.HasField("end") else None,
            since_us=request.since_us if request.HasField("since_us") else None,
            limit=request.limit,
            stream=request.ipc_stream,
        )

    def filters(self) -> bool:
        return any(x is not None for x in (self.key, self.low, self.high, self.since_us))


def answers_of(
    shard: str,
    batches: Iterable[StoredBatch],
    query: Query,
    at: int,
    stop: int,
    left: int | None,
    mark: int,
) -> Iterator[ReadAnswer]:
    """Answers with the records of `batches` in [at, stop) that qualify, `left` at most (None: all).

    Lazy: a batch is unpacked when its first answer is asked for. Raises LimitExceededError for a
    record that fits no message, CorruptBatchError for a batch that cannot be opened; each names the
    offset, and what is before it was answered.
    """
    held, filters = _Gathered(shard, mark, query.stream), query.filters()
    for batch in batches:
        if left == 0:
            break
        whole = batch.base_offset >= at and batch.end <= stop and not (filters or query.stream)
        as_it_is = (
            whole and (left is None or batch.count <= left) and len(batch.data) <= PAYLOAD_BYTES_MAX
        )
        if as_it_is and len(batch.data) >= SMALL_BATCH_BYTES:
            yield from held.flush()
            yield _as_stored(shard, batch, mark)
            left = None if left is None else left - batch.count
            continue
        try:
            rows = _select(batch, query, at, stop, left)
        except UnreadableBatchError:
            yield from held.flush()
            raise
        except (CorruptBatchError, pa.ArrowInvalid) as e:
            yield from held.flush()
            raise CorruptBatchError(
                f"shard {shard}: the batch at offset {batch.base_offset} cannot be opened: {e}"
            ) from e
        if rows is None or not rows.num_rows:
            continue
        left = None if left is None else left - rows.num_rows
        size = pa.ipc.get_record_batch_size(rows)
        if as_it_is and size >= SMALL_BATCH_BYTES:  # large, only packed well
            yield from held.flush()
            yield _as_stored(shard, batch, mark)
            continue
        if held.takes(rows, size):
            held.hold(rows, size)
            continue
        for piece, piece_size in pieces(rows, ANSWER_BYTES):
            if not held.takes(piece, piece_size):
                yield from held.flush()
            held.hold(piece, piece_size)
    yield from held.flush()


def pieces(rows: pa.RecordBatch, size_max: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """`rows` in order, in slices of at most `size_max` bytes as sent, or of one record; with their
    sizes."""
    todo = [rows]
    while todo:
        piece = todo.pop()
        size = pa.ipc.get_record_batch_size(piece)
        if size <= size_max or piece.num_rows == 1:
            yield piece, size
            continue
        parts = min(-(-size // size_max), piece.num_rows)
        step = -(-piece.num_rows // parts)
        todo.extend(piece.slice(i, step) for i in reversed(range(0, piece.num_rows, step)))


class _Gathered:
    """Pieces that wait to be joined into one answer."""

    def __init__(self, shard: str, mark: int, stream: bool) -> None:
        self._shard, self._mark, self._stream = shard, mark, stream
        self._parts: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def takes(self, piece: pa.RecordBatch, size: int) -> bool:
        """Whether one answer can hold it with the held pieces."""
        return (
            self._bytes + size <= ANSWER_BYTES
            and self._rows + piece.num_rows <= JOINED_RECORDS_MAX
            and (not self._parts or self._parts[0].schema == piece.schema)
        )

    def hold(self, piece: pa.RecordBatch, size: int) -> None:
        self._parts.append(piece)
        self._rows += piece.num_rows
        self._bytes += size

    def flush(self) -> Iterator[ReadAnswer]:
        if self._parts:
            parts, self._parts, self._rows, self._bytes = self._parts, [], 0, 0
            yield _joined(self._shard, parts, self._mark, self._stream)


def _answer(
    shard: str,
    mark: int,
    payload: bytes,
    *,
    base_offset: int,
    count: int,
    next_offset: int,
    flags: int,
    append_time_us: int = 0,
) -> ReadAnswer:
    """An error, with its place, for a record that the transport would always refuse."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise LimitExceededError.of(
            f"record at offset {base_offset} of shard {shard}, as sent,",
            len(payload),
            PAYLOAD_BYTES_MAX,
            "bytes",
        )
    answer = log_pb2.ReadResponse(
        shard=shard,
        base_offset=base_offset,
        count=count,
        append_time_us=append_time_us,
        flags=flags,
        payload=payload,
        high_watermark=mark,
        next_offset=next_offset,
    )
    return ReadAnswer(answer, len(payload))


def _as_stored(shard: str, batch: StoredBatch, mark: int) -> ReadAnswer:
    return _answer(
        shard,
        mark,
        bytes(batch.payload()),
        base_offset=batch.base_offset,
        count=batch.count,
        next_offset=batch.end,
        flags=batch.flags,
        append_time_us=batch.append_time_us,
    )


def _joined(shard: str, parts: list[pa.RecordBatch], mark: int, stream: bool) -> ReadAnswer:
    rows = parts[0]
    if len(parts) > 1:
        rows = pa.concat_batches(parts)
    offsets = rows.column("offset")
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    flags = FLAG_TIMES | (FLAG_HEADERS if rows.num_columns > 4 else 0)
    if last - first + 1 == rows.num_rows and not stream:
        rows = rows.drop_columns(["offset"])
    else:
        flags |= FLAG_OFFSETS
    return _answer(
        shard,
        mark,
        encode_stream(rows) if stream else encode_payload(rows),
        base_offset=first,
        count=rows.num_rows,
        next_offset=last + 1,
        flags=flags,
    )


def _select(
    batch: StoredBatch, query: Query, at: int, stop: int, left: int | None
) -> pa.RecordBatch | None:
    """The qualifying rows, `left` at most, with offset and timestamp columns made explicit; None:
    there are none."""
    records = batch.records()
    first = max(at - batch.base_offset, 0)
    count = max(min(stop, batch.end) - batch.base_offset - first, 0)
    offsets = np.arange(batch.base_offset, batch.end, dtype=np.uint64)
    if not query.filters():
        rows = _explicit(batch, records, offsets)
        rows = rows.slice(first, count) if count < batch.count else rows
    else:
        records = records.slice(first, count)
        mask = _mask(batch, records, query)
        chosen = mask.nonzero()[0]
        if not chosen.size:
            return None
        offsets = offsets[first : first + count][chosen]
        rows = _explicit(batch, _only(records, chosen, mask), offsets)
    return rows if left is None else rows.slice(0, left)


def _only(records: pa.RecordBatch, chosen: Any, mask: Any) -> pa.RecordBatch:
    """A copy of the chosen rows and of nothing else: Arrow pads what it sends of a slice with its
    neighbours' bytes."""
    first, count = int(chosen[0]), chosen.size
    if int(chosen[-1]) - first + 1 == count:  # most often; a filter costs five times as much
        return pa.concat_batches([records.slice(first, count)])
    return records.filter(pa.array(mask))


def _explicit(batch: StoredBatch, records: pa.RecordBatch, offsets: Any) -> pa.RecordBatch:
    """Some records of `batch`, at these offsets, in the schema of an answer with gaps."""
    flags = FLAG_OFFSETS | FLAG_TIMES | (batch.flags & FLAG_HEADERS)
    columns = [pa.array(offsets), records.column("key"), records.column("value")]
    if batch.flags & FLAG_TIMES:
        columns.append(records.column("timestamp"))
    else:
        columns.append(pa.repeat(pa.scalar(batch.append_time_us, pa.int64()), len(offsets)))
    if flags & FLAG_HEADERS:
        columns.append(records.column("headers"))
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(flags))


def _mask(batch: StoredBatch, records: pa.RecordBatch, query: Query) -> Any:
    """Which of `records` pass the filters, as a numpy array."""
    keys, masks = records.column("key"), []
    if query.key is not None:
        masks.append(pc.equal(keys, pa.scalar(query.key, pa.binary())))
    if query.low is not None:
        masks.append(pc.greater_equal(keys, pa.scalar(query.low, pa.binary())))
    if query.high is not None:
        masks.append(pc.less(keys, pa.scalar(query.high, pa.binary())))
    if query.since_us is not None and batch.flags & FLAG_TIMES:
        late = pc.greater_equal(records.column("timestamp"), query.since_us)
        masks.append(late.fill_null(False) if late.null_count else late)
    elif query.since_us is not None and batch.append_time_us < query.since_us:
        return np.zeros(records.num_rows, dtype=bool)
    found = np.ones(records.num_rows, dtype=bool)
    for mask in masks:
        found &= mask.to_numpy(zero_copy_only=False)
    return found
