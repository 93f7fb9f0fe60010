"""Every way in stores exactly what was given, or refuses it by name: field, row, type."""

import datetime
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logstore.base.errors import InvalidArgumentError, LimitExceededError
from logstore.client.batching import chunks
from logstore.client.columns import batch_of
from logstore.engine.batch import FLAG_TIMES, encode_payload
from logstore.engine.weight import weight
from logstore.engine.wire import open_wire

UTC = datetime.UTC


class Stream:
    """A column behind Arrow's C interface, as a polars Series is."""

    def __init__(self, data: Any) -> None:
        self._data = pa.chunked_array(data)

    def __arrow_c_stream__(self, requested: object = None) -> object:
        return self._data.__arrow_c_stream__(requested)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("taken item by item")


def slices(data: list[bytes]) -> pa.Array:
    return pa.array([b"before", *data, b"behind"], pa.binary())[1:-1]


def strided(data: Any) -> Any:
    """Every second element of an array twice as long."""
    doubled = np.zeros(2 * len(data), data.dtype)
    doubled[::2] = data
    return doubled[::2]


def chunked(data: list[bytes], kind: pa.DataType) -> pa.ChunkedArray:
    half = len(data) // 2
    return pa.chunked_array([pa.array(data[:half], kind), pa.array(data[half:], kind)], kind)


def dictionary(data: list[bytes], kind: pa.DataType) -> pa.DictionaryArray:
    names = sorted(set(data))
    return pa.DictionaryArray.from_arrays(
        pa.array([names.index(item) for item in data], pa.int16()), pa.array(names, kind)
    )


def dictionaries(data: list[bytes]) -> pa.ChunkedArray:
    """Each chunk with its own dictionary."""
    chunks = [dictionary(data[:1], pa.binary()), dictionary(data[1:], pa.binary())]
    return pa.chunked_array(chunks)


def padded(data: list[bytes]) -> pa.Array:
    """Buffers longer than the array, zeros behind it."""
    offsets = np.zeros(len(data) + 40, np.int32)
    offsets[1 : len(data) + 1] = np.cumsum([len(item) for item in data])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data) + bytes(100))]
    return pa.Array.from_buffers(pa.binary(), len(data), buffers)


ANY_LENGTH: dict[str, Callable[[list[bytes]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "dict values": lambda data: dict(enumerate(data)).values(),
    "numpy object": lambda data: np.array([*data, None], dtype=object)[:-1],
    "numpy object, strided": lambda data: strided(np.array([*data, None], dtype=object)[:-1]),
    "binary": lambda data: pa.array(data, pa.binary()),
    "large_binary": lambda data: pa.array(data, pa.large_binary()),
    "binary_view": lambda data: pa.array(data, pa.binary_view()),
    "slice": slices,
    "padded": padded,
    "chunks": lambda data: chunked(data, pa.binary()),
    "chunks of large_binary": lambda data: chunked(data, pa.large_binary()),
    "dictionary": lambda data: dictionary(data, pa.binary()),
    "dictionary of large_binary": lambda data: dictionary(data, pa.large_binary()),
    "chunks of dictionaries": dictionaries,
    "C stream": lambda data: Stream([pa.array(data, pa.large_binary())]),
    "C stream of views": lambda data: Stream([pa.array(data, pa.binary_view())]),
    "pandas object": lambda data: pd.Series(data, dtype=object),
    "pandas arrow": lambda data: pd.Series(data, dtype=pd.ArrowDtype(pa.binary())),
    "pandas index": lambda data: pd.Index(data, dtype=object),
    "pandas categorical": lambda data: pd.Series(data, dtype=object).astype("category"),
}

FIXED: dict[str, Callable[[list[bytes]], Any]] = {
    "fixed_size_binary": lambda data: pa.array(data, pa.binary(len(data[0]))),
    "dictionary of fixed_size_binary": lambda data: dictionary(data, pa.binary(len(data[0]))),
    "numpy V": lambda data: np.frombuffer(b"".join(data), f"V{len(data[0])}"),
    "numpy V, strided": lambda data: strided(np.frombuffer(b"".join(data), f"V{len(data[0])}")),
    "numpy V, backwards": lambda data: np.frombuffer(b"".join(reversed(data)), f"V{len(data[0])}")[
        ::-1
    ],
}

CONTENT = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 2**64 - 1).map(lambda n: struct.pack(">Q", n)),
    st.integers(0, 6).map(bytes),
    st.integers(1, 6).map(lambda n: b"\xff" * n),
    st.binary(max_size=6).map(lambda b: b + b"\0"),
)


