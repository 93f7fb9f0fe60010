"""Round trips are kept for a while, in microseconds, with percentiles."""

import pytest

from logstore.node.statistics.round_trips import KEPT_MAX, RoundTrips


def test_percentiles_of_the_newest_in_microseconds() -> None:
    trips = RoundTrips()
    for n in range(KEPT_MAX + 100):
        trips.add("b", 0.5 if n < 100 else (n - 99) * 1e-6)
    p50, p90, p99 = trips.percentiles_us()["b"]
    assert (p50, p90, p99) == pytest.approx((128.5, 230.5, 253.45), abs=0.1)
    trips.forget("b")
    assert trips.percentiles_us() == {}
