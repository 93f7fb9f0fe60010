"""Correlated groups and co-access are found; spikes, outages and shifts get their names."""

from collections.abc import Callable

import numpy as np
import pytest

from profiler.anomaly import AnomalyBook, AnomalyDetector, AnomalyKind
from profiler.calendar import Calendar, Event
from profiler.correlation import CoAccess, CorrelationMatrix
from profiler.forecast import ForecastBook


def test_correlation_agrees_with_numpy_on_a_long_memory() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(0, 1, (2000, 1))
    values = np.hstack([base, base + generator.normal(0, 0.3, (2000, 1)), -base,
                        generator.normal(0, 1, (2000, 1)), np.ones((2000, 1))])  # fmt: skip
    matrix = CorrelationMatrix(5, half_life_slots=1e9)
    for row in values:
        matrix.learn(row)
    found = matrix.correlation()
    assert found[:4, :4] == pytest.approx(np.corrcoef(values[:, :4].T), abs=1e-6)
    assert found[4, :4] == pytest.approx(0.0)
    assert [(i, j) for i, j, _ in matrix.pairs(0.8)] == [(0, 1)]


def test_correlation_forgets() -> None:
    generator = np.random.default_rng(2)
    matrix = CorrelationMatrix(2, half_life_slots=20)
    for sign in (1.0, -1.0):
        for x in generator.normal(0, 1, 300).tolist():
            matrix.learn(np.array([x, sign * x]))
        assert sign * matrix.correlation()[0, 1] > 0.95
    with pytest.raises(ValueError, match="shape"):
        matrix.learn(np.zeros(3))


def test_co_access_within_the_window_only() -> None:
    generator = np.random.default_rng(3)
    seen = CoAccess(window_us=10, pairs_max=500)
    time_us = 0
    for _ in range(3000):
        time_us += 1000
        first = int(generator.integers(0, 200))
        seen.learn("c", [first], time_us)
        seen.learn(
            "c", [first ^ 1 if first < 40 else int(generator.integers(40, 200))], time_us + 5
        )
        seen.learn("other", [first ^ 2], time_us + 6)
        assert len(seen._counts) <= 500
    assert {(i, j) for i, j, _ in seen.top(20)} == {(i, i + 1) for i in range(0, 40, 2)}


def test_anomalies_are_named() -> None:
    generator = np.random.default_rng(4)
    detector, found = AnomalyDetector(), []
    for slot in range(600):
        value = 100.0 + generator.normal(0, 4)
        if slot == 200:
            value = 400.0
        elif slot == 300:
            value = 0.0
        elif slot >= 450:
            value += 10.0
        anomaly, final = detector.learn(slot, value, 100.0)
        if anomaly is not None and final:
            found.append((anomaly.slot, anomaly.kind))
    assert found[:2] == [(200, AnomalyKind.SPIKE), (300, AnomalyKind.OUTAGE)]
    assert len(found) >= 3
    slot, kind = found[2]
    assert kind is AnomalyKind.LEVEL_SHIFT_UP
    assert 450 <= slot < 600


def test_a_book_names_what_its_forecasts_did_not_expect() -> None:
    generator = np.random.default_rng(5)
    anomalies, calendar = AnomalyBook(), Calendar()
    calendar.add(Event("sale", 350 * 3600.0, 352 * 3600.0, factor=5.0))
    book = ForecastBook((24,), calendar=calendar, period_s=3600.0, anomalies=anomalies)
    for slot in range(400):
        usual = 100.0 + 40.0 * np.sin(2 * np.pi * slot / 24)
        a, b = usual + generator.normal(0, 2, 2)
        if slot in (350, 351):  # announced, so nothing unusual
            a, b = 5 * a, 5 * b
        book.learn_many(slot, {"x/0": 6 * a if slot == 300 else a, "x/1": 0 if slot == 320 else b})
    found = {(shard, a.slot, a.kind) for shard, a in anomalies.newest()}
    assert ("x/0", 300, AnomalyKind.SPIKE) in found
    assert ("x/1", 320, AnomalyKind.OUTAGE) in found
    assert not [slot for _, slot, _ in found if 350 <= slot < 352]
    assert len([slot for _, slot, _ in found if slot >= 72]) <= 8  # the rest is what follows them
    assert anomalies.counts[AnomalyKind.OUTAGE] == 1
    (outage,) = [a for _, a in anomalies.newest("x/1") if a.kind is AnomalyKind.OUTAGE]
    assert outage.expected == pytest.approx(100 + 40 * np.sin(2 * np.pi * 320 / 24), abs=15)
    assert anomalies.newest(count=1)[0][1].slot == max(slot for _, slot, _ in found)