def columns_of(batch: pa.RecordBatch) -> list[list[Any]]:
    return [column.to_pylist() for column in batch.columns]


@pytest.mark.parametrize("kind", ANY_LENGTH)
@settings(max_examples=25, deadline=None)
@given(data=st.lists(CONTENT, min_size=1, max_size=12))
@example(data=[struct.pack(">Q", n) for n in (1, 2, 3)])
@example(data=[b"", b"\0", b"a\0", b"\xff\0\xff", b"a"])
def test_what_is_taken_is_taken_byte_for_byte(kind: str, data: list[bytes]) -> None:
    made = ANY_LENGTH[kind]
    batch = batch_of(made(data), made(data[::-1]))
    batch.validate(full=True)
    assert columns_of(batch) == [data, data[::-1]]


@pytest.mark.parametrize("kind", FIXED)
@settings(max_examples=25, deadline=None)
@given(
    data=st.integers(1, 9).flatmap(
        lambda width: st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=9)
    )
)
@example(data=[struct.pack(">Q", n) for n in (1, 2, 256)])
def test_elements_of_fixed_width_keep_their_zeros(kind: str, data: list[bytes]) -> None:
    batch = batch_of(FIXED[kind](data), data)
    assert columns_of(batch) == [data, data]


@settings(max_examples=200, deadline=None)
@given(data=st.lists(CONTENT.filter(len), min_size=1, max_size=9), backwards=st.booleans())
@example(data=[struct.pack(">Q", n) for n in (1, 2, 3)], backwards=False)
@example(data=[b"ab\0", b"abc"], backwards=True)
def test_numpy_strings_are_exact_or_refused(data: list[bytes], backwards: bool) -> None:
    """Numpy does not distinguish b"ab" from b"ab" and a zero; then the column is refused."""
    array = np.array(data)[:: -1 if backwards else 1]
    given = data[:: -1 if backwards else 1]
    sure = all(len(item) == array.dtype.itemsize and item[-1] for item in data)
    if sure:
        assert columns_of(batch_of(array, array)) == [given, given]
    else:
        with pytest.raises(
            InvalidArgumentError, match=r"keys in row \d+ .*numpy cannot distinguish"
        ):
            batch_of(array, given)


