"""All models over many rows at once: score the forecasts that are due, learn, forecast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.forecast.change_point import ChangePoint
from profiler.forecast.history import History
from profiler.forecast.interpolate import between
from profiler.forecast.intervals import LEVELS, Intervals, coherent, incoherent
from profiler.forecast.lag_regression import LagRegression
from profiler.forecast.mixture import BOUNDS, Mixture
from profiler.forecast.port import FloatArray, Forecaster, IntArray, RowKeeper
from profiler.forecast.repair import Repair
from profiler.forecast.seasonal_profile import SeasonalProfile
from profiler.forecast.selector import Selector
from profiler.forecast.short_regression import ShortRegression
from profiler.forecast.simple import LastValue, MovingAverage, SeasonalNaive
from profiler.forecast.smoothing import HoltWinters, Level
from profiler.scoreboard import Scoreboard

SPOKEN = "spoken"
BORROWED_WIDER = 2.0
"""Factor of the uncertainty of a shard whose models were borrowed from another."""
NEVER = np.iinfo(np.int64).min

ModelFactory = Callable[[History, tuple[int, ...], IntArray], Sequence[Forecaster]]


def default_models(
    history: History, season_slots: tuple[int, ...], horizons: IntArray
) -> list[Forecaster]:
    """Last value first (the model to beat), then the models that the seasons allow."""
    models: list[Forecaster] = [LastValue(history), MovingAverage(history)]
    models += [Level(history, alpha) for alpha in (0.5, 0.15, 0.03)]
    models.append(ShortRegression(history, horizons))
    for season in season_slots:
        models.append(SeasonalNaive(history, season))
        models.append(HoltWinters(history, season))
        models.append(SeasonalProfile(history, season, fade=0.4))
        models.append(LagRegression(history, season, season_slots[0], horizons))
    return models


@dataclass(frozen=True, slots=True)
class BankForecast:
    """Forecasts of rows x steps: the means of every model, the blend, the moved blend and the
    ensemble; which of `Selector.names` is used, and its forecast."""

    means: FloatArray
    speaker: IntArray
    mean: FloatArray
    scale: FloatArray
    quantiles: FloatArray
    tried: FloatArray
    """The forecast of each distribution of the `Mixture` alone, at BOUNDS."""


class Bank:
    """Models, selector, intervals and scores over one shared history."""

    def __init__(
        self,
        season_slots: tuple[int, ...],
        horizons: tuple[int, ...],
        depth: int,
        models: ModelFactory = default_models,
    ) -> None:
        self.horizons = np.array(horizons, dtype=np.int64)
        self.history = History(depth)
        self._models = list(models(self.history, season_slots, self.horizons))
        names = tuple(model.name for model in self._models)
        self.selector = Selector(names, self.horizons)
        self.intervals = Intervals(self.horizons, season_slots[0] if season_slots else 1)
        self.mixture = Mixture(self.history, season_slots, self.horizons)
        self.change = ChangePoint(self.horizons)
        self.repair = Repair(self.history, season_slots) if season_slots else None
        self.scores = Scoreboard((*self.selector.names, SPOKEN), horizons)
        self._parts: tuple[RowKeeper, ...] = (
            self.selector,
            self.intervals,
            self.mixture,
            self.change,
            self.scores,
            *((self.repair,) if self.repair is not None else ()),
            *self._models,
        )
        # Columns of means with a score of their own: models, ensemble, published.
        self._shown = [*range(len(names)), self.selector.columns - 1, self.selector.columns]
        self._ring = horizons[-1] + 1
        # Forecasts that wait for their slot: means, published mean, scale, quantiles, tried.
        self._tried = self.mixture.count * len(BOUNDS)
        width = self.selector.columns + 2 + len(LEVELS) + self._tried
        self._said = np.zeros((0, self._ring, len(horizons), width), dtype=np.float32)
        self._made: IntArray = np.zeros((0, self._ring), dtype=np.int64)

    def grow(self, rows: int) -> None:
        self.history.grow(rows)
        for part in self._parts:
            part.grow(rows)
        more = rows - len(self._made)
        self._said = np.concatenate(
            [self._said, np.zeros((more, *self._said.shape[1:]), dtype=np.float32)]
        )
        self._made = np.concatenate([self._made, np.full((more, self._ring), NEVER)])

    def start(self, row: int, slot: int) -> None:
        """Empty the row; the first value will be that of `slot`."""
        self.history.start(row, slot)
        for part in self._parts:
            part.clear(row)
        self._made[row] = NEVER

    def copy(self, parent: int, child: int, share: float) -> None:
        self.history.copy(parent, child, share)
        for part in self._parts:
            part.copy(parent, child, share)
        self._made[child] = NEVER  # the parent's forecasts are scored once, as the parent's

    def borrow(self, lender: int, row: int, share: float, own_slots: int) -> None:
        """Make `row` what `lender` would be at `share` of its size, except for its own last
        slots."""
        at = np.array([row])
        own = self.history.lag(at, np.arange(own_slots - 1, -1, -1))
        self.copy(lender, row, share)
        self.history.preload(at, own)
        # A child's errors are those of a part of a sum; these are another shard's of that size.
        self.intervals.widen(row, BORROWED_WIDER * share**0.5)

    def step(self, rows: IntArray, values: FloatArray) -> None:
        """One value for each row, of the slot after its last: score, learn, and forecast the
        next."""
        self._score(rows, values)
        self.absorb(rows, values)
        said = self.say(rows, self.horizons)
        slot = self.history.last[rows]
        self._said[rows, slot % self._ring] = np.concatenate(
            [said.means, said.mean[:, :, None], said.scale[:, :, None], said.quantiles, said.tried],
            axis=2,
        )
        self._made[rows, slot % self._ring] = slot

    def absorb(self, rows: IntArray, values: FloatArray) -> None:
        """Add a value to history and models without scoring it: filled gaps, restored rows."""
        self.history.push(rows, values)
        if self.repair is not None:
            self.repair.absorb(rows, values)
        self.mixture.absorb(rows)
        for model in self._models:
            model.learn(rows, values)

    def say(self, rows: IntArray, steps: IntArray) -> BankForecast:
        """Forecasts `steps` slots after each row's newest (ascending, >= 1)."""
        at = np.minimum(np.searchsorted(self.horizons, steps), len(self.horizons) - 1)
        each = np.stack([model.forecast(rows, steps) for model in self._models], axis=2)
        below = np.maximum(at - (steps != self.horizons[at]), 0)
        means = self.selector.combine(rows, each, at, below)
        speaker = self.selector.speaker(rows)
        speaker = np.maximum(speaker[:, at], speaker[:, below])
        mean = np.where(speaker == 0, means[:, :, 0], means[:, :, -1])
        slots = self.history.last[rows][:, None] + steps
        scale = self.intervals.scale(rows, slots, mean, at)
        units = self.intervals.units(rows)
        if len(steps) != len(self.horizons) or (steps != self.horizons).any():
            units = between(units, self.horizons, steps)
        own = mean[:, :, None] + scale[:, :, None] * units
        candidates = self.mixture.candidates(rows, steps, own)
        mixed = self.mixture.mix(rows, at, candidates)
        quantiles = self.intervals.stretched(rows, slots, at, mixed, scale)
        off = incoherent(quantiles, mean).any(axis=1)
        if off.any():
            wide = self.intervals.stretched(rows[off], slots[off], at, own[off], scale[off])
            quantiles[off] = coherent(quantiles[off], wide, mean[off])
        quantiles = self.change.widened(rows, at, quantiles, mean)
        tried = candidates[:, :, :, BOUNDS].reshape(len(rows), len(steps), self._tried)
        return BankForecast(means, speaker, mean, scale, quantiles, tried)

    def said(self, rows: IntArray) -> BankForecast:
        """The last forecasts that `step` made of each row, at the scored horizons."""
        held = self._said[rows, self.history.last[rows] % self._ring].astype(np.float64)
        n = self.selector.columns
        speaker = self.selector.speaker(rows)
        return BankForecast(
            held[:, :, :n],
            speaker,
            held[:, :, n],
            held[:, :, n + 1],
            held[:, :, n + 2 : -self._tried],
            held[:, :, -self._tried :],
        )

    def expected(self, rows: IntArray) -> FloatArray:
        """The forecast of the slot after each row's newest; nan where there is none."""
        last = self.history.last[rows]
        at = last % self._ring
        known = (self._made[rows, at] == last) & (self.horizons[0] == 1)
        said = self._said[rows, at, 0, self.selector.columns].astype(np.float64)
        return np.where(known, said, np.nan)

    def _score(self, rows: IntArray, values: FloatArray) -> None:
        slot = self.history.last[rows] + 1
        made = slot[:, None] - self.horizons
        due = self._made[rows[:, None], made % self._ring] == made
        if not due.any():
            return
        held = self._said[rows[:, None], made % self._ring, np.arange(len(self.horizons))]
        said = np.where(due[:, :, None], held.astype(np.float64), np.nan)
        blended = self.selector.columns
        mean, scale, quantiles = (
            said[:, :, blended],
            said[:, :, blended + 1],
            said[:, :, blended + 2 : -self._tried],
        )
        bounds = quantiles[:, :, BOUNDS]
        errors = values[:, None, None] - said[:, :, : blended + 1]
        usual = self.selector.usual_error(rows)[:, :, self._shown[:-1]]
        self.selector.learn(rows, errors[:, :, :blended])
        self.change.learn(rows, slot, values, mean, bounds, self.intervals.usual_error(rows))
        self.intervals.learn(rows, slot, values, mean, scale, bounds)
        self.mixture.learn(rows, values, said[:, :, -self._tried :], due)
        self.scores.add(rows, values, np.abs(errors[:, :, self._shown]), usual, bounds)
