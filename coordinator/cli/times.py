"""Times in a person's file or on the command line.

One rule for every row: its time is read and checked, in Unix seconds. A time without a zone is
taken as UTC, with a note, never as this machine's zone, whose days have 23 or 25 hours twice a
year. The slots of a series are as wide as its regular step; missing slots are named and filled,
a time that is unsorted, repeated or off the step is refused with its line.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from logstore.base.errors import InvalidArgumentError
from sharder.risk import Floats
from sharder.simulate.series import SLOTS_MAX

TIME_MAX_S = 7_258_118_400.0
"""2200-01-01: a later time is a mistake of unit, or a year like 9999."""
MISSING_MAX = 0.1
"""Share of a series' slots that may be missing and are filled."""
_OFF_STEP = 0.01
"""A row may differ from its slot by this share of a step: times that were rounded."""
_UNITS: tuple[tuple[float, str], ...] = (
    (1e17, "nanoseconds"),
    (1e14, "microseconds"),
    (1e11, "milliseconds"),
)

Tell = Callable[[str], object]


def no_notes(note: str) -> None:
    """For callers that want no notes."""


@dataclass(slots=True)
class TimeReader:
    """Reads times; `zoneless` counts those that had no zone and were taken as UTC."""

    zoneless: int = field(default=0, init=False)

    def seconds(self, what: str, text: str) -> float:
        """Unix seconds of an ISO time or of a number. InvalidArgumentError names `what`."""
        bare = text.strip()
        units = _UNITS
        try:
            found = float(bare)
        except ValueError:
            found, units = self._iso(what, bare), ()
        else:
            _check_date_of_digits(what, bare)
        if not math.isfinite(found):
            raise InvalidArgumentError(f"{what} is {text!r}, it must be finite")
        if not 0 <= found < TIME_MAX_S:
            unit = next((f"; it looks like {unit}" for low, unit in units if found >= low), "")
            raise InvalidArgumentError(
                f"{what} is {text!r}, it must be within 1970 and 2199 in seconds{unit}"
            )
        return found

    def _iso(self, what: str, text: str) -> float:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidArgumentError(
                f"{what} is {text[:80]!r}, it must be an ISO time or Unix seconds"
            ) from None
        if moment.tzinfo is None:
            self.zoneless += 1
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()

    def say(self, tell: Tell, what: str) -> None:
        """Note once that times were taken as UTC."""
        if self.zoneless:
            tell(f"{what}: {self.zoneless} times without a zone are taken as UTC")


def _check_date_of_digits(what: str, text: str) -> None:
    """`20261127` is a day to people, and a moment of 1970 as Unix seconds: refused, not guessed."""
    if len(text) == 8 and text.isdigit():
        try:
            day = datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            return
        if 1970 <= day.year < 2200:
            raise InvalidArgumentError(
                f"{what} is {text!r}: a day is written {day.isoformat()}, Unix seconds with a "
                f"point: {text}.0"
            )


@dataclass(frozen=True, slots=True)
class Slots:
    """Where each row of a series lies: slots from 0 on, rising; `step_s` seconds each."""

    step_s: float
    at: tuple[int, ...]

    @property
    def missing(self) -> int:
        return self.at[-1] + 1 - len(self.at)


def slots_of(
    path: Path, column: str, texts: Sequence[str], slot_s: float | None, tell: Tell = no_notes
) -> Slots:
    """The slots of a series whose first column is `texts`, from line 2 on: times, or slot numbers
    where `slot_s` is given. InvalidArgumentError names the line that does not fit.
    """
    reader = TimeReader()
    times = [reader.seconds(f"{path}, line {n}: {column}", text) for n, text in enumerate(texts, 2)]
    steps = [after - before for before, after in pairwise(times)]
    for n, step in enumerate(steps, 3):
        if step <= 0:
            kind = "repeats" if step == 0 else "is earlier than"
            clock = " (a local clock that was set back?)" if reader.zoneless else ""
            raise InvalidArgumentError(
                f"{path}, line {n}: {column} {texts[n - 2]!r} {kind} that of line {n - 1}, "
                f"{texts[n - 3]!r}{clock}; times must rise"
            )
    usual = _usual(steps)
    step_s, unit = _step(path, column, usual, slot_s)
    at = _places(path, column, texts, times, unit)
    missing = at[-1] + 1 - len(at)
    if at[-1] >= SLOTS_MAX:
        raise InvalidArgumentError(
            f"{path}: {at[-1] + 1} slots of {step_s:g} s lie between {texts[0]!r} and "
            f"{texts[-1]!r}, the limit is {SLOTS_MAX}"
        )
    reader.say(tell, str(path))
    if missing:
        first = next(n for n, (a, b) in enumerate(pairwise(at), 3) if b - a > 1)
        gap = f"{missing} of {at[-1] + 1} slots are missing, the first before line {first}"
        if missing > MISSING_MAX * (at[-1] + 1):
            raise InvalidArgumentError(
                f"{path}: {gap}; at most {MISSING_MAX:.0%} are filled from their neighbours"
            )
        tell(f"{path}: {gap}; they are filled from their neighbours")
    return Slots(step_s, at)


def _usual(steps: Sequence[float]) -> float | None:
    """The most frequent step, the smaller of two; None: there is a single row."""
    counts = Counter(round(step, 3) or step for step in steps)
    return min(counts, key=lambda step: (-counts[step], step)) if counts else None


def _step(
    path: Path, column: str, usual: float | None, slot_s: float | None
) -> tuple[float, float]:
    """Seconds of a slot, and by how much the first column rises in it."""
    if slot_s is None:
        if usual is None:
            raise InvalidArgumentError(f"{path}: give --slot-s, a single row has no step")
        if usual <= 1:
            raise InvalidArgumentError(f"{path}: give --slot-s, {column} counts slots")
        return usual, usual
    if usual is None or usual == 1:
        return slot_s, 1.0
    if abs(usual - slot_s) > _OFF_STEP * slot_s:
        raise InvalidArgumentError(
            f"--slot-s is {slot_s:g}, but the rows of {path} are {usual:g} s apart: leave it out, "
            "or number the slots"
        )
    return slot_s, usual


def _places(
    path: Path, column: str, texts: Sequence[str], times: Sequence[float], unit: float
) -> tuple[int, ...]:
    at = [0]
    for n, (before, after) in enumerate(pairwise(times), 3):
        slots = (after - before) / unit
        if abs(slots - round(slots)) > _OFF_STEP or round(slots) < 1:
            raise InvalidArgumentError(
                f"{path}, line {n}: {column} {texts[n - 2]!r} is {after - before:,.15g} s after "
                f"line {n - 1}, not a multiple of the usual {unit:,g} s (days of a local clock "
                "have 23 or 25 hours twice a year: write UTC)"
            )
        at.append(at[-1] + round(slots))
    return tuple(at)


def filled(slots: Slots, loads: Floats) -> Floats:
    """`loads` [rows, columns] with the missing slots between its rows, linear from both sides."""
    if not slots.missing:
        return loads
    every = np.arange(slots.at[-1] + 1)
    columns = [np.interp(every, slots.at, loads[:, c]) for c in range(loads.shape[1])]
    return np.stack(columns, axis=1)
