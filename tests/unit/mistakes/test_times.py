"""Times that people write: every row's is read, in UTC or with an offset; slots are regular.

The rule is `coordinator.cli.times`. Generated neighbours: any regular series with a row moved,
repeated, dropped or garbled is refused by its line, filled and noted, or gives the same slots.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.answers.catalog import InstanceRow
from coordinator.cli.history import shards_from_history
from coordinator.cli.main import main
from coordinator.cli.simulate import read_events, read_series
from coordinator.cli.times import TIME_MAX_S, TimeReader, filled, slots_of
from coordinator.planning.announcements import EVENT_TIME_MAX_S, check_event, overlap
from logstore.base.errors import InvalidArgumentError
from logstore.meta.records import CapacityRecord
from profiler.calendar import FACTOR_MAX, Calendar, Event

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, 22, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 22, tzinfo=UTC)
FILE = Path("load.csv")
LIVING = [
    InstanceRow(
        instance="i",
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


def hours(start: datetime, count: int, zone: ZoneInfo | None, naive: bool) -> list[str]:
    """`count` hours as a clock of `zone` shows them, with its offset or without."""
    found = [(start + timedelta(hours=n)).astimezone(zone or UTC) for n in range(count)]
    return [t.replace(tzinfo=None).isoformat() if naive else t.isoformat() for t in found]


def slots(texts: list[str], slot_s: float | None = None) -> tuple[float, tuple[int, ...], str]:
    notes: list[str] = []
    found = slots_of(FILE, "time", texts, slot_s, notes.append)
    return found.step_s, found.at, " ".join(notes)


@pytest.fixture(params=["UTC", "Europe/Berlin", "Pacific/Apia"])
def machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This machine's own zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("start", [SPRING, AUTUMN])
@pytest.mark.usefixtures("machine_zone")
def test_hours_over_a_change_of_the_clock(start: datetime) -> None:
    whole = (3600.0, tuple(range(48)))
    assert slots(hours(start, 48, BERLIN, naive=False)) == (*whole, "")
    assert slots(hours(start, 48, None, naive=False)) == (*whole, "")
    step, at, noted = slots(hours(start, 48, None, naive=True))
    assert (step, at) == whole
    assert noted == "load.csv: 48 times without a zone are taken as UTC"


def test_a_local_clock_that_jumps_is_filled_and_one_that_is_set_back_is_refused() -> None:
    step, at, noted = slots(hours(SPRING, 48, BERLIN, naive=True))
    assert (step, len(at), at[-1]) == (3600.0, 48, 48)
    assert "1 of 49 slots are missing, the first before line 5; they are filled" in noted
    with pytest.raises(
        InvalidArgumentError, match=r"line 5: time .* repeats that of line 4.*local"
    ):
        slots(hours(AUTUMN, 48, BERLIN, naive=True))


def test_days_of_a_local_clock_are_no_slots() -> None:
    days = [datetime(2026, 3, 27 + n, tzinfo=BERLIN).isoformat() for n in range(5)]
    with pytest.raises(InvalidArgumentError, match=r"line 5: .* is 82,800 s after line 4.*86,400"):
        slots(days)
    assert slots([d[:10] for d in days])[:2] == (86_400.0, (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("texts", "noted"),
    [
        (["0", "900", "?", "2700"], r"line 4: time is '\?', it must be an ISO time or Unix s"),
        (["0", "900", "", "2700"], "line 4: time is ''"),
        (["0", "900", "nan", "2700"], "line 4: time is 'nan', it must be finite"),
        (["0", "900", "inf"], "line 4: time is 'inf', it must be finite"),
        (["0", "900", "900", "1800"], "line 4: time '900' repeats that of line 3"),
        (["0", "1800", "900", "2700"], "line 4: time '900' is earlier than that of line 3, '1800'"),
        (["0", "900", "1800", "2500", "3400"], "line 5: .* is 700 s after line 4"),
        (["0", "900", "9000", "9900"], "8 of 12 slots are missing, the first before line 4"),
        (["0", "900", "900000000"], r"1000001 slots of 900 s lie between '0'"),
        (["0", "900", "1800000000000"], "it looks like milliseconds"),
        (["1790000000000000000", "1790000060000000000"], "it looks like nanoseconds"),
        (["0", "900", "9999-01-01"], "within 1970 and 2199"),
        (["-900", "0", "900"], "line 2: time is '-900'"),
        (["20260101", "20260102"], "a day is written 2026-01-01"),
        (["0"], "give --slot-s"),
        (["0", "1", "2"], "give --slot-s"),
    ],
)  # fmt: skip
def test_rows_that_make_no_slots_are_named(texts: list[str], noted: str) -> None:
    with pytest.raises(InvalidArgumentError, match=noted):
        slots(texts)


def test_a_slot_length_and_times_that_contradict_it() -> None:
    assert slots(["0", "900", "1800"], 900.0)[:2] == (900.0, (0, 1, 2))
    assert slots(["7", "8", "9"], 60.0)[:2] == (60.0, (0, 1, 2))
    assert slots(["2026-01-01T00:00Z"], 60.0)[:2] == (60.0, (0,))
    with pytest.raises(InvalidArgumentError, match=r"--slot-s is 60, but the rows .* 900 s apart"):
        slots(["0", "900", "1800"], 60.0)
    with pytest.raises(InvalidArgumentError, match=r"line 4: .* repeats"):
        slots(["0", "1", "1", "2"], 60.0)


Change = Callable[[list[float], int], list[float]]
CHANGES: dict[str, Change] = {
    "repeated": lambda t, n: [*t[:n], t[n - 1], *t[n:]],
    "swapped": lambda t, n: [*t[: n - 1], t[n], t[n - 1], *t[n + 1 :]],
    "beside": lambda t, n: [*t[:n], t[n] - (t[1] - t[0]) * 0.4, *t[n + 1 :]],
    "negative": lambda t, n: [*t[:n], -t[n] - 1, *t[n + 1 :]],
    "milliseconds": lambda t, n: [*t[:n], t[n] * 1000 + 1e11, *t[n + 1 :]],
}


@given(
    start=st.integers(0, 2_000_000_000),
    step=st.integers(2, 86_400),
    rows=st.integers(6, 60),
    at=st.integers(2, 4),
    change=st.sampled_from(sorted(CHANGES)),
)
def test_a_row_off_its_place_is_always_refused_with_its_line(
    start: int, step: int, rows: int, at: int, change: str
) -> None:
    times = [float(start + n * step) for n in range(rows)]
    assert slots([repr(t) for t in times])[:2] == (float(step), tuple(range(rows)))
    with pytest.raises(InvalidArgumentError, match=r"load.csv, line \d+"):
        slots([repr(t) for t in CHANGES[change](times, at)])


@given(st.integers(20, 200), st.sets(st.integers(1, 18), max_size=2))
def test_what_is_missing_is_filled_between_its_neighbours(rows: int, gone: set[int]) -> None:
    kept = [n for n in range(rows) if n not in gone]
    notes: list[str] = []
    found = slots_of(FILE, "time", [str(n * 60) for n in kept], None, notes.append)
    loads = filled(found, np.array([[float(n), 1.0] for n in kept]))
    assert loads[:, 0].tolist() == pytest.approx(list(range(rows)))
    assert loads.shape == (rows, 2)
    assert bool(notes) is bool(gone)


def write(path: Path, head: str, rows: list[str]) -> Path:
    text = "\n".join([head, *rows]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_simulate_says_what_it_did_with_the_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = hours(SPRING, 72, BERLIN, naive=True)
    file = write(tmp_path / "s.csv", "time,a,b", [f"{t},{n % 24},5" for n, t in enumerate(local)])
    command = ["simulate", "--series", str(file), "--instances", "2", "--policies", "static-mean"]
    assert main([*command, "--json", "--cache", str(tmp_path / "kept")]) == 0
    said = capsys.readouterr()
    inputs = json.loads(said.out)["inputs"]
    assert (inputs["slot_s"], inputs["slots"]) == (3600.0, 73)
    assert said.err.splitlines() == [
        f"note: {file}: 72 times without a zone are taken as UTC",
        f"note: {file}: 1 of 73 slots are missing, the first before line 5; "
        "they are filled from their neighbours",
    ]
    assert main([*command, "--slot-s", "0"]) == 2
    assert "--slot-s is 0, it must be 0.001 to 604800" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at", "noted"),
    [
        ("?", "line 3: time_s is '?'"),
        ("", "line 3: time_s is ''"),
        ("nan", "must be finite"),
        ("1e300", "within 1970 and 2199"),
        ("1790000000000", "looks like milliseconds"),
        ("9999-12-31", "within 1970 and 2199"),
    ],
)
def test_events_and_histories_name_the_row(tmp_path: Path, at: str, noted: str) -> None:
    file = write(tmp_path / "e.csv", "time_s,key", ["1,a", f"{at},b", "3,c"])
    with pytest.raises(InvalidArgumentError) as events:
        read_events(file, 60.0)
    with pytest.raises(InvalidArgumentError) as history:
        shards_from_history(file, "range", 2, LIVING)
    assert noted in events.value.message
    assert noted in history.value.message


def test_histories_take_zones_and_any_order(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = [f"{t},k{n % 9}" for n, t in enumerate(hours(AUTUMN, 48, BERLIN, naive=False))]
    aware = write(tmp_path / "a.csv.gz", "time_s,key", rows[::-1])
    shards = shards_from_history(aware, "range", 3, LIVING, notes.append)
    assert (len(shards), notes) == (3, [])
    naive = write(tmp_path / "n.csv", "time_s,key", ["2026-10-25T02:30:00,a"] * 4)
    shards_from_history(naive, "range", 1, LIVING, notes.append)
    assert notes == [f"{naive}: 4 times without a zone are taken as UTC"]


def test_events_that_lie_too_far_apart_are_refused_before_they_are_laid_out(tmp_path: Path) -> None:
    file = write(tmp_path / "e.csv", "time_s,key", ["1,a", "1790000000,b"])
    with pytest.raises(ValueError, match="events lie in 29833334 slots of 60 s"):
        read_events(file, 60.0)


def test_a_series_keeps_its_shape(tmp_path: Path) -> None:
    file = write(tmp_path / "s.csv", "time,a", [f"{60 * n},{n}" for n in (0, 1, 2, 3, 4, 5, 6, 7,
                                                                       8, 9, 11)])  # fmt: skip
    series = read_series(file, None)
    assert series.loads[:, 0].tolist() == list(range(12))
    assert series.slot_s == 60.0


@pytest.mark.parametrize(
    ("start", "end", "noted"),
    [
        (100.0, 100.0, "limit is > start_s"),
        (200.0, 100.0, "limit is > start_s"),
        (float("nan"), 100.0, "limit is > start_s"),
        (0.0, float("inf"), "end_s of event 'e' is inf"),
        (-1.0, 100.0, "start_s of event 'e' is -1"),
        (0.0, EVENT_TIME_MAX_S + 1, "the year 2200"),
        (1.79e12, 1.79e12 + 3600, "start_s of event 'e' is 1790000000000"),
        (0.0, 367 * 86_400.0, "lasts 367 days, the limit is 366"),
    ],
)
def test_events_that_cannot_be_are_refused(start: float, end: float, noted: str) -> None:
    with pytest.raises((InvalidArgumentError, ValueError), match=noted):
        check_event(Event("e", start, end))


def test_events_of_one_time_are_told_and_bounded() -> None:
    sale = Event("sale", 0.0, 100.0, 90.0, shards=("a/",))
    assert overlap(sale, Event("all", 99.0, 200.0))
    assert overlap(sale, Event("part", 0.0, 1.0, shards=("a/3",)))
    assert not overlap(sale, Event("after", 100.0, 200.0))
    assert not overlap(sale, Event("other", 0.0, 1.0, shards=("b/",)))
    many = Calendar(Event(f"e{n}", 0.0, 100.0, 100.0) for n in range(200))
    assert many.factor("a/0", 0.0, 100.0) == FACTOR_MAX


@given(st.floats(0, TIME_MAX_S - 1, allow_nan=False))
def test_a_number_of_seconds_is_itself(value: float) -> None:
    text = repr(value)
    assert TimeReader().seconds("t", text) == value


@given(st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_an_offset_is_taken_off(noted: datetime, minutes: int) -> None:
    reader = TimeReader()
    offset = timedelta(minutes=minutes)
    text = (
        noted.isoformat()
        + f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    )
    expected = (noted.replace(tzinfo=UTC) - offset).timestamp()
    assert reader.seconds("t", text) == pytest.approx(expected, abs=1e-5)
    assert reader.zoneless == 0
    assert reader.seconds("t", noted.isoformat()) == noted.replace(tzinfo=UTC).timestamp()
    assert reader.zoneless == 1
