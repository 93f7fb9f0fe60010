"""One bad clock, stamp or report stops no statistics: a log's slots go on as without it."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.log_clock import LogClock, WallClocks
from coordinator.statistics.model_trainer import ModelTrainer
from coordinator.statistics.state import Saved, SavedLog
from logstore.base.env import Env
from profiler.slot_clock import GAP_SLOTS_MAX
from profiler.types import ShardStatistics
from tests.support.statistics import statistic

SLOT_US = 300_000_000
DAY = 288
"""Slots of a day."""


def intake() -> StatisticsIntake:
    return StatisticsIntake(3600.0, seasons_slots=(24,), settle_s=0.0, history_slots=48)


def report(
    book: StatisticsIntake, rows: list[ShardStatistics], now_s: float, instance: str = "a"
) -> None:
    book.take(instance, 1, rows, None, now_s, round(now_s * 1e6))


def slots_learned(book: StatisticsIntake, shard: str) -> dict[int, float]:
    values = book.book.state(shard)["values"]
    last = book.book.last_slot(shard)
    return {last - i: v for i, v in enumerate(reversed(values))}


# ---- logs of event time ------------------------------------------------------------------------


def test_who_carries_most_of_a_log_tells_its_time() -> None:
    clock = LogClock(3.0)
    for slot in range(50):
        clock.tell("busy", [slot], 1_000, float(slot), bounded=False)
        clock.tell("quiet", [slot // 10], 0, float(slot), bounded=False)
        clock.tell("ahead", [slot + 12], 100, float(slot), bounded=False)
    assert clock.slot == 49


def test_of_two_alike_the_earlier_one_is_followed() -> None:
    clock = LogClock(3.0)
    for slot in range(20):
        clock.tell("a", [slot], 10, float(slot), bounded=False)
        clock.tell("b", [slot + 12], 10, float(slot), bounded=False)
    assert clock.slot == 19


def test_a_reporter_that_tells_no_more_of_the_log_does_not_hold_it() -> None:
    clock = LogClock(3.0)
    for slot in range(20):
        clock.tell("a", [slot], 1_000, 300.0 * slot, bounded=False)
    for slot in range(20, 40):
        clock.tell("b", [slot], 1_000, 300.0 * slot, bounded=False)
    assert clock.slot == 39


LAST, AT = 59, 30
"""The last slot of these runs, and the one of the glitch."""


def run(reporters: int, glitch: list[ShardStatistics]) -> StatisticsIntake:
    """Two logs with a shard on each reporter; the glitch's rows come one report each."""
    book = intake()
    for slot in range(LAST + 1):
        for n in range(reporters):
            rows = [statistic(f"{log}/{n}", f"i{n}", slot, 100 + slot % 24) for log in ("x", "y")]
            report(book, rows, float(slot), f"i{n}")
        if AT <= slot < AT + len(glitch):
            report(book, [glitch[slot - AT]], slot + 0.5, "i0")
        book.learn(slot + 0.9)
        if slot > AT + len(glitch):
            assert book.newest_slots(["x", "y"]) == {"x": slot, "y": slot}
    return book


@cache
def clean_run(reporters: int) -> StatisticsIntake:
    return run(reporters, [])


@pytest.mark.parametrize(
    ("bad", "reporters", "reports"),
    [
        (5_881_712_000, 1, 1),
        (5_881_712_000, 1, 2),
        (5_881_712_000, 3, 2),
        (AT + 8_640, 1, 1),
        (AT + 8_640, 2, 1),
        (AT + 12, 1, 1),
        (AT + 12, 2, 2),
        (-1_000, 1, 2),
        (AT - 12, 2, 1),
    ],
)
def test_a_bad_report_heals_within_a_period(bad: int, reporters: int, reports: int) -> None:
    """The other log and the other reporters never notice; this one's slots are those of before."""
    clean = clean_run(reporters)
    dirty = run(reporters, [statistic("x/0", "i0", bad + i, 1) for i in range(reports)])
    for n in range(reporters):
        for log in ("x", "y"):
            shard = f"{log}/{n}"
            assert dirty.load(shard) == clean.load(shard)
            was, now = slots_learned(clean, shard), slots_learned(dirty, shard)
            assert {s: now[s] for s in was} == pytest.approx(was, abs=1.0)
            assert max(now) == LAST
            said = [b.forecasts([shard], 6, float(LAST), 1.0)[shard] for b in (clean, dirty)]
            assert said[0].made_at_slot == said[1].made_at_slot == LAST
            assert said[1].mean == pytest.approx(said[0].mean, rel=0.1)