ODD: dict[str, tuple[Any, str]] = {
    "str": ("ab", "is str"),
    "bytes": (b"ab", "is bytes"),
    "bytearray": (bytearray(b"ab"), "is bytearray"),
    "memoryview": (memoryview(b"ab"), "is memoryview"),
    "set": ({b"a", b"b"}, "is set"),
    "dict": ({b"a": 1, b"b": 2}, "is dict"),
    "dict keys": ({b"a": 1, b"b": 2}.keys(), "is dict_keys"),
    "number": (7, "is no sequence"),
    "None": (None, "is no sequence"),
    "None inside": ([b"a", None], "in row 1 is NoneType"),
    "NaN inside": ([b"a", math.nan], "in row 1 is float"),
    "NaT inside": ([b"a", pd.NaT], "in row 1 is NaTType"),
    "str inside": ([b"a", "b"], "in row 1 is str"),
    "bytearray inside": ([b"a", bytearray(b"b")], "in row 1 is bytearray"),
    "memoryview inside": ([b"a", memoryview(b"b")], "in row 1 is memoryview"),
    "numpy scalars": (list(np.array([b"a", b"b"])), "in row 0 is bytes_"),
    "numpy U": (np.array(["a", "b"]), "is an array of str"),
    "numpy T": (np.array(["a", "b"], dtype=np.dtypes.StringDType()), "StringDType"),
    "numpy object with str": (np.array([b"a", "b"], dtype=object), "in row 1 is str"),
    "numpy object with NaN": (np.array([b"a", math.nan], dtype=object), "in row 1 is float"),
    "numpy int": (np.array([1, 2]), "is an array of int64"),
    "numpy bool": (np.array([True, False]), "is an array of bool"),
    "numpy datetime64": (np.array(["2024-01-01", "NaT"], "M8[s]"), "is an array of datetime64"),
    "numpy structured": (np.array([(1, 2), (3, 4)], "i4,i8"), "is an array of"),
    "numpy record": (np.rec.array([(1, 2), (3, 4)]), "is recarray"),
    "numpy masked": (np.ma.array([b"aa", b"bb"], mask=[False, True]), "is MaskedArray"),
    "numpy 2-d": (np.zeros((2, 2), "V1"), "has 2 dimensions"),
    "numpy 0-d": (np.array(b"a", dtype=object), "has 0 dimensions"),
    "string": (pa.array(["a", "b"]), "has type string"),
    "large_string": (pa.array(["a", "b"], pa.large_string()), "has type large_string"),
    "string_view": (pa.array(["a", "b"], pa.string_view()), "has type string_view"),
    "dictionary of string": (pa.array(["a", "b"]).dictionary_encode(), "has type dictionary"),
    "list": (pa.array([[b"a"], [b"b"]]), "has type list"),
    "struct": (pa.array([{"a": b"a"}, {"a": b"b"}]), "has type struct"),
    "null type": (pa.nulls(2), "has type null"),
    "null inside": (pa.array([b"a", None], pa.binary()), "has 1 nulls, the first in row 1"),
    "null in a chunk": (pa.chunked_array([[b"a"], [None]], pa.binary()), "has 1 nulls"),
    "null in a dictionary": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([b"a", None], pa.binary())),
        "has 1 nulls",
    ),
    "extension": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 2, pa.binary(16))),
        "has type extension",
    ),
    "C stream of addresses": (
        Stream([pa.array([bytes(8), bytes(8)], pa.binary(8))]),  # as polars does with objects
        "is Stream of type fixed_size_binary[8]",
    ),
    "table": (pa.table({"a": [b"a", b"b"]}), "has type struct"),
    "pandas str": (pd.Series(["a", "b"]), "has type large_string"),
    "pandas None": (pd.Series([b"a", None], dtype=object), "in row 1 is NoneType"),
    "pandas NaN": (pd.Series([b"a", math.nan], dtype=object), "in row 1 is float"),
    "pandas float": (pd.Series([1.5, math.nan]), "is an array of float64"),
    "pandas null": (pd.Series([b"a", None], dtype=pd.ArrowDtype(pa.binary())), "has 1 nulls"),
    "offsets that fall": (
        pa.Array.from_buffers(
            pa.binary(), 2, [None, pa.py_buffer(np.array([0, 5, 2], "i4")), pa.py_buffer(b"ab")]
        ),
        "Offset invariant",
    ),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("field", ["keys", "values"])
def test_what_is_not_taken_is_refused_by_name(kind: str, field: str) -> None:
    odd, why = ODD[kind]
    fine = [b"1", b"2"]
    keys, values = (odd, fine) if field == "keys" else (fine, odd)
    with pytest.raises(InvalidArgumentError) as caught:
        batch_of(keys, values)
    assert caught.value.message.startswith(field)
    assert why in caught.value.message


def test_a_column_over_the_limits_is_refused_by_row() -> None:
    with pytest.raises(LimitExceededError, match="key in row 1 is 4097 bytes"):
        batch_of([b"", bytes(4097)], [b"", b""])
    with pytest.raises(LimitExceededError, match="record in row 0 is 1048577 bytes"):
        batch_of([b"k", b""], [bytes(1024 * 1024), b""])
    fits = batch_of([b"k", bytes(4096)], [bytes(1024 * 1024 - 1), b""])
    assert [len(c[0].as_py()) for c in fits.columns] == [1, 1024 * 1024 - 1]


# ---- timestamps ----------------------------------------------------------------------------

DAY_US = 86_400 * 10**6
MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
MOMENT_US = 1_714_979_289_123_456
EAST = datetime.timezone(datetime.timedelta(hours=5))

