"""Reading the files that commands take: one module for all of them.

A file may be compressed with gzip (known by its first bytes), begin with a byte order mark, end
without a newline and use either line ending. Anything else wrong with it ends in one
InvalidArgumentError that names the file, the line where there is one, and what is expected.
"""

import contextlib
import csv
import gzip
import io
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from coordinator.cli.parquet import parquet_rows
from logstore.base.address import shown
from logstore.base.errors import InvalidArgumentError

STDIN = Path("-")
LINE_BYTES_MAX = 8 * 1024 * 1024
"""Limit of one line of JSON: the largest record (1 MiB), each byte escaped, with room."""
_GZIP = b"\x1f\x8b"
_MARK = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_SHOWN_CELLS = 8

Row = tuple[int, list[str]]
"""The number of the line that a row ends in, from 1, and its cells."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around a read of the file: each failure of reading becomes one sentence."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error) as e:
        raise InvalidArgumentError(f"{named(path)} is damaged: {e}") from None
    except csv.Error as e:
        raise InvalidArgumentError(f"{named(path)} is no CSV: {e}") from None
    except EOFError:
        raise InvalidArgumentError(
            f"{named(path)} is cut: its gzip data ends before the end"
        ) from None
    except UnicodeDecodeError as e:
        raise InvalidArgumentError(
            f"{named(path)} is not UTF-8: it holds the byte 0x{e.object[e.start]:02x}"
        ) from None
    except OSError as e:
        raise InvalidArgumentError(
            f"{named(path)} cannot be read: {e.strerror or 'input/output error'}"
        ) from None


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of standard input for `-`: unpacked, without a byte order mark."""
    with contextlib.ExitStack() as stack, reading(path):
        raw = sys.stdin.buffer if path == STDIN else stack.enter_context(path.open("rb"))
        source = raw if hasattr(raw, "peek") else io.BufferedReader(cast("io.RawIOBase", raw))
        if source.peek(2)[:2] == _GZIP:
            plain = gzip.GzipFile(fileobj=source, mode="rb")
            source = stack.enter_context(io.BufferedReader(cast("io.RawIOBase", plain)))
        elif path.suffix == ".gz" and source.peek(1):
            raise InvalidArgumentError(f"{named(path)} holds no gzip data")
        first = source.peek(3)[:3]
        if first[:2] in _WIDE:
            raise InvalidArgumentError(f"{named(path)} is UTF-16, it must be UTF-8")
        if first == _MARK:
            source.read(3)
        yield cast("IO[bytes]", source)


def read_lines(path: Path, line_bytes_max: int = LINE_BYTES_MAX) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, from 1, with their line ending. A line over the limit is refused."""
    with open_input(path) as source:
        number = 1
        while line := source.readline(line_bytes_max + 1):
            if len(line) > line_bytes_max:
                raise InvalidArgumentError(
                    f"{named(path)}, line {number} has more than {line_bytes_max} bytes, "
                    "which is the limit of a line"
                )
            yield number, line
            number += 1


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The same as text, for `csv`: line endings are as in the file."""
    with open_input(path) as source:
        text = io.TextIOWrapper(source, encoding="utf-8", newline="")
        try:
            yield text
        finally:  # leave the lower stream open: it may be standard input
            with contextlib.suppress(ValueError, OSError, EOFError, zlib.error):
                text.detach()


def check_head(path: Path, head: Sequence[str], wanted: str) -> None:
    """Refuse a first line that is a row: its first cell is a time or a number."""
    if head and (is_number(head[0]) or _is_time(head[0])):
        raise InvalidArgumentError(
            f"{named(path)} has no head: its first line is {shown_row(head)}, it must name {wanted}"
        )


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV, empty lines left out."""
    with open_text(path) as text:
        rows = csv.reader(text)
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
        except csv.Error as e:
            raise InvalidArgumentError(f"{named(path)}, line {rows.line_num}: {e}") from None


def headed_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """The cells of `columns` and `optional`, in this order, in each row of a CSV whose first line
    names them, or of a Parquet file (`.parquet`).

    An optional column that is not there has empty cells. Other columns are left out; a row with
    more or fewer cells than the header is refused.
    """
    if path.suffix == ".parquet":
        yield from parquet_rows(path, columns, optional)
        return
    wanted = " and ".join([", ".join(columns[:-1]), columns[-1]] if len(columns) > 1 else columns)
    rows = csv_rows(path)
    _, head = next(rows, (0, []))
    names = [cell.strip() for cell in head]
    if not head:
        raise InvalidArgumentError(
            f"{named(path)} is empty; its first line must name the columns {wanted}"
        )
    if not set(columns) <= set(names):
        fault = "has no head" if _is_data(names) else "does not name the columns that are needed"
        raise InvalidArgumentError(
            f"{named(path)} {fault}: its first line is {shown_row(head)}, it must name the columns "
            f"{wanted} (write the line {','.join(columns)!r} above the rows)"
        )
    twice = [name for name in (*columns, *optional) if names.count(name) > 1]
    if twice:
        raise InvalidArgumentError(f"{named(path)} names the column {twice[0]} twice")
    places = [names.index(name) for name in columns]
    extra = [names.index(name) if name in names else None for name in optional]
    for number, row in rows:
        if len(row) != len(head):
            raise InvalidArgumentError(
                f"{named(path)}, line {number} has {len(row)} cells, the head names {len(head)}"
            )
        more = ["" if place is None else row[place] for place in extra]
        yield number, [*(row[place] for place in places), *more]


def weight_of(line: str, cell: str) -> float:
    """How many accesses a row stands for; an empty cell: one. `line` names the row in the error."""
    if not cell:
        return 1.0
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise InvalidArgumentError(f"{line}: weight is {cell!r}, it must be a number above 0")
    return found


def rows_after_head(path: Path, is_data: Callable[[list[str]], bool]) -> Iterator[Row]:
    """Rows of a CSV whose first line may be a header: it is skipped only if it is not data."""
    rows = csv_rows(path)
    first = next(rows, None)
    if first is not None and is_data(first[1]):
        yield first
    yield from rows


def shown_row(row: Sequence[str]) -> str:
    """A row for a message."""
    more = ",…" if len(row) > _SHOWN_CELLS else ""
    return shown(",".join(row[:_SHOWN_CELLS])) + more


def named(path: Path) -> str:
    """The name of the input for people."""
    if path == STDIN:
        return "standard input"
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_number(cell: str) -> bool:
    """Whether a cell is a number, which a header's cell never is."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_time(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell.strip())
    except ValueError:
        return False
    return True


def _is_data(row: Sequence[str]) -> bool:
    return any(is_number(cell) for cell in row)