def test_the_first_report_of_all_is_bad_and_what_it_taught_is_forgotten() -> None:
    book = intake()
    report(book, [statistic("x/0", "a", 5_881_712_000, 7)], 0.0)
    book.learn(0.1)
    for slot in range(100, 130):
        report(book, [statistic("x/0", "a", slot, 100)], 1.0 + slot - 100)
        book.learn(1.5 + slot - 100)
    assert book.newest_slots(["x"]) == {"x": 129}
    assert book.book.last_slot("x/0") == 129
    load = book.load("x/0")
    assert load is not None
    assert (load.slot, load.ops) == (129, 100.0)
    assert max(t.slot for t in book.history("x")["x/0"]) == 129
    said = book.forecasts(["x/0"], 3, 30.0, 1.0)["x/0"]
    assert said.mean[0] == pytest.approx(100.0, rel=0.05)
    heatmap = book.heatmap("x")
    assert heatmap is not None
    assert heatmap.grid()[1][-1] == 129


def test_no_reports_for_long_and_then_all_at_once() -> None:
    book = intake()
    for slot in range(50):
        report(book, [statistic("x/0", "a", slot, 100)], float(slot))
    late = [statistic("x/0", "a", slot, 100 + slot) for slot in range(50, 90)]
    for start in range(0, 40, 8):
        report(book, late[start : start + 8], 200.0)
    while book.learn(201.0):
        pass
    assert book.newest_slots(["x"]) == {"x": 89}
    assert [slots_learned(book, "x/0")[s] for s in range(50, 90)] == [
        100.0 + s for s in range(50, 90)
    ]


def test_reporters_that_are_apart_in_history_lose_nothing() -> None:
    """One instance feeds its weeks before the other does."""
    book = intake()
    for start in range(0, 300, 50):
        report(book, [statistic("x/0", "a", s, 10) for s in range(start, start + 50)], start / 1e3)
    for start in range(0, 300, 50):
        report(book, [statistic("x/1", "b", s, 20) for s in range(start, start + 50)],
               1.0 + start / 1e3, "b")  # fmt: skip
    report(book, [statistic("x/0", "a", 300, 10)], 2.1)
    while book.learn(10.0):
        pass
    for shard, value in (("x/0", 10.0), ("x/1", 20.0)):
        assert book.book.last_slot(shard) in (299, 300)
        assert set(book.book.state(shard)["values"]) == {value}


def test_a_report_that_comes_twice_counts_once() -> None:
    book = intake()
    rows = [statistic("x/0", "a", slot, 10) for slot in range(12)]
    for _ in range(3):
        report(book, rows, 0.0)
    book.learn(1.0)
    assert set(slots_learned(book, "x/0").values()) == {10.0}
    assert len(book.history("x")["x/0"]) == 12


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["i0", "i1", "i2"]),
            st.one_of(st.integers(-(2**40), 2**40), st.integers(0, 80)),
            st.integers(0, 50),
        ),
        max_size=6,
    ),
    st.integers(0, 2**32),
)
def test_after_any_bad_reports_all_goes_on(glitch: list[tuple[str, int, int]], seed: int) -> None:
    """Three instances; some reports of anything from them between two slots of right ones."""
    book, at = intake(), random.Random(seed).randrange(10, 30)
    for slot in range(60):
        for n in range(3):
            report(book, [statistic(f"x/{n}", f"i{n}", slot, 100)], slot + n / 10, f"i{n}")
        if slot == at:
            for instance, bad, ops in glitch:
                row = statistic(f"x/{instance[1:]}", instance, bad, ops)
                report(book, [row], slot + 0.5, instance)
        book.learn(slot + 0.9)
        if slot > at:
            assert book.newest_slots(["x"]) == {"x": slot}
    for n in range(3):
        assert book.book.last_slot(f"x/{n}") == 59
        said = book.forecasts([f"x/{n}"], 3, 59.0, 1.0)[f"x/{n}"]
        assert said.made_at_slot == 59
        held = sum(ops for who, bad, ops in glitch if who == f"i{n}" and at < bad < 60)
        assert 70.0 <= said.mean[0] <= 130.0 + held  # a report of a later slot counts in it


# ---- over a restart ------------------------------------------------------------------------------


