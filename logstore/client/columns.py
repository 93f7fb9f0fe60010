"""Columns of records from callers: stored byte for byte as given, or refused by name.

Only the kinds below are taken, each by a conversion that keeps every byte, and
types are never inferred (pyarrow's inference takes str among bytes as UTF-8 and cuts fixed-width
numpy strings at their first zero). Keys and values may be:

- a list, tuple, generator or other iterable of `bytes` (exactly: no str, no bytearray, no numpy
  scalar), in an order of its own (no set, no mapping);
- a numpy array of one dimension, contiguous or not: dtype object (of `bytes`) or V (raw, of fixed
  width). dtype S only if no element ends in a zero byte: numpy pads with zeros and drops them
  again, so that b"a" and b"a" with a zero are equal. No U, structured, masked or other arrays;
- an Arrow array or chunked array: binary, large_binary, fixed_size_binary, binary_view, or a
  dictionary of one of them, sliced or not, without nulls. No string types: they are text;
- objects that convert themselves to one of these: pandas and polars Series, Arrow's C interface
  (there not as fixed_size_binary, which is how polars hands over the addresses of Python objects).

Timestamps may be whole numbers (µs since 1970 UTC), `datetime` with a zone, numpy datetime64 and
Arrow timestamps of any unit (UTC where they name no zone); each must be exact in µs and fit int64.
No NaT, no null, no float, no bool.
"""

import datetime
from collections.abc import Callable, Mapping, Set
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import InvalidArgumentError, LimitExceededError
from logstore.base.limits import KEY_BYTES_MAX, RECORD_BYTES_MAX
from logstore.client.bounds import time_us
from logstore.engine.batch import ARROW_ERRORS, KEY, TIMESTAMP, VALUE

COLUMN_BYTES_MAX = 2**31 - 1
"""Arrow's offsets of `binary` are 32 bits."""

_BINARY = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_UNIT_NS = {
    "W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9,
    "ms": 10**6, "us": 10**3, "ns": 1,
}  # fmt: skip
_NAT = np.iinfo(np.int64).min


def batch_of(keys: Any, values: Any, timestamps: Any = None) -> pa.RecordBatch:
    """Keys, values and timestamps as one Arrow batch in the stored schema; Arrow binary costs no
    copy.

    Checks types, lengths and limits over the whole columns. Errors: InvalidArgumentError and
    LimitExceededError, naming the field and the first row at fault.
    """
    parts = [_binary("keys", keys), _binary("values", values)]
    fields = [KEY, VALUE]
    count = len(parts[0])
    if count == 0:
        raise InvalidArgumentError("keys is empty, an append takes at least 1 record")
    if len(parts[1]) != count:
        raise InvalidArgumentError(f"values has {len(parts[1])} rows, keys has {count}")
    if timestamps is not None:
        times = _times(timestamps)
        if len(times) != count:
            raise InvalidArgumentError(f"timestamps has {len(times)} rows, keys has {count}")
        parts.append(times)
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


# ---- what it is ------------------------------------------------------------------------------


def _given(field: str, data: Any) -> "list[Any] | npt.NDArray[Any] | pa.Array | pa.ChunkedArray":
    """The column as one of four kinds; any other kind, or one without an order, is refused."""
    if isinstance(data, (pa.Array, pa.ChunkedArray)):
        return data
    if isinstance(data, np.ndarray):
        if type(data) not in (np.ndarray, np.memmap):
            _refuse(field, f"is {_name(data)}, expected a plain numpy array")
        if data.ndim != 1:
            _refuse(field, f"has {data.ndim} dimensions, expected 1")
        return data
    if isinstance(data, (str, bytes, bytearray, memoryview, Mapping, Set)):
        _refuse(field, f"is {_name(data)}, expected a sequence of bytes, one item a record")
    if isinstance(data, (list, tuple)):
        return list(data)
    if isinstance(getattr(data, "dtype", None), np.dtype) and hasattr(data, "to_numpy"):
        return _given(field, data.to_numpy())  # pandas, with numpy inside
    try:
        found = _handed_over(data)
    except TypeError as e:
        raise InvalidArgumentError(f"{field} is no sequence of bytes: {e}") from e
    except ARROW_ERRORS as e:
        raise InvalidArgumentError(f"{field} is {_name(data)}, which Arrow refuses: {e}") from e
    if not isinstance(found, list) and pa.types.is_fixed_size_binary(found.type):
        _refuse(field, f"is {_name(data)} of type {found.type}, expected an Arrow array of it")
    return found


