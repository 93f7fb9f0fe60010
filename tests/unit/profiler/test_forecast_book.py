"""The book: prequential honesty, coverage, gaps, inheritance, state, bounds, and real flights."""

import json
import math
import time

import numpy as np
import numpy.typing as npt
import pytest

from profiler.forecast import ForecastBook, seasons_of
from profiler.scoreboard import Score
from profiler.types import Forecast
from tests.unit.profiler.flights import hourly_by_origin

Series = dict[str, npt.NDArray[np.float64]]


def feed(book: ForecastBook, series: Series, start: int, stop: int) -> None:
    for slot in range(start, stop):
        book.learn_many(slot, {shard: values[slot] for shard, values in series.items()})


def daily(slots: int, seed: int = 1, noise: float = 5.0) -> npt.NDArray[np.float64]:
    at = np.arange(slots)
    drawn = np.random.default_rng(seed).normal(0.0, noise, slots)
    return np.maximum(100.0 + 60.0 * np.sin(2 * np.pi * at / 24) + drawn, 0.0)


@pytest.fixture(scope="module")
def flights_score() -> dict[str, dict[int, Score]]:
    """Hourly flights by origin up to mid August, scored after the first 10 weeks."""
    series, book = hourly_by_origin(), ForecastBook()
    feed(book, series, 0, 1680)
    book.reset_score()
    feed(book, series, 1680, 5400)
    return book.score()


def test_flights_the_spoken_forecast_beats_last_value_and_seasonal_naive(
    flights_score: dict[str, dict[int, Score]],
) -> None:
    for horizon in (1, 2, 3, 6, 12):
        spoken = flights_score["spoken"][horizon].wape
        assert spoken < 0.25 * flights_score["last_value"][horizon].wape
        assert spoken < flights_score["seasonal_naive_168"][horizon].wape
        assert spoken < 0.055
        singles = [
            row[horizon].wape
            for model, row in flights_score.items()
            if model not in ("spoken", "ensemble")
        ]
        assert spoken <= 1.02 * min(singles)


def test_flights_coverage_is_near_nominal(flights_score: dict[str, dict[int, Score]]) -> None:
    for score in flights_score["spoken"].values():
        assert score.coverage80 == pytest.approx(0.80, abs=0.03)
        assert score.coverage95 == pytest.approx(0.95, abs=0.03)


def test_flights_intervals_pay(flights_score: dict[str, dict[int, Score]]) -> None:
    for horizon in (1, 6, 12):
        best = min(row[horizon].pinball for m, row in flights_score.items() if m != "spoken")
        assert flights_score["spoken"][horizon].pinball < best


def test_coverage_on_a_seasonal_series_with_noise() -> None:
    book = ForecastBook((24,), horizons=(1, 6, 12))
    feed(book, {"a": daily(2500), "b": daily(2500, seed=2, noise=15.0)}, 0, 2500)
    for score in book.score()["spoken"].values():
        assert score.coverage80 == pytest.approx(0.80, abs=0.03)
        assert score.coverage95 == pytest.approx(0.95, abs=0.02)
    assert book.score()["spoken"][6].wape < 0.5 * book.score()["last_value"][6].wape


def test_coverage_is_kept_when_the_noise_grows() -> None:
    slots = 3000
    quiet = daily(slots, noise=3.0)
    drawn = np.random.default_rng(9).normal(0.0, 20.0, slots)
    loud = np.where(np.arange(slots) < 1500, quiet, np.maximum(quiet + drawn, 0.0))
    book = ForecastBook((24,), horizons=(1,))
    feed(book, {"a": loud}, 0, 1500)
    book.reset_score()
    feed(book, {"a": loud}, 1500, slots)
    score = book.score()["spoken"][1]
    assert score.coverage80 == pytest.approx(0.80, abs=0.04)
    assert score.coverage95 == pytest.approx(0.95, abs=0.03)


def test_a_changed_future_leaves_past_forecasts_the_same() -> None:
    one, other = daily(600), daily(600)
    other[400:] = np.random.default_rng(8).uniform(0, 5000, 200)
    books = ForecastBook(), ForecastBook()
    said: list[list[Forecast]] = [[], []]
    for i, values in enumerate((one, other)):
        for slot in range(600):
            books[i].learn("a", slot, values[slot])
            if slot < 400:
                said[i].append(books[i].forecast("a", 24, slot))
    assert said[0] == said[1]
    assert books[0].forecast("a", 24, 599) != books[1].forecast("a", 24, 599)


