"""Quantiles around a forecast from its own recent errors, with coverage that holds under drift."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.forecast.port import BoolArray, FloatArray, IntArray

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
"""Quantiles of the predictive distribution."""
I95, I80 = (1, 13), (3, 11)
"""Positions of the bounds of the two intervals in LEVELS."""
NORMAL = np.array((-2.33, -1.96, -1.64, -1.28, -0.84, -0.52, -0.25, 0.0,
                   0.25, 0.52, 0.84, 1.28, 1.64, 1.96, 2.33))  # fmt: skip
"""The standard normal distribution at LEVELS."""
_COVERED = np.array([0.8, 0.95])
_TAIL = np.abs(2.0 * np.array(LEVELS) - 1.0)
OUTER = np.clip((_TAIL - 0.8) / 0.15, 0.0, 1.0)
"""How much of the 95 % factor (relative to that of 80 %) each level takes."""
UNIT_MAX = 100.0
BUCKETS_MAX = 48
"""Parts of the season (the day) with a scale of their own."""
FACTOR_MAX = 20.0
REFRESH_SLOTS = 4
"""The error quantiles are computed again after this many errors: sorting costs most."""
EDGE = 0.02
"""Share of the scale that is added to each distance before stretching: a width of 0 would stay."""
SURE = 0.02
"""Share of the mean error: a narrower interval is an atom (a run of zeros), and hits of
atoms must not make the rest of the day's intervals narrower."""
SIDE = np.sign(np.array(LEVELS) - 0.5)
_MEDIAN = LEVELS.index(0.5)
_REACH = np.abs(NORMAL) / NORMAL[I80[1]]
"""How far each level lies from the median, in normal distances from it to a bound of 80 %."""


