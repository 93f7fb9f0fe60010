"""Risk: the normal sum against draws, monotone in capacity and cost, bounds of the config."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharder.config import PlannerConfig, RiskConfig
from sharder.risk import (
    Z80,
    deviation,
    move_cost,
    overload_cost,
    overload_probability,
    risk,
    upper_bound,
    utilisation_cost,
)
from sharder.view import MoveHistory

CONFIG = RiskConfig()
rates = st.lists(st.floats(0, 1e4), min_size=2, max_size=6)


@given(rates, rates, st.floats(1, 1e5), st.floats(1.0, 10.0), st.floats(0, 1e5))
def test_more_capacity_never_raises_risk(
    means: list[float], sds: list[float], capacity: float, factor: float, present: float
) -> None:
    h = min(len(means), len(sds))
    mean, sd = np.array([means[:h]]), np.array([sds[:h]])

    def at(cap: float) -> float:
        p = overload_probability(mean, sd, np.array([CONFIG.threshold * cap]))
        return risk(p, present / cap, 1.0, 60.0, CONFIG)

    assert at(capacity * factor) <= at(capacity) + 1e-9


@given(st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0, 1e4), st.floats(0, 1e4))
def test_bigger_and_longer_moves_never_cost_less(a: float, b: float, s: float, t: float) -> None:
    cheap = move_cost(min(a, b), min(s, t), 10.0, CONFIG)
    assert cheap <= move_cost(max(a, b), max(s, t), 10.0, CONFIG)
    p = np.array([0.5])
    assert risk(p, 0.0, cheap, 60.0, CONFIG) == pytest.approx(30.0 - cheap)


def test_probability_of_a_sum_is_what_draws_say() -> None:
    rng = np.random.default_rng(5)
    mean, sigma = np.array([30.0, 20.0, 10.0]), np.array([4.0, 3.0, 2.0])
    for rho in (0.0, 0.4):
        config = RiskConfig(error_correlation=rho)
        cov = np.outer(sigma, sigma) * rho
        np.fill_diagonal(cov, sigma**2)
        draws = rng.multivariate_normal(mean, cov, size=200_000).sum(axis=1)
        sd = deviation(np.array([[(sigma**2).sum()]]), np.array([[sigma.sum()]]), config)
        p = overload_probability(np.array([[60.0]]), sd, np.array([65.0]))
        assert p[0] == pytest.approx(float((draws > 65).mean()), abs=0.005)
        top = upper_bound(
            np.array([[60.0]]), np.array([[(sigma**2).sum()]]), np.array([[sigma.sum()]]), config
        )
        assert top[0, 0] == pytest.approx(float(np.quantile(draws, 0.9)), abs=0.1)
        assert top[0, 0] == pytest.approx(60.0 + Z80 * sd[0, 0])


def test_certain_forecasts_give_certain_probabilities() -> None:
    p = overload_probability(
        np.array([[79.0, 80.0, 81.0], [0.0, 0.0, 0.0]]), np.zeros((2, 3)), np.array([80.0, np.inf])
    )
    assert p.tolist() == [0.0, 0.0, 1.0]
    assert overload_cost(p, 60.0, CONFIG) == 60.0


def test_use_near_capacity_adds_to_the_risk() -> None:
    used = [utilisation_cost(u, CONFIG) for u in (0.0, 0.8, 0.9, 1.0, 5.0)]
    assert used == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.2}, r"risk\.threshold is 1\.2, it must be within 0\.05\.\.1 of capacity"),
        ({"near_capacity": 1.0}, r"risk\.near_capacity is 1\.0"),
        ({"upper_quantile": 0.2}, r"risk\.upper_quantile is 0\.2"),
        ({"error_correlation": -0.1}, r"risk\.error_correlation is -0\.1"),
        ({"move_cost_fixed": float("nan")}, r"risk\.move_cost_fixed is nan"),
        ({"overload_cost_per_s": -1.0}, r"risk\.overload_cost_per_s is -1\.0"),
    ],
)
def test_risk_config_is_bounded(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RiskConfig(**changes)


def test_planner_config_and_history_are_bounded() -> None:
    with pytest.raises(ValueError, match=r"planner\.cooldown_s is -1"):
        PlannerConfig(cooldown_s=-1.0)
    with pytest.raises(ValueError, match=r"planner\.hysteresis is 0\.4, .* risk\.threshold 0\.3"):
        PlannerConfig(hysteresis=0.4, risk=RiskConfig(threshold=0.3))
    with pytest.raises(ValueError, match=r"planner\.horizon_periods is 0"):
        PlannerConfig(horizon_periods=0)
    with pytest.raises(ValueError, match=r"moves\.copy_mb_per_s is 0"):
        MoveHistory(copy_mb_per_s=0.0)
    with pytest.raises(ValueError, match=r"moves\.fixed_s is -1"):
        MoveHistory(fixed_s=-1.0)
    assert MoveHistory(copy_mb_per_s=10.0, fixed_s=5.0).duration_s(20e6) == 7.0