def test_the_score_is_that_of_what_was_said_in_time() -> None:
    values, book = daily(900), ForecastBook()
    said = []
    for slot in range(900):
        book.learn("a", slot, values[slot])
        said.append(book.forecast("a", 24, slot))
    for horizon in (1, 6, 24):
        made = [(f, values[f.made_at_slot + horizon]) for f in said[: 900 - horizon]]
        i = horizon - 1
        error = sum(abs(f.mean[i] - y) for f, y in made)
        inside = sum(f.lower80[i] <= y <= f.upper80[i] for f, y in made)
        score = book.score()["spoken"][horizon]
        assert score.n == len(made)
        assert score.wape == pytest.approx(error / sum(y for _, y in made), rel=1e-4)
        assert score.coverage80 == pytest.approx(inside / len(made), abs=0.003)


def test_a_random_walk_gets_no_better_than_last_value_and_says_so() -> None:
    steps = np.random.default_rng(5).normal(0.0, 4.0, 3000)
    walk = np.abs(1000.0 + np.cumsum(steps))
    book = ForecastBook()
    feed(book, {"a": walk}, 0, 3000)
    score = book.score()
    for horizon in (1, 6, 12):
        assert score["spoken"][horizon].wape <= 1.02 * score["last_value"][horizon].wape
    wide = book.forecast("a", 24, 2999)
    assert wide.upper95[23] - wide.lower95[23] > 2 * (wide.upper95[0] - wide.lower95[0])


def test_interval_order_and_probability() -> None:
    book = ForecastBook((24,))
    feed(book, {"a": daily(400)}, 0, 400)
    said = book.forecast("a", 30, 399)
    assert said.horizon_slots == tuple(range(1, 31))
    for i in range(30):
        bounds = (said.lower95[i], said.lower80[i], said.upper80[i], said.upper95[i])
        assert 0.0 <= bounds[0] <= bounds[1] <= said.mean[i] * 1.2
        assert list(bounds) == sorted(bounds)
        step = i + 1
        assert said.prob_above(said.upper95[i], step) == pytest.approx(0.025, abs=0.02)
        assert said.prob_above(said.lower80[i], step) == pytest.approx(0.9, abs=0.08)
        curve = [said.prob_above(x, step) for x in np.linspace(0, 400, 200)]
        assert curve == sorted(curve, reverse=True)
        assert curve[0] >= 0.99
        assert 0.0 <= curve[-1] < 1e-3
    with pytest.raises(ValueError, match="step is 31"):
        said.prob_above(1.0, 31)


def test_gaps_are_filled_with_the_forecast_and_not_scored() -> None:
    values, book = daily(500, noise=1.0), ForecastBook((24,))
    for slot in range(500):
        if not 300 <= slot < 312:
            book.learn("a", slot, values[slot])
    assert book.filled_count == 12
    assert book.score()["last_value"][1].n == 500 - 1 - 12 - 1
    said = np.array(book.forecast("a", 24, 499).mean)
    assert np.abs(said - daily(524, noise=0.0)[500:]).mean() < 6.0


def test_a_long_absence_starts_anew_and_old_slots_are_refused() -> None:
    book = ForecastBook((24,))
    feed(book, {"a": daily(200)}, 0, 200)
    book.learn("a", 199, 5.0)
    book.learn("a", 7, 5.0)
    assert book.stale_count == 2
    book.learn("a", 10**9, 3.0)
    said = book.forecast("a", 2, 10**9)
    assert said.mean == (3.0, 3.0)
    assert said.learned_slots == 1
    assert set(said.model) == {"last_value"}


def test_zero_runs_and_late_statistics() -> None:
    book = ForecastBook((24,))
    feed(book, {"a": np.zeros(300)}, 0, 300)
    said = book.forecast("a", 12, 299)
    assert max(said.upper95) < 0.1
    assert said.prob_above(1.0, 6) < 0.01
    values = daily(300, noise=0.5)
    feed(book, {"b": values}, 0, 300)
    behind = book.forecast("b", 6, 302)
    assert behind.made_at_slot == 302
    assert behind.mean == pytest.approx(book.forecast("b", 9, 299).mean[3:])


def test_a_split_inherits_its_share() -> None:
    values, book = daily(500), ForecastBook((24,))
    feed(book, {"p": values}, 0, 500)
    book.inherit("p", "c", 0.3)
    parent, child = book.forecast("p", 24, 499), book.forecast("c", 24, 499)
    assert np.array(child.mean) == pytest.approx(0.3 * np.array(parent.mean), rel=1e-6)
    assert child.model == parent.model
    width = np.array(child.upper95) - np.array(child.lower95)
    assert (width < np.array(parent.upper95) - np.array(parent.lower95)).all()
    book.learn_many(500, {"p": 50.0, "c": 30.0})
    assert book.last_slot("c") == 500
    book.forget("p")
    assert book.shards == ("c",)
    with pytest.raises(ValueError, match="not known"):
        book.forecast("p", 1, 500)


