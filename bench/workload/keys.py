"""Key sequences: the key number that is accessed at each of the given times. Pure and seeded."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from bench.workload.accesses import Floats, Ints

KeySequence: TypeAlias = Callable[[Floats, np.random.Generator], Ints]


def uniform(keys: int) -> KeySequence:
    return lambda t, rng: rng.integers(0, keys, len(t))


def zipf(keys: int, *, exponent: float = 0.99, shuffle_seed: int | None = None) -> KeySequence:
    """P(rank r) ~ 1 / r^exponent over `keys` ranks, drawn by inverting the cumulative sum, so any
    exponent >= 0 does (numpy's own zipf needs > 1 and has no last key). With `shuffle_seed` ranks
    are spread over the key space; without it key 0 is the hottest and its neighbours follow."""
    cumulative = np.cumsum(np.arange(1, keys + 1, dtype=np.float64) ** -exponent)
    cumulative /= cumulative[-1]
    place = np.arange(keys)
    if shuffle_seed is not None:
        place = np.random.default_rng(shuffle_seed).permutation(keys)

    def draw(t: Floats, rng: np.random.Generator) -> Ints:
        rank = np.searchsorted(cumulative, rng.random(len(t)), side="right")
        return place[np.minimum(rank, keys - 1)].astype(np.int64)

    return draw


def moving_hot_spot(keys: int, *, width: int, lap_s: float, hot_share: float = 0.8) -> KeySequence:
    """`hot_share` of the accesses fall on `width` neighbouring keys whose start travels once
    around the key space in `lap_s`; the others are uniform."""

    def draw(t: Floats, rng: np.random.Generator) -> Ints:
        start = (t / lap_s * keys).astype(np.int64)
        hot = (start + rng.integers(0, width, len(t))) % keys
        return np.where(rng.random(len(t)) < hot_share, hot, rng.integers(0, keys, len(t)))

    return draw


def crowd_on(
    background: KeySequence, *, key: int, from_s: float, until_s: float, share: float
) -> KeySequence:
    """`background`, but in [from_s, until_s) `share` of the accesses are to one key."""

    def draw(t: Floats, rng: np.random.Generator) -> Ints:
        inside = (t >= from_s) & (t < until_s) & (rng.random(len(t)) < share)
        return np.where(inside, key, background(t, rng))

    return draw


def co_access(
    keys: int, *, group_size: int, exponent: float = 0.8, follow: float = 0.9
) -> KeySequence:
    """Planted groups: keys g, g + G, g + 2G ... (G groups) belong together. A group is drawn by a
    zipf law; with probability `follow` an access stays in the group of the access before it, so
    members are accessed close in time though far apart in the key space."""
    groups = keys // group_size
    if groups < 1:
        raise ValueError(f"group_size is {group_size}, there are only {keys} keys")
    choose = zipf(groups, exponent=exponent)

    def draw(t: Floats, rng: np.random.Generator) -> Ints:
        count = len(t)
        fresh = choose(t, rng)
        begins = rng.random(count) >= follow
        begins[:1] = True
        leader = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
        return fresh[leader] + groups * rng.integers(0, group_size, count)

    return draw