def _handed_over(data: Any) -> "list[Any] | pa.Array | pa.ChunkedArray":
    if hasattr(data, "__arrow_array__") or hasattr(data, "__arrow_c_array__"):
        return pa.array(data)
    if hasattr(data, "__arrow_c_stream__"):
        return pa.chunked_array(data)
    return list(data)


def _name(data: Any) -> str:
    return type(data).__name__


def _refuse(field: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"{field} {why}")


def _no_nulls(field: str, array: pa.Array | pa.ChunkedArray) -> None:
    if array.null_count:
        row = pc.index(array.is_null(), True).as_py()
        _refuse(field, f"has {array.null_count} nulls, the first in row {row}, expected none")


def _one_array(
    field: str, data: pa.Array | pa.ChunkedArray, convert: Callable[[pa.Array], pa.Array]
) -> pa.Array:
    """Chunks validated and converted one by one, then joined."""
    try:
        data.validate(full=True)
        _no_nulls(field, data)
        if isinstance(data, pa.Array):
            array = convert(data)
        else:
            array = pa.concat_arrays([convert(c) for c in data.chunks or [pa.array([], data.type)]])
    except ARROW_ERRORS as e:
        if data.nbytes > COLUMN_BYTES_MAX:
            raise LimitExceededError.of(
                field, data.nbytes, COLUMN_BYTES_MAX, "bytes in one call"
            ) from e
        raise InvalidArgumentError(f"{field} of type {data.type}: {e}") from e
    _no_nulls(field, array)
    return array


# ---- keys and values ---------------------------------------------------------------------------


def _binary(field: str, data: Any) -> pa.BinaryArray:
    given = _given(field, data)
    if isinstance(given, np.ndarray):
        if given.dtype.kind != "O":
            return _of_numpy(field, given)
        given = given.tolist()
    if not isinstance(given, list):
        return _of_arrow(field, given)
    if not set(map(type, given)) <= _BYTES:
        row = next(i for i, item in enumerate(given) if type(item) is not bytes)
        _refuse(field, f"in row {row} is {_name(given[row])}, expected bytes")
    try:
        return _one_array(field, pa.array(given, pa.binary()), _same)
    except ARROW_ERRORS as e:
        raise InvalidArgumentError(f"{field} does not fit an Arrow column: {e}") from e


_BYTES = frozenset({bytes})


def _same(array: pa.Array) -> pa.Array:
    return array


def _of_numpy(field: str, data: npt.NDArray[Any]) -> pa.BinaryArray:
    """Elements of fixed width, each with all its bytes."""
    width = data.dtype.itemsize
    if data.dtype.kind == "U":
        _refuse(field, "is an array of str, expected bytes")
    if data.dtype.kind not in "SV" or data.dtype.names is not None:
        _refuse(field, f"is an array of {data.dtype}, expected bytes: dtype object (of bytes) or V")
    if len(data) * width > COLUMN_BYTES_MAX:
        raise LimitExceededError.of(field, len(data) * width, COLUMN_BYTES_MAX, "bytes in one call")
    raw = data.tobytes()  # in order, whatever the strides
    if data.dtype.kind == "S" and width:
        last = np.frombuffer(raw, np.uint8)[width - 1 :: width]
        padded = np.flatnonzero(last == 0)
        if len(padded):
            _refuse(
                field,
                f"in row {padded[0]} ends in a zero byte, or is shorter than the array's dtype "
                f"{data.dtype.str}: numpy cannot distinguish these; pass a list of bytes, an array "
                f"of dtype object or V, or an Arrow binary array",
            )
    offsets = np.arange(len(data) + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(raw)]
    return pa.Array.from_buffers(pa.binary(), len(data), buffers)


