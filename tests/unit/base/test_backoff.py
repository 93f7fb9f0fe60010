"""Waits between tries: bounds, jitter, a new start."""

import random

from logstore.base.backoff import Backoff


def test_waits_double_up_to_the_bound_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(0.1, 1.0)
    assert [backoff.next_s() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff.tries == 6
    backoff.reset()
    assert (backoff.tries, backoff.next_s()) == (0, 0.1)


def test_a_first_wait_above_the_bound_is_the_bound() -> None:
    assert Backoff(5.0, 1.0).next_s() == 1.0


def test_a_try_without_a_wait_counts() -> None:
    backoff = Backoff(0.1, 1.0)
    backoff.failed()
    assert (backoff.tries, backoff.next_s()) == (1, 0.2)


def test_ten_thousand_tries_stay_at_the_bound() -> None:
    backoff = Backoff(0.005, 1.0)
    for _ in range(10_000):
        backoff.failed()
    assert backoff.next_s() == 1.0


def test_jitter_spreads_over_the_upper_half_and_is_the_seeds() -> None:
    waits = [Backoff(1.0, 1.0, random.Random(seed).random).next_s() for seed in range(200)]
    assert 0.5 <= min(waits) < 0.55
    assert 0.95 < max(waits) <= 1.0
    assert waits[7] == Backoff(1.0, 1.0, random.Random(7).random).next_s()
