"""Pages of a balanced log as they were written: without tokens, and only the wanted keys."""

import pyarrow as pa
import pytest

from logstore.client.pages import Page
from logstore.client.read_spec import ReadPlace, ReadSpec
from logstore.engine.batch import FLAG_OFFSETS, flags_of, schema_of
from sharder.keys import KeyRange

TOKEN = bytes(range(8))
NAMES = [b"", b"a", b"b" * 4_088, b"c", b"a"]


def page(flags: int = 0) -> Page:
    columns = [pa.array([TOKEN + n for n in NAMES], pa.binary()),
               pa.array([b"%d" % n for n in range(5)], pa.binary())]  # fmt: skip
    if flags & FLAG_OFFSETS:
        columns.insert(0, pa.array([10, 12, 14, 16, 18], pa.uint64()))
    batch = pa.RecordBatch.from_arrays(columns, schema=schema_of(flags))
    return Page("log/0", 10, 7, flags, batch, 20)


@pytest.mark.parametrize("flags", [0, FLAG_OFFSETS])
def test_tokens_go_and_offsets_stay(flags: int) -> None:
    step = 2 if flags else 1
    whole = page(flags).as_written(KeyRange())
    assert [r.key for r in whole.records()] == NAMES
    assert [r.offset for r in whole.records()] == [10 + step * n for n in range(5)]
    some = page(flags).as_written(KeyRange(b"a", b"b"))
    assert [(r.key, r.value, r.offset) for r in some.records()] == [
        (b"a", b"1", 10 + step), (b"a", b"4", 10 + 4 * step),
    ]  # fmt: skip
    assert flags_of(some.batch) == FLAG_OFFSETS
    assert some.next_offset == 20
    assert page(flags).as_written(KeyRange(b"x")).count == 0
    assert [r.key for r in page(flags).as_written(KeyRange(b"b")).records()] == NAMES[2:4]


def test_a_limit_counts_what_is_left_only() -> None:
    every = ReadPlace(ReadSpec("log", limit=3, written=KeyRange()), 0)
    every.advance(page(), 100, False)
    assert every.finished
    sifting = ReadPlace(ReadSpec("log", limit=3, written=KeyRange(b"a", b"b")), 0)
    sifting.advance(page(), 100, False)
    assert not sifting.finished
    assert sifting.offset == 20