class Intervals:
    """Split conformal prediction on the signed errors of each row and horizon, made adaptive.

    An error is first divided by a scale: the running mean error at the target's time of day, times
    the variation of the last slots. The last `window` scaled errors of each horizon give the
    quantiles. The bounds are then stretched by a factor that rises with each miss and falls with
    each hit, so coverage holds under drift (adaptive conformal inference: Gibbs and Candès, 2021,
    on the size of the interval instead of its level, so that it cannot run out of errors). Each
    time of day has a factor of its own that does most of it, so that nights and mornings are
    covered alike: after n slots its coverage is off by at most (log of the factor) / (rate x n).
    One for each horizon moves slowly. A new row starts with wide normal errors, which real ones
    replace.
    """

    def __init__(
        self,
        horizons: IntArray,
        phases: int,
        *,
        window: int = 256,
        rate: float = 0.005,
        bucket_rate: float = 0.12,
        storm: float = 0.6,
        storm_slots: float = 4.0,
        scale_days: float = 28.0,
        floor: float = 0.1,
    ) -> None:
        self._horizons, self._phases, self._window = horizons, phases, window
        self._rate, self._bucket_rate = rate, bucket_rate
        self._storm_power, self._storm_rate = storm, 1.0 / storm_slots
        self._buckets = min(phases, BUCKETS_MAX)
        self._scale_rate = 1.0 / (scale_days * max(1.0, phases / self._buckets))
        self._floor = floor
        size = len(horizons)
        self._units = np.zeros((0, size, window), dtype=np.float32)
        self._held: IntArray = np.zeros((0, size), dtype=np.int64)
        self._stretch: FloatArray = np.zeros((0, size, 2))
        self._by_bucket: FloatArray = np.zeros((0, size, self._buckets, 2))
        self._scale: FloatArray = np.zeros((0, size, self._buckets))
        self._seen: FloatArray = np.zeros((0, size, self._buckets))
        self._levels: FloatArray = np.zeros((0, size, len(LEVELS)))
        # The mean error over all times of day, and the recent mean scaled error.
        self._overall: FloatArray = np.zeros((0, size, 2))

    def grow(self, rows: int) -> None:
        old = len(self._units)
        for name in (
            "_units",
            "_held",
            "_stretch",
            "_by_bucket",
            "_scale",
            "_seen",
            "_overall",
            "_levels",
        ):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        for row in range(old, rows):
            self.clear(row)

    def clear(self, row: int) -> None:
        self._units[row] = np.nan
        self._units[row, :, : len(NORMAL)] = NORMAL * 2.0
        self._held[row] = len(NORMAL)
        self._stretch[row] = self._by_bucket[row] = 0.0
        self._scale[row] = self._seen[row] = 0.0
        self._overall[row] = 0.0, 1.0
        self._levels[row] = self._drawn(self._units[row], self._held[row])

    def copy(self, parent: int, child: int, share: float) -> None:
        for held in (
            self._units,
            self._held,
            self._stretch,
            self._by_bucket,
            self._seen,
            self._levels,
        ):
            held[child] = held[parent]
        # Errors of parts add up like independent ones: they scale with the root of the share.
        self._scale[child] = self._scale[parent] * share  # squares
        self._overall[child] = self._overall[parent] * (share**0.5, 1.0)

    def widen(self, row: int, factor: float) -> None:
        """Scale the errors of the row by `factor`."""
        self._scale[row] *= factor * factor
        self._overall[row, :, 0] *= factor

    def scale(self, rows: IntArray, slots: IntArray, mean: FloatArray, at: IntArray) -> FloatArray:
        """The unit of an error for each target, shape (rows, steps); never 0.

        `slots` and `mean` are (rows, steps), `at` the horizon of each step.
        """
        where = (rows[:, None], at, self._bucket(slots))
        of_bucket, seen = np.sqrt(self._scale[where]), self._seen[where]
        overall, storm = np.moveaxis(self._overall[rows[:, None], at], 2, 0)
        blind = np.where(overall > 0, overall, 0.3 * mean + np.sqrt(mean) + 1e-6)
        part = (1.0 - self._floor) * seen / (seen + 2.0)
        calm = part * of_bucket + (1.0 - part) * blind
        found = calm * np.clip(storm, 0.1, 10.0) ** self._storm_power
        return np.asarray(np.maximum(found, 1e-6 + 1e-3 * mean))

    def learn(
        self,
        rows: IntArray,
        slots: IntArray,
        actual: FloatArray,
        mean: FloatArray,
        scale: FloatArray,
        bounds: FloatArray,
    ) -> None:
        """Outcomes of predictions that are due now, NaN in `mean` where there was none.

        `slots` and `actual` are (rows,), `mean` and `scale` (rows, horizons), `bounds` the two
        forecast intervals, (rows, horizons, 4) as lower80, upper80, lower95, upper95.
        """
        due = ~np.isnan(mean)
        error = np.where(due, actual[:, None] - mean, 0.0)
        unit = np.clip(error / np.where(due, scale, 1.0), -UNIT_MAX, UNIT_MAX)
        row, horizon = np.nonzero(due)
        at = self._held[rows[row], horizon]
        self._units[rows[row], horizon, at % self._window] = unit[row, horizon]
        self._held[rows[row], horizon] = at + 1
        self._draw(rows)
        y = actual[:, None]
        miss = np.stack([(y < bounds[:, :, i]) | (y > bounds[:, :, i + 1]) for i in (0, 2)], axis=2)
        over = np.where(due[:, :, None], miss - (1.0 - _COVERED), 0.0)
        limit = np.log(FACTOR_MAX)
        unsure = (bounds[:, :, 1] - bounds[:, :, 0]) > SURE * self._overall[rows, :, 0]
        moved = self._stretch[rows] + self._rate * np.where(unsure[:, :, None], over, 0.0)
        self._stretch[rows] = np.clip(moved, -limit, limit)
        bucket = self._bucket(slots)
        moved = self._by_bucket[rows, :, bucket] + self._bucket_rate * over
        self._by_bucket[rows, :, bucket] = np.clip(moved, -limit, limit)
        self._learn_scale(rows, bucket, error, due)

    def usual_error(self, rows: IntArray) -> FloatArray:
        """The mean error of the first horizon over all times of day, (rows,)."""
        found: FloatArray = self._overall[rows, 0, 0]
        return found

    def units(self, rows: IntArray) -> FloatArray:
        """Scaled errors at LEVELS for each horizon, shape (rows, horizons, levels), ascending."""
        found: FloatArray = self._levels[rows]
        return found

    def stretched(
        self,
        rows: IntArray,
        slots: IntArray,
        at: IntArray,
        quantiles: FloatArray,
        scale: FloatArray,
    ) -> FloatArray:
        """`quantiles` (rows, steps, levels) with their distances from the median stretched.

        `slots`, `at` and `scale` as in `scale`. Never below 0, ascending.
        """
        log = self._by_bucket[rows[:, None], at, self._bucket(slots)] + self._stretch[rows][:, at]
        factor = np.exp(log[:, :, :1] + (log[:, :, 1:] - log[:, :, :1]) * OUTER)
        median = quantiles[:, :, _MEDIAN : _MEDIAN + 1]
        away = quantiles - median + (EDGE * SIDE) * scale[:, :, None]
        return np.sort(np.maximum(median + away * factor, 0.0), axis=2)

    def state(self, row: int) -> dict[str, Any]:
        n = np.minimum(self._held[row], self._window)
        return {
            "units": [self._units[row, i, :k].tolist() for i, k in enumerate(n.tolist())],
            "stretch": self._stretch[row].tolist(),
            "by_bucket": self._by_bucket[row].tolist(),
            "scale": self._scale[row].tolist(),
            "seen": self._seen[row].tolist(),
            "overall": self._overall[row].tolist(),
        }

    def restore(self, row: int, state: dict[str, Any]) -> None:
        if np.shape(state["scale"]) != self._scale.shape[1:]:
            return  # made with other horizons or seasons: start again
        for i, units in enumerate(state["units"]):
            self._units[row, i] = np.nan
            self._units[row, i, : len(units)] = units[: self._window]
            self._held[row, i] = min(len(units), self._window)
        self._stretch[row], self._by_bucket[row] = state["stretch"], state["by_bucket"]
        self._scale[row], self._seen[row] = state["scale"], state["seen"]
        self._overall[row] = state["overall"]
        self._levels[row] = self._drawn(self._units[row], self._held[row])

    def _bucket(self, slots: IntArray) -> IntArray:
        found: IntArray = slots % self._phases * self._buckets // self._phases
        return found

    def _learn_scale(
        self, rows: IntArray, bucket: IntArray, error: FloatArray, due: BoolArray
    ) -> None:
        size = np.abs(error)
        seen, held = self._seen[rows, :, bucket], self._scale[rows, :, bucket]
        held_unit = np.sqrt(held)
        overall, storm = np.moveaxis(self._overall[rows], 2, 0)
        # Errors over 8 x the mean are clipped: an outage must not widen its hour for weeks.
        size = np.where(overall > 0, np.minimum(size, 8.0 * np.maximum(overall, held_unit)), size)
        usual = np.where(seen > 0, np.maximum(held_unit, self._floor * overall), overall)
        now = np.where(usual > 0, np.minimum(size / np.where(usual > 0, usual, 1.0), 10.0), 1.0)
        rate = np.maximum(1.0 / (seen + 1.0), self._scale_rate)
        self._scale[rows, :, bucket] = np.where(due, held + rate * (size * size - held), held)
        self._seen[rows, :, bucket] = seen + due
        total = self._seen[rows].sum(axis=2)
        rate = np.maximum(1.0 / np.maximum(total, 1.0), 1.0 / (4.0 * max(self._phases, 24)))
        self._overall[rows, :, 0] = np.where(due, overall + rate * (size - overall), overall)
        self._overall[rows, :, 1] = np.where(due, storm + self._storm_rate * (now - storm), storm)

    def _draw(self, rows: IntArray) -> None:
        """Compute the error quantiles again: rows take turns, rows with few errors come always."""
        held = self._held[rows].max(axis=1)
        turn = rows[(held < 8 * REFRESH_SLOTS) | ((held + rows) % REFRESH_SLOTS == 0)]
        if len(turn):
            self._levels[turn] = self._drawn(self._units[turn], self._held[turn])

    def _drawn(self, units: NDArray[np.float32], held: IntArray) -> FloatArray:
        """Quantiles at LEVELS along the last axis of `units`, NaN beyond the known ones.

        (n + 1) q - 1: the finite-sample rank of conformal prediction, linear between ranks.
        """
        n = np.minimum(held, self._window)[..., None]
        return at_rank(np.sort(units, axis=-1), (n + 1) * np.array(LEVELS) - 1.0, n)


