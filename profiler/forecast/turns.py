"""Slow learners take turns: a model of river for some of the rows at a time."""

import copy
from collections.abc import Callable
from typing import Protocol

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray

SEATS = 16
TURN_SLOTS = 576
CATCH_UP_SLOTS = 512
RISE_MAX = 3.0
"""A forecast is kept below this many times the largest recent value."""
LATE = np.arange(24)


class SlowModel(Protocol):
    """One series: a model whose every step is a Python call. It must be deep-copyable."""

    def learn(self, past: FloatArray, slot: int) -> None:
        """`past`: the last values in units of the row's usual size, the newest (`slot`'s) first."""

    def forecast(self, past: FloatArray, slot: int) -> FloatArray:
        """Means at the fixed horizons, in the same units."""


class Turns:
    """At most `seats` rows have a model; each keeps it for `turn_slots`, then passes it on.

    The cost of a period is bounded by the seats, whatever the number of rows. Rows take turns only
    if there are more rows than seats: a few rows keep theirs. A row that gets a seat first learns
    the last `catch_up_slots` of its history; one new row a period. A row without a
    seat gets its last value as the forecast, so its ensemble stops using this model by itself.
    """

    def __init__(
        self,
        history: History,
        horizons: IntArray,
        lags: IntArray,
        make: Callable[[], SlowModel],
        name: str,
        *,
        seats: int = SEATS,
        turn_slots: int = TURN_SLOTS,
        catch_up_slots: int = CATCH_UP_SLOTS,
    ) -> None:
        """`lags`: which values before the newest a model is shown (`past`), 0 the newest."""
        self._history, self._horizons, self._lags = history, horizons, lags
        self._make, self.name = make, name
        self._seats, self._turn_slots, self._catch_up = seats, turn_slots, catch_up_slots
        self._models: dict[int, SlowModel] = {}
        self._since: dict[int, int] = {}
        """Row -> the slot in which it got its seat; in that order."""
        self._unit: FloatArray = np.zeros(0)
        self._seen: IntArray = np.zeros(0, dtype=np.int64)
        self._next = 0

    def grow(self, rows: int) -> None:
        more = rows - len(self._unit)
        self._unit = np.concatenate([self._unit, np.zeros(more)])
        self._seen = np.concatenate([self._seen, np.zeros(more, dtype=np.int64)])

    def clear(self, row: int) -> None:
        self._stand_up(row)
        self._unit[row] = self._seen[row] = 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._unit[child], self._seen[child] = self._unit[parent] * share, self._seen[parent]
        self._stand_up(child)
        if parent in self._models and len(self._models) < self._seats:
            self._models[child] = copy.deepcopy(self._models[parent])
            self._since[child] = self._since[parent]

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        self._seen[rows] += 1
        rate = np.maximum(1.0 / 256.0, 1.0 / self._seen[rows])
        self._unit[rows] += rate * (values - self._unit[rows])
        seated = self._seated(rows)
        if len(seated):
            past = self._past(seated, self._lags)
            for i, row in enumerate(seated.tolist()):
                self._models[row].learn(past[i], int(self._history.last[row]))
        self._take_turns(rows)

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        newest = self._history.newest(rows)
        said = np.repeat(newest[:, None], len(horizons), axis=1)
        seated = self._seated(rows)
        if not len(seated):
            return said
        places = np.flatnonzero(np.isin(rows, seated))
        past = self._past(seated, self._lags)
        top = np.nanmax(self._history.lag(seated, np.concatenate([LATE, self._lags])), axis=1)
        for i, (place, row) in enumerate(zip(places.tolist(), seated.tolist(), strict=True)):
            made = self._models[row].forecast(past[i], int(self._history.last[row]))
            kept = np.interp(horizons, self._horizons, made) * self._unit[row]
            kept = np.clip(kept, 0.0, RISE_MAX * top[i])
            said[place] = np.where(np.isfinite(kept), kept, newest[place])
        return said

    def _seated(self, rows: IntArray) -> IntArray:
        return np.array([row for row in rows.tolist() if row in self._models], dtype=np.int64)

    def _past(self, rows: IntArray, lags: IntArray) -> FloatArray:
        """Values in units of each row's mean; the newest of `lags` replaces an unknown one."""
        found = self._history.lag(rows, lags) / np.maximum(self._unit[rows], 1e-9)[:, None]
        return np.where(np.isnan(found), found[:, :1], found)

    def _stand_up(self, row: int) -> None:
        self._models.pop(row, None)
        self._since.pop(row, None)

    def _take_turns(self, rows: IntArray) -> None:
        """Fill the free seats; without one, the row with the oldest seat may have to give it up."""
        waiting = [row for row in rows.tolist() if row not in self._models]
        if not waiting:
            return
        free = self._seats - len(self._models)
        if not free:
            first, since = next(iter(self._since.items()))
            if int(self._history.last[first]) - since < self._turn_slots:
                return
            self._stand_up(first)
        # Rows after the last new one come first, so that all have their turn.
        later = [row for row in waiting if row >= self._next]
        for row in (later or waiting)[: max(free, 1) if len(waiting) <= free else 1]:
            self._sit_down(row)

    def _sit_down(self, row: int) -> None:
        model = self._make()
        last = int(self._history.last[row])
        at = np.array([row])
        known = min(int(self._history.count[row]), self._catch_up)
        for back in range(known - 1, -1, -1):
            model.learn(self._past(at, self._lags + back)[0], last - back)
        self._models[row], self._since[row] = model, last
        self._next = row + 1
