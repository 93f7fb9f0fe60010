"""Uncertainty after a change point: what the errors of before say no longer counts."""

from typing import Any

import numpy as np

from profiler.forecast.intervals import NORMAL, SIDE
from profiler.forecast.port import FloatArray, IntArray

REACH = 1.0
"""A value further outside its 95 % interval than this many of its widths is a change point …"""
USUAL_ERRORS = 6.0
"""… if it is also further outside than this many mean errors of all times of day."""
HASTY_SLOTS = 6
"""So many first errors after a change weigh half each: the jump itself is soon forgotten."""
YOUNG_SLOTS = 96
"""Errors of a horizon after which the errors of all time count alone again."""


class ChangePoint:
    """The deviation of each row and horizon, learned anew from its last change point on.

    It starts at the size of the jump: of what follows, no more is known than that such jumps
    happen, back as well as on. Only errors of forecasts that were made after the change move it.
    For `YOUNG_SLOTS` of them a normal distribution of this deviation (of half of them on: of a
    falling part of it) around the mean is the narrowest that is forecast.
    """

    def __init__(self, horizons: IntArray) -> None:
        self._horizons = horizons
        self._slot: IntArray = np.zeros(0, dtype=np.int64)
        """Slot of the last change point of each row."""
        self._square: FloatArray = np.zeros((0, len(horizons)))
        self._seen: IntArray = np.zeros((0, len(horizons)), dtype=np.int64)

    def grow(self, rows: int) -> None:
        more = rows - len(self._slot)
        size = len(self._horizons)
        self._slot = np.concatenate([self._slot, np.zeros(more, dtype=np.int64)])
        self._square = np.concatenate([self._square, np.zeros((more, size))])
        self._seen = np.concatenate([self._seen, np.full((more, size), YOUNG_SLOTS)])

    def clear(self, row: int) -> None:
        self._square[row] = self._slot[row] = 0
        self._seen[row] = YOUNG_SLOTS

    def copy(self, parent: int, child: int, share: float) -> None:
        self._slot[child], self._seen[child] = self._slot[parent], self._seen[parent]
        self._square[child] = self._square[parent] * share * share

    def learn(
        self,
        rows: IntArray,
        slots: IntArray,
        actual: FloatArray,
        mean: FloatArray,
        bounds: FloatArray,
        usual: FloatArray,
    ) -> None:
        """Outcomes of forecasts that are due now; shapes as in `Intervals.learn`.

        `usual` (rows,): the mean error of the first horizon.
        """
        due = ~np.isnan(mean)
        error = np.where(due, actual[:, None] - mean, 0.0)
        after = due & (slots[:, None] - self._horizons >= self._slot[rows][:, None])
        young = after & (self._seen[rows] < YOUNG_SLOTS)
        if young.any():
            held, seen = self._square[rows], self._seen[rows]
            rate = 1.0 / np.maximum(2.0, seen - HASTY_SLOTS + 3.0)
            self._square[rows] = np.where(young, held + rate * (error * error - held), held)
            self._seen[rows] += young
        low, high = bounds[:, 0, 2], bounds[:, 0, 3]
        outside = np.maximum(low - actual, actual - high)
        found = due[:, 0] & (outside > np.maximum(REACH * (high - low), USUAL_ERRORS * usual))
        if found.any():
            at = rows[found]
            jump = error[found, :1] ** 2
            self._square[at] = np.maximum(np.where(self._seen[at] < YOUNG_SLOTS,
                                                   self._square[at], 0.0), jump)  # fmt: skip
            self._slot[at], self._seen[at] = slots[found], 0

    def widened(
        self, rows: IntArray, at: IntArray, quantiles: FloatArray, mean: FloatArray
    ) -> FloatArray:
        """`quantiles` (rows, steps, levels), none nearer to `mean` (rows, steps) than what is
        known since the change point; `at` is the horizon of each step. The median stays."""
        seen = self._seen[rows]
        young = (seen < YOUNG_SLOTS).any(axis=1)
        if not young.any():
            return quantiles
        rows, near = rows[young], quantiles[young]
        left = np.clip(2.0 * (1.0 - seen[young] / YOUNG_SLOTS), 0.0, 1.0)
        deviation = (np.sqrt(self._square[rows]) * left)[:, at]
        wide = np.maximum(mean[young][:, :, None] + deviation[:, :, None] * NORMAL, 0.0)
        near = np.where(SIDE > 0, np.maximum(near, wide), near)
        found = quantiles.copy()
        found[young] = np.where(SIDE < 0, np.minimum(near, wide), near)
        return found

    def state(self, row: int) -> dict[str, Any]:
        return {
            "slot": int(self._slot[row]),
            "square": self._square[row].tolist(),
            "seen": self._seen[row].tolist(),
        }

    def restore(self, row: int, state: dict[str, Any]) -> None:
        if len(state["seen"]) == len(self._horizons):  # else made with other horizons
            self._slot[row] = state["slot"]
            self._square[row], self._seen[row] = state["square"], state["seen"]