EXACT: dict[str, tuple[Any, list[int]]] = {
    "ints": ([-1, 2**63 - 1], [-1, 2**63 - 1]),
    "range": (range(5, 7), [5, 6]),
    "datetimes": ([MOMENT, MOMENT.astimezone(EAST)], [MOMENT_US] * 2),
    "ints and datetimes": ([7, MOMENT], [7, MOMENT_US]),
    "numpy scalars": ([np.int64(7), np.uint8(8)], [7, 8]),
    "datetime64 scalars": ([np.datetime64(3, "s"), np.datetime64(5_000, "ns")], [3_000_000, 5]),
    "int32": (np.array([1, -2], "i4"), [1, -2]),
    "uint64": (np.array([1, 2**63 - 1], "u8"), [1, 2**63 - 1]),
    "big-endian": (np.array([1, 2], ">i8"), [1, 2]),
    "strided": (np.arange(4)[::2], [0, 2]),
    "object": (np.array([1, MOMENT], dtype=object), [1, MOMENT_US]),
    "datetime64[us]": (np.array([1, 2], "M8[us]"), [1, 2]),
    "datetime64[ns]": (np.array([1_000, 2_000], "M8[ns]"), [1, 2]),
    "datetime64[10ms]": (np.array([1, 2], "M8[10ms]"), [10_000, 20_000]),
    "datetime64[D]": (np.array(["1970-01-02", "1969-12-31"], "M8[D]"), [DAY_US, -DAY_US]),
    "big-endian datetime64": (np.array([1, 2], ">M8[s]"), [10**6, 2 * 10**6]),
    "arrow int16": (pa.array([1, 2], pa.int16()), [1, 2]),
    "arrow timestamp[s]": (pa.array([1, 2], pa.timestamp("s")), [10**6, 2 * 10**6]),
    "arrow zone": (pa.array([MOMENT, MOMENT], pa.timestamp("us", "Asia/Tokyo")), [MOMENT_US] * 2),
    "arrow chunks": (pa.chunked_array([[1], [2]]), [1, 2]),
    "pandas": (pd.Series([MOMENT, MOMENT]), [MOMENT_US] * 2),
    "pandas ns": (pd.Series(np.array([1_000, 2_000], "M8[ns]")), [1, 2]),
    "pandas Int64": (pd.Series([1, 2], dtype="Int64"), [1, 2]),
}  # fmt: skip

