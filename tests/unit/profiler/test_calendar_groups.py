"""What history cannot show: announced events and the usage that client groups predict."""

import numpy as np
import pytest

from profiler.calendar import Calendar, Event
from profiler.forecast import ForecastBook, GroupBook, UsageProfile

HOUR_S = 3600.0


def daily(slot: int) -> float:
    return 100.0 + 60.0 * float(np.sin(2 * np.pi * slot / 24)) + float(slot * 7919 % 11)


def book_with(calendar: Calendar | None) -> ForecastBook:
    return ForecastBook((24,), horizons=(1, 6, 12), calendar=calendar, period_s=HOUR_S)


def test_an_announced_event_is_anticipated_and_leaves_no_trace() -> None:
    sale = Event("sale", 404 * HOUR_S, 408 * HOUR_S, factor=3.0, shards=("shop/",))
    answer, blind = book_with(Calendar([sale])), book_with(None)
    for slot in range(400):
        for book in (answer, blind):
            book.learn_many(slot, {"shop/a": daily(slot), "audit/a": daily(slot)})
    true = [daily(slot) * (3.0 if 404 <= slot < 408 else 1.0) for slot in range(400, 412)]
    error = {}
    for name, book in (("told", answer), ("blind", blind)):
        said = book.forecast("shop/a", 12, 399)
        error[name] = float(np.abs(np.array(said.mean) - true).sum())
    assert error["told"] < 0.1 * error["blind"]
    assert answer.forecast("audit/a", 12, 399).mean == blind.forecast("audit/a", 12, 399).mean
    said = answer.forecast("shop/a", 12, 399)
    assert said.prob_above(daily(405) * 2.0, 6) > 0.95
    assert blind.forecast("shop/a", 12, 399).prob_above(daily(405) * 2.0, 6) < 0.05
    for slot in range(400, 428):
        value = daily(slot) * (3.0 if 404 <= slot < 408 else 1.0)
        answer.learn_many(slot, {"shop/a": value})
    tomorrow = answer.forecast("shop/a", 6, 427).mean  # the same hours of the next day
    assert tomorrow == pytest.approx([daily(s) for s in range(428, 434)], rel=0.15)


def test_a_kind_of_event_is_learned_from_the_last_one() -> None:
    calendar = Calendar(
        [
            Event(f"match {at}", at * HOUR_S, (at + 3) * HOUR_S, kind="match")
            for at in (300, 350, 390)
        ]
    )
    book = book_with(calendar)
    for slot in range(388):
        playing = any(at <= slot < at + 3 for at in (300, 350))
        book.learn("a", slot, daily(slot) * (2.5 if playing else 1.0))
    ahead = book.forecast("a", 6, 387)
    assert ahead.mean[3] == pytest.approx(2.5 * daily(391), rel=0.25)
    assert ahead.mean[0] == pytest.approx(daily(388), rel=0.2)


def test_bad_events_and_bounds() -> None:
    with pytest.raises(ValueError, match=r"end_s of event 'x' is 1.0"):
        Event("x", 2.0, 1.0)
    with pytest.raises(ValueError, match=r"factor of event 'x' is 0.0"):
        Event("x", 1.0, 2.0, factor=0.0)
    with pytest.raises(ValueError, match="period_s is 0"):
        ForecastBook((24,), calendar=Calendar())
    calendar = Calendar([Event("x", 0.0, 10.0, factor=2.0), Event("y", 5.0, 20.0, factor=3.0)])
    assert calendar.factor("s", 0.0, 10.0) == pytest.approx(2.0 * 2.0)  # y covers half of it
    assert calendar.factor("s", 20.0, 30.0) == 1.0
    assert calendar.forget_before(12.0) == 1
    assert [event.name for event in calendar.events()] == ["y"]
    assert calendar.remove("y")
    assert not calendar.remove("y")


def groups_at(slot: int) -> dict[str, float]:
    return {"web": daily(slot), "batch": 5.0 + float(slot % 2)}


def test_a_profile_of_a_client_group_is_anticipated_and_the_parts_add_up() -> None:
    book = GroupBook(book_with(None), book_with(None))
    for slot in range(400):
        book.learn(slot, {"a": groups_at(slot)})
    without, _ = book.forecast("a", 12, 399)
    ops = tuple(500.0 if 5 <= i < 9 else 5.5 for i in range(24))
    book.set_profile("batch", UsageProfile(400, ops))
    total, parts = book.forecast("a", 12, 399)
    for i in range(12):
        true = daily(400 + i) + ops[i]
        assert total.mean[i] == pytest.approx(true, rel=0.2)
        assert sum(part.mean[i] for part in parts.values()) == pytest.approx(total.mean[i])
    assert without.mean[6] < 0.5 * total.mean[6]
    assert parts["web"].mean[6] == pytest.approx(daily(406), rel=0.2)
    assert total.prob_above(400.0, 7) > 0.9
    assert without.prob_above(400.0, 7) < 0.1


def test_a_profile_that_does_not_come_true_loses_its_trust() -> None:
    book = GroupBook(book_with(None), book_with(None))
    for slot in range(200):
        book.learn(slot, {"a": groups_at(slot)})
    book.set_profile("batch", UsageProfile(200, (500.0,), repeats=True))
    assert book.trust("a", "batch") == 1.0
    for slot in range(200, 212):
        book.learn(slot, {"a": groups_at(slot)})
    assert book.trust("a", "batch") < 0.01
    total, _ = book.forecast("a", 3, 211)
    assert total.mean[0] == pytest.approx(daily(212) + 5.0, rel=0.2)


def test_a_group_that_never_came_is_expected_by_its_profile_alone() -> None:
    book = GroupBook(book_with(None), book_with(None))
    for slot in range(200):
        book.learn(slot, {"a": {"web": daily(slot)}})
    before, _ = book.forecast("a", 3, 199)
    book.set_profile("import", UsageProfile(200, (300.0, 300.0)))
    total, _ = book.forecast("a", 3, 199)
    gain = np.array(total.mean) - np.array(before.mean)
    assert gain == pytest.approx([300.0, 300.0, 0.0], abs=1e-6)
    with pytest.raises(ValueError, match="ops has 0 slots"):
        UsageProfile(0, ())


def test_a_random_walk_gets_last_value_and_wide_intervals() -> None:
    steps = np.random.default_rng(11).normal(0.0, 5.0, 1500)
    walk, book = np.abs(1000.0 + np.cumsum(steps)), ForecastBook((24,), horizons=(1, 6, 12))
    for slot, value in enumerate(walk.tolist()):
        book.learn("a", slot, value)
    said = book.forecast("a", 12, 1499)
    # Nothing is known of where it goes, and much of how far: 5 x root(steps) each way.
    assert np.array(said.mean) == pytest.approx([walk[-1]] * 12, abs=10.0)
    for step in (1, 6, 12):
        width = said.upper95[step - 1] - said.lower95[step - 1]
        assert 0.6 < width / (2 * 1.96 * 5.0 * step**0.5) < 1.8
