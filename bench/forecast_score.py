"""Scores of forecasts that were made in time; formulas with their sources."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.series import FloatArray, IntArray
from profiler.forecast.intervals import I80, I95, LEVELS


@dataclass(frozen=True, slots=True)
class Told:
    """One model at one horizon by target slot: what came, the mean and quantiles said for it.

    `hours` is the hour of day of each slot (-1 where slots are as long as that), `warm` the first
    slot that is scored.
    """

    actual: FloatArray
    mean: FloatArray
    quantiles: FloatArray
    hours: IntArray
    warm: int


def hours_of(first_slot: int, slots: int, slot_s: float) -> IntArray:
    at = (first_slot + np.arange(slots)) * slot_s
    hours = (at // 3600 % 24).astype(np.int64)
    return hours if slot_s <= 3600 else np.full(slots, -1)


def quantile_metrics(told: Told) -> dict[str, float]:
    """WAPE (Kolassa and Schütz, 2007), mean pinball loss over LEVELS, Winkler's interval score
    (Winkler, 1972; Gneiting and Raftery, 2007), coverage, mean width; n slots.

    Pinball, Winkler and width are divided by the mean of what came, so that series compare. The
    slots without intervals yet are left out of all of them, `n` counts the rest.
    """
    usable = ~(np.isnan(told.actual) | np.isnan(told.mean) | np.isnan(told.quantiles).any(axis=1))
    usable[: told.warm] = False
    y, mean, quantiles = told.actual[usable], told.mean[usable], told.quantiles[usable]
    n, total = len(y), float(y.sum())
    if n == 0 or total <= 0:
        return {"n": n}
    unit = total / n
    levels = np.array(LEVELS)
    gap = y[:, None] - quantiles
    found = {
        "n": n,
        "wape": float(np.abs(y - mean).sum() / total),
        "pinball": float(np.maximum(levels * gap, (levels - 1.0) * gap).mean() / unit),
    }
    for name, (low, high), miss in (("80", I80, 0.2), ("95", I95, 0.05)):
        lower, upper = quantiles[:, low], quantiles[:, high]
        outside = np.maximum(lower - y, 0.0) + np.maximum(y - upper, 0.0)
        inside = (y >= lower) & (y <= upper)
        found[f"winkler{name}"] = float((upper - lower + 2.0 / miss * outside).mean() / unit)
        found[f"coverage{name}"] = float(inside.mean())
        found[f"width{name}"] = float((upper - lower).mean() / unit)
        hourly = _by_hour(inside, told.hours[usable])
        if len(hourly):
            found[f"coverage{name}_hour_min"] = float(hourly.min())
            found[f"coverage{name}_hour_max"] = float(hourly.max())
    return {key: round(value, 6) if key != "n" else value for key, value in found.items()}


def _by_hour(inside: npt.NDArray[np.bool_], hours: IntArray) -> FloatArray:
    """Coverage in each hour of the day with at least 50 slots."""
    known = hours >= 0
    count = np.bincount(hours[known], minlength=24)
    covered = np.bincount(hours[known], weights=inside[known], minlength=24)
    enough = count >= 50
    return np.asarray(covered[enough] / count[enough])
