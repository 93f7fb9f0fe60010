"""The distance between instances in the choice of a target and the time of a move."""

import numpy as np

from sharder.round_trips import MOVE_ROUND_TRIPS, RoundTripTable, far_steps, near
from sharder.view import InstanceView

ALL = np.ones(3, dtype=np.bool_)


def table() -> RoundTripTable:
    return RoundTripTable([
        InstanceView("a", round_trips_us={"b": (200.0, 900.0), "c": (5_000.0, 9_000.0)}),
        InstanceView("b", round_trips_us={"a": (300.0, 800.0)}),
        InstanceView("c", round_trip_ms=7.0),
    ])  # fmt: skip


def test_a_pair_is_as_slow_as_its_slower_side_says() -> None:
    found = table()
    assert found.of_target(0, []).tolist() == [0.0, 300.0, 5_000.0]
    assert found.move_s(1, 0) == MOVE_ROUND_TRIPS * 900e-6
    assert found.of_target(1, []).tolist() == [300.0, 0.0, 7_000.0]  # c by what others measure


def test_an_append_waits_for_the_farthest_follower() -> None:
    assert table().of_target(1, [0, 2]).tolist() == [5_000.0, 300.0, 7_000.0]


def test_microseconds_are_told_apart_but_not_noise() -> None:
    trips_us = np.array([400.0, 450.0, 700.0])
    assert near(trips_us, ALL).tolist() == [True, True, False]
    assert near(np.array([10.0, 90.0, 300.0]), ALL).tolist() == [True, True, False]
    assert far_steps(np.array([50.0, 399.0, 6_400.0]), ALL).tolist() == [0.0, 0.0, 3.0]
