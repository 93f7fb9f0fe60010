"""The spread of values at one time of day: the second shape that an interval can have."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.intervals import LEVELS
from profiler.forecast.port import FloatArray, IntArray

DAYS_MAX, DAYS_MIN = 28, 5
_SIDE = np.sign(np.array(LEVELS) - 0.5)


class SeasonalRange:
    """Empirical quantiles of the values of the last days (seasons) at the target's time of day."""

    def __init__(self, history: History, season_slots: int) -> None:
        self._history, self._season = history, season_slots
        self._back = np.arange(1, min(DAYS_MAX, (history.depth - 1) // season_slots) + 1)

    def distances(self, rows: IntArray, steps: IntArray, mean: FloatArray) -> FloatArray:
        """Quantiles at LEVELS minus `mean`, (rows, steps, levels); NaN with few days.

        Levels below the median never lie above the mean, and the other way round.
        """
        shape = (len(rows), len(steps), len(LEVELS))
        if len(self._back) < DAYS_MIN:
            return np.full(shape, np.nan)
        ahead = -(-steps // self._season) * self._season - steps
        lags = ahead[:, None] + (self._back - 1) * self._season
        past = np.sort(self._history.lag(rows, lags), axis=2)  # NaN goes last
        n = (~np.isnan(past)).sum(axis=2, keepdims=True)
        rank = np.array(LEVELS) * np.maximum(n - 1, 0)
        low = rank.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(n - 1, 0))
        a = np.take_along_axis(past, low, axis=2)
        b = np.take_along_axis(past, high, axis=2)
        away = _SIDE * np.maximum(_SIDE * (a + (rank - low) * (b - a) - mean[:, :, None]), 0.0)
        found: FloatArray = np.where(n >= DAYS_MIN, away, np.nan)
        return found
