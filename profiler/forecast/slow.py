"""The slow learners: SNARIMAX and Hoeffding trees of river, a series at a time, in turns.

They implement the port like the others, but are not among the default models: in the comparison
they cost ten times the whole ensemble and did not improve it (docs/measurements/forecasts.md).
"""

from typing import Any

import numpy as np
from river import linear_model, time_series, tree

from profiler.forecast.bank import default_models
from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, Forecaster, IntArray
from profiler.forecast.turns import SEATS, Turns

RECENT = np.arange(6)
"""Last values that a tree gets."""


class Snarimax:
    """river's SNARIMAX on the last values, those of a season ago and the last error.

    The regression is Bayesian and forgets: stochastic gradient descent, river's default, diverges
    on loads that jump.
    """

    def __init__(self, season_slots: int, horizons: IntArray) -> None:
        self._at = horizons - 1
        made: Any = time_series.SNARIMAX
        regression: Any = linear_model.BayesianLinearRegression
        self._model = made(
            p=6, d=0, q=1, m=max(season_slots, 1), sp=int(season_slots > 1), sd=0, sq=0,
            regressor=regression(smoothing=0.999),
        )  # fmt: skip

    def learn(self, past: FloatArray, slot: int) -> None:
        self._model.learn_one(float(past[0]))

    def forecast(self, past: FloatArray, slot: int) -> FloatArray:
        found: FloatArray = np.array(self._model.forecast(int(self._at[-1]) + 1))[self._at]
        return found


class Trees:
    """A Hoeffding tree with linear leaves for each horizon, on how the load will differ from now.

    Its features are the time of the season, the last differences, and by how much the target slot
    of the season before was over the last value.
    """

    def __init__(self, season_slots: tuple[int, ...], horizons: IntArray) -> None:
        self._seasons, self._horizons = season_slots, horizons.tolist()
        made: Any = tree.HoeffdingTreeRegressor
        self._trees = [made(grace_period=50, max_depth=6, delta=1e-4) for _ in self._horizons]
        self._made: dict[int, tuple[list[dict[str, float]], float]] = {}

    def learn(self, past: FloatArray, slot: int) -> None:
        for i, step in enumerate(self._horizons):
            made = self._made.get(slot - step)
            if made is not None:
                self._trees[i].learn_one(made[0][i], float(past[0]) - made[1])
        self._made[slot] = (self._features(past, slot), float(past[0]))
        self._made.pop(slot - self._horizons[-1] - 1, None)

    def forecast(self, past: FloatArray, slot: int) -> FloatArray:
        made = self._made.get(slot)
        each = made[0] if made is not None else self._features(past, slot)
        found = [grown.predict_one(x) for grown, x in zip(self._trees, each, strict=True)]
        return np.asarray(past[0] + np.array(found))

    def _features(self, past: FloatArray, slot: int) -> list[dict[str, float]]:
        recent = past[: len(RECENT)]
        x = {
            "last": float(recent[0]),
            "gap1": float(recent[0] - recent[1]),
            "gap3": float(recent[0] - recent[:3].mean()),
            "gap6": float(recent[0] - recent.mean()),
        }
        for i, season in enumerate(self._seasons):
            x[f"phase{i}"] = (slot % season) / season
        before = past[len(RECENT) :] - recent[0]
        return [{**x, "season": gap} for gap in before.tolist()]


def slow_models(
    history: History, season_slots: tuple[int, ...], horizons: IntArray, seats: int = SEATS
) -> list[Forecaster]:
    """Both of them; at most `seats` rows have each at a time."""
    longest = season_slots[-1] if season_slots else 0
    before = -(-horizons // longest) * longest - horizons if longest else 0 * horizons
    first = season_slots[0] if season_slots else 1
    return [
        Turns(history, horizons, RECENT[:1], lambda: Snarimax(first, horizons), "snarimax",
              seats=seats),
        Turns(history, horizons, np.concatenate([RECENT, before]),
              lambda: Trees(season_slots, horizons), "trees", seats=seats),
    ]  # fmt: skip


def with_slow_models(
    history: History, season_slots: tuple[int, ...], horizons: IntArray
) -> list[Forecaster]:
    """The default models and the slow ones, for `ForecastBook(models=...)`."""
    fast = default_models(history, season_slots, horizons)
    return [*fast, *slow_models(history, season_slots, horizons)]
