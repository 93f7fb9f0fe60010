"""The baselines: last value, seasonal naive, moving average. They have no state of their own."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray


class HistoryForecaster:
    """Base of the models whose whole state is the history."""

    name = "history"

    def __init__(self, history: History) -> None:
        self._history = history

    def grow(self, rows: int) -> None:
        """Nothing to grow."""

    def clear(self, row: int) -> None:
        """Nothing to clear."""

    def copy(self, parent: int, child: int, share: float) -> None:
        """Nothing to do: the history was copied."""

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        """Nothing to do: the history has the value."""


class LastValue(HistoryForecaster):
    """The last value. Every other model has to beat this one to be used."""

    name = "last_value"

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        return np.repeat(self._history.newest(rows)[:, None], len(horizons), axis=1)


class SeasonalNaive(HistoryForecaster):
    """The value one season before the target slot."""

    def __init__(self, history: History, season_slots: int) -> None:
        super().__init__(history)
        self._season = season_slots
        self.name = f"seasonal_naive_{season_slots}"

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        lags = -(-horizons // self._season) * self._season - horizons
        found = self._history.lag(rows, lags)
        return np.where(np.isnan(found), self._history.newest(rows)[:, None], found)


class MovingAverage(HistoryForecaster):
    """The mean of the last few slots: right for noise around a level that moves slowly."""

    def __init__(self, history: History, window_slots: int = 6) -> None:
        super().__init__(history)
        self._lags = np.arange(window_slots)
        self.name = f"moving_average_{window_slots}"

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        recent = self._history.lag(rows, self._lags)
        known = ~np.isnan(recent)
        mean = np.where(known, recent, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.repeat(mean[:, None], len(horizons), axis=1)
