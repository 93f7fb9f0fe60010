"""An Arrow batch from a wire, opened and checked whole before it is used.

The schema does not travel with a batch: Arrow lays the received buffers under the expected
columns. So a batch of other columns or types may open without an error and read as other values
(`large_binary` offsets as `binary`, a third column dropped). These checks make that impossible:

1. the message names exactly as many columns and buffers as our schema has, and ends where it says;
2. Arrow's own full validation holds (offsets in order and within the data, UTF-8 names, counts);
3. no column has a null, at any level;
4. fewer than PADDING_BYTES lie in a buffer after its last row, and they do not look like the rest
   of wider values: offsets go on (a slice) or are zeros (padding), there are none of the upper
   halves that 64-bit offsets would leave; times are zeros where 16 bytes a row would fit.

The size that a compressed buffer states is checked before it is unpacked.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from logstore.base.errors import CorruptBatchError, LimitExceededError
from logstore.base.limits import (
    BATCH_BYTES_MAX,
    KEY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    RECORD_BYTES_MAX,
)
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES, open_message
from logstore.engine.weight import check_header_count, check_header_name, check_weight, weight

PADDING_BYTES = 64
"""Writers of Arrow pad buffers to 8 or 64 bytes; some count the padding in."""

_BINARY_NODES, _BINARY_BUFFERS = 1, 3
_TIME_NODES, _TIME_BUFFERS = 1, 2
_HEADER_NODES, _HEADER_BUFFERS = 4, 9

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WireBatch:
    """A batch that passes all checks. Times are None where the primary stamps."""

    rows: pa.RecordBatch
    weight: int
    time_min_us: int | None
    time_max_us: int | None


def open_wire(payload: bytes, flags: int, count: int) -> WireBatch:
    """Open and check a payload of `count` records with the columns that `flags` names.

    Errors: CorruptBatchError naming the column that fails, LimitExceededError.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise LimitExceededError.of("batch", len(payload), BATCH_BYTES_MAX, "bytes")
    message = open_message(payload)
    _check_layout(payload, message, flags)
    rows = message.rows(flags)
    if rows.num_rows != count:
        raise CorruptBatchError(f"payload has {rows.num_rows} records, count is {count}")
    key, value = rows.column(0), rows.column(1)
    sizes = _sizes("key", key)
    _check_most("key", sizes, KEY_BYTES_MAX)
    sizes = sizes + _sizes("value", value)
    times = low = high = None
    if flags & FLAG_TIMES:
        times = rows.column(2)
        _check_nulls("timestamp", times)
        spare = _spare("timestamp", times.buffers()[1], 8 * count)
        if len(spare) >= 8 * count and any(spare):
            raise _other_type("timestamp", len(spare))
        stamps = times.to_numpy()
        low, high = int(stamps.min()), int(stamps.max())
    headers = 0
    if flags & FLAG_HEADERS:
        column = rows.column(rows.num_columns - 1)
        headers = len(column.values)
        sizes = sizes + _header_sizes(column)
    _check_most("record", sizes, RECORD_BYTES_MAX)
    weighs = weight(count, int(sizes.sum()), flags, headers)
    check_weight(weighs)
    return WireBatch(rows, weighs, low, high)


def _check_layout(payload: bytes, message: Any, flags: int) -> None:
    try:
        nodes, buffers, compressed = _layout(memoryview(message.metadata))
        body = memoryview(message.body) if message.body is not None else memoryview(b"")
        end = 8 + struct.unpack_from("<i", payload, 4)[0] + len(body)
        unpacked = sum(_unpacked(body, *b) for b in buffers) if compressed else 0
    except (struct.error, ValueError, TypeError) as e:
        raise CorruptBatchError(f"payload's metadata cannot be read: {e}") from e
    if end != len(payload):
        raise CorruptBatchError(f"payload is {len(payload)} bytes, its message ends at {end}")
    wanted = (2 * _BINARY_NODES, 2 * _BINARY_BUFFERS)
    if flags & FLAG_TIMES:
        wanted = (wanted[0] + _TIME_NODES, wanted[1] + _TIME_BUFFERS)
    if flags & FLAG_HEADERS:
        wanted = (wanted[0] + _HEADER_NODES, wanted[1] + _HEADER_BUFFERS)
    if (nodes, len(buffers)) != wanted:
        raise CorruptBatchError(
            f"payload has {nodes} columns with {len(buffers)} buffers, children included; flags "
            f"{flags} need {wanted[0]} with {wanted[1]}: key, value[, timestamp][, headers], binary"
        )
    if unpacked > PAYLOAD_BYTES_MAX:
        raise LimitExceededError.of("batch unpacked", unpacked, BATCH_BYTES_MAX, "bytes")


