"""Which model is used: recent errors per row and horizon, the ensemble, and the choice."""

import numpy as np

from profiler.forecast.port import FloatArray, IntArray

BLEND = "ensemble"
BIAS_MAX = 2.0
"""The ensemble is moved by at most this many of its mean errors towards the median."""


class Selector:
    """Keeps the recent errors of `models` named models and makes the ensemble, which is one more.

    Errors fade over a short and a long memory: the short one follows changes, the long one does not
    chase noise. The ensemble's weights are (short x long error) ** -`sharpness`/2, so it is nearly
    the best model where one is clearly best and an average of the good ones elsewhere (the average
    is then better than each; Timmermann, Forecast Combinations, 2006). Loads are skewed, so the
    mean is not the median: the blend is moved towards the median by a running count of its signs,
    by as much as that has recently lowered the error.

    Model 0 must be last value: the ensemble is used only while its long error is lower than that of
    model 0 by `beat_by`, so a forecast that does not beat last value is not used.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        horizons: IntArray,
        *,
        short_slots: float = 40.0,
        long_slots: float = 300.0,
        sharpness: float = 12.0,
        beat_by: float = 0.005,
        min_scored: int = 12,
    ) -> None:
        self.names = (*models, BLEND)
        self._horizons = horizons
        self._rates = np.array([1.0 / short_slots, 1.0 / long_slots])
        self._sharpness, self._beat_by, self._min_scored = sharpness, beat_by, min_scored
        # Columns: the models, the blend, the blend moved to the median, the ensemble of both.
        self._error: FloatArray = np.zeros((0, 2, len(horizons), len(models) + 3))
        self._bias: FloatArray = np.zeros((0, len(horizons)))
        self._scored: IntArray = np.zeros((0, len(horizons)), dtype=np.int64)

    @property
    def columns(self) -> int:
        """Number of means from `combine`: the models, the blend, the moved blend, the ensemble."""
        return int(self._error.shape[3])

    def grow(self, rows: int) -> None:
        for name in ("_error", "_bias", "_scored"):
            held = getattr(self, name)
            more = np.zeros((rows - len(held), *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))

    def clear(self, row: int) -> None:
        self._error[row] = self._bias[row] = 0.0
        self._scored[row] = 0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._error[child] = self._error[parent] * share
        self._bias[child] = self._bias[parent]
        self._scored[child] = self._scored[parent]

    def learn(self, rows: IntArray, errors: FloatArray) -> None:
        """Actual minus forecast, shape (rows, horizons, columns); NaN where none was due."""
        due = ~np.isnan(errors[:, :, 0])
        scored = self._scored[rows] + due
        rate = np.maximum(self._rates[:, None], 1.0 / np.maximum(scored, 1)[:, None, :])
        held = self._error[rows]
        size = np.where(due[:, :, None], np.abs(errors), 0.0)[:, None]
        rate = np.where(due[:, None], rate, 0.0)[:, :, :, None]
        self._error[rows] = held + rate * (size - held)
        self._scored[rows] = scored
        step = np.maximum(0.01, 0.5 / np.maximum(scored, 1)) * np.sign(errors[:, :, -2])
        moved = np.clip(self._bias[rows] + step, -BIAS_MAX, BIAS_MAX)
        self._bias[rows] = np.where(due, moved, self._bias[rows])

    def combine(
        self, rows: IntArray, said: FloatArray, at: IntArray, below: IntArray
    ) -> FloatArray:
        """`said` (rows, steps, models) with three columns more; `at` is the horizon of each step,
        `below` the one before it where the step is between two (else the same).

        The columns: the blend, the blend moved to the median, and the ensemble of these two. A
        model that is good at only one of the two horizons is not used between them: last value
        is perfect a whole season ahead, and at no horizon before.
        """
        error = self._error[rows]
        if not np.array_equal(at, np.arange(len(self._horizons))):
            error = np.maximum(error[:, :, at], error[:, :, below])
        bias = self._bias[rows][:, at]
        models = said.shape[2]
        blend = (self._weights(error[:, :, :, :models]) * said).sum(axis=2)
        moved = np.maximum(blend + bias * error[:, 1, :, models], 0.0)
        two = self._weights(error[:, :, :, models : models + 2])
        ensemble = two[:, :, 0] * blend + two[:, :, 1] * moved
        return np.concatenate([said, np.stack([blend, moved, ensemble], axis=2)], axis=2)

    def speaker(self, rows: IntArray) -> IntArray:
        """The index into `names` of the model used at each horizon, shape (rows, horizons)."""
        error = self._error[rows, 1]
        beaten = error[:, :, -1] < (1.0 - self._beat_by) * error[:, :, 0]
        speaks = beaten & (self._scored[rows] >= self._min_scored)
        return np.where(speaks, len(self.names) - 1, 0)

    def shares(self, row: int) -> dict[str, float]:
        """The weight of each model in the forecast of the first horizon; they sum to 1."""
        if not self.speaker(np.array([row]))[0, 0]:
            return {self.names[0]: 1.0}
        models = len(self.names) - 1
        weights = self._weights(self._error[[row]][:, :, :1, :models])[0, 0].tolist()
        return dict(zip(self.names, weights, strict=False))

    def usual_error(self, rows: IntArray) -> FloatArray:
        """The recent mean absolute error of all columns, shape (rows, horizons, columns)."""
        return np.asarray(self._error[rows, 1])

    def state(self, row: int) -> dict[str, object]:
        return {
            "error": self._error[row].tolist(),
            "bias": self._bias[row].tolist(),
            "scored": self._scored[row].tolist(),
        }

    def restore(self, row: int, state: dict[str, object]) -> None:
        error = np.array(state["error"], dtype=np.float64)
        if error.shape == self._error.shape[1:]:  # other models than now: start again
            self._error[row] = error
            self._bias[row] = np.array(state["bias"], dtype=np.float64)
            self._scored[row] = np.array(state["scored"], dtype=np.int64)

    def _weights(self, error: FloatArray) -> FloatArray:
        """Weights that sum to 1 along the last axis, from errors (rows, 2, steps, models)."""
        product = error[:, 0] * error[:, 1]
        best = product.min(axis=2, keepdims=True)
        floor = 1e-6 * product.max(axis=2, keepdims=True) + 1e-24
        weight = ((best + floor) / (product + floor)) ** (self._sharpness / 2.0)
        found: FloatArray = weight / weight.sum(axis=2, keepdims=True)
        return found
