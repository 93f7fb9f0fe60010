"""No figure of a forecast contradicts another, whatever was learned."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.calendar import Calendar, Event
from profiler.forecast import ForecastBook
from profiler.forecast.groups import GroupBook, UsageProfile
from profiler.forecast.intervals import I80, I95, LEVELS, coherent
from profiler.types import Forecast

SEASONS = (12,)
MEDIAN = LEVELS.index(0.5)
OUTERMOST = len(LEVELS) - 1

_value = st.one_of(
    st.sampled_from([0.0, 1.0, 100.0, 300.0, 1e6, 1e12, float(2**63)]),
    st.floats(0, 1e6, allow_nan=False),
)
_run = st.tuples(_value, st.integers(1, 40))


@st.composite
def series(draw: st.DrawFn) -> list[float | None]:
    """Runs of a level (constant, steps, spikes, zeros), with noise, and gaps (None)."""
    found: list[float | None] = []
    noise = draw(st.sampled_from([0.0, 0.0, 0.05, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for level, length in draw(st.lists(_run, min_size=1, max_size=4)):
        found += (level * (1 + noise * rng.random(length))).tolist()
        found += [None] * draw(st.sampled_from([0, 0, 0, 1, 7, 100]))
    return found


def learned(values: list[float | None]) -> tuple[ForecastBook, int]:
    book, last = ForecastBook(SEASONS, horizons=(1, 2, 6, 12)), 0
    for slot, value in enumerate(values):
        if value is not None:
            book.learn("x/0", slot, value)
            last = slot
    return book, last


def check(said: Forecast) -> None:
    """What the planner reads of each step hangs together."""
    for i, step in enumerate(said.horizon_slots):
        quantiles = said.quantiles[i]
        assert all(math.isfinite(v) and v >= 0 for v in (*quantiles, said.mean[i]))
        assert all(a <= b for a, b in itertools.pairwise(quantiles))
        assert said.lower95[i] <= said.lower80[i] <= said.mean[i]
        assert said.mean[i] <= said.upper80[i] <= said.upper95[i]
        assert said.lower80[i] <= quantiles[MEDIAN] <= said.upper80[i]
        bounds = (said.lower80[i], said.upper80[i], said.lower95[i], said.upper95[i])
        assert bounds == tuple(quantiles[at] for at in (*I80, *I95))
        # P(> x) falls with x, and says at a quantile what the quantile says.
        points = sorted({0.0, *quantiles, said.mean[i], 2 * quantiles[-1] + 1})
        chances = [said.prob_above(x, step) for x in points]
        assert all(0 <= p <= 1 for p in chances)
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(chances))
        for at, x in enumerate(quantiles):
            last = max(j for j in range(len(LEVELS)) if quantiles[j] <= x)
            assert said.prob_above(x, step) == pytest.approx(1 - LEVELS[last]), at
        # The mean is no corner of the distribution: both sides of it are possible.
        assert said.prob_above(math.nextafter(said.mean[i], -math.inf), step) >= 0.1 - 1e-9


@settings(max_examples=25, deadline=None)
@given(series(), st.integers(0, 40))
def test_every_forecast_hangs_together(values: list[float | None], lag: int) -> None:
    book, last = learned(values)
    check(book.forecast("x/0", 30, last + lag))


@pytest.mark.parametrize("before", [2, 30, 299])
@pytest.mark.parametrize("jump", [0.0, 101.0, 300.0, 1e9])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_after_a_step_the_last_value_is_possible(before: int, jump: float, after: int) -> None:
    values = [100.0] * before + [jump] * after
    book, last = learned(list(values))
    said = book.forecast("x/0", 12, last)
    check(said)
    for step in said.horizon_slots:
        if said.model[step - 1] == "last_value":
            assert said.lower80[step - 1] <= jump <= said.upper80[step - 1]


def test_299_slots_of_100_and_then_300() -> None:
    book = ForecastBook()
    for slot in range(299):
        book.learn("x/0", slot, 100.0)
    book.learn("x/0", 299, 300.0)
    said = book.forecast("x/0", 12, 299)
    check(said)
    for step in said.horizon_slots:
        assert said.prob_above(200.0, step) > 0.5
        assert said.upper95[step - 1] >= said.mean[step - 1] == 300.0


@settings(max_examples=8, deadline=None)
@given(series(), st.floats(0.1, 8), st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_events_and_profiles_move_all_figures_alike(
    values: list[float | None], factor: float, ops: list[float]
) -> None:
    calendar = Calendar()
    book = ForecastBook(SEASONS, calendar=calendar, period_s=1.0)
    groups = GroupBook(book, ForecastBook(SEASONS, teaches=False))
    last = 0
    for slot, value in enumerate(values):
        if value is not None:
            groups.learn(slot, {"x/0": {"web": value, "": value / 2}})
            last = slot
    calendar.add(Event("match", float(last + 2), float(last + 6), factor=factor))
    groups.set_profile("batch", UsageProfile(last + 1, tuple(ops), repeats=True))
    groups.set_profile("web", UsageProfile(last + 3, tuple(ops)))
    total, parts = groups.forecast("x/0", 12, last)
    for said in (total, *parts.values()):
        check(said)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1e9), min_size=15, max_size=15).map(sorted),
    st.lists(st.floats(0, 1e9), min_size=15, max_size=15).map(sorted),
    st.floats(0, 1e9),
)
def test_any_distribution_is_made_to_agree_with_its_mean(
    mixed: list[float], own: list[float], mean: float
) -> None:
    given_, around = np.array(mixed).reshape(1, 1, -1), np.array(own).reshape(1, 1, -1)
    found = coherent(given_, around, np.array([[mean]]))[0, 0]
    assert (np.diff(found) >= 0).all()
    assert found[I80[0]] <= mean <= found[I80[1]]
    if mixed[I80[0]] <= mean <= mixed[I80[1]]:
        assert found.tolist() == mixed
