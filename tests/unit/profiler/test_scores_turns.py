"""Live scores by shard, and slow learners that take turns."""

import json
import math

import numpy as np
import pytest

from profiler.forecast import ForecastBook
from profiler.forecast.history import History
from profiler.forecast.port import FloatArray
from profiler.forecast.slow import with_slow_models
from profiler.forecast.turns import Turns

HORIZONS = np.array([1, 6])


def two(slots: int) -> FloatArray:
    """A steady series and a noisy one, shape (slots, 2)."""
    rng = np.random.default_rng(2)
    wave = 100.0 + 50.0 * np.sin(2 * np.pi * np.arange(slots) / 24)
    return np.stack([wave + rng.normal(0, 1, slots), wave + rng.normal(0, 25, slots)], axis=1)


def test_scores_of_a_shard_are_its_own_and_add_up() -> None:
    series, book = np.maximum(two(240), 0.0), ForecastBook((24,), horizons=(1, 6))
    said: list[tuple[float, float, float]] = []
    for slot, (steady, noisy) in enumerate(series.tolist()):
        if slot:
            made = book.forecast("noisy", 1, slot - 1)
            said.append((made.mean[0], made.lower80[0], made.upper80[0]))
        book.learn_many(slot, {"steady": steady, "noisy": noisy})
    mine, both = book.score("noisy")["spoken"][1], book.score()["spoken"][1]
    came = series[1:, 1]
    mean, low, high = np.array(said).T
    winkler = high - low + 10.0 * (np.maximum(low - came, 0) + np.maximum(came - high, 0))
    assert mine.n == 239
    assert mine.wape == pytest.approx(np.abs(came - mean).sum() / came.sum(), rel=1e-4)
    assert mine.winkler80 == pytest.approx(winkler.mean(), rel=1e-4)
    assert mine.width80 == pytest.approx((high - low).mean(), rel=1e-4)
    assert mine.coverage80 == pytest.approx(((low <= came) & (came <= high)).mean(), abs=0.006)
    assert mine.wape > 5 * book.score("steady")["spoken"][1].wape
    assert both.n == 478
    for model, by_horizon in book.score("noisy").items():
        for horizon, score in by_horizon.items():
            assert math.isfinite(score.pinball), (model, horizon)
            assert 0.0 <= score.coverage80 <= score.coverage95 <= 1.0
    # Single models have intervals of the size of their own recent errors.
    single = book.score("noisy")["seasonal_naive_24"][6]
    assert single.coverage80 == pytest.approx(0.8, abs=0.12)
    with pytest.raises(ValueError, match="'gone' is not known"):
        book.score("gone")
    kept = json.loads(json.dumps(book.state("noisy")))
    other = ForecastBook((24,), horizons=(1, 6))
    other.restore({"noisy": kept})
    assert other.score("noisy") == book.score("noisy")
    book.forget("noisy")
    assert book.score()["spoken"][1] == both  # what was scored stays in the sums over all


class Counting:
    """Says how many values it has learned."""

    def __init__(self) -> None:
        self.seen = 0

    def learn(self, past: FloatArray, slot: int) -> None:
        self.seen += 1

    def forecast(self, past: FloatArray, slot: int) -> FloatArray:
        return np.full(len(HORIZONS), 1.0)


def test_rows_take_turns_and_the_cost_of_a_slot_is_bounded() -> None:
    made: list[Counting] = []

    def make() -> Counting:
        made.append(Counting())
        return made[-1]

    history = History(200)
    turns = Turns(history, HORIZONS, np.arange(1), make, "counting", seats=3, turn_slots=4)
    history.grow(10)
    turns.grow(10)
    rows = np.arange(10)
    for row in range(10):
        history.start(row, 0)
    seated_once: set[int] = set()
    for slot in range(80):
        before = sum(model.seen for model in made)
        history.push(rows, np.full(10, 5.0 + slot))
        turns.learn(rows, np.full(10, 5.0 + slot))
        said = turns.forecast(rows, HORIZONS)[:, 0]
        seated = np.flatnonzero(said != 5.0 + slot).tolist()  # the others say the last value
        assert len(seated) <= 3
        seated_once.update(seated)
        caught_up = len(made) and made[-1].seen
        assert sum(model.seen for model in made) - before <= 3 + caught_up
    assert seated_once == set(range(10))


def test_slow_models_are_in_the_ensemble_when_they_are_asked_for() -> None:
    book = ForecastBook((24,), horizons=(1, 6), models=with_slow_models)
    for slot, (steady, noisy) in enumerate(np.maximum(two(120), 0.0).tolist()):
        book.learn_many(slot, {"steady": steady, "noisy": noisy})
    scores = book.score("steady")
    for model in ("snarimax", "trees"):
        assert scores[model][1].n == 119
        assert math.isfinite(scores[model][1].wape)
    assert scores["trees"][1].wape < 0.5
    assert scores["spoken"][1].wape <= scores["last_value"][1].wape
