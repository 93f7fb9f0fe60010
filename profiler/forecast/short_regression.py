"""An online regression on the last slots: how fast a deviation from the level ends."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.interpolate import between
from profiler.forecast.least_squares import LeastSquares
from profiler.forecast.port import FloatArray, IntArray

FEATURES = 6
LEVEL_SLOTS = 24
RISE_MAX = 2.0


class ShortRegression:
    """Value = last value + w . x for each fixed horizon; w by recursive least squares.

    x are differences of the last value to the mean of the last 3, 6 and LEVEL_SLOTS, and to the two
    values before it: the terms of an autoregressive model of low order, each 0 for a
    constant series. With w = 0 it is last value, where it starts.
    """

    def __init__(self, history: History, horizons: IntArray, *, forget: float = 0.999) -> None:
        self._history, self._horizons = history, horizons
        self._lags = np.arange(LEVEL_SLOTS)
        self._solver = LeastSquares(len(horizons), FEATURES, forget=forget)
        self._ring = int(horizons[-1]) + 1
        self._x: FloatArray = np.zeros((0, self._ring, FEATURES))
        self._base: FloatArray = np.zeros((0, self._ring))
        self._made: IntArray = np.zeros((0, self._ring), dtype=np.int64)
        self.name = "short_regression"

    def grow(self, rows: int) -> None:
        old = len(self._made)
        self._solver.grow(rows)
        for name in ("_x", "_base", "_made"):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        self._made[old:] = np.iinfo(np.int64).min

    def clear(self, row: int) -> None:
        self._solver.clear(row)
        self._made[row] = np.iinfo(np.int64).min

    def copy(self, parent: int, child: int, share: float) -> None:
        self._solver.copy(parent, child, share)
        self._made[child] = self._made[parent]
        self._x[child] = self._x[parent] * share
        self._base[child] = self._base[parent] * share

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        now = self._history.last[rows]
        made = now[:, None] - self._horizons
        at = made % self._ring
        due = self._made[rows[:, None], at] == made
        base = self._base[rows[:, None], at]
        self._solver.learn(rows, self._x[rows[:, None], at], values[:, None] - base, due)
        slot = now % self._ring
        self._x[rows, slot], self._base[rows, slot] = self._features(rows)
        self._made[rows, slot] = now

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        x, base = self._features(rows)
        weights = self._solver.weights(rows)
        if not np.array_equal(horizons, self._horizons):
            weights = between(weights, self._horizons, horizons)
        moved = (weights * x[:, None, :]).sum(axis=2)
        top = self._history.lag(rows, self._lags)
        ceiling = RISE_MAX * np.nanmax(top, axis=1, initial=0.0)
        return np.asarray(np.clip(base[:, None] + moved, 0.0, ceiling[:, None]))

    def _features(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        past = self._history.lag(rows, self._lags)
        newest = self._history.newest(rows)
        gap = np.where(np.isnan(past), newest[:, None], past) - newest[:, None]
        x = np.empty((len(rows), FEATURES))
        x[:, 0] = gap[:, 1]
        x[:, 1] = gap[:, 2]
        x[:, 2] = gap[:, :3].mean(axis=1)
        x[:, 3] = gap[:, :6].mean(axis=1)
        x[:, 4] = gap[:, :12].mean(axis=1)
        x[:, 5] = gap.mean(axis=1)
        return x, newest
