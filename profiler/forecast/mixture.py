"""Several predictive distributions for one slot, mixed by their recent scores."""

from typing import Any

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.intervals import I80, I95, LEVELS, OUTER, at_rank
from profiler.forecast.port import BoolArray, FloatArray, IntArray

BOUNDS = [I80[0], I80[1], I95[0], I95[1]]
SEASONS_BACK = (28, 8)
"""How many days, and weeks, are used."""
SEASONS_MIN, VALUES_MIN = 3, 8
VALUES = 256
"""Last values whose quantiles are the distribution without a time of day."""
REFRESH_SLOTS = 8
LOSS_POWER = 6.0
"""How strongly the distribution with the better recent score is preferred."""
LOSS_SLOTS, LOSS_HASTE = 96.0, 4.0
_ALPHA = np.array([0.2, 0.05])


class Mixture:
    """The quantiles around the ensemble's mean, those of the values at the same time of the last
    days and of the last weeks, and those of the last values, averaged level by level.

    Weights are (running interval score: Winkler, 1972) ** -LOSS_POWER, separate for 80 and 95 %.
    The score of an average of quantiles is at most the average of the scores, so a mix is never
    much worse than its preferred distribution, and a series that repeats yesterday's values gets
    the quantiles of yesterday. The first scores fade fast (LOSS_HASTE): they are of rows without
    enough history.
    """

    def __init__(self, history: History, season_slots: tuple[int, ...], horizons: IntArray) -> None:
        self._history = history
        self._seasons = [
            (season, np.arange(1, min(back, (history.depth - 1) // season) + 1))
            for season, back in zip(season_slots[:2], SEASONS_BACK, strict=False)
        ]
        self.count = 2 + len(self._seasons)
        self._recent = np.arange(min(VALUES, history.depth))
        self._values: FloatArray = np.zeros((0, len(LEVELS)))
        self._loss: FloatArray = np.zeros((0, len(horizons), self.count, 2))
        self._scored: IntArray = np.zeros((0, len(horizons)), dtype=np.int64)

    def grow(self, rows: int) -> None:
        old = len(self._scored)
        for name in ("_values", "_loss", "_scored"):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        self._values[old:] = np.nan

    def clear(self, row: int) -> None:
        self._values[row] = np.nan
        self._loss[row] = self._scored[row] = 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._values[child] = self._values[parent] * share
        self._loss[child] = self._loss[parent] * share
        self._scored[child] = self._scored[parent]

    def absorb(self, rows: IntArray) -> None:
        """The history has one more value of each row."""
        count = self._history.count[rows]
        turn = (count <= REFRESH_SLOTS) | ((self._history.last[rows] + rows) % REFRESH_SLOTS == 0)
        turn |= np.isnan(self._values[rows, 0])
        if turn.any():
            at = rows[turn]
            self._values[at] = _quantiles(self._history.lag(at, self._recent), VALUES_MIN)

    def candidates(self, rows: IntArray, steps: IntArray, own: FloatArray) -> FloatArray:
        """Each distribution's quantiles, (rows, steps, distributions, levels), `own` first.

        A distribution with too little history is `own`.
        """
        found = np.empty((len(rows), len(steps), self.count, len(LEVELS)))
        found[:, :, 0] = own
        for i, (season, back) in enumerate(self._seasons):
            ahead = -(-steps // season) * season - steps
            lags = ahead[:, None] + (back - 1) * season
            found[:, :, 1 + i] = _quantiles(self._history.lag(rows, lags), SEASONS_MIN)
        found[:, :, -1] = self._values[rows][:, None]
        found = np.where(np.isnan(found), own[:, :, None], found)
        return np.maximum(found, 0.0, out=found)

    def mix(self, rows: IntArray, at: IntArray, candidates: FloatArray) -> FloatArray:
        """Quantiles (rows, steps, levels); `at` is the horizon of each step."""
        loss = self._loss[rows][:, at] + 1e-12
        weight = (loss / loss.min(axis=2, keepdims=True)) ** -LOSS_POWER
        weight /= weight.sum(axis=2, keepdims=True)
        each = weight[..., :1] + (weight[..., 1:] - weight[..., :1]) * OUTER
        found: FloatArray = (each * candidates).sum(axis=2)
        return found

    def learn(self, rows: IntArray, actual: FloatArray, tried: FloatArray, due: BoolArray) -> None:
        """Outcomes of predictions that are due now: `actual` (rows,), `tried` (rows, horizons,
        distributions x 4) each one's forecast at BOUNDS, `due` (rows, horizons)."""
        pairs = tried.reshape(*tried.shape[:2], self.count, 2, 2)
        lower, upper = pairs[..., 0], pairs[..., 1]
        y = actual[:, None, None, None]
        outside = np.maximum(lower - y, 0.0) + np.maximum(y - upper, 0.0)
        loss = upper - lower + 2.0 / _ALPHA * outside
        scored = self._scored[rows] + due
        rate = np.maximum(1.0 / LOSS_SLOTS, LOSS_HASTE / (np.maximum(scored, 1) + LOSS_HASTE - 1.0))
        held = self._loss[rows]
        moved = held + rate[:, :, None, None] * (loss - held)
        self._loss[rows] = np.where(due[:, :, None, None], moved, held)
        self._scored[rows] = scored

    def state(self, row: int) -> dict[str, Any]:
        return {"loss": self._loss[row].tolist(), "scored": self._scored[row].tolist()}

    def restore(self, row: int, state: dict[str, Any]) -> None:
        if np.shape(state["loss"]) == self._loss.shape[1:]:  # else made with other seasons
            self._loss[row], self._scored[row] = state["loss"], state["scored"]


def _quantiles(values: FloatArray, least: int) -> FloatArray:
    """Quantiles at LEVELS along the last axis, without NaN; NaN where fewer than `least` are."""
    ordered = np.sort(values, axis=-1)  # NaN goes last
    n = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
    if values.shape[-1] < least:
        return np.full((*values.shape[:-1], len(LEVELS)), np.nan)
    found = at_rank(ordered, np.array(LEVELS) * np.maximum(n - 1, 0), n)
    return np.where(n >= least, found, np.nan)
