"""One contract suite over every model behind the Forecaster port, and what each is good at."""

from collections.abc import Callable

import numpy as np
import pytest

from profiler.forecast.history import History
from profiler.forecast.lag_regression import LagRegression
from profiler.forecast.port import FloatArray, Forecaster
from profiler.forecast.seasonal_profile import SeasonalProfile
from profiler.forecast.short_regression import ShortRegression
from profiler.forecast.simple import LastValue, MovingAverage, SeasonalNaive
from profiler.forecast.slow import slow_models
from profiler.forecast.smoothing import HoltWinters, Level

HORIZONS = np.array([1, 2, 3, 6, 12, 24])
MODELS: dict[str, Callable[[History], Forecaster]] = {
    "last_value": LastValue,
    "moving_average": MovingAverage,
    "seasonal_naive": lambda history: SeasonalNaive(history, 24),
    "holt_winters": lambda history: HoltWinters(history, 24),
    "level": lambda history: Level(history, 0.2),
    "short_regression": lambda history: ShortRegression(history, HORIZONS),
    "seasonal_profile": lambda history: SeasonalProfile(history, 24),
    "snarimax": lambda history: slow_models(history, (24,), HORIZONS)[0],
    "trees": lambda history: slow_models(history, (24,), HORIZONS)[1],
    "lag_regression": lambda history: LagRegression(history, 24, 24, HORIZONS),
}


def feed(history: History, model: Forecaster, series: FloatArray) -> None:
    """Series of shape (slots, rows)."""
    rows = np.arange(series.shape[1])
    for values in series:
        history.push(rows, values)
        model.learn(rows, values)


def made(name: str, rows: int) -> tuple[History, Forecaster]:
    history = History(24 * 6)
    model = MODELS[name](history)
    history.grow(rows)
    model.grow(rows)
    for row in range(rows):
        history.start(row, 0)
        model.clear(row)
    return history, model


def waves(slots: int, rows: int, noise: float = 1.0, seed: int = 3) -> FloatArray:
    at = np.arange(slots)[:, None]
    size = 50.0 * (1 + np.arange(rows))[None, :]
    level = size * (1.0 + 0.8 * np.sin(2 * np.pi * (at + np.arange(rows)) / 24))
    drawn = np.random.default_rng(seed).normal(0.0, noise, (slots, rows))
    return np.maximum(level + drawn, 0.0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["empty", "one", "zeros", "zeros then some", "spike", "steep"])
def test_always_finite_and_not_negative(name: str, kind: str) -> None:
    history, model = made(name, 1)
    series = {
        "empty": np.zeros((0, 1)),
        "one": np.full((1, 1), 7.0),
        "zeros": np.zeros((200, 1)),
        "zeros then some": np.concatenate([np.zeros((100, 1)), np.full((60, 1), 9.0)]),
        "spike": np.where(np.arange(150) == 100, 1e9, 1.0)[:, None],
        "steep": (np.arange(200.0) ** 3)[:, None],
    }[kind]
    for length in sorted({len(series) // 2, len(series)}):
        history, model = made(name, 1)
        feed(history, model, series[:length])
        for steps in (np.array([1]), HORIZONS, np.arange(1, 61)):
            said = model.forecast(np.array([0]), steps)
            assert said.shape == (1, len(steps))
            assert np.isfinite(said).all()
            assert (said >= 0).all()
            assert said.max(initial=0.0) <= 10 * series.max(initial=0.0)


@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_see_each_other(name: str) -> None:
    series = waves(200, 3)
    together, model = made(name, 3)
    feed(together, model, series)
    for row in range(3):
        alone, single = made(name, 1)
        feed(alone, single, series[:, row : row + 1])
        one = single.forecast(np.array([0]), HORIZONS)
        assert model.forecast(np.array([row]), HORIZONS) == pytest.approx(one)


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_the_model_of_the_share(name: str) -> None:
    series = waves(200, 1)
    history, model = made(name, 2)
    rows = np.array([0])
    for values in series[:150]:
        history.push(rows, values)
        model.learn(rows, values)
    history.copy(0, 1, 0.25)
    model.copy(0, 1, 0.25)
    for values in series[150:]:
        both = np.array([values[0], 0.25 * values[0]])
        history.push(np.array([0, 1]), both)
        model.learn(np.array([0, 1]), both)
    said = model.forecast(np.array([0, 1]), HORIZONS)
    assert said[1] == pytest.approx(0.25 * said[0], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_clear_and_learn_rebuild_the_row(name: str) -> None:
    series = waves(140, 1)  # within the ring, so the history alone can rebuild the model
    history, model = made(name, 1)
    feed(history, model, series)
    before = model.forecast(np.array([0]), HORIZONS)
    kept, last = history.series(0).copy(), int(history.last[0])
    history.start(0, last + 1 - len(kept))
    model.clear(0)
    feed(history, model, kept[:, None])
    assert model.forecast(np.array([0]), HORIZONS) == pytest.approx(before)


@pytest.mark.parametrize(
    "name", ["seasonal_naive", "holt_winters", "seasonal_profile", "lag_regression"]
)
def test_seasonal_models_see_the_season(name: str) -> None:
    series = waves(400 + 24, 1, noise=0.0)
    history, model = made(name, 1)
    feed(history, model, series[:400])
    said = model.forecast(np.array([0]), np.arange(1, 25))[0]
    assert np.abs(said - series[400:, 0]).sum() < 0.05 * series[400:, 0].sum()


def test_history_lags_by_hand() -> None:
    history = History(4)
    history.grow(2)
    history.start(0, 10)
    history.start(1, 10)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        history.push(np.array([0]), np.array([value]))
    history.push(np.array([1]), np.array([9.0]))
    found = history.lag(np.array([0, 1]), np.array([-1, 0, 1, 3, 4]))
    expected = [[np.nan, 5.0, 4.0, 2.0, np.nan], [np.nan, 9.0, np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(found, expected)
    assert history.last.tolist() == [14, 10]
    assert history.series(0).tolist() == [2.0, 3.0, 4.0, 5.0]
