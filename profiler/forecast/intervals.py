"""Conformal intervals: the recent errors of what was spoken say how wrong the next may be."""

from typing import Any

import numpy as np

from profiler.forecast.port import FloatArray, IntArray

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
"""Quantiles of the predictive distribution."""
I95, I80 = (1, 13), (3, 11)
"""Where the bounds of the two intervals stand in LEVELS."""
_NORMAL = (-2.33, -1.96, -1.64, -1.28, -0.84, -0.52, -0.25, 0.0,
           0.25, 0.52, 0.84, 1.28, 1.64, 1.96, 2.33)  # fmt: skip
_COVERED = np.array([0.8, 0.95])
UNIT_MAX = 100.0


class Intervals:
    """Split conformal prediction on the signed errors of each row and horizon, made adaptive.

    An error is divided by a scale first: the running mean error of the target's phase in the
    season, so that nights are narrower than mornings. The last `window` scaled errors of each
    horizon give the quantiles. The tail asked for moves by `rate` x (misses − nominal), so coverage
    holds under drift (adaptive conformal inference: Gibbs and Candès, 2021). A new row starts with
    wide normal errors, which real ones replace.
    """

    def __init__(
        self, horizons: IntArray, phases: int, *, window: int = 256, rate: float = 0.01
    ) -> None:
        self._horizons, self._phases, self._window, self._rate = horizons, phases, window, rate
        size = len(horizons)
        self._units = np.zeros((0, size, window), dtype=np.float32)
        self._held: IntArray = np.zeros((0, size), dtype=np.int64)
        self._miss: FloatArray = np.zeros((0, size, 2))
        self._scale: FloatArray = np.zeros((0, phases))
        self._seen: FloatArray = np.zeros((0, phases))
        self._overall: FloatArray = np.zeros(0)

    def grow(self, rows: int) -> None:
        old = len(self._units)
        for name in ("_units", "_held", "_miss", "_scale", "_seen", "_overall"):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        for row in range(old, rows):
            self.clear(row)

    def clear(self, row: int) -> None:
        self._units[row] = np.nan
        self._units[row, :, : len(_NORMAL)] = np.array(_NORMAL) * 2.0
        self._held[row] = len(_NORMAL)
        self._miss[row] = 1.0 - _COVERED
        self._scale[row] = self._seen[row] = self._overall[row] = 0.0

    def copy(self, parent: int, child: int, share: float) -> None:
        self._units[child] = self._units[parent]
        self._held[child], self._miss[child] = self._held[parent], self._miss[parent]
        self._seen[child] = self._seen[parent]
        # Errors of parts add up like independent ones: they shrink with the root of the share.
        self._scale[child] = self._scale[parent] * share**0.5
        self._overall[child] = self._overall[parent] * share**0.5

    def scale(self, rows: IntArray, slots: IntArray, mean: FloatArray) -> FloatArray:
        """The unit of an error for each target, shape (rows, steps); never 0."""
        phase = slots % self._phases
        of_phase = self._scale[rows[:, None], phase]
        seen = self._seen[rows[:, None], phase]
        overall = self._overall[rows][:, None]
        blind = np.where(overall > 0, overall, 0.3 * mean + np.sqrt(mean) + 1e-6)
        part = 0.85 * seen / (seen + 2.0)
        return np.maximum(part * of_phase + (1.0 - part) * blind, 1e-6 + 1e-3 * mean)

    def learn(
        self,
        rows: IntArray,
        slots: IntArray,
        actual: FloatArray,
        mean: FloatArray,
        scale: FloatArray,
        bounds: FloatArray,
    ) -> None:
        """What came of predictions due now, NaN in `mean` where none was.

        `slots` and `actual` are (rows,), `mean` and `scale` (rows, horizons), `bounds` the two
        intervals that were said, (rows, horizons, 4) as lower80, upper80, lower95, upper95.
        """
        due = ~np.isnan(mean)
        error = np.where(due, actual[:, None] - mean, 0.0)
        unit = np.clip(error / np.where(due, scale, 1.0), -UNIT_MAX, UNIT_MAX)
        row, horizon = np.nonzero(due)
        at = self._held[rows[row], horizon]
        self._units[rows[row], horizon, at % self._window] = unit[row, horizon]
        self._held[rows[row], horizon] = at + 1
        y = actual[:, None]
        miss = np.stack([(y < bounds[:, :, i]) | (y > bounds[:, :, i + 1]) for i in (0, 2)], axis=2)
        step = self._rate * np.array([1.0, 0.5]) * ((1.0 - _COVERED) - miss)
        moved = np.clip(self._miss[rows] + step, [0.02, 0.004], [0.5, 0.2])
        self._miss[rows] = np.where(due[:, :, None], moved, self._miss[rows])
        self._learn_scale(rows, slots % self._phases, error, np.sum(due, axis=1))

    def quantiles(self, rows: IntArray) -> FloatArray:
        """Scaled errors at LEVELS for each horizon, shape (rows, horizons, levels), ascending."""
        ordered = np.sort(self._units[rows], axis=2)  # NaN goes last
        n = np.minimum(self._held[rows], self._window)[:, :, None]
        levels = np.broadcast_to(LEVELS, (*n.shape[:2], len(LEVELS))).copy()
        for k, (lo, hi) in enumerate((I80, I95)):
            levels[:, :, lo] = self._miss[rows][:, :, k] / 2.0
            levels[:, :, hi] = 1.0 - levels[:, :, lo]
        # (n + 1) q - 1: the finite-sample rank of conformal prediction, between ranks linear.
        rank = np.clip((n + 1) * levels - 1.0, 0.0, n - 1.0)
        low = rank.astype(np.int64)
        high = np.minimum(low + 1, n - 1)
        a = np.take_along_axis(ordered, low, axis=2)
        b = np.take_along_axis(ordered, high, axis=2)
        found: FloatArray = a + (rank - low) * (b - a)
        return np.sort(found, axis=2)  # a moved bound may have passed a neighbour

    def state(self, row: int) -> dict[str, Any]:
        n = np.minimum(self._held[row], self._window)
        return {
            "units": [self._units[row, i, :k].tolist() for i, k in enumerate(n.tolist())],
            "miss": self._miss[row].tolist(),
            "scale": self._scale[row].tolist(),
            "seen": self._seen[row].tolist(),
            "overall": float(self._overall[row]),
        }

    def restore(self, row: int, state: dict[str, Any]) -> None:
        if len(state["units"]) != len(self._horizons) or len(state["scale"]) != self._phases:
            return  # made with other horizons or seasons: start anew
        for i, units in enumerate(state["units"]):
            self._units[row, i] = np.nan
            self._units[row, i, : len(units)] = units[: self._window]
            self._held[row, i] = min(len(units), self._window)
        self._miss[row], self._scale[row] = state["miss"], state["scale"]
        self._seen[row], self._overall[row] = state["seen"], state["overall"]

    def _learn_scale(
        self, rows: IntArray, phase: IntArray, error: FloatArray, due: IntArray
    ) -> None:
        any_due = due > 0
        size = np.abs(error).sum(axis=1) / np.maximum(due, 1)
        seen = self._seen[rows, phase]
        held = self._scale[rows, phase]
        # Errors over 8 x the mean are clipped: an outage must not widen its hour for weeks.
        overall = self._overall[rows]
        size = np.where(overall > 0, np.minimum(size, 8.0 * np.maximum(overall, held)), size)
        rate = np.maximum(1.0 / (seen + 1.0), 0.1)
        self._scale[rows, phase] = np.where(any_due, held + rate * (size - held), held)
        self._seen[rows, phase] = seen + any_due
        total = self._seen[rows].sum(axis=1)
        rate = np.maximum(1.0 / np.maximum(total, 1.0), 1.0 / (4.0 * max(self._phases, 24)))
        self._overall[rows] = np.where(any_due, overall + rate * (size - overall), overall)
