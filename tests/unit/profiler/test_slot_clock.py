"""A log's time by agreement: no glitch moves it, history as fast as it is read does."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.slot_clock import AGREE_MIN, BACK_MIN, GAP_SLOTS_MAX, SlotClock

NANOSECONDS = 5_881_712_000
"""A slot of 300 s of this year, were it stamped in nanoseconds."""


def tell(clock: SlotClock, slot: int, now_s: float, count: int = 1) -> None:
    clock.tell([slot], [count], now_s)


def live(clock: SlotClock, slots: range, now_s: float = 0.0, each_s: float = 300.0) -> float:
    """One record a slot, at its time."""
    for slot in slots:
        tell(clock, slot, now_s)
        now_s += each_s
    return now_s


@pytest.mark.parametrize("bad", [NANOSECONDS, 112, 102, 1_000_000, -5, -NANOSECONDS])
@pytest.mark.parametrize("times", [1, 2, 50])
def test_bad_records_between_right_ones_move_nothing(bad: int, times: int) -> None:
    clock = SlotClock()
    now_s = live(clock, range(100))
    for i in range(times):
        tell(clock, bad, now_s + i / 10)
        tell(clock, 99, now_s + i / 10)
    assert clock.slot == 99
    tell(clock, 100, now_s + 300)
    assert clock.slot == 100


@pytest.mark.parametrize("share", [0.001, 0.1, 0.4])
def test_a_batch_with_bad_records_in_it_moves_no_further(share: float) -> None:
    clock = SlotClock()
    live(clock, range(100))
    bad = max(1, int(1_000 * share))
    clock.tell([100, 112, NANOSECONDS], [1_000 - bad, bad, bad], 30_000.0)
    assert clock.slot == 100


def test_a_producer_whose_clock_is_an_hour_ahead_moves_nothing() -> None:
    clock = SlotClock()
    for slot in range(200):
        for i in range(10):
            now_s = slot * 300.0 + i * 30
            clock.tell([slot], [90], now_s)
            clock.tell([slot + 12], [10], now_s + 1)  # a batch of its own
            clock.tell([slot, slot + 12], [90, 10], now_s + 2)  # and one that a gateway mixed
        assert clock.slot == slot


@pytest.mark.parametrize("size", [1, 3, 100, 10_000])
@pytest.mark.parametrize("night", [0, 5, GAP_SLOTS_MAX - 1, 40])
def test_history_moves_it_as_fast_as_it_is_fed(size: int, night: int) -> None:
    """Batches over many slots each, all within a second, with nights in which nothing was."""
    clock = SlotClock()
    slots = [s for s in range(20_000) if s % 96 >= night]
    for start in range(0, len(slots), 500):
        part = slots[start : start + 500]
        clock.tell(part, [size] * len(part), start / 1e6)
    behind = 500 if night > GAP_SLOTS_MAX else 2  # a last, short batch with so long a gap in it
    assert slots[-1] - behind <= (clock.slot or 0) <= slots[-1]


def test_what_only_comes_from_far_away_is_believed_after_some_seconds() -> None:
    clock = SlotClock()
    now_s = live(clock, range(100))
    for i in range(AGREE_MIN):
        assert clock.slot == 99
        tell(clock, 5_000 + i, now_s + i)
    assert clock.slot is not None
    assert 5_000 <= clock.slot < 5_000 + AGREE_MIN
    live(clock, range(5_002, 5_100), now_s + 10)
    assert clock.slot == 5_099


@pytest.mark.parametrize("first", [NANOSECONDS, 112, 0])
def test_a_wrong_first_record_is_left_after_a_few_right_ones(first: int) -> None:
    clock = SlotClock()
    tell(clock, first, 0.0)
    went_back = [clock.tell([100], [1], 0.1 * i) for i in range(1, 20)]
    if first > 100 + GAP_SLOTS_MAX:
        assert went_back.count(True) == 1
    for slot in range(101, 130):
        tell(clock, slot, 300.0 * slot)
    assert clock.slot == 129


def test_late_records_take_it_back_only_if_nothing_else_comes() -> None:
    clock = SlotClock()
    now_s = live(clock, range(1_000))
    for i in range(1_000):  # a backfill beside what is live
        tell(clock, i % 500, now_s + i / 10)
        if i % 50 == 0:
            tell(clock, 999, now_s + i / 10)
    assert clock.slot == 999
    now_s += 100
    went_back = [clock.tell([50], [1], now_s + 2 * i) for i in range(3 * BACK_MIN)]
    assert any(went_back)
    assert clock.slot == 50


def test_one_that_is_restored_wants_more_than_one_word() -> None:
    for wrong in (NANOSECONDS, -NANOSECONDS):
        clock = SlotClock(start=500)
        tell(clock, wrong, 0.0)
        tell(clock, 501, 1.0)
        assert clock.slot == 501


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(
        st.one_of(st.integers(-(2**40), 2**40), st.integers(60, 160)), min_size=1, max_size=30
    ),
    st.sampled_from([0.001, 1.0, 60.0, 300.0]),
    st.integers(0, 2**32),
)
def test_after_any_glitch_the_slots_are_those_without_it(
    per_slot: int, glitch: list[int], each_s: float, seed: int
) -> None:
    """Right records in the order of time, and bad ones strewn between two slots of them."""
    rng = random.Random(seed)
    clean, dirty = SlotClock(), SlotClock()
    answer = [slot for slot in range(100) for _ in range(per_slot)]
    at = rng.randrange(BACK_MIN, len(answer))
    now_s = 0.0
    for i, slot in enumerate(answer):
        for clock in (clean, dirty):
            tell(clock, slot, now_s)
        if i == at:
            for bad in glitch:
                tell(dirty, bad, now_s)
                tell(dirty, slot, now_s)
        now_s += each_s
        if i > at + GAP_SLOTS_MAX * per_slot or i < at:
            assert dirty.slot == clean.slot
    for slot in range(100, 100 + GAP_SLOTS_MAX):
        tell(clean, slot, now_s)
        tell(dirty, slot, now_s)
    assert dirty.slot == clean.slot
