"""Anomalies that were planted: what they leave behind in the forecasts of the next days."""

import numpy as np
import numpy.typing as npt
import pytest

from profiler.forecast import ForecastBook

DAY = 48
DAYS = 12
AT = (DAYS - 2) * DAY + 20  # 10 o'clock of a day, with two days of forecasts after it


def usual(seed: int = 5) -> npt.NDArray[np.float64]:
    at = np.arange(DAYS * DAY)
    drawn = np.random.default_rng(seed).normal(0.0, 4.0, len(at))
    return np.maximum(200.0 + 90.0 * np.sin(2 * np.pi * at / DAY) + drawn, 0.0)


def next_day(series: npt.NDArray[np.float64], until: int) -> npt.NDArray[np.float64]:
    """What is said an hour and six hours ahead in [AT + half a day, `until`), shape (slots, 2)."""
    book = ForecastBook((DAY,), horizons=(1, 2, 6, 12))
    said = []
    for slot, value in enumerate(series[:until].tolist()):
        book.learn("s", slot, value)
        if slot >= AT + DAY // 2:
            answer = book.forecast("s", 12, slot)
            said.append((answer.mean[1], answer.mean[11]))
    return np.array(said)


@pytest.mark.parametrize(
    ("what", "slots", "factor"),
    [("spike", 1, 8.0), ("outage", 6, 0.0), ("burst of an hour", 2, 5.0)],
)
def test_what_is_over_is_not_expected_the_next_day(what: str, slots: int, factor: float) -> None:
    clean, planted = usual(), usual()
    planted[AT : AT + slots] *= factor
    without, after = next_day(clean, DAYS * DAY), next_day(planted, DAYS * DAY)
    moved = np.abs(after - without).max(axis=0) / clean.mean()
    assert moved.max() < 0.06, (what, moved)


def test_a_level_that_stays_is_learned() -> None:
    shifted = usual()
    shifted[AT:] *= 2.0
    said = next_day(shifted, DAYS * DAY - 12)
    slots = AT + DAY // 2 + np.arange(len(said))
    error = np.abs(said[:, 1] - shifted[slots + 12]) / shifted[AT:].mean()
    assert np.median(error[DAY // 2 :]) < 0.1
    assert np.median(error[DAY // 2 :]) < 0.1


def test_what_comes_at_the_same_time_again_is_a_habit() -> None:
    """A job of an hour that starts on day 6: not expected on the next day, but from then on."""
    series = usual()
    for day in range(6, DAYS):
        series[day * DAY + 20 : day * DAY + 22] *= 4.0
    book = ForecastBook((DAY,), horizons=(1, 2, 6, 12))
    said = []
    for slot, value in enumerate(series.tolist()):
        book.learn("s", slot, value)
        if slot % DAY == 20 - 6 and slot > 6 * DAY:
            said.append(book.forecast("s", 6, slot).mean[5] / series[slot + 6])
    assert said[-1] == pytest.approx(1.0, abs=0.3), said
