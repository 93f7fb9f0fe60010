"""Initial sharding from history: split keys and placement from past accesses.

Split keys are weighted quantiles of the routing keys, so that each shard starts with about the
same load; a key heavier than a whole shard's part gets a shard of its own. Shards are placed
largest first, each on the instance whose highest use stays lowest with it (LPT), over the
history's time profile.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from profiler.heatmap import AccessHeatmap, separator
from sharder.keys import KeyRange, RoutingKey, ranges_from_cuts
from sharder.risk import Floats

SHARDS_MAX = 65_536
HEATMAP_BUCKETS = 1_024
"""Key ranges that summarise an access log: with 32 keys each, enough for 1,000 split keys."""


@dataclass(frozen=True, slots=True)
class InitialShard:
    """A shard to open: its range, the share of the history's load in it, and where it goes."""

    range: KeyRange
    share: float
    instance: str


def heatmap_of(
    accesses: Iterable[tuple[RoutingKey, float, int]], slots: int = 168
) -> AccessHeatmap:
    """An access log of (routing key, weight, slot) in slot order, in bounded memory.

    All history counts alike: the half life is the whole window.
    """
    found = AccessHeatmap(HEATMAP_BUCKETS, slots, half_life_slots=float(max(slots, 1)))
    for key, weight, slot in accesses:
        found.add([key], [weight], slot)
    return found


def cuts_of(weighted: Iterable[tuple[RoutingKey, float]], shards: int) -> list[RoutingKey]:
    """At most `shards` - 1 rising split keys that divide the weight of (routing key, weight) pairs.

    Each shard takes keys until it has its part of the remaining weight, so that a heavy key, which
    stands alone, leaves enough for the others. Fewer where there are fewer distinct keys.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise ValueError(f"shards is {shards}, it must be within 1..{SHARDS_MAX}")
    total: dict[RoutingKey, float] = {}
    for key, weight in weighted:
        if not 0 <= weight < np.inf:
            raise ValueError(f"weight of key {key!r} is {weight}, it must be at least 0")
        total[key] = total.get(key, 0.0) + weight
    keys = sorted(total)
    cuts: list[RoutingKey] = []
    left, filled = sum(total.values()), 0.0
    for before, key in pairwise(keys):
        filled += total[before]
        missing = shards - len(cuts)
        if missing <= 1:
            break
        part = left / missing
        # The boundary nearest to the part: here, or after the next key.
        if filled + total[key] - part > part - filled:
            cuts.append(separator(before, key))
            left -= filled
            filled = 0.0
    return cuts


def homes_of(profile: Floats, capacity: Floats) -> list[int]:
    """Instance of each shard: `profile` [S, H] of expected loads, `capacity` [I] in the
    same unit. Largest first, each where the highest use stays lowest with it (LPT)."""
    if not (len(capacity) and (capacity > 0).all()):
        raise ValueError("capacity must hold an instance, and values above 0")
    total = np.zeros((len(capacity), profile.shape[1]))
    homes = [0] * len(profile)
    for shard in sorted(range(len(profile)), key=lambda s: (-float(profile[s].max()), s)):
        peak = ((total + profile[shard]) / capacity[:, None]).max(axis=1)
        homes[shard] = int(peak.argmin())
        total[homes[shard]] += profile[shard]
    return homes


def initial_shards(
    history: AccessHeatmap, shards: int, capacities: Mapping[str, float]
) -> list[InitialShard]:
    """Ranges that cover the key space once, by rising key, each with its instance.

    `capacities`: instance -> any one unit. ValueError without instances or history.
    """
    weighted = history.weighted_keys()
    if not weighted:
        raise ValueError("the history holds no accesses, there is nothing to learn cuts from")
    names = sorted(capacities)
    ranges = ranges_from_cuts(cuts_of(weighted, shards))
    profile = _profile(history, ranges)
    total = max(float(profile.sum()), 1e-300)
    homes = homes_of(profile, np.array([capacities[n] for n in names], dtype=np.float64))
    return [
        InitialShard(range_, float(profile[s].sum()) / total, names[homes[s]])
        for s, range_ in enumerate(ranges)
    ]


def _profile(history: AccessHeatmap, ranges: Sequence[KeyRange]) -> Floats:
    """Load of each range in each slot, [S, H]: a bucket's weight is divided between the ranges that
    it overlaps, in proportion to the keys remembered in it."""
    starts, _, grid = history.grid()
    keys = history.weighted_keys()
    ends: list[RoutingKey | None] = [*starts[1:], None]
    buckets = [KeyRange(a, b) for a, b in zip(starts, ends, strict=True)]
    share = np.zeros((len(ranges), len(starts)))
    at = range_at = 0
    for key, weight in keys:  # both rise with the key
        while key not in buckets[at]:
            at += 1
        while key not in ranges[range_at]:
            range_at += 1
        share[range_at, at] += weight
    total = share.sum(axis=0)
    share /= np.where(total > 0, total, 1.0)
    return np.asarray(share @ grid.T, dtype=np.float64)
