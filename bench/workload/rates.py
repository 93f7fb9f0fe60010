"""Rate curves: accesses per second as a function of time. Pure; times are float64 arrays."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from bench.workload.accesses import Floats

Rate: TypeAlias = Callable[[Floats], Floats]


def constant(per_s: float) -> Rate:
    return lambda t: np.full_like(t, per_s)


def seasonal(mean_per_s: float, *, period_s: float, swing: float = 0.6) -> Rate:
    """A day's sine: from mean x (1 - swing) to mean x (1 + swing)."""
    return lambda t: mean_per_s * (1 + swing * np.sin(2 * np.pi * t / period_s))


def flash_crowd(
    base_per_s: float, *, at_s: float, factor: float, rise_s: float, decay_s: float
) -> Rate:
    """A quiet load that rises linearly within `rise_s` to `factor` x base and decays slowly."""

    def rate(t: Floats) -> Floats:
        since = t - at_s
        up = np.clip(since / rise_s, 0.0, 1.0)
        down = np.exp(-np.clip(since - rise_s, 0.0, None) / decay_s)
        return base_per_s * (1 + (factor - 1) * up * down)

    return rate


def level_shift(before_per_s: float, after_per_s: float, *, at_s: float) -> Rate:
    return lambda t: np.where(t < at_s, before_per_s, after_per_s)


def random_walk(
    start_per_s: float, *, step_s: float, volatility: float, steps: int, rng: np.random.Generator
) -> Rate:
    """A log-normal walk: each `step_s` the logarithm moves by N(0, volatility). Kept within a
    hundredth and a hundred times the start; past `steps` it stays where it is."""
    path = np.exp(np.cumsum(rng.normal(0.0, volatility, steps)))
    levels = start_per_s * np.clip(path, 0.01, 100.0)
    return lambda t: levels[np.clip((t / step_s).astype(np.int64), 0, steps - 1)]


def arrivals(rate: Rate, start_s: float, end_s: float, rng: np.random.Generator) -> Floats:
    """Poisson arrivals in [start_s, end_s), sorted; the rate is taken at the middle."""
    middle = np.array([(start_s + end_s) / 2])
    expected = float(rate(middle)[0]) * (end_s - start_s)
    count = int(rng.poisson(max(expected, 0.0)))
    return np.sort(rng.uniform(start_s, end_s, count))
