"""Exponential smoothing for many rows at once: levels, and Holt-Winters with a damped trend."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray

RISE_MAX = 4.0
"""A forecast is kept below this many times the largest recent value: trends diverge."""


class Level:
    """The exponentially weighted mean of all values; one number a row (Brown, 1956).

    A new row starts as a plain mean, so the first value does not stay for long.
    """

    def __init__(self, history: History, alpha: float) -> None:
        self._history, self._alpha = history, alpha
        self._level: FloatArray = np.zeros(0)
        self._seen: IntArray = np.zeros(0, dtype=np.int64)
        self.name = f"level_{alpha:g}"

    def grow(self, rows: int) -> None:
        more = rows - len(self._level)
        self._level = np.concatenate([self._level, np.zeros(more)])
        self._seen = np.concatenate([self._seen, np.zeros(more, dtype=np.int64)])

    def clear(self, row: int) -> None:
        self._level[row], self._seen[row] = 0.0, 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._level[child] = self._level[parent] * share
        self._seen[child] = self._seen[parent]

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        self._seen[rows] += 1
        rate = np.maximum(self._alpha, 1.0 / self._seen[rows])
        self._level[rows] += rate * (values - self._level[rows])

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        return np.repeat(self._level[rows][:, None], len(horizons), axis=1)


class HoltWinters:
    """Additive Holt-Winters with a damped trend, in the error-correction form, for all rows at once
    (Hyndman et al., Forecasting with Exponential Smoothing, 2008, model A,Ad,A).

    Not river's, because an update there is a Python call a row and linear in the season: here a
    season of any length costs one cell. Errors over `clip` times the running mean error are
    clipped: an anomaly must not be next week's season.
    """

    def __init__(
        self,
        history: History,
        season_slots: int,
        *,
        alpha: float = 0.3,
        beta: float = 0.01,
        gamma: float = 0.2,
        damp: float = 0.95,
        clip: float = 6.0,
    ) -> None:
        self._history, self._season = history, season_slots
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        self._damp, self._clip = damp, clip
        self._season_part: FloatArray = np.zeros((0, season_slots))
        self._known: FloatArray = np.zeros((0, season_slots))
        # level, trend, mean error, seen
        self._state: FloatArray = np.zeros((0, 4))
        self.name = f"holt_winters_{season_slots}"

    def grow(self, rows: int) -> None:
        for name in ("_season_part", "_known", "_state"):
            held = getattr(self, name)
            more = np.zeros((rows - len(held), held.shape[1]))
            setattr(self, name, np.concatenate([held, more]))

    def clear(self, row: int) -> None:
        self._season_part[row] = self._known[row] = self._state[row] = 0.0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._season_part[child] = self._season_part[parent] * share
        self._known[child] = self._known[parent]
        self._state[child] = self._state[parent] * share
        self._state[child, 3] = self._state[parent, 3]

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        phase = self._history.last[rows] % self._season
        level, trend, spread, seen = self._state[rows].T
        part, known = self._season_part[rows, phase], self._known[rows, phase]
        first = seen == 0
        level = np.where(first, values, level)
        base = level + self._damp * trend
        error = values - base - part
        limit = np.where(seen >= self._season, self._clip * spread, np.inf)
        held = np.clip(error, -limit, limit)
        spread = spread + np.maximum(0.02, 1.0 / (seen + 1.0)) * (np.abs(held) - spread)
        fresh = known == 0  # the first time of a phase: the level is better than a season of 0
        alpha = np.where(fresh, self._alpha, self._alpha * 0.5)
        self._state[rows, 0] = base + alpha * held
        self._state[rows, 1] = self._damp * trend + self._beta * held
        self._state[rows, 2], self._state[rows, 3] = spread, seen + 1.0
        rate = np.where(fresh, 0.5, self._gamma)
        self._season_part[rows, phase] = part + rate * held
        self._known[rows, phase] = known + 1.0

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        phase = (self._history.last[rows][:, None] + horizons) % self._season
        level, trend, _, _ = (column[:, None] for column in self._state[rows].T)
        damped = self._damp * (1.0 - self._damp**horizons) / (1.0 - self._damp)
        said = level + damped * trend + self._season_part[rows[:, None], phase]
        newest = self._history.newest(rows)[:, None]
        return np.asarray(np.clip(said, 0.0, RISE_MAX * (np.abs(level) + newest + 1e-9)))