async def test_a_poisoned_file_heals_at_restore(tmp_path: Path) -> None:
    """As the version before wrote it: 100 slots, and one that is 30 days later."""
    book = intake()
    for slot in range(100):
        report(
            book, [statistic("x/0", "a", slot, 100), statistic("y/0", "a", slot, 50)], float(slot)
        )
    while book.learn(1e9):
        pass
    good = book.saved()
    later = 99 + 30 * 24
    model = good.models["x/0"]
    poisoned = {**model, "last_slot": 119, "values": [*model["values"], *[0.0] * 20]}
    history = [*good.history["x/0"], statistic("x/0", "a", later, 1)]
    bad = msgspec.structs.replace(
        good,
        logs={**good.logs, "x": SavedLog(later, later)},
        models={**good.models, "x/0": poisoned},
        history={**good.history, "x/0": history},
    )
    path = tmp_path / "learned"
    path.write_bytes(msgspec.msgpack.encode(bad))
    again = ModelTrainer(intake(), Env(), path)
    await again.restore({"x", "y"}, {"x": 99, "y": 99})
    await again.close()
    for name, ops in (("x", 100.0), ("y", 50.0)):
        assert again.intake.newest_slots([name]) == {name: 99}
        assert again.intake.book.last_slot(f"{name}/0") == 99
        assert set(again.intake.book.state(f"{name}/0")["values"]) == {ops}
        load = again.intake.load(f"{name}/0")
        assert load is not None
        assert (load.slot, load.ops) == (99, ops)


@pytest.mark.parametrize("later", [119, 99 + 30 * 24, 5_881_712_000])
def test_one_whose_bounds_nobody_knows_heals_by_what_is_told(later: int) -> None:
    book = intake()
    for slot in range(100):
        report(book, [statistic("x/0", "a", slot, 100)], float(slot))
    while book.learn(1e9):
        pass
    good = book.saved()
    model = good.models["x/0"]
    values = [*model["values"], *[0.0] * min(later - 99, 20)]
    bad = Saved(
        good.slot_s,
        good.seasons,
        {"x": SavedLog(later, later)},
        {"x/0": {**model, "last_slot": later, "values": values}},
        {"x/0": [statistic("x/0", "a", later, 1)]},
    )
    after = intake()
    after.restore(bad, {"x"}, 0.0, None)
    for slot in range(100, 150):
        report(after, [statistic("x/0", "a", slot, 100)], float(slot))
        after.learn(slot + 0.5)
    assert after.newest_slots(["x"]) == {"x": 149}
    assert after.book.last_slot("x/0") == 149
    said = after.forecasts(["x/0"], 3, 150.0, 1.0)["x/0"]
    assert said.mean[0] == pytest.approx(100.0, rel=0.05)


# ---- logs of the wall clock ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_slots", "expected"),
    [
        ({"a": 0}, {"a": 0}),
        ({"a": 30 * DAY}, {"a": 30 * DAY}),  # the coordinator and one instance: ours is earlier
        ({"a": -30 * DAY}, {"a": 0}),  # the coordinator is the one that is ahead
        ({"a": 0, "b": 12}, {"a": 0, "b": 12}),
        ({"a": 0, "b": -12}, {"a": 0, "b": -12}),
        ({"a": 12, "b": 12, "c": 12}, {"a": 0, "b": 0, "c": 0}),  # ours is an hour behind
        ({"a": 0, "b": 0, "c": 8_640, "d": -8_640}, {"a": 0, "b": 0, "c": 8_640, "d": -8_640}),
    ],
)
def test_a_clock_that_is_off_tells_the_slots_of_a_right_one(
    off_slots: dict[str, int], expected: dict[str, int]
) -> None:
    clocks, now_us = WallClocks(3.0), 1_764_513_600_000_000
    for instance, off in off_slots.items():
        clocks.tell(instance, now_us + off * SLOT_US, now_us, 1.0)
    found = {instance: clocks.slots_ahead(instance, SLOT_US) for instance in off_slots}
    assert found == expected


def test_what_a_report_took_to_come_is_no_wrong_clock() -> None:
    clocks = WallClocks(3.0)
    clocks.tell("a", 1_000_000_000, 1_020_000_000, 1.0)
    assert clocks.slots_ahead("a", 1_000_000) == 0
    assert clocks.newest_us(1_020_000_000) >= 1_020_000_000
    clocks.tell("b", 9_000_000_000, 1_000_000_000, 100.0)  # a is silent: it counts no more
    assert clocks.slots_ahead("a", 1_000_000) == 0


def test_slots_that_are_released_late_are_not_lost() -> None:
    """A jump of a whole log that is believed at the third report: the first one counts too."""
    book = intake()
    for slot in range(20):
        report(book, [statistic("x/0", "a", slot, 10)], float(slot))
    far = 20 + 10 * GAP_SLOTS_MAX
    for i in range(6):
        report(book, [replace(statistic("x/0", "a", far + i, 30), p50_ms=1.0)], 20.0 + 2 * i)
    while book.learn(1e6):
        pass
    learned = slots_learned(book, "x/0")
    assert [learned[far + i] for i in range(6)] == [30.0] * 6
