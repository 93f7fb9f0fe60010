"""What callers pass in, checked before anything is sent: same limits as the server's, clear
errors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import InvalidArgumentError, LimitExceededError
from logstore.base.limits import (
    HEADER_NAME_BYTES_MAX,
    HEADERS_MAX,
    KEY_BYTES_MAX,
    LOG_NAME_CHARS_MAX,
    RECORD_BYTES_MAX,
)
from logstore.engine.batch import KEY, TIMESTAMP, VALUE

_BYTES = frozenset({bytes})
_BINARY_ID = pa.binary().id


def log_name(name: object) -> str:
    """A log's name, or an error that names it."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"log is {type(name).__name__}, expected str")
    if not 1 <= len(name) <= LOG_NAME_CHARS_MAX:
        raise LimitExceededError.of("log name", len(name), LOG_NAME_CHARS_MAX, "characters")
    return name


def key(value: object, field: str = "key") -> bytes:
    """One key: bytes, at most KEY_BYTES_MAX."""
    if type(value) is not bytes:
        raise InvalidArgumentError(f"{field} is {type(value).__name__}, expected bytes")
    if len(value) > KEY_BYTES_MAX:
        raise LimitExceededError.of(field, len(value), KEY_BYTES_MAX, "bytes")
    return value


def record(
    record_key: object,
    value: object,
    headers: Mapping[str, bytes] | None,
    timestamp: int | None,
) -> int:
    """Check one record; returns its size in bytes as it counts against the limits."""
    size = len(key(record_key))
    if type(value) is not bytes:
        raise InvalidArgumentError(f"value is {type(value).__name__}, expected bytes")
    size += len(value)
    if headers:
        size += _headers(headers)
    if size > RECORD_BYTES_MAX:
        raise LimitExceededError.of("record", size, RECORD_BYTES_MAX, "bytes")
    if timestamp is not None and (type(timestamp) is not int or not -(2**63) <= timestamp < 2**63):
        raise InvalidArgumentError(f"timestamp is {timestamp!r}, expected microseconds as int64")
    return size


def _headers(headers: Mapping[str, bytes]) -> int:
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(f"headers is {type(headers).__name__}, expected a mapping")
    if len(headers) > HEADERS_MAX:
        raise LimitExceededError.of("headers", len(headers), HEADERS_MAX, "headers")
    size = 0
    for name, content in headers.items():
        if type(name) is not str:
            raise InvalidArgumentError(f"header name is {type(name).__name__}, expected str")
        if type(content) is not bytes:
            raise InvalidArgumentError(
                f"header {name!r} is {type(content).__name__}, expected bytes"
            )
        if len(name.encode()) > HEADER_NAME_BYTES_MAX:
            raise LimitExceededError.of(
                "header name", len(name.encode()), HEADER_NAME_BYTES_MAX, "bytes"
            )
        size += len(name) + len(content)
    return size


def number(field: str, value: object, low: int = 0) -> int:
    """A whole number of at least `low` and below 2**63."""
    if type(value) is not int or not low <= value < 2**63:
        raise InvalidArgumentError(f"{field} is {value!r}, expected an int of at least {low}")
    return value


def columns(
    keys: Sequence[bytes] | Any, values: Sequence[bytes] | Any, timestamps: Any = None
) -> pa.RecordBatch:
    """Keys, values and timestamps as one Arrow batch in the stored schema; Arrow input costs no
    copy.

    Checks types, lengths and limits over the whole columns, naming the first row at fault.
    """
    parts = [_binary("keys", keys), _binary("values", values)]
    fields = [KEY, VALUE]
    count = len(parts[0])
    if count == 0:
        raise InvalidArgumentError("keys is empty, an append takes at least 1 record")
    if len(parts[1]) != count:
        raise InvalidArgumentError(f"values has {len(parts[1])} rows, keys has {count}")
    if timestamps is not None:
        parts.append(_times(timestamps, count))
        fields.append(TIMESTAMP)
    key_sizes, value_sizes = pc.binary_length(parts[0]), pc.binary_length(parts[1])
    _limit("key", key_sizes, KEY_BYTES_MAX)
    if pc.max(value_sizes).as_py() > RECORD_BYTES_MAX - KEY_BYTES_MAX:
        _limit("record", pc.add(key_sizes, value_sizes), RECORD_BYTES_MAX)
    return pa.RecordBatch.from_arrays(parts, schema=pa.schema(fields))


def _limit(field: str, sizes: pa.Int32Array, limit: int) -> None:
    largest = pc.max(sizes).as_py()
    if largest > limit:
        row = pc.index(sizes, largest).as_py()
        raise LimitExceededError.of(f"{field} in row {row}", largest, limit, "bytes")


def _binary(field: str, data: Any) -> pa.BinaryArray:
    if isinstance(data, pa.ChunkedArray):
        data = data.combine_chunks()
    if isinstance(data, np.ndarray):
        if data.ndim != 1:
            raise InvalidArgumentError(f"{field} has {data.ndim} dimensions, expected 1")
        if data.dtype.kind == "U":
            raise InvalidArgumentError(f"{field} is an array of str, expected bytes")
        if data.dtype.kind == "O":
            data = data.tolist()
    if isinstance(data, (bytes, str)):
        raise InvalidArgumentError(
            f"{field} is {type(data).__name__}, expected a sequence of bytes"
        )
    if isinstance(data, (list, tuple)) and not set(map(type, data)) <= _BYTES:
        row = next(i for i, item in enumerate(data) if type(item) is not bytes)
        raise InvalidArgumentError(
            f"{field} in row {row} is {type(data[row]).__name__}, expected bytes"
        )
    try:
        array = data if isinstance(data, pa.Array) else _sequence(data)
        array = array if array.type.id == _BINARY_ID else _as_binary(field, array)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as e:
        raise InvalidArgumentError(f"{field} is no sequence of bytes: {e}") from e
    if isinstance(array, pa.ChunkedArray):
        raise LimitExceededError.of(field, array.nbytes, 2**31 - 1, "bytes in one call")
    if array.null_count:
        raise InvalidArgumentError(f"{field} has {array.null_count} nulls, expected none")
    return array


def _sequence(data: Any) -> pa.Array:
    if isinstance(data, (list, tuple)):
        return pa.array(data, pa.binary())
    if isinstance(data, np.ndarray):
        return pa.array(data)
    return pa.array(list(data)) if not hasattr(data, "__arrow_array__") else pa.array(data)


def _as_binary(field: str, array: pa.Array) -> pa.BinaryArray:
    kinds = (pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if len(array) == 0 or any(kind(array.type) for kind in kinds):
        return array.cast(pa.binary())
    raise InvalidArgumentError(f"{field} has type {array.type}, expected bytes (binary)")


def _times(timestamps: Any, count: int) -> pa.Int64Array:
    try:
        if isinstance(timestamps, pa.ChunkedArray):
            timestamps = timestamps.combine_chunks()
        array = timestamps if isinstance(timestamps, pa.Array) else pa.array(timestamps)
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("us", array.type.tz))
        if not pa.types.is_integer(array.type) and not pa.types.is_timestamp(array.type):
            raise InvalidArgumentError(
                f"timestamps has type {array.type}, expected microseconds as int64"
            )
        array = array.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as e:
        raise InvalidArgumentError(f"timestamps are no int64 microseconds: {e}") from e
    if array.null_count:
        raise InvalidArgumentError(f"timestamps has {array.null_count} nulls, expected none")
    if len(array) != count:
        raise InvalidArgumentError(f"timestamps has {len(array)} rows, keys has {count}")
    return array
