"""Reading a copy below its high watermark: by offset, key, key range and time; and tailing.

Answers are Arrow batches of about a MiB. A large stored batch that qualifies as a whole goes out
as it lies on the disk; others are joined. Where filtering left gaps there is an `offset` column.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import (
    InvalidArgumentError,
    NotServingError,
    OutOfRangeError,
    UnavailableError,
)
from logstore.base.limits import SCAN_CHUNK_BYTES
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_OFFSETS,
    FLAG_TIMES,
    StoredBatch,
    encode_payload,
    schema_of,
)
from logstore.proto.v1 import log_pb2

if TYPE_CHECKING:
    from logstore.node.replica import Replica

T = TypeVar("T")

SMALL_BATCH_BYTES = 128 * 1024
"""Stored batches below this are joined with their neighbours: a message's cost is per message."""
JOINED_RECORDS_MAX = 65_536
TAIL_IDLE_S = 1.0
"""A tail looks at least this often whether its replica still serves."""


@dataclass(frozen=True, slots=True)
class Query:
    """What one read wants; offsets are half-open. `start=None`: whatever is kept."""

    start: int | None
    stop: int | None
    key: bytes | None
    low: bytes | None
    high: bytes | None
    since_us: int | None
    limit: int
    routing_hash: bool = False

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
        )

    def filters(self) -> bool:
        return any(x is not None for x in (self.key, self.low, self.high, self.since_us))


Fetched = tuple[list[StoredBatch], int]
"""Stored batches that may qualify, and the offset where the following fetch starts."""


async def wait_for_mark(replica: "Replica", mark: int, wait_s: float) -> None:
    """P8: wait a bounded time until the high watermark reaches `mark`, else NotServingError."""
    deadline_s = replica.node.now_s() + wait_s
    while replica.high_watermark < mark:
        left_s = deadline_s - replica.node.now_s()
        if left_s <= 0:
            raise NotServingError(
                f"shard {replica.shard} is at {replica.high_watermark} on {replica.node.instance}, "
                f"the caller has seen {mark}"
            )
        await replica.wait_mark(left_s)


async def read(
    replica: "Replica", query: Query, tail: bool = False
) -> AsyncIterator[log_pb2.ReadResponse]:
    """Answers in offset order up to the high watermark at the call (or `stop`); a tail goes on.

    Errors: OutOfRangeError for a start past the end or below the trim offset, NotServingError
    when the replica stops serving in between (the caller continues elsewhere at next_offset).
    """
    mark = replica.high_watermark
    at, trimmed = _begin(replica, query, mark)
    left, told = query.limit or None, False
    if trimmed:
        yield _begins_at(replica, at, mark)
    if query.since_us is not None:
        engine = replica.node.engine
        at = max(at, engine.offset_at_time(replica.member.replica_id, query.since_us))
    ahead: asyncio.Task[Fetched] | None = None
    try:
        while True:
            mark = replica.high_watermark if tail else mark
            stop = mark if query.stop is None or tail else min(mark, query.stop)
            if at < stop:
                replica.check_serving()
                batches, next_at = await (ahead or _fetch(replica, query, at, stop))
                ahead = None
                if next_at < stop and left is None:  # the disk works while the answers go out
                    ahead = asyncio.create_task(_fetch(replica, query, next_at, stop))
                for answer in _answers(replica.shard, batches, query, at, stop, left, mark):
                    left = None if left is None else left - answer.count
                    answer.sealed, told = _ends(replica, stop), True
                    yield answer
                    if left == 0:
                        return
                at = next_at
            elif not tail:
                if _ends(replica, stop) and not told:
                    yield _end_of(replica, at, mark)
                return
            else:
                replica.check_serving()
                if _ends(replica, at):
                    yield _end_of(replica, at, mark)
                    return
                await replica.wait_mark(TAIL_IDLE_S)
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def _begin(replica: "Replica", query: Query, mark: int) -> tuple[int, bool]:
    """Where the read begins, and whether records below that, which it did not exclude, are gone."""
    base = replica.node.engine.base(replica.member.replica_id).end
    start = base if query.start is None else query.start
    if start > mark:
        raise OutOfRangeError(f"start_offset is {start}, shard {replica.shard} ends at {mark}")
    if start < base:
        raise OutOfRangeError(
            f"start_offset is {start}, shard {replica.shard} was trimmed below {base}; read from "
            f"{base} on, or without an offset"
        )
    if query.stop is not None and query.stop < start:
        raise InvalidArgumentError(f"stop_offset is {query.stop}, below start {start}")
    return start, query.start is None and base > 0


def _begins_at(replica: "Replica", base: int, mark: int) -> log_pb2.ReadResponse:
    """Told before the first record, also when nothing qualifies."""
    return log_pb2.ReadResponse(
        shard=replica.shard,
        base_offset=base,
        high_watermark=mark,
        next_offset=base,
        log_start=base,
    )


def _ends(replica: "Replica", offset: int) -> bool:
    """Whether the shard ends there for good."""
    return replica.is_sealed() and offset >= (replica.record.sealed_end or 0)


def _end_of(replica: "Replica", at: int, mark: int) -> log_pb2.ReadResponse:
    """A sealed shard's end is told also when nothing qualified (S4)."""
    return log_pb2.ReadResponse(
        shard=replica.shard, base_offset=at, high_watermark=mark, next_offset=at, sealed=True
    )


