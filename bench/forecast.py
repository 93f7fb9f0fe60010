"""`python -m bench forecast`: how well each model and the ensemble forecast a file of series."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.forecast_score import ForecastPair, hours_of, quantile_metrics
from bench.series import FloatArray, IntArray, SeriesSet, load_series
from profiler.forecast import ForecastBook, seasons_of
from profiler.forecast.bank import default_models
from profiler.forecast.history import History
from profiler.forecast.intervals import LEVELS
from profiler.forecast.port import Forecaster
from profiler.forecast.slow import slow_models

HORIZONS = (1, 3, 6, 12)
WINDOW = 256
"""Errors behind the intervals of a single model: plain split conformal prediction."""
REFRESH = 8
"""Slots between two updates of those errors; sorting them at every slot would take longest."""
SEASONS_BACK = {"day": 28, "week": 8}


class Timed:
    """A model that measures its own time."""

    def __init__(self, model: Forecaster) -> None:
        self._model, self.name = model, model.name
        self.spent_s, self.rows = 0.0, 0
        self.grow, self.clear, self.copy = model.grow, model.clear, model.copy

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        start = time.perf_counter()
        self._model.learn(rows, values)
        self.spent_s += time.perf_counter() - start
        self.rows += len(rows)

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        start = time.perf_counter()
        found = self._model.forecast(rows, horizons)
        self.spent_s += time.perf_counter() - start
        return found


@dataclass(frozen=True, slots=True)
class ForecastRun:
    """Forecasts by slot: `means` (slots, series, horizons, models), `quantiles` likewise with
    LEVELS; the last model is the published forecast. NaN where there is none."""

    names: tuple[str, ...]
    means: FloatArray
    quantiles: FloatArray
    us_per_update: dict[str, float]


def walk(
    found: SeriesSet, horizons: Sequence[int] = HORIZONS, *, slow: bool = False
) -> ForecastRun:
    """Feed the book slot by slot and keep each forecast before the next slot is shown to it.

    With `slow` the slow learners are in the ensemble too, with a seat for every series.
    """
    timed: list[Timed] = []

    def models(history: History, seasons: tuple[int, ...], steps: IntArray) -> list[Timed]:
        timed.extend(Timed(model) for model in default_models(history, seasons, steps))
        if slow:
            learners = slow_models(history, seasons, steps, seats=len(found.values))
            timed.extend(Timed(model) for model in learners)
        return timed

    make: Callable[..., Sequence[Forecaster]] = models
    book = ForecastBook(seasons_of(found.slot_s), horizons=horizons, models=make)
    series = list(found.values)
    table = np.stack([found.values[name] for name in series], axis=1)
    size = (found.slots, len(series), len(horizons))
    singles = len(book.model_names) - 1
    means = np.full((*size, singles + 1), np.nan, dtype=np.float32)
    quantiles = np.full((*size, len(LEVELS)), np.nan, dtype=np.float32)
    spent_s, updates = 0.0, 0
    for i in range(found.slots):
        live = np.flatnonzero(~np.isnan(table[i]))
        if not len(live):
            continue
        values = {series[k]: float(table[i, k]) for k in live.tolist()}
        start = time.perf_counter()
        book.learn_many(found.first_slot + i, values)
        spent_s += time.perf_counter() - start
        updates += len(live)
        said = book.said(list(values))
        means[i, live, :, :singles] = said.means[:, :, :singles]
        means[i, live, :, singles] = said.mean
        quantiles[i, live] = said.quantiles
    cost = {model.name: 1e6 * model.spent_s / max(model.rows, 1) for model in timed}
    cost["ensemble"] = 1e6 * spent_s / max(updates, 1)
    names = (*(model.name for model in timed), "ensemble")
    return ForecastRun(names, means.astype(np.float64), quantiles.astype(np.float64), cost)


def evaluate(
    found: SeriesSet,
    horizons: Sequence[int] = HORIZONS,
    warm_slots: int | None = None,
    *,
    slow: bool = False,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """{series: {model: {horizon: metrics}}}; slots before `warm_slots` are learned, not scored."""
    run = walk(found, horizons, slow=slow)
    warm = default_warm(found) if warm_slots is None else warm_slots
    hours = hours_of(found.first_slot, found.slots, found.slot_s)
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for s, (series, actual) in enumerate(found.values.items()):
        models: dict[str, dict[str, dict[str, float]]] = {}
        for k, horizon in enumerate(horizons):
            for m, model in enumerate(run.names):
                mean = ahead(run.means[:, s, k, m], horizon)
                if model == "ensemble":
                    levels = ahead(run.quantiles[:, s, k], horizon)
                else:
                    levels = conformal(mean, actual, horizon)
                pair = ForecastPair(actual, mean, levels, hours, warm)
                models.setdefault(model, {})[str(horizon)] = {
                    **quantile_metrics(pair),
                    "us_per_update": round(run.us_per_update[model], 1),
                }
            for model, levels, cost_us in seasonal_quantiles(actual, found.slot_s, horizon):
                pair = ForecastPair(actual, levels[:, LEVELS.index(0.5)], levels, hours, warm)
                models.setdefault(model, {})[str(horizon)] = {
                    **quantile_metrics(pair),
                    "us_per_update": round(cost_us, 1),
                }
        results[series] = models
    return results


def default_warm(found: SeriesSet) -> int:
    """Two days, but not more than a fifth of the series."""
    return int(min(2 * 86_400 / found.slot_s, found.slots / 5))


def ahead(made: FloatArray, horizon: int) -> FloatArray:
    """The forecasts made `horizon` slots before, by target slot."""
    moved = np.full_like(made, np.nan)
    moved[horizon:] = made[:-horizon]
    return moved


def conformal(mean: FloatArray, actual: FloatArray, horizon: int) -> FloatArray:
    """Quantiles by target slot: the mean plus those of the model's own last WINDOW errors.

    An error is known when its slot has come, so at target t those up to t - horizon count.
    """
    error = actual - mean
    found = np.full((len(mean), len(LEVELS)), np.nan)
    for start in range(0, len(mean), REFRESH):
        known = error[max(0, start - horizon + 1 - WINDOW) : max(0, start - horizon + 1)]
        known = np.sort(known[~np.isnan(known)])
        if len(known) < 8:
            continue
        n = len(known)
        rank = np.clip((n + 1) * np.array(LEVELS) - 1.0, 0.0, n - 1.0)
        units = np.interp(rank, np.arange(n), known)
        found[start : start + REFRESH] = np.maximum(mean[start : start + REFRESH, None] + units, 0)
    return found


def seasonal_quantiles(
    actual: FloatArray, slot_s: float, horizon: int
) -> list[tuple[str, FloatArray, float]]:
    """The baseline of intervals: quantiles of the values at the same time of the last 28 days, or
    the last 8 weeks; (name, quantiles by target slot, µs a slot)."""
    found = []
    for (season_name, back), season_s in zip(
        SEASONS_BACK.items(), (86_400.0, 604_800.0), strict=True
    ):
        season = round(season_s / slot_s)
        if season < 2 or len(actual) < 3 * season:
            continue
        start = time.perf_counter()
        lags = np.arange(1, back + 1) * season
        lags = lags[lags >= horizon]
        at = np.arange(len(actual))[:, None] - lags
        past = np.where(at >= 0, actual[np.maximum(at, 0)], np.nan)
        levels = climatology(actual, horizon)
        usable = (~np.isnan(past)).sum(axis=1) >= 2
        levels[usable] = np.nanquantile(past[usable], LEVELS, axis=1).T
        cost_us = 1e6 * (time.perf_counter() - start) / len(actual)
        found.append((f"seasonal_quantiles_{season_name}", levels, cost_us))
    return found


def climatology(actual: FloatArray, horizon: int) -> FloatArray:
    """Quantiles of the last WINDOW values known at the time, by target slot: the start of seasonal
    baselines, so that all are scored on the same slots."""
    found = np.full((len(actual), len(LEVELS)), np.nan)
    for start in range(0, len(actual), REFRESH):
        known = actual[max(0, start - horizon + 1 - WINDOW) : max(0, start - horizon + 1)]
        known = known[~np.isnan(known)]
        if len(known) >= 8:
            found[start : start + REFRESH] = np.quantile(known, LEVELS)
    return found


def trimmed(found: SeriesSet, slots_max: int) -> SeriesSet:
    """The last `slots_max` slots."""
    cut = max(0, found.slots - slots_max)
    values = {name: series[cut:] for name, series in found.values.items()}
    return SeriesSet(found.name, found.slot_s, found.first_slot + cut, values)


def command(
    series: Annotated[Path, typer.Option(help="CSV (.gz): time or slot, then one column a series")],
    slot_s: Annotated[
        float | None, typer.Option(help="slot in seconds; default the file's")
    ] = None,
    horizons: Annotated[str, typer.Option(help="slots ahead, with commas")] = "1,3,6,12",
    slots_max: Annotated[int, typer.Option(help="only the last so many slots")] = 30_000,
    warm_slots: Annotated[int | None, typer.Option(help="slots learned but not scored")] = None,
    events: Annotated[bool, typer.Option(help="a row is an arrival: count them by slot")] = False,
    slow: Annotated[bool, typer.Option(help="river's SNARIMAX and trees as well")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Prequential scores of every model and the ensemble on the series of a CSV file."""
    steps = tuple(sorted({int(text) for text in horizons.split(",")}))
    found = trimmed(load_series(series, slot_s, events=events), slots_max)
    results = evaluate(found, steps, warm_slots, slow=slow)
    if as_json:
        typer.echo(json.dumps(results, indent=1, sort_keys=True))
        return
    for name, models in results.items():
        typer.echo(f"{found.name} {name}: {found.slots} slots of {found.slot_s:g} s")
        typer.echo(table_of(models, steps))


def table_of(models: dict[str, dict[str, dict[str, float]]], steps: Sequence[int]) -> str:
    """WAPE in % and coverage by horizon, best model first at the first horizon."""
    first = str(steps[0])
    lines = []
    for model, scores in sorted(models.items(), key=lambda item: _order(item[1], first)):
        cells = []
        for step in steps:
            at: dict[str, Any] = scores.get(str(step), {})
            cells.append(
                f"{100 * at.get('wape', float('nan')):7.2f} "
                f"({100 * at.get('coverage80', float('nan')):3.0f}/"
                f"{100 * at.get('coverage95', float('nan')):3.0f})"
            )
        lines.append(f"  {model:26s} " + "  ".join(cells))
    return "\n".join(lines)


def _order(scores: dict[str, dict[str, float]], first: str) -> float:
    found = scores.get(first, {}).get("wape", float("inf"))
    return found if found == found else float("inf")
