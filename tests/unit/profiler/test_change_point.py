"""After a jump the intervals cover what follows, and an announced event may fail to come."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.calendar import Calendar, Event
from profiler.forecast import ForecastBook
from profiler.forecast.announced import mixed
from profiler.forecast.intervals import I80, I95, LEVELS

HORIZONS = (1, 3, 6, 12)
FloatArray = npt.NDArray[np.float64]


def learned(values: list[float]) -> ForecastBook:
    book = ForecastBook((), horizons=HORIZONS)
    for slot, value in enumerate(values):
        book.learn("x/0", slot, value)
    return book


@pytest.mark.parametrize(
    ("values", "possible"),
    [
        ([60.0] * 499 + [20.0], (20.0, 60.0)),
        ([20.0] * 60 + [70.0] * 3, (60.0, 70.0, 80.0)),
        ([100.0] * 299 + [300.0], (250.0, 300.0, 350.0)),
        ([0.0] * 299 + [50.0], (0.0, 50.0, 80.0)),
    ],
)
def test_after_a_jump_both_sides_of_the_last_value_are_possible(
    values: list[float], possible: tuple[float, ...]
) -> None:
    said = learned(values).forecast("x/0", 12, len(values) - 1)
    for i in range(12):
        assert said.mean[i] == pytest.approx(values[-1])
        for value in possible:
            assert said.lower80[i] <= value <= said.upper80[i]
    # A planner that reads (upper - mean) as the deviation must not read certainty.
    assert said.upper80[0] - said.mean[0] >= 0.1 * values[-1]


@settings(max_examples=10, deadline=None)
@given(st.floats(1, 1e6), st.floats(0.05, 20), st.integers(1, 6))
def test_a_constant_load_becomes_certain_again(level: float, factor: float, after: int) -> None:
    """The width after a jump shrinks with every value that confirms the new level."""
    book = learned([level] * 60)
    widths = []
    for slot in range(60, 60 + 40 + after):
        book.learn("x/0", slot, level * factor)
        said = book.forecast("x/0", 1, slot)
        widths.append(said.upper80[0] - said.lower80[0])
        assert said.lower80[0] <= said.mean[0] <= said.upper80[0]
    assert widths[-1] <= 0.2 * max(widths[0], 1e-6 * level) + 2e-3 * level * factor


def coverage(loads: FloatArray, from_slot: int, to_slot: int, horizon: int) -> tuple[float, float]:
    """Share of values in their 80 and 95 % interval, forecasts made in [from_slot, to_slot)."""
    book = ForecastBook((), horizons=HORIZONS)
    names = [f"x/{i}" for i in range(loads.shape[0])]
    at = HORIZONS.index(horizon)
    inside: list[FloatArray] = []
    for slot in range(to_slot):
        book.learn_many(slot, dict(zip(names, loads[:, slot].tolist(), strict=True)))
        if slot >= from_slot:
            said = book.said(names).quantiles[:, at]
            value = loads[:, slot + horizon]
            inside.append(
                np.stack([(said[:, a] <= value) & (value <= said[:, b]) for a, b in (I80, I95)])
            )
    found = np.mean(np.concatenate(inside, axis=1), axis=1)
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("seed", [101, 102])
@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("horizon", [1, 6])
def test_poisson_loads_are_covered_after_a_jump(seed: int, factor: float, horizon: int) -> None:
    """Seeds, factors and levels that no constant was chosen on."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(15, 900, size=(40, 1)) * np.ones((40, 120))
    level[:, 90:] *= factor
    eighty, ninety_five = coverage(rng.poisson(level).astype(float), 91, 100, horizon)
    assert eighty >= 0.75
    assert ninety_five >= 0.9


def test_without_a_jump_nothing_is_wider() -> None:
    rng = np.random.default_rng(103)
    loads = rng.poisson(200.0, size=(40, 200)).astype(float)
    eighty, ninety_five = coverage(loads, 100, 190, 1)
    assert 0.75 <= eighty <= 0.85
    assert 0.92 <= ninety_five <= 0.98


def with_event(came: int, factor: float = 8.0) -> tuple[ForecastBook, list[float]]:
    """200 slots of about 100, an event of 20 slots at `factor`, of which `came` slots come."""
    calendar = Calendar([Event("sale", 200.0, 220.0, factor=factor)])
    book = ForecastBook((), horizons=HORIZONS, calendar=calendar, period_s=1.0)
    rng = np.random.default_rng(104)
    values = rng.normal(100, 5, 260).tolist()
    for slot in range(200, 200 + came):
        values[slot] *= factor
    return book, values


@pytest.mark.parametrize("factor", [8.0, 0.2])
def test_an_announced_event_that_does_not_come(factor: float) -> None:
    book, values = with_event(0, factor)
    for slot in range(230):
        book.learn("x/0", slot, values[slot])
        said = book.forecast("x/0", 1, slot)
        if 200 <= slot < 202:  # it may come yet
            assert said.lower95[0] <= 100 * max(factor, 1)
            assert said.upper95[0] >= 100 * min(factor, 1)
        if slot >= 201:  # the usual load is in, whatever was announced
            assert said.lower80[0] - 10 <= 100 <= said.upper80[0] + 10
        if slot >= 206:
            assert said.mean[0] == pytest.approx(100, rel=0.15)


def test_an_event_that_comes_late_is_believed_again() -> None:
    book, values = with_event(0)
    for slot in range(205):
        book.learn("x/0", slot, values[slot])
    for slot in range(205, 212):
        book.learn("x/0", slot, 8 * values[slot])
        said = book.forecast("x/0", 1, slot)
        assert said.mean[0] == pytest.approx(800, rel=0.1)
    for slot in range(212, 222):
        book.learn("x/0", slot, (8 if slot < 220 else 1) * values[slot])
    assert book.forecast("x/0", 3, 221).mean[2] == pytest.approx(100, rel=0.1)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0.1, 1e3))
def test_a_mixture_lies_between_its_two_distributions(share: float, factor: float) -> None:
    first = np.array(LEVELS).reshape(1, -1) * 100 * factor
    second = np.array(LEVELS).reshape(1, -1) * 100
    found = mixed(first, second, np.array([share]))
    assert (np.diff(found) >= -1e-9).all()
    assert (found >= np.minimum(first, second).min() - 1e-9).all()
    assert (found <= np.maximum(first, second).max() + 1e-9).all()
    if share in (0.0, 1.0):
        assert np.allclose(found, first if share == 1.0 else second, rtol=0.2)
