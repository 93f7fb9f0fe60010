"""Tables that commands read: no row is eaten, no mark is a column, what is cut says so."""

import csv
import gzip
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.answers.catalog import InstanceRow
from coordinator.cli.announce import read_profile
from coordinator.cli.files import csv_rows, headed_rows, open_text
from coordinator.cli.history import shards_from_history
from coordinator.cli.main import main
from coordinator.cli.simulate import read_events, read_series
from logstore.base.errors import InvalidArgumentError
from logstore.meta.records import CapacityRecord

INSTANCES = [
    InstanceRow(
        instance="a",
        address="",
        incarnation=1,
        tier="",
        zone="",
        capacity=CapacityRecord(),
        started_us=0,
        process=1,
        alive=True,
        draining=False,
        load=None,
        failures_per_day=0.0,
        failures={},
        bound_by=None,
    )
]


def history(path: Path) -> object:
    return shards_from_history(path, "range", 1, INSTANCES)


READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "history": (history, "time_s,key\n0,a\n60,b\n"),
    "profile": (read_profile, "time,ops\n0,1\n60,2\n"),
    "series": (lambda path: read_series(path, 60.0), "slot,x,y\n0,1,2\n1,2,3\n"),
    "events": (lambda path: read_events(path, 60.0), "time_s,key\n0,a\n60,b\n"),
}
BOTH = pytest.mark.parametrize("kind", READERS)


def refused(kind: str, path: Path) -> str:
    with pytest.raises(InvalidArgumentError) as found:
        READERS[kind][0](path)
    assert str(path) in found.value.message or path == Path("-")
    return found.value.message


@BOTH
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_same_table_in_any_form(
    kind: str, mark: bytes, packed: bool, ending: str, tmp_path: Path
) -> None:
    read, text = READERS[kind]
    plain = tmp_path / "plain.csv"
    plain.write_text(text)
    data = mark + text.replace("\n", ending).rstrip().encode()
    for name in ("t.csv", "t.csv.gz") if packed else ("t.csv",):
        other = tmp_path / name
        other.write_bytes(gzip.compress(data, mtime=0) if packed else data)
        assert repr(read(other)) == repr(read(plain))


@BOTH
def test_a_table_without_a_head_loses_no_row(kind: str, tmp_path: Path) -> None:
    read, text = READERS[kind]
    path = tmp_path / "t.csv"
    path.write_text(text.partition("\n")[2])
    if kind == "profile":  # a time and a number can be nothing but a row
        assert read(path) == ([0.0, 60.0], [1.0, 2.0])
        return
    said = refused(kind, path)
    assert "has no head: its first line is '0," in said
    assert "must name" in said


@BOTH
@pytest.mark.parametrize("first", ["2026-01-01,1,2", "1.5,1,2", "20260101,1,2"])
def test_a_time_is_no_head(kind: str, first: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n{first}\n")
    assert "no head" in refused(kind, path) if kind != "profile" else refused(kind, path)


@BOTH
def test_files_that_are_no_tables(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    head, _, rows = READERS[kind][1].partition("\n")
    cells = rows.partition("\n")[0].partition(",")[2]
    many = "".join(f"{60 * n},{cells}\n" for n in range(5_000))
    whole = gzip.compress(f"{head}\n{many}".encode(), mtime=0)
    for cut in (3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "is cut: its gzip data ends before the end" in refused(kind, path)
    path.write_bytes(whole[:30] + b"\xff\xff" + whole[32:])
    assert "is damaged" in refused(kind, path)
    path.write_bytes(READERS[kind][1].encode())
    assert "holds no gzip data" in refused(kind, path)
    path = tmp_path / "t.csv"
    path.write_bytes(READERS[kind][1].encode("utf-16"))
    assert "is UTF-16, it must be UTF-8" in refused(kind, path)
    path.write_bytes(READERS[kind][1].encode() + b"0,\xff\n")
    assert "is not UTF-8: it holds the byte 0xff" in refused(kind, path)
    path.write_bytes(READERS[kind][1].encode() + b"0," + b"x" * 200_000 + b"\n")
    assert "field larger than" in refused(kind, path)
    assert "Is a directory" in refused(kind, tmp_path)
    assert "No such file" in refused(kind, tmp_path / "none.csv")
    for empty in (b"", b"\n\n", b"\xef\xbb\xbf"):
        path.write_bytes(empty)
        with pytest.raises((InvalidArgumentError, ValueError), match=re.escape(str(path))):
            READERS[kind][0](path)


def test_columns_are_found_by_name_and_rows_have_the_heads_length(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('op, key ,time_s\nx,"a,b",1\n\nx,"c\nd",2\n')
    assert list(headed_rows(path, ("time_s", "key"))) == [(2, ["1", "a,b"]), (5, ["2", "c\nd"])]
    path.write_text("time_s,key\n1,a\n2\n")
    rows = headed_rows(path, ("time_s", "key"))
    assert next(rows) == (2, ["1", "a"])
    with pytest.raises(InvalidArgumentError, match=r"line 3 has 1 cells, the head names 2"):
        next(rows)
    for head, answer in (("time,key", "does not name"), ("time_s,key,key", "column key twice"),
                       ("", "its first line must name")):  # fmt: skip
        path.write_text(f"{head}\n")
        with pytest.raises(InvalidArgumentError, match=answer):
            list(headed_rows(path, ("time_s", "key")))


def test_an_event_without_a_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time_s,key\n0,a\n60\n")
    assert "line 3 has 1 cells, the head names 2" in refused("events", path)


def test_the_command_says_it_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "series.csv.gz"
    rows = "".join(f"{n},{n}\n" for n in range(5_000))
    for option, head in (("--series", "slot,a"), ("--events", "time_s,key")):
        path.write_bytes(gzip.compress(f"{head}\n{rows}".encode(), mtime=0)[:-4])
        assert main(["simulate", option, str(path)]) == 2
        said = capsys.readouterr().err
        assert said == f"error: {path} is cut: its gzip data ends before the end\n"


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=10), packed=st.booleans(),
       mark=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]))  # fmt: skip
@settings(deadline=None)
def test_every_row_is_read_once(
    rows: list[list[str]], packed: bool, mark: bool, ending: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows(rows)
    data = (b"\xef\xbb\xbf" if mark else b"") + text.getvalue().encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
        assert [row for _, row in csv_rows(path)] == rows
        with open_text(path) as plain:
            assert plain.read() == text.getvalue()
