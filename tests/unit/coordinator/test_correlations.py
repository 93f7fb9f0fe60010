"""Pairs of shards that are used together are found in what all shards do together, and sampled."""

import numpy as np
import pytest

from coordinator.statistics.correlations import BIN_US, BINS_MIN, Correlations
from profiler.correlation import FloatArray

BINS = 1_200


def samples(rate: float, together: bool, seed: int = 1) -> tuple[list[str], FloatArray, FloatArray]:
    """Six shards whose load rises and falls together; 0 and 5 also by the same requests."""
    rng = np.random.default_rng(seed)
    shards, times = [], []
    for n in range(BINS):
        level = 6.0 + 5.0 * np.sin(n / 50.0)
        counts = rng.poisson(level, 6)
        if together:
            counts[0] = counts[5] = rng.poisson(level)
        for shard, count in enumerate(counts.tolist()):
            kept = rng.binomial(count, rate)
            shards += [f"x/{shard}"] * kept
            times += [n * BIN_US + 1] * kept
    return shards, np.array(times, dtype=np.float64), np.full(len(times), 1.0 / rate)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_a_planted_pair_is_found_and_the_common_rhythm_is_not(rate: float) -> None:
    found = Correlations()
    found.learn(*samples(rate, together=True), 0, BINS)
    assert set(found.related("x/0")) == {"x/5"}
    assert found.related("x/0")["x/5"] > 0.8
    assert all(not found.related(f"x/{n}") for n in range(1, 5))
    alone = Correlations()
    alone.learn(*samples(rate, together=False), 0, BINS)
    assert all(not alone.related(f"x/{n}") for n in range(6))


def test_nothing_is_said_of_too_little() -> None:
    found = Correlations()
    shards, times, weights = samples(1.0, together=True)
    few = int((times < (BINS_MIN - 1) * BIN_US).sum())
    found.learn(shards[:few], times[:few], weights[:few], 0, BINS_MIN - 1)
    assert not found.related("x/0")


def test_a_new_shard_joins_and_what_was_learned_stays() -> None:
    found = Correlations()
    found.learn(*samples(1.0, together=True), 0, BINS)
    found.learn(["x/7", "x/6"], np.zeros(2), np.ones(2), 0, 1)
    log = found.of("x")
    assert log is not None
    assert log.shards == [f"x/{n}" for n in range(8)]
    assert found.related("x/0")["x/5"] > 0.8