@pytest.mark.parametrize(
    ("load", "kind", "slot"),
    [
        (lambda at: 60.0 if at >= 300 else 20.0, AnomalyKind.LEVEL_SHIFT_UP, 300),
        (lambda at: 20.0 if at >= 300 else 60.0, AnomalyKind.LEVEL_SHIFT_DOWN, 300),
        (lambda at: 200.0 if 300 <= at < 302 else 60.0, AnomalyKind.SPIKE, 300),
        (lambda at: 10.0 if 300 <= at < 303 else 60.0, AnomalyKind.DIP, 300),
        (lambda at: 0.0 if 300 <= at < 310 else 60.0, AnomalyKind.OUTAGE, 300),
    ],
)
def test_each_change_of_the_load_is_named_once(
    load: Callable[[int], float], kind: AnomalyKind, slot: int
) -> None:
    generator = np.random.default_rng(8)
    anomalies = AnomalyBook()
    book = ForecastBook((), anomalies=anomalies)
    for at in range(600):
        value = load(at)
        book.learn("x/0", at, value and value + generator.normal(0, 1))
    found = [(a.slot, a.kind) for _, a in anomalies.newest() if a.slot >= 290]
    assert (slot, kind) in found
    # The return from an outage of ten slots is a jump of its own.
    assert len(found) <= (2 if kind is AnomalyKind.OUTAGE else 1)
    assert anomalies.counts[kind] >= 1


@pytest.mark.parametrize("slow", [True, False])
def test_a_slow_change_is_a_drift_and_a_small_step_is_a_level_shift(slow: bool) -> None:
    """Most of 20 seeds: with noise of 2, a rise of 6 is seen long before its shape is plain."""
    first = []
    for seed in range(20):
        detector, generator = AnomalyDetector(), np.random.default_rng(seed)
        for slot in range(500):
            rise = 0.1 * max(0, slot - 300) if slow else 6.0 * (slot >= 300)
            anomaly, final = detector.learn(slot, 100 + rise + generator.normal(0, 2), 100.0)
            if anomaly is not None and final:
                first.append(anomaly.kind)
                break
    wanted = AnomalyKind.DRIFT if slow else AnomalyKind.LEVEL_SHIFT_UP
    assert first.count(wanted) >= 14


def test_a_book_of_anomalies_is_bounded() -> None:
    book = AnomalyBook(watched_max=2, kept_max=5)
    names, expected = ("a", "b", "c"), np.array([10.0, np.nan, 10.0])
    for slot in range(60):
        book.learn(slot, names, [10.0 + slot % 2] * 3, expected)
    assert book.unwatched == 0  # of b nothing is expected, so c has its place
    book.learn(60, ("d",), [1.0], np.array([1.0]))
    assert book.unwatched == 1
    book.forget("a")
    book.learn(61, ("d",), [1.0], np.array([1.0]))
    assert book.unwatched == 0
    for slot in range(62, 82):
        book.learn(slot, ("c",), [1e6 * (slot % 2)], np.array([10.0]))
    assert len(book.newest()) == 5
    assert book.newest()[0][1].slot == 81


def test_planted_groups_among_2000_are_found_in_ten_minutes_of_stream() -> None:
    generator = np.random.default_rng(6)
    planted = generator.permutation(2000)[:60].reshape(20, 3)
    true = {(min(a, b), max(a, b)) for group in planted.tolist() for a in group for b in group}
    true = {pair for pair in true if pair[0] != pair[1]}
    seen = CoAccess(window_us=50_000)
    for request in range(12_000):  # 20 requests/s, skewed noise, one in ten touches a planted group
        noise = (2000 * generator.random(3) ** 2).astype(int).tolist()
        touched = noise
        if request % 10 == 0:
            touched = [*noise, *planted[int(generator.integers(0, 20))].tolist()]
        seen.learn(f"client-{request % 50}", touched, request * 50_000)
    found = {(i, j) for i, j, count in seen.top(200) if count >= 20}
    assert len(found & true) / len(found) >= 0.95
    assert len(found & true) / len(true) >= 0.95
