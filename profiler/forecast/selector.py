"""Who speaks: each model's recent error per row and horizon, the blend, and the choice."""

import numpy as np

from profiler.forecast.port import FloatArray, IntArray

BLEND = "ensemble"


class Selector:
    """Keeps the recent error of `models` named models and of their blend, which is one more.

    Model 0 must be last value: another speaks only while its recent error is lower than that of
    model 0 by `beat_by`, so a forecast that does not beat last value is not used. The blend weighs
    models by error ** -`sharpness` over those that beat model 0. Errors fade over `memory_slots`.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        horizons: IntArray,
        *,
        memory_slots: float = 168.0,
        sharpness: float = 6.0,
        beat_by: float = 0.02,
        min_scored: int = 12,
    ) -> None:
        self.names = (*models, BLEND)
        self._horizons = horizons
        self._rate = 1.0 / memory_slots
        self._sharpness, self._beat_by, self._min_scored = sharpness, beat_by, min_scored
        self._error: FloatArray = np.zeros((0, len(horizons), len(models) + 1))
        self._scored: IntArray = np.zeros((0, len(horizons)), dtype=np.int64)

    def grow(self, rows: int) -> None:
        more = rows - len(self._error)
        self._error = np.concatenate([self._error, np.zeros((more, *self._error.shape[1:]))])
        self._scored = np.concatenate([self._scored, np.zeros((more, len(self._horizons)), int)])

    def clear(self, row: int) -> None:
        self._error[row] = 0.0
        self._scored[row] = 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._error[child] = self._error[parent] * share
        self._scored[child] = self._scored[parent]

    def learn(self, rows: IntArray, errors: FloatArray) -> None:
        """Absolute errors, shape (rows, horizons, models + 1); NaN where nothing was due."""
        due = ~np.isnan(errors[:, :, 0])
        scored = self._scored[rows] + due
        rate = np.maximum(self._rate, 1.0 / np.maximum(scored, 1))[:, :, None]
        held = self._error[rows]
        self._error[rows] = np.where(due[:, :, None], held + rate * (errors - held), held)
        self._scored[rows] = scored

    def blend(self, rows: IntArray, said: FloatArray, at: IntArray) -> FloatArray:
        """`said` (rows, steps, models) and the blend; `at` is the horizon of each step."""
        error = self._error[rows][:, at, :-1]
        floor = 1e-3 * error[:, :, :1] + 1e-12
        weight = (np.maximum(error, floor) / np.maximum(error[:, :, :1], 1e-12)) ** -self._sharpness
        weight = np.where(error > error[:, :, :1], 0.0, weight)
        blend = (weight * said).sum(axis=2) / weight.sum(axis=2)
        return np.concatenate([said, blend[:, :, None]], axis=2)

    def speaker(self, rows: IntArray) -> IntArray:
        """The index into `names` that speaks at each horizon, shape (rows, horizons)."""
        error = self._error[rows]
        best = np.argmin(error, axis=2)
        lowest = np.take_along_axis(error, best[:, :, None], axis=2)[:, :, 0]
        beaten = lowest < (1.0 - self._beat_by) * error[:, :, 0]
        return np.where(beaten & (self._scored[rows] >= self._min_scored), best, 0)

    def state(self, row: int) -> dict[str, object]:
        return {"error": self._error[row].tolist(), "scored": self._scored[row].tolist()}

    def restore(self, row: int, state: dict[str, object]) -> None:
        error = np.array(state["error"], dtype=np.float64)
        if error.shape == self._error.shape[1:]:  # else the models are others now: start anew
            self._error[row] = error
            self._scored[row] = np.array(state["scored"], dtype=np.int64)
