"""Where a simulated planner's forecasts come from: learned, true, or without intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from profiler.forecast import ForecastBook, seasons_of
from sharder.risk import Z80, Floats
from sharder.simulate.series import Series

Singles = NDArray[np.float32]
_SCORED = (1, 2, 3, 6, 12, 24, 48, 96)


class Forecasts(Protocol):
    """Mean and sigma of each column, ops per slot, [C, H], for the slots after `slot`."""

    def at(self, slot: int) -> tuple[Floats, Floats]: ...


@dataclass(frozen=True, slots=True)
class Learned:
    """The profiler's forecast after each slot from `first` on; arrays [slots, C, H]."""

    first: int
    mean: Singles
    sigma: Singles

    def at(self, slot: int) -> tuple[Floats, Floats]:
        i = slot - self.first
        if not 0 <= i < len(self.mean):
            raise ValueError(
                f"slot is {slot}, forecasts hold {self.first} to {self.first + len(self.mean) - 1}"
            )
        return self.mean[i].astype(np.float64), self.sigma[i].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Truth:
    """The true future; beyond the series its last slot repeats."""

    series: Series
    horizon: int

    def at(self, slot: int) -> tuple[Floats, Floats]:
        at = np.minimum(slot + 1 + np.arange(self.horizon), len(self.series.loads) - 1)
        mean = self.series.loads[at].T
        return mean, np.zeros_like(mean)


@dataclass(frozen=True, slots=True)
class WithoutIntervals:
    """The means of another source as if they were certain."""

    source: Forecasts

    def at(self, slot: int) -> tuple[Floats, Floats]:
        mean, sigma = self.source.at(slot)
        return mean, np.zeros_like(sigma)


def learn(
    series: Series, first: int, horizon: int, progress: Callable[[int], None] | None = None
) -> Learned:
    """Feed a ForecastBook slot by slot; keep its forecasts after slots `first` to the last one.

    Prequential: a forecast after a slot has seen only slots up to it. `progress` is called with
    each slot. Costs about 0.35 ms per column and slot.
    """
    slots, columns = series.loads.shape
    seasons = seasons_of(series.slot_s) if series.season is not None else ()
    seasons = tuple(s for s in seasons if 2 * s <= max(first, 1))
    steps = tuple(h for h in _SCORED if h <= horizon)
    book = ForecastBook(seasons, horizons=steps)
    mean = np.zeros((slots - first, columns, horizon), dtype=np.float32)
    sigma = np.zeros_like(mean)
    for slot in range(slots):
        book.learn_many(slot, dict(zip(series.names, series.loads[slot].tolist(), strict=True)))
        if slot >= first:
            said = book.forecast_many(series.names, horizon, slot)
            mid = np.array([said[name].mean for name in series.names])
            top = np.array([said[name].upper80 for name in series.names])
            mean[slot - first] = np.maximum(mid, 0.0)
            sigma[slot - first] = np.maximum(top - mid, 0.0) / Z80
        if progress is not None:
            progress(slot)
    return Learned(first, mean, sigma)
