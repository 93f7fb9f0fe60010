"""An online regression on seasonal lags: how a slot will differ from last season's."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.interpolate import between
from profiler.forecast.least_squares import LeastSquares
from profiler.forecast.port import FloatArray, IntArray

FEATURES = 5
LAST_SLOTS = 3
RISE_MAX = 2.0
"""A forecast is kept below this many times the values of the seasons before and the last slot."""


class LagRegression:
    """Value = that of one season before + w . x, with w learned by recursive least squares.

    x holds deviations of later slots from the season before them: the season before that,
    the same slot one short season (a day) ago, the last slot, the mean of the last slots, and a
    constant. With w = 0 it is the seasonal naive model, where it starts and where a row without
    information stays. One w for each of the fixed horizons; between them w is interpolated.
    """

    def __init__(
        self,
        history: History,
        season_slots: int,
        short_season_slots: int,
        horizons: IntArray,
    ) -> None:
        self._history = history
        self._season, self._short = season_slots, short_season_slots
        self._horizons = horizons
        self._ring = int(horizons[-1]) + 1
        self._last = np.arange(LAST_SLOTS)
        # Over the last short season: the sum of values minus those of a season before.
        self._sum: FloatArray = np.zeros(0)
        self._amended: FloatArray = np.zeros(0)
        """The part of `History.amended` that is in `_sum`: amended values are of the last
        season."""
        size = len(horizons)
        self._solver = LeastSquares(size, FEATURES)
        self._x: FloatArray = np.zeros((0, self._ring, size, FEATURES))
        self._base: FloatArray = np.zeros((0, self._ring, size))
        self._made: IntArray = np.zeros((0, self._ring), dtype=np.int64)
        self.name = f"lag_regression_{season_slots}"

    def grow(self, rows: int) -> None:
        old = len(self._made)
        self._solver.grow(rows)
        for name in ("_x", "_base", "_made", "_sum", "_amended"):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        for row in range(old, rows):
            self.clear(row)

    def clear(self, row: int) -> None:
        self._solver.clear(row)
        self._sum[row] = self._amended[row] = 0.0
        self._made[row] = np.iinfo(np.int64).min

    def copy(self, parent: int, child: int, share: float) -> None:
        """Weights and times have no unit; features and bases scale with the share."""
        self._solver.copy(parent, child, share)
        self._made[child] = self._made[parent]
        for held in (self._x, self._base, self._sum, self._amended):
            held[child] = held[parent] * share

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        now = self._history.last[rows]
        at = (now[:, None] - self._horizons) % self._ring
        each = np.arange(len(self._horizons))
        x = self._x[rows[:, None], at, each]
        base = self._base[rows[:, None], at, each]
        due = self._made[rows[:, None], at] == now[:, None] - self._horizons
        usable = due & ~np.isnan(base)
        self._solver.learn(rows, x, values[:, None] - base, usable)
        amended = self._history.amended[rows]
        self._sum[rows] += self._moved(rows) + amended - self._amended[rows]
        self._amended[rows] = amended
        slot = now % self._ring
        made_x, made_base = self._features(rows, self._horizons)
        self._x[rows, slot] = made_x
        self._base[rows, slot] = made_base
        self._made[rows, slot] = now

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        weights = self._solver.weights(rows)
        now = self._history.last[rows]
        same = np.array_equal(horizons, self._horizons)
        if same and (self._made[rows, now % self._ring] == now).all():
            x, base = self._x[rows, now % self._ring], self._base[rows, now % self._ring]
        else:
            x, base = self._features(rows, horizons)
        if not same:
            weights = between(weights, self._horizons, horizons)
        newest = self._history.newest(rows)[:, None]
        ceiling = RISE_MAX * (base + newest + np.abs(x[:, :, :2]).sum(axis=2))
        said = np.clip(base + (weights * x).sum(axis=2), 0.0, ceiling)
        return np.where(np.isnan(said), newest, said)

    def _features(self, rows: IntArray, horizons: IntArray) -> tuple[FloatArray, FloatArray]:
        """x of shape (rows, horizons, FEATURES) and the base of shape (rows, horizons)."""
        season, short, lag = self._season, self._short, self._history.lag
        long_lag = -(-horizons // season) * season - horizons
        short_lag = -(-horizons // short) * short - horizons
        n = len(horizons)
        found = lag(
            rows,
            np.concatenate(
                [
                    long_lag,
                    long_lag + season,
                    short_lag,
                    short_lag + season,
                    self._last,
                    self._last + season,
                ]
            ),
        )
        base, before, day, day_before = (found[:, i * n : (i + 1) * n] for i in range(4))
        recent = found[:, 4 * n : 4 * n + LAST_SLOTS] - found[:, 4 * n + LAST_SLOTS :]
        recent = np.where(np.isnan(recent), 0.0, recent)
        x = np.empty((len(rows), n, FEATURES))
        x[:, :, 0] = base - before
        x[:, :, 1] = day - day_before
        x[:, :, 2] = recent[:, :1]
        x[:, :, 3] = (self._sum[rows] / short)[:, None]
        x[:, :, 4] = recent.mean(axis=1)[:, None]
        return np.where(np.isnan(x), 0.0, x), base

    def _moved(self, rows: IntArray) -> FloatArray:
        """What the newest slot adds to `_sum`, less the slot that leaves it."""
        season, short = self._season, self._short
        at = self._history.lag(rows, np.array([0, season, short, season + short]))
        gap = at[:, ::2] - at[:, 1::2]
        gap[np.isnan(gap)] = 0.0
        found: FloatArray = gap[:, 0] - gap[:, 1]
        return found
