"""The trend of a load, and which models its forecast is made of."""

import numpy as np
import pytest

from profiler.forecast import ForecastBook
from profiler.forecast.trend import Drift, trend_of


@pytest.mark.parametrize(
    ("slope", "drift"), [(1.0, Drift.RISING), (-1.0, Drift.FALLING), (0.0, Drift.STEADY)]
)
def test_a_drift_is_told_from_noise(slope: float, drift: Drift) -> None:
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 3, 100)
        found = trend_of(200.0 + slope * np.arange(100) + noise)
        assert found.drift is drift
        assert found.slope == pytest.approx(slope, abs=0.4)
        assert found.moving_average == pytest.approx(200 + slope * 93.5, abs=4)
        assert 1.0 < found.deviation < 8.0


def test_one_value_is_steady() -> None:
    found = trend_of(np.array([7.0]))
    assert (found.moving_average, found.deviation, found.slope) == (7.0, 0.0, 0.0)
    assert found.drift is Drift.STEADY


def test_weights_are_of_the_models_that_speak() -> None:
    book = ForecastBook((24,))
    generator = np.random.default_rng(3)
    book.learn("x/0", 0, 100.0)
    assert book.weights("x/0") == {"last_value": 1.0}
    for slot in range(1, 200):
        book.learn("x/0", slot, 100 + 60 * np.sin(slot / 24 * 2 * np.pi) + generator.normal(0, 2))
    weights = book.weights("x/0")
    assert sum(weights.values()) == pytest.approx(1.0)
    assert max(weights, key=weights.__getitem__).endswith("_24")
    assert weights["last_value"] < 0.05
