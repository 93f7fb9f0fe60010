"""Removes anomalies from the history before a season reads them again."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.port import BoolArray, FloatArray, IntArray

DAYS_BACK, WEEKS_BACK = np.array([1, 2, 3]), np.array([1, 2])
THRESHOLD = 12.0
CLIP = 4.0
FLOOR = 0.05
"""Share of the expected value: a deviation under THRESHOLD times this is no anomaly."""


class Repair:
    """Flags values that are far from what the seasons let expect, and replaces them by the usual
    value once they are a quarter of a day (of the first season) old.

    Expected are the median of the same slot of the last three days, and the values one and two
    weeks (second seasons) before; usual is the median of these. For the quarter of a day all models
    see the real value: an anomaly may be the beginning of a change. Two kinds of values are no
    anomalies and stay: one that was flagged at the same time of the day or the week before (a new
    habit), and one that lasts more than an eighth of a day (a new level). Far is more than
    THRESHOLD times the running mean deviation, which takes large ones only clipped. Nothing is
    flagged before three days and one of the longest season have been seen.
    """

    def __init__(self, history: History, season_slots: tuple[int, ...]) -> None:
        self._history = history
        self._day, self._week = season_slots[0], season_slots[1:2]
        self._age = max(1, self._day // 4)
        self._lags = np.concatenate([self._day * DAYS_BACK, *(w * WEEKS_BACK for w in self._week)])
        self._ring = max(season_slots[:2]) + self._age + 1
        self._known_after = max(3 * self._day, *self._week, 1)
        self._usable = self._known_after + self._age < history.depth
        self._flags: BoolArray = np.zeros((0, self._ring), dtype=np.bool_)
        self._spread: FloatArray = np.zeros(0)
        self._seen: IntArray = np.zeros(0, dtype=np.int64)
        self._flagged: IntArray = np.zeros(0, dtype=np.int64)
        """Number of flagged slots among the last `_age`."""
        self.repaired_count = 0

    def grow(self, rows: int) -> None:
        more = rows - len(self._seen)
        self._flags = np.concatenate([self._flags, np.zeros((more, self._ring), dtype=np.bool_)])
        self._spread = np.concatenate([self._spread, np.zeros(more)])
        self._seen = np.concatenate([self._seen, np.zeros(more, dtype=np.int64)])
        self._flagged = np.concatenate([self._flagged, np.zeros(more, dtype=np.int64)])

    def clear(self, row: int) -> None:
        self._flags[row] = False
        self._spread[row] = self._seen[row] = self._flagged[row] = 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._flags[child], self._seen[child] = self._flags[parent], self._seen[parent]
        self._spread[child] = self._spread[parent] * share
        self._flagged[child] = self._flagged[parent]

    def absorb(self, rows: IntArray, values: FloatArray) -> None:
        """The history has one more value of each row."""
        known = self._history.count[rows] > self._known_after
        if not self._usable or not known.any():
            return
        rows, values = rows[known], values[known]
        expected = self._expected(rows, 0)
        size = np.nanmin(np.abs(values[:, None] - expected), axis=1)
        spread, seen = self._spread[rows], self._seen[rows]
        learned = seen >= self._day
        floor = FLOOR * np.nanmedian(expected, axis=1)
        flag = learned & (size > THRESHOLD * np.maximum(spread, floor))
        taken = np.where(learned, np.minimum(size, CLIP * spread + 1e-9), size)
        rate = np.maximum(1.0 / self._day, 1.0 / (seen + 1.0))
        self._spread[rows] = spread + rate * (taken - spread)
        self._seen[rows] = seen + 1
        now = self._history.last[rows]
        at = now - self._age
        old = self._flags[rows, at % self._ring]
        again = self._flags[rows, (at - self._day) % self._ring]
        for week in self._week:
            again |= self._flags[rows, (at - week) % self._ring]
        self._flags[rows, now % self._ring] = flag
        self._flagged[rows] += flag.astype(np.int64) - old
        take = old & ~again & (self._flagged[rows] < max(1, self._age // 2))
        if take.any():
            self.repaired_count += int(take.sum())
            some = rows[take]
            usual = np.nanmedian(self._expected(some, self._age), axis=1)
            self._history.amend(some, self._age, usual)

    def _expected(self, rows: IntArray, age: int) -> FloatArray:
        """Of the slot `age` before the newest: median of three days, and each week; (rows, 1-3)."""
        found = self._history.lag(rows, age + self._lags)
        found[:, 0] = np.sort(found[:, :3], axis=1)[:, 1]
        return np.concatenate([found[:, :1], found[:, 3:]], axis=1)