def _layout(metadata: memoryview) -> tuple[int, list[tuple[int, int]], bool]:
    """(field nodes, (offset, length) of the buffers, compressed) of a record batch's metadata.

    A flatbuffer of Arrow's Message.fbs, which Arrow verified when it opened the message.
    """
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = _slot(metadata, message, 2)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    nodes = _slot(metadata, batch, 1)
    count = struct.unpack_from("<I", metadata, nodes + _u32(metadata, nodes))[0] if nodes else 0
    found: list[tuple[int, int]] = []
    at = _slot(metadata, batch, 2)
    if at:
        at += _u32(metadata, at)
        flat = struct.unpack_from(f"<{2 * _u32(metadata, at)}q", metadata, at + 4)
        found = list(zip(flat[::2], flat[1::2], strict=True))
    return count, found, _slot(metadata, batch, 3) != 0


def _slot(metadata: memoryview, table: int, number: int) -> int:
    """Where a table's field lies; 0: it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise ValueError("a table's description lies outside")
    if 4 + 2 * number >= struct.unpack_from("<H", metadata, vtable)[0]:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _u32(metadata: memoryview, at: int) -> int:
    return int(struct.unpack_from("<I", metadata, at)[0])


def _unpacked(body: memoryview, offset: int, length: int) -> int:
    """The stated size of a compressed buffer; -1 marks one that is not compressed."""
    if length == 0:
        return 0
    if offset < 0 or length < 8 or offset + length > len(body):
        raise ValueError(f"a buffer of {length} bytes at {offset} is outside the body")
    (size,) = struct.unpack_from("<q", body, offset)
    if size < -1:
        raise ValueError(f"a buffer says that it unpacks to {size} bytes")
    return length - 8 if size == -1 else int(size)


def _check_nulls(name: str, column: pa.Array) -> None:
    if column.null_count:
        raise CorruptBatchError(f"column {name} has {column.null_count} nulls, expected none")


def _sizes(name: str, column: pa.Array) -> Numbers:
    """Bytes of each value of a binary column, or items of each list."""
    _check_nulls(name, column)
    return np.diff(_offsets(name, column))


def _offsets(name: str, column: pa.Array) -> Numbers:
    """The offsets of a column, after checking that they account for all of it."""
    count = len(column)
    buffers = column.buffers()
    if count == 0:
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(buffers[1], np.int32, count + 1).astype(np.int64)
    spare = _spare(name, buffers[1], 4 * (count + 1))
    if any(spare):
        rest = np.frombuffer(spare[: len(spare) // 4 * 4], np.int32)
        if np.any(np.diff(rest, prepend=np.int32(offsets[-1])) < 0):
            raise _other_type(name, len(spare))
    if offsets[0]:
        raise CorruptBatchError(f"column {name} starts at byte {offsets[0]} of its data, not at 0")
    if not pa.types.is_list(column.type):
        _spare(name, buffers[2], int(offsets[-1]))
    elif len(column.values) != offsets[-1]:
        raise CorruptBatchError(
            f"column {name} has {len(column.values)} items, its rows have {offsets[-1]}"
        )
    return offsets


def _spare(name: str, buffer: pa.Buffer | None, used: int) -> memoryview:
    """Check the bytes after the last row. (Arrow finds a buffer that is too short.)"""
    spare = memoryview(b"" if buffer is None else buffer)[used:]
    if len(spare) >= PADDING_BYTES:
        raise _other_type(name, len(spare))
    return spare


def _other_type(name: str, spare: int) -> CorruptBatchError:
    return CorruptBatchError(
        f"column {name} has {spare} bytes behind its last row that are no padding: it is of "
        f"another type, or a slice that was not copied"
    )


def _check_most(name: str, sizes: Numbers, limit: int) -> None:
    largest = int(sizes.max())
    if largest > limit:
        row = int(sizes.argmax())
        raise LimitExceededError(
            f"{name} is {largest} bytes, the limit is {limit} bytes (row {row} of the batch)"
        )


def _header_sizes(column: pa.Array) -> Numbers:
    """Bytes of the headers of each row; checks count, names and nulls."""
    counts = _sizes("headers", column)
    check_header_count(int(counts.max()))
    items = column.values
    _check_nulls("headers: header", items)
    names, values = items.field(0), items.field(1)
    name_sizes = _sizes("headers: name", names)
    value_sizes = _sizes("headers: value", values)
    if not len(items):
        return np.zeros(len(column), np.int64)
    check_header_name(int(name_sizes.max()))
    rows = np.repeat(np.arange(len(column)), counts)
    sizes = np.bincount(rows, name_sizes + value_sizes, len(column)).astype(np.int64)
    if counts.max() == 1:
        return sizes
    codes = names.dictionary_encode()
    pairs = rows * len(codes.dictionary) + codes.indices.to_numpy()
    pairs.sort()
    twice = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(twice):
        row, code = divmod(int(pairs[twice[0]]), len(codes.dictionary))
        name = codes.dictionary[code].as_py()
        raise CorruptBatchError(f"column headers: row {row} has the name {name!r} twice")
    return sizes