INEXACT: dict[str, tuple[Any, str]] = {
    "None": ([1, None], "in row 1 is None"),
    "NaN": ([1, math.nan], "in row 1 is nan"),
    "NaT": ([1, pd.NaT], "in row 1 is NaT"),
    "float": ([1, 2.0], "in row 1 is 2.0"),
    "bool": ([1, True], "in row 1 is True"),
    "str": ([1, "2"], "in row 1 is '2'"),
    "date": ([1, MOMENT.date()], "in row 1 is datetime.date"),
    "no zone": ([1, MOMENT.replace(tzinfo=None)], "in row 1 is 2024-05-06"),
    "pandas Timestamp": ([1, pd.Timestamp(1_001, tz="UTC")], "in row 1 is Timestamp"),
    "too large": ([1, 2**63], "in row 1 is 9223372036854775808"),
    "too small": ([1, -(2**63) - 1], "in row 1 is -9223372036854775809"),
    "datetime64 NaT scalar": ([1, np.datetime64("NaT", "us")], "in row 1 is NaT"),
    "datetime64 ns scalar": ([1, np.datetime64(1_001, "ns")], "in row 1 is 1970"),
    "one number": (7, "is no sequence"),
    "text": ("12", "is str"),
    "bytes": (b"12", "is bytes"),
    "float64": (np.array([1.0, 2.0]), "is an array of float64"),
    "numpy bool": (np.array([True, False]), "is an array of bool"),
    "timedelta": (np.array([1, 2], "m8[us]"), "is an array of timedelta64"),
    "uint64": (np.array([1, 2**63], "u8"), "in row 1 does not fit int64"),
    "numpy NaT": (np.array([1, "NaT"], "M8[us]"), "in row 1 is NaT"),
    "numpy ns": (np.array([1_000, 1_001], "M8[ns]"), "in row 1 is no whole number"),
    "numpy s": (np.array([1, 2**62], "M8[s]"), "in row 1 does not fit"),
    "numpy months": (np.array(["2024-01", "2024-02"], "M8[M]"), "is of datetime64[M]"),
    "numpy generic": (np.array(["NaT", "NaT"], "M8"), "is of datetime64"),
    "masked": (np.ma.array([1, 2], mask=[False, True]), "is MaskedArray"),
    "arrow null": (pa.array([1, None]), "has 1 nulls, the first in row 1"),
    "arrow ns": (pa.array([1_000, 1_001], pa.timestamp("ns")), "in row 1 is no whole number"),
    "arrow s": (pa.array([1, 2**60], pa.timestamp("s")), "in row 1 does not fit"),
    "arrow uint64": (pa.array([1, 2**63], pa.uint64()), "timestamps of type uint64"),
    "arrow float": (pa.array([1.0, 2.0]), "has type double"),
    "arrow bool": (pa.array([True, False]), "has type bool"),
    "arrow date": (pa.array([MOMENT.date()] * 2), "has type date32"),
    "arrow duration": (pa.array([1, 2], pa.duration("us")), "has type duration"),
    "arrow dictionary": (pa.array([1, 2]).dictionary_encode(), "has type dictionary"),
    "pandas NaT": (pd.Series([MOMENT, pd.NaT]), "has 1 nulls"),
    "pandas NaT, no zone": (pd.Series(np.array([1, "NaT"], "M8[us]")), "in row 1 is NaT"),
    "pandas NA": (pd.Series([1, pd.NA], dtype="Int64"), "has 1 nulls"),
    "pandas NaN": (pd.Series([1, math.nan]), "is an array of float64"),
    "too few": ([1], "has 1 rows, keys has 2"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_timestamps_are_taken_to_the_microsecond(kind: str) -> None:
    stamps, wanted = EXACT[kind]
    batch = batch_of([b"1", b"2"], [b"", b""], stamps)
    assert columns_of(batch)[2] == wanted


@pytest.mark.parametrize("kind", INEXACT)
def test_timestamps_that_are_not_exact_are_refused_by_name(kind: str) -> None:
    stamps, why = INEXACT[kind]
    with pytest.raises(InvalidArgumentError) as caught:
        batch_of([b"1", b"2"], [b"", b""], stamps)
    assert caught.value.message.startswith("timestamps")
    assert why in caught.value.message


@settings(max_examples=200, deadline=None)
@given(
    ticks=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    unit=st.sampled_from(["W", "D", "h", "m", "s", "ms", "us", "ns", "7us", "3ns"]),
)
def test_any_datetime64_is_exact_or_refused(ticks: list[int], unit: str) -> None:
    array = np.array(ticks, np.int64).view(f"M8[{unit}]")
    base, count = np.datetime_data(array.dtype)
    wanted_ns = [tick * count * UNIT_NS[base] for tick in ticks]
    fine = all(
        tick != -(2**63) and ns % 1_000 == 0 and -(2**63) < ns // 1_000 < 2**63
        for tick, ns in zip(ticks, wanted_ns, strict=True)
    )
    names = [b"k"] * len(ticks)
    for stamps in (array, list(array)):
        if not fine:
            with pytest.raises(InvalidArgumentError, match="timestamps in row"):
                batch_of(names, names, stamps)
        elif max(map(abs, wanted_ns)) < 9.2e18 or base == "us":
            batch = batch_of(names, names, stamps)
            assert columns_of(batch)[2] == [ns // 1_000 for ns in wanted_ns]


UNIT_NS = {
    "W": 7 * DAY_US * 1_000,
    "D": DAY_US * 1_000,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}


def test_the_callers_arrays_may_change_afterwards() -> None:
    keys, stamps = np.frombuffer(bytearray(b"abcd"), "V2"), np.array([1, 2])
    batch = batch_of(keys, [b"", b""], stamps)
    keys.data.cast("B")[:] = b"xxxx"
    stamps[:] = 9
    assert columns_of(batch) == [[b"ab", b"cd"], [b"", b""], [1, 2]]


@pytest.mark.parametrize("kind", ["list", "padded", "slice", "binary", "numpy object"])
@settings(max_examples=25, deadline=None)
@given(
    data=st.lists(CONTENT, min_size=1, max_size=40),
    records=st.integers(1, 9),
    timed=st.booleans(),
)
@example(data=[b"abc", b"", b"de"] * 10, records=1, timed=True)
@example(data=[b"abc", b"", b"de"] * 10, records=7, timed=False)
def test_every_batch_that_the_client_cuts_passes_the_door(
    kind: str, data: list[bytes], records: int, timed: bool
) -> None:
    """Arrow sends what lies behind a slice; the door takes it for values of another type."""
    stamps = np.arange(-5, len(data) - 5) * 2**33 if timed else None
    whole = batch_of(ANY_LENGTH[kind](data), data, stamps)
    flags = FLAG_TIMES if timed else 0
    found: list[Any] = []
    for at, batch, size in chunks(whole, records_max=records):
        assert at == len(found)
        opened = open_wire(encode_payload(batch), flags, batch.num_rows)
        assert opened.weight == weight(batch.num_rows, size, flags)
        found += opened.rows.to_pylist()
    assert found == whole.to_pylist()