async def _fetch(replica: "Replica", query: Query, at: int, stop: int) -> Fetched:
    engine, me = replica.node.engine, replica.member.replica_id
    if query.key is not None:
        found = await _in_thread(replica, engine.read_key, me, query.key, at, stop)
        return found, stop
    batches = await _in_thread(replica, engine.read, me, at, stop, SCAN_CHUNK_BYTES)
    return batches, batches[-1].end if batches else stop


async def _in_thread(replica: "Replica", work: Callable[..., T], *arguments: object) -> T:
    """Run on a reader thread; UnavailableError once the instance stops."""
    try:
        done = asyncio.get_running_loop().run_in_executor(replica.node.readers, work, *arguments)
    except RuntimeError:  # the pool was shut down
        raise UnavailableError(f"instance {replica.node.instance} stops") from None
    return await done


def _answers(
    shard: str,
    batches: list[StoredBatch],
    query: Query,
    at: int,
    stop: int,
    left: int | None,
    mark: int,
) -> "list[log_pb2.ReadResponse]":
    answers: list[log_pb2.ReadResponse] = []
    small: list[pa.RecordBatch] = []
    small_rows = 0

    def flush() -> None:
        nonlocal small, small_rows
        if small:
            answers.append(_joined(shard, small, mark))
            small, small_rows = [], 0

    for batch in batches:
        whole = batch.base_offset >= at and batch.end <= stop and not query.filters()
        fits = left is None or batch.count <= left
        if whole and fits and len(batch.data) >= SMALL_BATCH_BYTES:
            flush()
            answers.append(_as_stored(shard, batch, mark))
            left = None if left is None else left - batch.count
            continue
        rows = _select(batch, query, at, stop, left)
        if rows.num_rows:
            left = None if left is None else left - rows.num_rows
            if small and (
                small[0].schema != rows.schema or small_rows + rows.num_rows > JOINED_RECORDS_MAX
            ):
                flush()
            small.append(rows)
            small_rows += rows.num_rows
        if left == 0:
            break
    flush()
    return answers


def _as_stored(shard: str, batch: StoredBatch, mark: int) -> log_pb2.ReadResponse:
    return log_pb2.ReadResponse(
        shard=shard,
        base_offset=batch.base_offset,
        count=batch.count,
        append_time_us=batch.append_time_us,
        flags=batch.flags,
        payload=bytes(batch.payload()),
        high_watermark=mark,
        next_offset=batch.end,
    )


def _select(
    batch: StoredBatch, query: Query, at: int, stop: int, left: int | None
) -> pa.RecordBatch:
    """The qualifying rows with offset and timestamp columns made explicit."""
    records = batch.records()
    offsets = np.arange(batch.base_offset, batch.end, dtype=np.uint64)
    times = (
        records.column("timestamp")
        if batch.flags & FLAG_TIMES
        else pa.array(np.full(batch.count, batch.append_time_us, dtype=np.int64))
    )
    columns: list[Any] = [pa.array(offsets), records.column("key"), records.column("value"), times]
    flags = FLAG_OFFSETS | FLAG_TIMES | (batch.flags & FLAG_HEADERS)
    if flags & FLAG_HEADERS:
        columns.append(records.column("headers"))
    rows = pa.RecordBatch.from_arrays(columns, schema=schema_of(flags))
    mask = _mask(rows, query)
    low, high = max(at - batch.base_offset, 0), min(stop, batch.end) - batch.base_offset
    if mask is not None:
        within = np.zeros(batch.count, dtype=bool)
        within[low:high] = True
        rows = rows.filter(pc.and_(mask, pa.array(within)))
    elif low > 0 or high < batch.count:
        rows = rows.slice(low, high - low)
    return rows if left is None else rows.slice(0, left)


def _mask(rows: pa.RecordBatch, query: Query) -> Any:
    keys, masks = rows.column("key"), []
    if query.key is not None:
        masks.append(pc.equal(keys, pa.scalar(query.key, pa.binary())))
    if query.low is not None:
        masks.append(pc.greater_equal(keys, pa.scalar(query.low, pa.binary())))
    if query.high is not None:
        masks.append(pc.less(keys, pa.scalar(query.high, pa.binary())))
    if query.since_us is not None:
        masks.append(pc.greater_equal(rows.column("timestamp"), query.since_us))
    if not masks:
        return None
    found = masks[0]
    for mask in masks[1:]:
        found = pc.and_(found, mask)
    return found


def _joined(shard: str, parts: list[pa.RecordBatch], mark: int) -> log_pb2.ReadResponse:
    rows = parts[0]
    if len(parts) > 1:
        rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    offsets = rows.column("offset")
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    flags = FLAG_TIMES | (FLAG_HEADERS if rows.num_columns > 4 else 0)
    if last - first + 1 == rows.num_rows:
        rows = rows.drop_columns(["offset"])
    else:
        flags |= FLAG_OFFSETS
    return log_pb2.ReadResponse(
        shard=shard,
        base_offset=first,
        count=rows.num_rows,
        append_time_us=0,
        flags=flags,
        payload=encode_payload(rows),
        high_watermark=mark,
        next_offset=last + 1,
    )