def incoherent(quantiles: FloatArray, mean: FloatArray) -> BoolArray:
    """Where `mean` (rows, steps) is outside the 80 % interval of `quantiles`."""
    return (mean < quantiles[:, :, I80[0]]) | (mean > quantiles[:, :, I80[1]])


def coherent(quantiles: FloatArray, own: FloatArray, mean: FloatArray) -> FloatArray:
    """`quantiles` that agree with the mean: it lies within the 80 % interval.

    All of (rows, steps, levels), `mean` (rows, steps). Where the mean is outside, the used model
    disagrees with the distributions of past values, and either may be right (the first
    slot of a step looks like a spike): the distribution then spans both, with the
    model's median. `own` are the quantiles around the mean itself. If they do not reach it either
    (it is the mean of rare spikes), the short side is extended to it, like a normal tail.
    Ascending, never below 0, unchanged where the mean is inside.
    """
    off = incoherent(quantiles, mean)[:, :, None]
    hull = np.where(
        SIDE > 0,
        np.maximum(quantiles, own),
        np.where(SIDE < 0, np.minimum(quantiles, own), own),
    )
    found = np.where(off, hull, quantiles)
    aim = mean[:, :, None]
    median = found[:, :, _MEDIAN : _MEDIAN + 1]
    drawn = median + (aim - median) * _REACH
    high = (aim > found[:, :, I80[1] : I80[1] + 1]) & (SIDE > 0)
    low = (aim < found[:, :, I80[0] : I80[0] + 1]) & (SIDE < 0)
    found = np.where(high, np.maximum(found, drawn), np.where(low, np.minimum(found, drawn), found))
    # Rounding must not move the bound past the mean that it was extended to.
    found[:, :, I80[1] :] = np.where(off, np.maximum(found[:, :, I80[1] :], aim),
                                     found[:, :, I80[1] :])  # fmt: skip
    found[:, :, : I80[0] + 1] = np.where(off, np.minimum(found[:, :, : I80[0] + 1], aim),
                                         found[:, :, : I80[0] + 1])  # fmt: skip
    return np.maximum(found, 0.0)


def at_rank(ordered: NDArray[Any], rank: FloatArray, n: IntArray) -> FloatArray:
    """Values at fractional ranks (0 = least) along the last axis, of which `n` count."""
    last = np.maximum(n - 1, 0)
    rank = np.clip(rank, 0.0, last)
    low = rank.astype(np.int64)
    a = np.take_along_axis(ordered, low, axis=-1)
    b = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=-1)
    found: FloatArray = a + (rank - low) * (b - a)
    return found
