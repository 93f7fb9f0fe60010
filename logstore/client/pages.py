"""Pieces of shards as they come over the wire, and their forms for readers. No copy until
it is requested.
"""

from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import CorruptBatchError, UnreadableBatchError
from logstore.base.limits import KEY_BYTES_MAX
from logstore.base.types import NO_HEADERS, Record
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_OFFSETS,
    FLAG_TIMES,
    HEADERS,
    KEY,
    OFFSET,
    VALUE,
    decode_payload,
    schema_of,
)
from logstore.proto.v1 import log_pb2
from sharder.keys import TOKEN_BYTES, KeyRange

_STAMP = pa.field("timestamp", pa.int64(), nullable=False)
_SHARD = pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False)

SCAN_SCHEMA = pa.schema([KEY, VALUE, _STAMP, HEADERS, _SHARD, OFFSET])
"""Columns of `scan`: key, value, timestamp (µs), headers (null: none), shard, offset."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one shard in offset order; `next_offset` is where reading goes on."""

    shard: str
    base_offset: int
    append_time_us: int
    flags: int
    batch: pa.RecordBatch
    next_offset: int

    @property
    def count(self) -> int:
        return int(self.batch.num_rows)

    def offsets(self) -> pa.UInt64Array:
        if self.flags & FLAG_OFFSETS:
            return self.batch.column("offset")
        return pa.array(np.arange(self.base_offset, self.base_offset + self.count, dtype=np.uint64))

    def times(self) -> pa.Int64Array:
        if self.flags & FLAG_TIMES:
            times = self.batch.column("timestamp")
            return times if not times.null_count else times.fill_null(self.append_time_us)
        return pa.array(np.full(self.count, self.append_time_us, dtype=np.int64))

    def arrow(self) -> pa.RecordBatch:
        """The page in SCAN_SCHEMA; keys and values are not copied."""
        count = self.count
        shard = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(count, dtype=np.int32)), pa.array([self.shard])
        )
        headers = (
            self.batch.column("headers")
            if self.flags & FLAG_HEADERS
            else pa.nulls(count, HEADERS.type)
        )
        return pa.RecordBatch.from_arrays(
            [
                self.batch.column("key"),
                self.batch.column("value"),
                self.times(),
                headers,
                shard,
                self.offsets(),
            ],
            schema=SCAN_SCHEMA,
        )

    def records(self) -> list[Record]:
        """The page as Python records."""
        keys = self.batch.column("key").to_pylist()
        values = self.batch.column("value").to_pylist()
        times = self.times().to_pylist() if self.flags & FLAG_TIMES else repeat(self.append_time_us)
        offsets = (
            self.offsets().to_pylist()
            if self.flags & FLAG_OFFSETS
            else range(self.base_offset, self.base_offset + self.count)
        )
        shard = self.shard
        if not self.flags & FLAG_HEADERS:
            return list(
                map(Record, keys, values, times, repeat(shard), offsets, repeat(NO_HEADERS))
            )
        headers = self.batch.column("headers").to_pylist()
        return [
            Record(k, v, t, shard, o, {pair["name"]: pair["value"] for pair in h or ()})
            for k, v, t, o, h in zip(keys, values, times, offsets, headers, strict=False)
        ]

    def as_written(self, keys: KeyRange) -> "Page":
        """A page of a balanced log: without the tokens before the keys, and only `keys`."""
        # The stop is given: without one pyarrow 22 fails on a key of TOKEN_BYTES.
        names = pc.binary_slice(self.batch.column("key"), TOKEN_BYTES, KEY_BYTES_MAX)
        at = self.batch.schema.get_field_index("key")
        batch = self.batch.set_column(at, KEY, names)
        if keys == KeyRange():
            return replace(self, batch=batch)
        wanted = pc.greater_equal(names, pa.scalar(keys.start, pa.binary()))
        if keys.end is not None:
            wanted = pc.and_(wanted, pc.less(names, pa.scalar(keys.end, pa.binary())))
        if pc.all(wanted).as_py():
            return replace(self, batch=batch)
        if not self.flags & FLAG_OFFSETS:  # what is left has gaps
            batch = batch.add_column(0, OFFSET, self.offsets())
        return replace(self, batch=batch.filter(wanted), flags=self.flags | FLAG_OFFSETS)

    def head(self, count: int) -> "Page":
        """The first `count` records."""
        return Page(
            self.shard,
            self.base_offset,
            self.append_time_us,
            self.flags,
            self.batch.slice(0, count),
            self.next_offset,
        )


def page_of(response: log_pb2.ReadResponse) -> Page:
    """Open a response; UnreadableBatchError, naming shard and offsets, when it holds no records
    that can be read."""
    try:
        if response.count == 0:
            rows = pa.RecordBatch.from_pylist([], schema=schema_of(response.flags & 7))
        else:
            rows = decode_payload(response.payload, response.flags)
        if rows.num_rows != response.count:
            raise CorruptBatchError(f"{rows.num_rows} rows, count is {response.count}")
    except CorruptBatchError as e:
        last = max(response.next_offset, response.base_offset + 1) - 1
        raise UnreadableBatchError(
            f"shard {response.shard}: records at offsets {response.base_offset}..{last} cannot be "
            f"read: {e.message}; reading goes on at offset {last + 1}"
        ) from e
    return Page(
        response.shard,
        response.base_offset,
        response.append_time_us,
        response.flags,
        rows,
        response.next_offset,
    )


def records_of(batch: pa.RecordBatch) -> list[Record]:
    """Records of a batch in SCAN_SCHEMA."""
    columns = [batch.column(name).to_pylist() for name in SCAN_SCHEMA.names]
    return [
        Record(k, v, t, s, o, {pair["name"]: pair["value"] for pair in h or ()})
        for k, v, t, h, s, o in zip(*columns, strict=True)
    ]
