"""How long the next move takes, from synthetic histories of past ones."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.migration.history import move_history, move_seconds
from coordinator.migration.move_times import MoveTime, fit, weighted_median
from coordinator.migration.records import MigrationRecord, MoveOptions, Phase, State
from logstore.meta.records import Member
from sharder.view import MoveHistory

PRIOR_S, PRIOR_RATE = 1.0, 20e6
MB = 1_000_000


def line(sizes_mb: list[float], overhead_s: float, rate: float) -> list[MoveTime]:
    return [MoveTime(round(m * MB), overhead_s + m * MB / rate, None) for m in sizes_mb]


@given(
    st.lists(st.integers(0, 100_000), min_size=4, max_size=20, unique=True),
    st.floats(0.05, 60.0),
    st.floats(1e6, 1e9),
)
def test_an_exact_history_is_found_again(
    sizes_mb: list[int], overhead_s: float, rate: float
) -> None:
    found = fit(line([float(m) for m in sizes_mb], overhead_s, rate), PRIOR_S, PRIOR_RATE)
    assert found.overhead_s == pytest.approx(overhead_s, rel=1e-3, abs=1e-3)
    assert found.bytes_per_s == pytest.approx(rate, rel=1e-6)
    assert found.spread == found.rate_spread < 1.9


@given(
    st.lists(st.tuples(st.integers(0, 10**11), st.floats(0.0, 1e5)), max_size=20),
    st.lists(st.integers(0, 10**12), min_size=2, max_size=2),
)
def test_any_history_gives_a_finite_time_that_grows_with_the_bytes(
    moves: list[tuple[int, float]], sizes: list[int]
) -> None:
    model = fit([MoveTime(b, s) for b, s in moves], PRIOR_S, PRIOR_RATE)
    history = MoveHistory(
        copy_mb_per_s=model.bytes_per_s / 1e6, fixed_s=5.0 + model.overhead_s, scheduled_s=5.0,
        spread=model.spread, rate_spread=model.rate_spread,
    )  # fmt: skip
    small, large = sorted(sizes)
    assert 5.0 <= history.duration_s(small) <= history.duration_s(large) < math.inf
    low_s, high_s = history.range_s(large)
    assert 5.0 <= low_s <= history.duration_s(large) <= high_s


def test_three_tiny_moves_say_what_a_tiny_move_takes_and_nothing_of_the_rate() -> None:
    tiny = [MoveTime(25_000, s, 25_000 / 0.1) for s in (0.69, 0.66, 0.74)]
    found = fit(tiny, PRIOR_S, PRIOR_RATE)
    assert found.overhead_s + 25_000 / found.bytes_per_s == pytest.approx(0.69)
    assert found.bytes_per_s == pytest.approx(PRIOR_RATE)
    assert found.rate_spread == 2.5


def test_one_move_in_four_that_hung_changes_little() -> None:
    moves = line([1, 5, 20, 50, 80, 120, 200, 400], 2.0, 50e6)
    moves[2] = replace(moves[2], seconds=600.0)
    moves[5] = replace(moves[5], seconds=300.0)
    found = fit(moves, PRIOR_S, PRIOR_RATE)
    assert found.overhead_s == pytest.approx(2.0, rel=0.2)
    assert found.bytes_per_s == pytest.approx(50e6, rel=0.2)


def test_moves_of_one_size_say_the_rate_by_their_copies() -> None:
    moves = [MoveTime(100 * MB, 4.0, 40e6), MoveTime(100 * MB, 4.2, 50e6)]
    found = fit([*moves, MoveTime(100 * MB, 4.1, 45e6)], PRIOR_S, PRIOR_RATE)
    assert found.bytes_per_s == pytest.approx(45e6)
    assert found.overhead_s == pytest.approx(4.1 - 100 / 45)


@pytest.mark.parametrize(("count", "sd"), [(5, 0.1), (20, 0.1), (20, 0.5)])
def test_the_range_holds_about_eighty_percent_of_the_next_moves(count: int, sd: float) -> None:
    dice = random.Random(7)
    inside = 0
    for _ in range(400):
        times = [math.exp(dice.gauss(0.0, sd)) * 3.0 for _ in range(count + 1)]
        found = fit([MoveTime(0, s) for s in times[:-1]], PRIOR_S, PRIOR_RATE)
        inside += found.overhead_s / found.spread <= times[-1] <= found.overhead_s * found.spread
    assert 0.72 <= inside / 400 <= 1.0
    if sd >= 0.5:
        assert inside / 400 <= 0.9


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.1, 100.0)), min_size=1))
def test_a_weighted_median_halves_the_weight(values: list[tuple[float, float]]) -> None:
    middle, whole = weighted_median(values), sum(w for _, w in values)
    assert sum(w for v, w in values if v < middle) <= whole / 2 + 1e-6
    assert sum(w for v, w in values if v > middle) <= whole / 2 + 1e-6


def moved(number: int, size: int, seconds: float, strategy: str = "shadow") -> MigrationRecord:
    """A completed move whose cutover ended after `seconds`."""
    options = MoveOptions(shadow_s=0.1, ramp_step=0.5, ramp_interval_s=0.1)
    return MigrationRecord(
        f"m{number}", "x", "x/0", Member("a", 1, 1), "b", 0, strategy, State.COMPLETED,
        options=options, phases=(Phase(State.SOAKING, round(seconds * 1e6)),), bytes=size,
        copy_mb_per_s=size / 1e6 / 0.1, blackout_ms=8.0,
    )  # fmt: skip


def test_what_options_prescribe_is_not_learned_and_does_not_spread() -> None:
    quick = [moved(n, 25_000, 1.0) for n in range(3)]  # 0.3 s of each are prescribed
    history = move_history(quick, MoveOptions())
    assert history.scheduled_s == 11.0
    expected_s, low_s, high_s = move_seconds(history, MoveOptions(), "shadow", 25_000)
    assert expected_s == pytest.approx(11.0 + 0.7 + 10.0, abs=1e-3)
    assert 21.2 < low_s < expected_s < high_s < 22.5


def test_a_switch_is_expected_by_switches_only() -> None:
    moves = [moved(n, 25_000, 1.0) for n in range(3)]
    moves += [moved(n, 10**9, 0.2, "switch") for n in range(3)]
    history = move_history(moves, MoveOptions(soak_s=1.0), "switch")
    seconds = move_seconds(history, MoveOptions(soak_s=1.0), "switch", 10**9)
    assert seconds[0] == pytest.approx(1.2)
    assert 1.1 < seconds[1] < 1.2 < seconds[2] < 1.4


def test_a_move_that_fell_back_or_was_throttled_says_nothing() -> None:
    slow = moved(1, 25_000, 900.0)
    throttled = replace(slow.options, throttle_bytes_per_s=1e3)
    odd = [replace(slow, setbacks=1), replace(slow, options=throttled)]
    assert move_history(odd, MoveOptions()) == move_history([], MoveOptions())
    throttle = MoveOptions(throttle_bytes_per_s=1e6)
    assert (
        move_seconds(move_history([], throttle), throttle, "shadow", 5 * MB)[0] == 11 + 1 + 5 + 10
    )
