"""Round trips between instances, for the choice of a target and the time of a move."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharder.risk import Floats
from sharder.view import InstanceView

NOISE_US = 100.0
"""Smaller differences are noise, and so are those below NOISE_SHARE."""
NOISE_SHARE = 0.25
FAR_RATIO = 4.0
"""Round trips so many times as long cost a step of headroom."""
MOVE_ROUND_TRIPS = 20
"""Calls of a move that wait for one another: intents, snapshot, feed, comparison, hand-over."""


class RoundTripTable:
    """Microseconds between each two instances, p50 and p99, [I, I].

    A pair is as slow as the slower side measures it. Where neither did, what the others measure to
    them stands for it.
    """

    def __init__(self, instances: Sequence[InstanceView]) -> None:
        n = len(instances)
        index = {instance.id: i for i, instance in enumerate(instances)}
        median_us = np.array([i.round_trip_ms * 1e3 for i in instances], dtype=np.float64)
        unknown = np.broadcast_to(median_us, (n, n))
        self._p50_us: Floats = np.maximum(unknown, unknown.T)
        self._target_us: Floats = median_us
        self._measured: NDArray[np.bool_] = np.zeros((n, n), dtype=np.bool_)
        self._p99_us: Floats = self._p50_us.copy()
        for i, instance in enumerate(instances):
            for peer, (p50_us, p99_us) in instance.round_trips_us.items():
                j = index.get(peer, i)
                if i == j:
                    continue
                for a, b in ((i, j), (j, i)):
                    known = bool(self._measured[a, b])
                    self._p50_us[a, b] = max(p50_us, self._p50_us[a, b] if known else 0.0)
                    self._p99_us[a, b] = max(p99_us, self._p99_us[a, b] if known else 0.0)
                self._measured[i, j] = self._measured[j, i] = True

    def of_target(self, source: int, followers: Sequence[int]) -> Floats:
        """What a target's distance costs, [I]: an append at it waits for the farthest follower; of
        a shard without followers its source's distance counts, over which it is copied."""
        others = list(followers) or [source]
        known = self._measured[others]
        found = np.where(known, self._p50_us[others], self._target_us[None, :])
        result: Floats = found.max(axis=0)
        return result

    def move_s(self, source: int, target: int) -> float:
        """Seconds that the calls of a move between two instances wait for each other."""
        return float(MOVE_ROUND_TRIPS * self._p99_us[source, target] / 1e6)


def far_steps(trips_us: Floats, among: NDArray[np.bool_]) -> Floats:
    """Steps of headroom that the distance of each instance costs, [I]."""
    nearest = max(float(trips_us[among].min()), NOISE_US)
    ratio = np.maximum(trips_us / nearest, 1.0)
    found: Floats = np.floor(np.log(ratio) / np.log(FAR_RATIO))
    return found


def near(trips_us: Floats, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which instances are as near as the nearest of `among`, but for noise."""
    nearest = float(trips_us[among].min())
    bound = max(nearest * (1.0 + NOISE_SHARE), nearest + NOISE_US)
    return np.asarray(trips_us <= bound, dtype=np.bool_)
