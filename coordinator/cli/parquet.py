"""Parquet files of accesses: written by `logstore accesses`, read wherever a CSV is."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from logstore.base.errors import InvalidArgumentError


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write the table, compressed, as one file. InvalidArgumentError names what stops it."""
    try:
        pq.write_table(table, path, compression="zstd")
    except (OSError, pa.ArrowException) as e:
        raise InvalidArgumentError(f"{_name(path)} cannot be written: {e}") from None


def parquet_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """As `files.headed_rows`: the number of each row, from 1, and its cells as text.

    Bytes become text as the shell's arguments do: `os.fsencode` gives them back.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns if name not in names]
            if missing:
                raise InvalidArgumentError(
                    f"{_name(path)} has no column {missing[0]}, its columns are {', '.join(names)}"
                )
            held = [*columns, *(name for name in optional if name in names)]
            number = 0
            for batch in file.iter_batches(columns=held):
                cells = [
                    batch.column(name).to_pylist() if name in names else [""] * len(batch)
                    for name in (*columns, *optional)
                ]
                for row in zip(*cells, strict=True):
                    number += 1
                    yield number, [_text(cell) for cell in row]
    except OSError as e:
        why = e.strerror or "it is no Parquet"
        raise InvalidArgumentError(f"{_name(path)} cannot be read: {why}") from None
    except pa.ArrowException:
        raise InvalidArgumentError(f"{_name(path)} is no Parquet, or damaged") from None


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        return os.fsdecode(cell)
    return "" if cell is None else str(cell)


def _name(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