def _of_arrow(field: str, data: pa.Array | pa.ChunkedArray) -> pa.BinaryArray:
    kind = data.type.value_type if pa.types.is_dictionary(data.type) else data.type
    if not any(is_kind(kind) for is_kind in _BINARY) and len(data):
        _refuse(field, f"has type {data.type}, expected bytes (binary)")
    return _one_array(field, data, _to_binary)


def _to_binary(array: pa.Array) -> pa.BinaryArray:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array if pa.types.is_binary(array.type) else array.cast(pa.binary())


# ---- timestamps ----------------------------------------------------------------------------------


def _times(data: Any) -> pa.Int64Array:
    given = _given("timestamps", data)
    if isinstance(given, np.ndarray):
        if given.dtype.kind != "O":
            return _times_of_numpy(given)
        given = given.tolist()
    if isinstance(given, list):
        if not set(map(type, given)) <= {int}:
            given = [_exact_us(row, item) for row, item in enumerate(given)]
        try:
            return pa.array(given, pa.int64())
        except ARROW_ERRORS:
            row = next(i for i, t in enumerate(given) if not -(2**63) <= t < 2**63)
            _refuse("timestamps", f"in row {row} is {given[row]}, expected int64 microseconds")
    return _one_array("timestamps", given, _times_of_arrow)


def _exact_us(row: int, item: Any) -> int:
    field = f"timestamps in row {row}"
    if type(item) is datetime.datetime or type(item) is int:
        return time_us(field, item)
    if isinstance(item, np.integer):
        return int(item)
    if isinstance(item, np.datetime64):
        factor, divisor = _factor(item.dtype)
        ticks = int(item.astype(np.int64))
        us, rest = divmod(ticks * factor, divisor)
        if ticks != _NAT and not rest:
            return us
        _refuse(field, f"is {item}, which is no whole number of microseconds")
    _refuse(field, f"is {item!r} ({_name(item)}), expected microseconds as int")


def _times_of_numpy(data: npt.NDArray[Any]) -> pa.Int64Array:
    kind = data.dtype.kind
    if kind == "M":
        ticks = data.astype(data.dtype.newbyteorder("=")).view(np.int64)
        factor, divisor = _factor(data.dtype)
        return _scaled(ticks, factor, divisor, nat=True)
    if kind in "iu":
        if kind == "u":
            _first("timestamps", data > np.uint64(2**63 - 1), data, "does not fit int64")
        return pa.array(data.astype(np.int64, copy=True))  # the caller may change its own
    _refuse(
        "timestamps",
        f"is an array of {data.dtype}, expected microseconds as int64 or datetime64",
    )


def _times_of_arrow(array: pa.Array) -> pa.Int64Array:
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_timestamp(array.type):
        ticks = array.cast(pa.int64()).to_numpy()
        return _scaled(ticks, *_ratio(_UNIT_NS[array.type.unit]), nat=False)
    _refuse("timestamps", f"has type {array.type}, expected microseconds as int64")


def _factor(dtype: "np.dtype[Any]") -> tuple[int, int]:
    """(factor, divisor) from ticks of a datetime64 to microseconds."""
    unit, count = np.datetime_data(dtype)
    if unit not in _UNIT_NS:
        _refuse("timestamps", f"is of {dtype}, expected a unit from ns to W")
    return _ratio(_UNIT_NS[unit] * count)


def _ratio(tick_ns: int) -> tuple[int, int]:
    return (tick_ns // 1_000, 1) if tick_ns % 1_000 == 0 else (tick_ns, 1_000)


def _scaled(ticks: npt.NDArray[np.int64], factor: int, divisor: int, *, nat: bool) -> pa.Int64Array:
    """ticks * factor / divisor; refuses what is not exact or does not fit."""
    if nat:
        _first("timestamps", ticks == _NAT, ticks, "is NaT")
    most = (2**63 - 1) // factor
    _first("timestamps", (ticks > most) | (ticks < -most), ticks, "does not fit int64 microseconds")
    scaled = ticks * np.int64(factor)
    _first("timestamps", scaled % divisor != 0, ticks, "is no whole number of microseconds")
    return pa.array(scaled // divisor)


def _first(field: str, wrong: npt.NDArray[Any], data: npt.NDArray[Any], why: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        _refuse(f"{field} in row {rows[0]}", f"{why} ({data[rows[0]]})")
