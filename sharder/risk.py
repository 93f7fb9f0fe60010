"""From forecasts to the probability and the cost of an overload.

The load of an instance is the sum of its shards' loads, taken as normal: means add; a shard's
standard deviation is (upper80 - mean) / z(0.9), the upper half of its interval, since only the
upper tail matters; the variance of the sum is (1 - rho) sum(sigma^2) + rho (sum sigma)^2 with rho
= `error_correlation`. Arrays end in [resource, period]; resources are ops/s and bytes/s.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sharder.config import RiskConfig

Floats = NDArray[np.float64]

Z80 = NormalDist().inv_cdf(0.9)
"""Half width of a normal 80 % interval in standard deviations."""
_GIB = float(2**30)


def _upper_tail(z: Floats) -> Floats:
    """P(standard normal > z); error at most 7.5e-8 (Abramowitz and Stegun, 26.2.17)."""
    t = 1.0 / (1.0 + 0.2316419 * np.abs(z))
    series = t * (
        0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    )
    tail = np.exp(-0.5 * np.minimum(np.abs(z), 38.0) ** 2) / math.sqrt(2.0 * math.pi) * series
    return np.where(z >= 0, tail, 1.0 - tail)


def deviation(sum_squares: Floats, sum_sigma: Floats, config: RiskConfig) -> Floats:
    """Standard deviation of a sum of loads from sum(sigma^2) and sum(sigma), same shape."""
    rho = config.error_correlation
    variance = (1.0 - rho) * sum_squares + rho * sum_sigma**2
    return np.sqrt(np.maximum(variance, 0.0))


def upper_bound(mean: Floats, sum_squares: Floats, sum_sigma: Floats, config: RiskConfig) -> Floats:
    """The `upper_quantile` of the load."""
    z = NormalDist().inv_cdf(config.upper_quantile) if config.upper_quantile > 0.5 else 0.0
    return mean + z * deviation(sum_squares, sum_sigma, config)


def overload_probability(mean: Floats, sd: Floats, limit: Floats) -> Floats:
    """P(load > limit) per period: `mean`, `sd` [..., R, H], `limit` [..., R] -> [..., H].

    The likelier resource counts: the same operations drive both.
    """
    gap = limit[..., None] - mean
    with np.errstate(over="ignore"):
        z = np.where(sd > 0, gap / np.where(sd > 0, sd, 1.0), np.where(gap < 0, -np.inf, np.inf))
    return np.asarray(_upper_tail(z).max(axis=-2), dtype=np.float64)


def overload_periods(loads: Floats, limit: Floats, floor: float, config: RiskConfig) -> Floats:
    """Expected number of periods over the limit: `loads` [3, ..., R, F] are the sums of mean,
    sigma^2 and sigma, `limit` [..., R]; `floor`: least deviation, as a share of the limit.
    """
    mean, sum_squares, sum_sigma = loads
    least = np.where(np.isfinite(limit), floor * limit, 0.0)[..., None]
    sd = np.hypot(deviation(sum_squares, sum_sigma, config), least)
    return np.asarray(overload_probability(mean, sd, limit).sum(axis=-1), dtype=np.float64)


def overload_cost(p: Floats, period_s: float, config: RiskConfig) -> float:
    """Expected cost of the overloaded seconds of all periods, from `overload_probability`.

    This is P x (cost of an overload): the expected overloaded time is sum(P_k) x period, however
    the periods depend on each other.
    """
    return float(p.sum()) * period_s * config.overload_cost_per_s


def utilisation_cost(utilisation: float, config: RiskConfig) -> float:
    """What the present use of an instance (share of capacity) adds when it is near capacity."""
    over = (utilisation - config.near_capacity) / (1.0 - config.near_capacity)
    return config.near_capacity_weight * min(max(over, 0.0), 1.0)


def move_cost(
    size_bytes: float, duration_s: float, blackout_ms: float, config: RiskConfig
) -> float:
    """Cost of a move: fixed, copied bytes, its duration, the expected blackout."""
    return (
        config.move_cost_fixed
        + config.move_cost_per_gib * size_bytes / _GIB
        + config.move_cost_per_s * duration_s
        + config.overload_cost_per_s * blackout_ms / 1e3
    )


def risk(
    p: Floats, utilisation: float, moving_cost: float, period_s: float, config: RiskConfig
) -> float:
    """risk = P x overload cost + near-capacity cost - move cost; above 0: worth a move."""
    return overload_cost(p, period_s, config) + utilisation_cost(utilisation, config) - moving_cost