def test_state_is_json_and_restores_the_forecast() -> None:
    values, book = daily(700), ForecastBook()
    feed(book, {"a": values, "b": 2 * values}, 0, 700)
    states = json.loads(json.dumps({shard: book.state(shard) for shard in book.shards}))
    fresh = ForecastBook()
    fresh.restore(states)
    for shard in book.shards:
        one, other = book.forecast(shard, 24, 699), fresh.forecast(shard, 24, 699)
        assert other.mean == pytest.approx(one.mean, rel=0.05)
        assert other.upper80 == pytest.approx(one.upper80, rel=0.1)
        assert other.learned_slots == one.learned_slots
    fresh.learn("a", 700, 100.0)
    assert fresh.last_slot("a") == 700


def test_a_model_that_loses_to_last_value_is_not_used() -> None:
    drift = 1000.0 + 3.0 * np.random.default_rng(2).normal(0, 1, 800).cumsum()
    book = ForecastBook((24,), horizons=(1,))
    feed(book, {"a": np.abs(drift)}, 0, 800)
    score = book.score()
    loser = score["seasonal_naive_24"][1].wape
    assert loser > 2 * score["last_value"][1].wape
    assert "seasonal_naive_24" not in book.forecast("a", 1, 799).model


def test_bounds_and_bad_input() -> None:
    book = ForecastBook((24,), shards_max=3)
    book.learn_many(0, {"a": 1.0, "b": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="the limit is 3"):
        book.learn("d", 0, 1.0)
    book.forget("a")
    book.learn("d", 0, 1.0)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="value of shard 'b'"):
            book.learn("b", 1, bad)
    assert book.last_slot("b") == 0
    with pytest.raises(ValueError, match="horizon_slots is 0"):
        book.forecast("b", 0, 0)
    with pytest.raises(ValueError, match="season_slots"):
        ForecastBook((24, 24))
    with pytest.raises(ValueError, match="limit of 4096"):
        ForecastBook((86_400,))


def test_seasons_of_a_period() -> None:
    assert seasons_of(3600) == (24, 168)
    assert seasons_of(300) == (288, 2016)
    assert seasons_of(60) == (1440,)
    assert seasons_of(1) == ()
    assert seasons_of(7.0) == ()


def test_no_seasons_still_forecasts() -> None:
    book = ForecastBook(())
    feed(book, {"a": daily(300)}, 0, 300)
    assert len(book.forecast("a", 24, 299).mean) == 24


def test_learning_and_forecasting_64_shards_stays_under_100_ms_a_slot() -> None:
    book = ForecastBook()
    series = {f"s{i}": daily(60, seed=i) for i in range(64)}
    feed(book, series, 0, 30)
    taken = []
    for slot in range(30, 60):
        start = time.process_time()
        feed(book, series, slot, slot + 1)
        book.forecast_many(book.shards, 24, slot)
        taken.append(time.process_time() - start)
    assert sorted(taken)[len(taken) // 2] < 0.1


def test_every_hour_of_the_day_is_covered_alike() -> None:
    """Noise that triples at noon, and nights of nothing but zeros."""
    slots, hour = 1800, np.arange(1800) % 24
    noise = np.where((hour >= 11) & (hour < 15), 30.0, 10.0)
    drawn = np.random.default_rng(4).normal(0.0, 1.0, (6, slots)) * noise
    load = np.where(hour < 5, 0.0, np.maximum(150.0 + 40.0 * np.sin(hour / 4.0) + drawn, 0.0))
    book, names = ForecastBook((24,), horizons=(1, 6)), [f"s{i}" for i in range(6)]
    inside: dict[int, list[bool]] = {}
    for slot in range(slots):
        if slot > 300:
            said = book.forecast_many(names, 6, slot - 1)
            for i, name in enumerate(names):
                for step in (1, 6):
                    if slot + step <= slots:
                        low, high = said[name].lower80[step - 1], said[name].upper80[step - 1]
                        at = slot + step - 1
                        inside.setdefault(int(hour[at]), []).append(low <= load[i, at] <= high)
        book.learn_many(slot, {name: float(load[i, slot]) for i, name in enumerate(names)})
    covered = {h: float(np.mean(got)) for h, got in inside.items()}
    assert all(0.74 <= covered[h] <= 0.86 for h in range(5, 24)), covered
    assert all(covered[h] >= 0.74 for h in range(5))
