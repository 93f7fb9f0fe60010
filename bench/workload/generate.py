"""Rate curve x key sequence -> batches; and the named loads that benchmarks and demos share."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from bench.workload import keys, rates
from bench.workload.accesses import APPEND, READ, Accesses, key_names


def generate(
    rate: rates.Rate,
    sequence: keys.KeySequence,
    *,
    duration_s: float,
    rng: np.random.Generator,
    step_s: float = 1.0,
    read_share: float = 0.0,
    size_mean: int = 88,
    size_spread: float = 0.0,
) -> Iterator[Accesses]:
    """One batch per `step_s`, in time order. The same generator state gives the same load.

    Sizes are `size_mean` bytes, or log-normal around it with `size_spread` as sigma.
    """
    if duration_s <= 0 or step_s <= 0:
        raise ValueError(f"duration_s is {duration_s}, step_s {step_s}: both must be above 0")
    for step in range(int(np.ceil(duration_s / step_s))):
        start = step * step_s
        time_s = rates.arrivals(rate, start, min(start + step_s, duration_s), rng)
        count = len(time_s)
        key = key_names(sequence(time_s, rng))
        op = np.where(rng.random(count) < read_share, READ, APPEND).astype(np.uint8)
        size = np.full(count, size_mean, dtype=np.int64)
        if size_spread > 0:
            factor = rng.lognormal(-(size_spread**2) / 2, size_spread, count)
            size = np.maximum(1, size_mean * factor).astype(np.int64)
        yield Accesses(time_s, key, op, size)


Load: TypeAlias = tuple[rates.Rate, keys.KeySequence]
# (mean rate per s, duration in s, number of keys, dice)
Maker: TypeAlias = Callable[[float, float, int, np.random.Generator], Load]


def _zipf(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    return rates.constant(rate), keys.zipf(n, shuffle_seed=int(rng.integers(2**31)))


def _moving(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    width = max(1, n // 50)
    return rates.constant(rate), keys.moving_hot_spot(n, width=width, lap_s=duration)


def _crowd(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    at = duration * 0.4
    curve = rates.flash_crowd(
        rate, at_s=at, factor=5.0, rise_s=duration * 0.05, decay_s=duration * 0.15
    )
    hot = int(rng.integers(n))
    return curve, keys.crowd_on(keys.zipf(n), key=hot, from_s=at, until_s=duration * 0.8, share=0.7)


def _shift(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    return rates.level_shift(rate, 3 * rate, at_s=duration / 2), keys.zipf(n, shuffle_seed=1)


def _walk(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    curve = rates.random_walk(rate, step_s=duration / 200, volatility=0.1, steps=200, rng=rng)
    return curve, keys.zipf(n, shuffle_seed=1)


def _co_access(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    return rates.constant(rate), keys.co_access(n, group_size=4)


def _seasonal(rate: float, duration: float, n: int, rng: np.random.Generator) -> Load:
    return rates.seasonal(rate, period_s=duration / 4), keys.zipf(n, shuffle_seed=1)


NAMED: dict[str, Maker] = {
    "zipf": _zipf,
    "moving-hot-spot": _moving,
    "flash-crowd": _crowd,
    "level-shift": _shift,
    "random-walk": _walk,
    "co-access": _co_access,
    "seasonal": _seasonal,
}


def named(
    name: str,
    *,
    rate_per_s: float,
    duration_s: float,
    key_count: int,
    seed: int,
    step_s: float = 1.0,
) -> Iterator[Accesses]:
    """A load by its name (see NAMED). ValueError for an unknown one."""
    if name not in NAMED:
        raise ValueError(f"workload {name!r} is unknown; there are {sorted(NAMED)}")
    rng = np.random.default_rng(seed)
    rate, sequence = NAMED[name](rate_per_s, duration_s, key_count, rng)
    return generate(rate, sequence, duration_s=duration_s, rng=rng, step_s=step_s)
