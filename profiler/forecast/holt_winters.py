"""Holt-Winters by river, one model a row. Additive: a seasonal factor of zero breaks the other."""

from typing import Any

import numpy as np
from river.time_series import HoltWinters as RiverHoltWinters

from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray

RISE_MAX = 4.0
"""A forecast is held under this many times the largest of the last season: trends run away."""


class HoltWinters:
    """Level, trend and season by exponential smoothing; learns 3 µs, forecasts 9 µs a row."""

    def __init__(
        self,
        history: History,
        season_slots: int,
        *,
        alpha: float = 0.3,
        beta: float = 0.01,
        gamma: float = 0.3,
    ) -> None:
        self._history = history
        self._season = season_slots
        self._smoothing = (alpha, beta, gamma)
        self._models: list[Any] = []
        self._peaks: FloatArray = np.zeros(0)
        self.name = f"holt_winters_{season_slots}"

    def grow(self, rows: int) -> None:
        self._models.extend(None for _ in range(rows - len(self._models)))
        self._peaks = np.concatenate([self._peaks, np.zeros(rows - len(self._peaks))])

    def clear(self, row: int) -> None:
        self._models[row] = None
        self._peaks[row] = 0.0

    def copy(self, parent: int, child: int, share: float) -> None:
        """The additive form is linear: a share of each component is the model of the share."""
        self._peaks[child] = self._peaks[parent] * share
        source, model = self._models[parent], None
        if source is not None:
            model = self._new()
            for part in ("level", "trend", "season"):
                getattr(model, part).extend(v * share for v in getattr(source, part))
            model._first_values = [v * share for v in source._first_values]
            model._initialized = source._initialized
        self._models[child] = model

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        # The peak fades so that one spike does not lift the bound for ever.
        self._peaks[rows] = np.maximum(self._peaks[rows] * (1.0 - 1.0 / (4 * self._season)), values)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            model = self._models[row]
            if model is None:
                if value == 0.0:
                    continue  # a first season of zeros would make river divide by its level, 0
                model = self._models[row] = self._new()
            ready = model._initialized
            model.learn_one(value)
            if model._initialized and not ready:
                _additive_start(model, self._history.lag(np.array([row]), _ages(self._season))[0])

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        out = np.repeat(self._history.newest(rows)[:, None], len(horizons), axis=1)
        furthest = int(horizons[-1])
        steps = (horizons - 1).tolist()
        for i, row in enumerate(rows.tolist()):
            model = self._models[row]
            if model is not None and model._initialized:
                said = model.forecast(furthest)
                out[i] = [said[step] for step in steps]
        return np.clip(out, 0.0, RISE_MAX * self._peaks[rows][:, None])

    def _new(self) -> Any:
        alpha, beta, gamma = self._smoothing
        river: Any = RiverHoltWinters
        return river(alpha=alpha, beta=beta, gamma=gamma, seasonality=self._season)


def _ages(season: int) -> IntArray:
    return np.arange(season - 1, -1, -1)


def _additive_start(model: Any, first: FloatArray) -> None:
    """River starts the seasonal part of the additive form with y / level; y - level is meant."""
    model.season.clear()
    model.season.extend((first - model.level[-1]).tolist())
