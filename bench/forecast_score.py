"""Scores of forecasts that were made before their slots; formulas with their sources."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.series import FloatArray, IntArray
from profiler.forecast.intervals import I80, I95, LEVELS

ATOM_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ForecastPair:
    """One model at one horizon by target slot: actual values, forecast mean and quantiles.

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


def quantile_metrics(pair: ForecastPair) -> dict[str, float]:
    """WAPE (Kolassa and Schütz, 2007), mean pinball loss over LEVELS, Winkler's interval score
    (Winkler, 1972; Gneiting and Raftery, 2007), coverage, mean width; n slots.

    Pinball, Winkler and width are divided by the mean actual value, so that series compare.
    `_free` leaves out the hours of atoms (`_atoms`). All of them leave out the slots before the
    first intervals; `n` counts the rest.
    """
    usable = ~(np.isnan(pair.actual) | np.isnan(pair.mean) | np.isnan(pair.quantiles).any(axis=1))
    usable[: pair.warm] = False
    y, mean, quantiles = pair.actual[usable], pair.mean[usable], pair.quantiles[usable]
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
        hours = pair.hours[usable]
        hourly, atoms = _by_hour(inside, hours), _atoms(y, hours)
        free = ~np.isin(hours, atoms)
        if free.any():
            found[f"coverage{name}_free"] = float(inside[free].mean())
        if len(hourly):
            found[f"coverage{name}_hour_min"] = min(hourly.values())
            found[f"coverage{name}_hour_max"] = max(hourly.values())
            found[f"coverage{name}_hour_max_free"] = max(
                (share for hour, share in hourly.items() if hour not in atoms), default=0.8
            )
    return {key: round(value, 6) if key != "n" else value for key, value in found.items()}


def _by_hour(inside: npt.NDArray[np.bool_], hours: IntArray) -> dict[int, float]:
    """Coverage in each hour of the day with at least 50 slots."""
    found = {}
    for hour in range(24):
        at = inside[hours == hour]
        if len(at) >= 50:
            found[hour] = float(at.mean())
    return found


def _atoms(actual: FloatArray, hours: IntArray) -> list[int]:
    """Hours of the day in which most values are equal (nights of zeros).

    No interval around such a value can cover 80 %: it contains the value or does not.
    """
    found = []
    for hour in range(24):
        at = actual[hours == hour]
        if len(at) and np.unique(at, return_counts=True)[1].max() > ATOM_SHARE * len(at):
            found.append(hour)
    return found
