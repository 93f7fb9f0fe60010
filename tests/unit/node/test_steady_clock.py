"""The clock that stamps: a glitch of the wall clock moves it not, a clock set right it follows."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.base.steady_clock import (
    HOLD_MAX_S,
    PERSIST_S,
    STEP_MAX_S,
    SteadyClock,
    next_stamp,
)

T0 = 1_700_000_000_000_000
DAY_S = 86_400.0


@dataclass
class Machine:
    """True time, and how far the wall clock is off it."""

    true_s: float = 0.0
    off_s: float = 0.0

    def wall_us(self) -> int:
        return T0 + round((self.true_s + self.off_s) * 1e6)

    def elapsed_s(self) -> float:
        return 77.0 + self.true_s

    def error_s(self, clock: SteadyClock) -> float:
        return (clock.now_us() - T0) / 1e6 - self.true_s


def made(off_s: float = 0.0) -> tuple[Machine, SteadyClock]:
    machine = Machine(off_s=off_s)
    return machine, SteadyClock(machine.wall_us, machine.elapsed_s)


@pytest.mark.parametrize("off_s", [30 * DAY_S, -30 * DAY_S, 3600.0, -3600.0, 2.0, 1e9])
@pytest.mark.parametrize("lasts_s", [1, 6, 59])
def test_a_glitch_moves_nothing(off_s: float, lasts_s: int) -> None:
    machine, clock = made()
    for second in range(300):
        machine.true_s = float(second)
        machine.off_s = off_s if 100 <= second < 100 + lasts_s else 0.0
        assert abs(machine.error_s(clock)) < 0.01


def test_a_clock_that_jumps_back_and_forth_moves_nothing() -> None:
    machine, clock = made()
    for second in range(1_000):
        machine.true_s = float(second)
        machine.off_s = (0.0, 30 * DAY_S, -3600.0)[second % 3]
        assert abs(machine.error_s(clock)) < 0.01


@pytest.mark.parametrize("off_s", [30 * DAY_S, -30 * DAY_S, 3600.0])
def test_a_clock_that_was_set_is_followed_after_a_minute(off_s: float) -> None:
    machine, clock = made()
    errors = {}
    for second in range(200):
        machine.true_s, machine.off_s = float(second), off_s if second >= 100 else 0.0
        errors[second] = machine.error_s(clock)
    assert abs(errors[100 + int(PERSIST_S) - 1]) < 0.01
    assert errors[100 + int(PERSIST_S) + 1] == pytest.approx(off_s, abs=0.01)


def test_one_that_started_in_a_glitch_heals_within_a_minute() -> None:
    machine, clock = made(off_s=30 * DAY_S)
    for second in range(100):
        machine.true_s, machine.off_s = float(second), 0.0 if second >= 6 else 30 * DAY_S
        error_s = machine.error_s(clock)
    assert abs(error_s) < 0.01


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 5.0), st.floats(-STEP_MAX_S, STEP_MAX_S)), max_size=80))
def test_small_differences_are_approached_and_time_never_runs_back(
    steps: list[tuple[float, float]],
) -> None:
    machine, clock = made()
    last_us, off_s = clock.now_us(), 0.0
    for passed_s, off_s in steps:
        machine.true_s += passed_s
        machine.off_s = off_s / 2
        now_us = clock.now_us()
        assert now_us >= last_us
        last_us = now_us
    machine.true_s += 60.0
    assert machine.error_s(clock) == pytest.approx(machine.off_s, abs=0.001)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18))
def test_stamps_never_decrease_but_after_a_glitch(now_us: int, last_us: int) -> None:
    stamp = next_stamp(now_us, last_us)
    assert now_us <= stamp <= now_us + HOLD_MAX_S * 1e6
    if last_us <= now_us + HOLD_MAX_S * 1e6:
        assert stamp == max(now_us, last_us)
