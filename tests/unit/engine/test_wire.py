"""A batch from a wire is ours to the last byte, or refused by the column that is not."""

import struct
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.base.errors import CorruptBatchError, InvalidArgumentError, LimitExceededError
from logstore.base.limits import (
    BATCH_BYTES_MAX,
    BATCH_RECORDS_MAX,
    COPY_CHUNK_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SCAN_CHUNK_BYTES,
)
from logstore.engine.batch import HEADERS, decode_payload, encode_payload, schema_of
from logstore.engine.weight import BATCH_FIXED_BYTES, content_bytes, weight
from logstore.engine.wire import open_wire

COMPRESSIONS = ["none", "lz4", "zstd"]
Headers = list[tuple[str, bytes]]


def payload_of(compression: str = "none", **columns: Any) -> bytes:
    """The message of a batch with these columns, whatever they are."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    return encode_payload(batch, compression)


def binary(*items: bytes | None) -> pa.Array:
    return pa.array(items, pa.binary())


def lists(*items: Any) -> pa.Array:
    return pa.array(items, HEADERS.type)


def large_headers(name: pa.DataType, value: pa.DataType) -> pa.Array:
    kind = pa.list_(pa.struct([("name", name), ("value", value)]))
    return pa.array([[{"name": "n", "value": b"v"}]], kind)


ONE = binary(b"abc")
TWO = binary(b"abc", b"de")
NAMED = {"name": "n", "value": b"v"}

# what is wrong: (flags, count, columns, what the error names)
HOSTILE: dict[str, tuple[int, int, dict[str, Any], str]] = {
    "null key": (0, 2, {"key": binary(b"a", None), "value": TWO}, "column key has 1 nulls"),
    "null value": (0, 2, {"key": TWO, "value": binary(None, None)}, "column value has 2 nulls"),
    "null time": (
        2, 2, {"key": TWO, "value": TWO, "timestamp": pa.array([1, None])},
        "column timestamp has 1 nulls",
    ),
    "null list": (
        1, 2, {"key": TWO, "value": TWO, "headers": lists([NAMED], None)},
        "column headers has 1 nulls",
    ),
    "null struct": (
        1, 2, {"key": TWO, "value": TWO, "headers": lists([NAMED], [None])},
        "column headers: header has 1 nulls",
    ),
    "null name": (
        1, 2, {"key": TWO, "value": TWO, "headers": lists([{"name": None, "value": b""}], [])},
        "column headers: name has 1 nulls",
    ),
    "null header value": (
        1, 2, {"key": TWO, "value": TWO, "headers": lists([{"name": "n", "value": None}], [])},
        "column headers: value has 1 nulls",
    ),
    "a name twice": (
        1, 2, {"key": TWO, "value": TWO, "headers": lists([], [NAMED, NAMED])},
        "row 1 has the name 'n' twice",
    ),
    "large_binary key": (0, 1, {"key": pa.array([b"abc"], pa.large_binary()), "value": ONE},
                         "column key has 8 bytes behind its last row"),
    "large_binary value": (0, 1, {"key": ONE, "value": pa.array([b"abc"], pa.large_binary())},
                           "column value has 8 bytes behind its last row"),
    "large_binary keys": (0, 2, {"key": pa.array([b"", b"de"], pa.large_binary()), "value": TWO},
                          "column key"),
    "large_binary of many": (
        0, 99, {"key": pa.array([b"x"] * 99, pa.large_binary()), "value": binary(*[b"y"] * 99)},
        "In column 0",
    ),
    "large header name": (
        1, 1, {"key": ONE, "value": ONE, "headers": large_headers(pa.large_string(), pa.binary())},
        "column headers: name",
    ),
    "large header value": (
        1, 1, {"key": ONE, "value": ONE, "headers": large_headers(pa.string(), pa.large_binary())},
        "column headers: value",
    ),
    "dictionary": (0, 2, {"key": TWO.dictionary_encode(), "value": TWO}, "payload "),
    "fixed_size_binary": (0, 1, {"key": pa.array([b"abc"], pa.binary(3)), "value": ONE},
                          "columns with 5 buffers"),
    "binary_view": (0, 2, {"key": pa.array([b"a" * 40, b"b"], pa.binary_view()), "value": TWO},
                    "In column 0"),
    "int64": (0, 2, {"key": pa.array([1, 2]), "value": TWO}, "columns with 5 buffers"),
    "int32 times": (2, 2, {"key": TWO, "value": TWO, "timestamp": pa.array([1, 2], pa.int32())},
                    "In column 2"),
    "decimal times": (
        2, 2,
        {"key": TWO, "value": TWO, "timestamp": pa.array([1, 2]).cast(pa.decimal128(38))},
        "column timestamp has 16 bytes behind its last row",
    ),
    "times not told": (0, 2, {"key": TWO, "value": TWO, "timestamp": pa.array([1, 2])},
                       "payload has 3 columns"),
    "times told, not there": (2, 2, {"key": TWO, "value": TWO}, "payload has 2 columns"),
    "headers not told": (0, 1, {"key": ONE, "value": ONE, "headers": lists([NAMED])},
                         "payload has 6 columns"),
    "headers for times": (2, 1, {"key": ONE, "value": ONE, "headers": lists([NAMED])},
                          "payload has 6 columns"),
    "an extra column": (3, 1, {"key": ONE, "value": ONE, "timestamp": pa.array([1]),
                               "headers": lists([]), "more": ONE}, "payload has 8 columns"),
    "one column": (0, 1, {"key": ONE}, "payload has 1 columns"),
    "fewer rows than told": (0, 3, {"key": TWO, "value": TWO}, "2 records, count is 3"),
    "more rows than told": (0, 1, {"key": TWO, "value": TWO}, "2 records, count is 1"),
    "many headers": (
        1, 1,
        {"key": ONE, "value": ONE,
         "headers": lists([{"name": f"{i}", "value": b""} for i in range(33)])},
        "headers is 33 headers, the limit is 32",
    ),
    "a long name": (
        1, 1, {"key": ONE, "value": ONE, "headers": lists([{"name": "é" * 129, "value": b""}])},
        "header name is 258 bytes, the limit is 256",
    ),
    "a long key": (0, 1, {"key": binary(bytes(4097)), "value": ONE}, "key is 4097 bytes"),
    "a large value": (0, 1, {"key": ONE, "value": binary(bytes(1024 * 1024 - 2))},
                      "record is 1048577 bytes"),
    "large by its headers": (
        1, 2,
        {"key": TWO, "value": binary(b"", bytes(1024 * 1024 - 10)),
         "headers": lists([], [{"name": "12345", "value": b"1234"}])},
        "record is 1048577 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_batch_is_refused_by_its_column(what: str, compression: str) -> None:
    flags, count, columns, why = HOSTILE[what]
    payload = payload_of(compression, **columns)
    with pytest.raises(InvalidArgumentError) as caught:
        open_wire(payload, flags, count)
    assert why in caught.value.message


def test_what_lies_behind_the_message_is_refused() -> None:
    payload = payload_of(key=TWO, value=TWO)
    with pytest.raises(CorruptBatchError, match="its message ends at"):
        open_wire(payload + b"x", 0, 2)


def test_other_messages_and_no_messages_are_refused() -> None:
    schema = bytes(schema_of(0).serialize())
    with pytest.raises(CorruptBatchError, match="Arrow schema, expected a record batch"):
        open_wire(schema, 0, 1)
    for payload in (b"", b"x", bytes(8), b"\xff" * 64, schema[:40]):
        with pytest.raises(CorruptBatchError, match="payload is no Arrow record batch"):
            open_wire(payload, 0, 1)


@pytest.mark.parametrize("said", [2**40, PAYLOAD_BYTES_MAX, 2**63 - 1])
def test_a_buffer_that_says_it_unpacks_to_more_is_never_unpacked(said: int) -> None:
    payload = payload_of("zstd", key=TWO, value=binary(bytes(5_000), bytes(5_000)))
    true = struct.pack("<q", 10_000)
    assert payload.count(true) == 1
    with pytest.raises(LimitExceededError, match=r"batch unpacked is \d+ bytes"):
        open_wire(payload.replace(true, struct.pack("<q", said)), 0, 2)


def test_slices_of_other_writers_are_taken() -> None:
    """Arrow sends up to 64 bytes of what lies behind a slice; offsets that go on are no others."""
    keys = [b"key-%d" % i for i in range(3_000)]
    columns = [binary(*keys), binary(*keys), pa.array(range(3_000), pa.int64())]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema_of(2))
    for at, count in ((0, 900), (7, 8), (1_000, 2_000), (2_999, 1)):
        opened = open_wire(encode_payload(batch.slice(at, count)), 2, count)
        assert opened.rows.column(0).to_pylist() == keys[at : at + count]
        assert (opened.time_min_us, opened.time_max_us) == (at, at + count - 1)


RECORDS = st.lists(
    st.tuples(
        st.binary(max_size=30),
        st.binary(max_size=60),
        st.dictionaries(st.text(max_size=5), st.binary(max_size=9), max_size=4).map(
            lambda h: list(h.items())
        ),
    ),
    min_size=1,
    max_size=40,
)


def message_of(records: list[tuple[bytes, bytes, Headers]], flags: int, compression: str) -> bytes:
    arrays = [binary(*(k for k, _, _ in records)), binary(*(v for _, v, _ in records))]
    if flags & 2:
        arrays.append(pa.array(range(len(records)), pa.int64()))
    if flags & 1:
        arrays.append(lists(*([{"name": n, "value": v} for n, v in h] for _, _, h in records)))
    return encode_payload(pa.RecordBatch.from_arrays(arrays, schema=schema_of(flags)), compression)


@settings(max_examples=150, deadline=None)
@given(records=RECORDS, flags=st.integers(0, 3), compression=st.sampled_from(COMPRESSIONS))
def test_one_weight_for_all_and_never_below_the_message(
    records: list[tuple[bytes, bytes, Headers]], flags: int, compression: str
) -> None:
    if not flags & 1:
        records = [(k, v, []) for k, v, _ in records]
    opened = open_wire(message_of(records, flags, compression), flags, len(records))
    content = sum(content_bytes(*record) for record in records)
    headers = sum(len(h) for _, _, h in records)
    assert opened.weight == weight(len(records), content, flags, headers)
    plain = message_of(records, flags, "none")
    assert len(plain) <= opened.weight + BATCH_FIXED_BYTES
    assert len(plain) >= opened.weight


@settings(max_examples=250, deadline=None)
@given(
    records=RECORDS,
    flags=st.integers(0, 3),
    compression=st.sampled_from(COMPRESSIONS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_a_mutated_batch_is_refused_or_can_be_read(
    records: list[tuple[bytes, bytes, Headers]],
    flags: int,
    compression: str,
    changes: list[tuple[float, int]],
    cut: float,
) -> None:
    data = bytearray(message_of(records, flags, compression))
    for place, byte in changes:
        data[int(place * len(data))] = byte
    payload = bytes(data[: max(1, int(cut * len(data)))] if cut < 0.2 else data)
    assert google_crc32c.value(payload) >= 0  # the checksum is the sender's own: no defence
    try:
        opened = open_wire(payload, flags, len(records))
    except InvalidArgumentError:
        return
    again = decode_payload(payload, flags)
    assert again.num_rows == len(records)
    assert again.to_pylist() == opened.rows.to_pylist()
    for row in again.to_pylist():
        assert type(row["key"]) is bytes
        assert type(row["value"]) is bytes
        for header in row.get("headers", ()):
            assert (type(header["name"]), type(header["value"])) == (str, bytes)


def test_whatever_is_accepted_fits_every_message_down_the_way() -> None:
    envelope = 64 + 20 * (2**16 - 1) // 8  # spans of merged appends: each weighs 8 bytes at least
    chains = 64
    largest = PAYLOAD_BYTES_MAX + envelope + chains
    answer_columns = 16 * BATCH_RECORDS_MAX  # offset and timestamp, made explicit in answers
    chunk = max(COPY_CHUNK_BYTES_MAX, SCAN_CHUNK_BYTES)
    assert BATCH_BYTES_MAX < PAYLOAD_BYTES_MAX
    assert chunk + largest + 2 * answer_columns < MESSAGE_BYTES_MAX
    assert np.iinfo(np.uint16).max * 8 > 64 * 1024 - 8  # spans are counted in 16 bits
