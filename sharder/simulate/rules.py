"""Rules of other systems, for comparison.

All relieve instances in the same way (`relief`) if they place shards themselves; parameters
are those that their sources state, or, where they state none, the best of a small search over all
traces (docs/measurements/planner.md says which).
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

from sharder.risk import Floats
from sharder.simulate.cluster import Action, Merge, MoveShard, SimulatedCluster, Split
from sharder.simulate.relief import cut_of, relieve
from sharder.simulate.series import Series


class Pravega:
    """Pravega's scaling rule: EWMAs over 2, 5, 10 and 20 min against a target rate per segment.

    Split if the 2-min rate is over 5 x the target, the 5-min rate over 2 x, or the 10-min rate over
    it; merge neighbours of one instance if 2, 5 and 10 min are below and 20 min below half of it;
    10 min of cooldown; equal key ranges. Pravega places segments by hash, ignoring their load: so
    does this, moving the upper half.
    """

    def __init__(self, series: Series, target_share: float = 0.3, seed: int = 0) -> None:
        self._series, self._target_share, self._seed = series, target_share, seed
        minutes = np.array([2.0, 5.0, 10.0, 20.0])
        self._keep = np.exp(-series.slot_s / (60.0 * minutes))[:, None]
        self._rate: Floats = np.repeat(series.loads[:1], 4, axis=0)
        self._seen = 0
        self._halves: dict[tuple[int, int, int], int] = {}

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        while self._seen < slot:
            self._seen += 1
            now = self._series.loads[self._seen]
            self._rate = self._keep * self._rate + (1 - self._keep) * now
        target = self._target_share * cluster.settings.capacity
        rates = self._rate[:, cluster.column] * cluster.share
        cool = max(1, round(600.0 / self._series.slot_s))
        free = ~cluster.moving & (slot - cluster.born >= cool)
        free |= ~cluster.moving & (cluster.born < 0)
        actions: list[Action] = []
        for row, uid in enumerate(cluster.uids):
            home = self._halves.pop(uid, None)
            if home is not None and home != cluster.home[row]:
                actions.append(MoveShard(uid, home))
        hot = (rates[0] > 5 * target) | (rates[1] > 2 * target) | (rates[2] > target)
        for row in np.flatnonzero(hot & free).tolist():
            column, first, last = cluster.uids[row]
            if last - first > 1:
                at = cut_of(cluster, column, first, last, midpoint=True)
                actions.append(Split(cluster.uids[row], at))
                upper = (column, at, last)
                drawn = xxhash.xxh3_64_intdigest(repr(upper).encode(), self._seed)
                self._halves[upper] = drawn % cluster.settings.instances
        cold = (rates[:3] < target).all(axis=0) & (rates[3] < target / 2) & free
        return actions + merges(cluster, cold, rates[3], target / 2)


class Pip483:
    """Pulsar's PIP-483: split above a rate, merge at a tenth of it, midpoints.

    Cooldown 1 min after a split, 5 min after a merge. The rates are per segment, here a share of an
    instance's capacity. PIP-483 leaves placement to the broker's load balancer: Pulsar's
    ThresholdShedder moves off what is over 85 % now.
    """

    def __init__(self, series: Series, split_share: float = 0.5, shed: float = 0.85) -> None:
        self._series, self._split_share, self._shed = series, split_share, shed

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        capacity = cluster.settings.capacity
        rate = self._series.loads[slot, cluster.column] * cluster.share
        limit = self._split_share * capacity
        actions: list[Action] = []
        for row in np.flatnonzero((rate > limit) & ~cluster.moving).tolist():
            column, first, last = cluster.uids[row]
            if last - first > 1:
                at = cut_of(cluster, column, first, last, midpoint=True)
                actions.append(Split(cluster.uids[row], at))
        cool = max(1, round(300.0 / self._series.slot_s))
        cold = (rate < limit / 10) & ~cluster.moving & (slot - cluster.born > cool)
        split = {a.shard for a in actions}
        moves = relieve(
            cluster, rate[:, None], self._shed * capacity, self._shed * capacity, midpoint=True
        )
        actions += [a for a in moves if a.shard not in split]
        return actions + merges(cluster, cold & (cluster.born >= 0), rate, limit / 10)


class MemoryRule:
    """Reactive with memory: a shard's load is the highest of its last `memory_s`.

    So a hot shard stays hot for a while, and does not return too soon.
    """

    def __init__(self, series: Series, memory_s: float = 7_200.0, limit: float = 0.9) -> None:
        self._series, self._limit = series, limit
        self._slots = max(1, round(memory_s / series.slot_s))

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        recent = self._series.loads[max(0, slot + 1 - self._slots) : slot + 1].max(axis=0)
        capacity = cluster.settings.capacity
        now = cluster.load(self._series.loads[slot])
        if now.max() <= self._limit * capacity:  # reacts to the present, remembers for targets
            return []
        believed = (recent[cluster.column] * cluster.share)[:, None]
        return relieve(cluster, believed, self._limit * capacity, self._limit * capacity)


class SeasonalQuantile:
    """The rule of five lines: the same hours of the last days, their upper quantile, one limit.

    Without a daily season in the series: that quantile of the last `window` slots.
    """

    def __init__(
        self,
        series: Series,
        days: int = 7,
        quantile: float = 0.9,
        ahead: int = 8,
        limit: float = 0.95,
    ) -> None:
        self._series, self._days, self._quantile = series, days, quantile
        self._ahead, self._limit = ahead, limit

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        expected = self._expected(slot, cluster.settings.move_slots + self._ahead)
        capacity = cluster.settings.capacity
        believed = expected[cluster.column] * cluster.share[:, None]
        return relieve(cluster, believed, self._limit * capacity, self._limit * capacity)

    def _expected(self, slot: int, ahead: int) -> Floats:
        loads, season = self._series.loads, self._series.season
        coming = slot + 1 + np.arange(ahead)
        if season is None or slot < season:
            recent = np.quantile(loads[max(0, slot - 23) : slot + 1], self._quantile, axis=0)
            return np.repeat(recent[:, None], ahead, axis=1)
        days = min(self._days, (slot + 1) // season)
        back = 1 + ahead // season + np.arange(days)
        at = coming[None, :] - season * back[:, None]
        at = np.where(at < 0, coming[None, :] % season, at)
        return np.asarray(np.quantile(loads[at], self._quantile, axis=0).T, dtype=np.float64)


class HoltWintersRule:
    """A threshold on a Holt-Winters point forecast (additive, daily season) of each key range."""

    def __init__(
        self,
        series: Series,
        level: float = 0.2,
        trend: float = 0.0,
        seasonal: float = 0.2,
        ahead: int = 8,
        limit: float = 0.9,
    ) -> None:
        self._series, self._ahead, self._limit = series, ahead, limit
        self._rates = (level, trend, seasonal)
        self._season = series.season or 1
        first = series.loads[: self._season]
        self._level: Floats = first.mean(axis=0)
        self._trend: Floats = np.zeros_like(self._level)
        self._phase: Floats = first - self._level
        self._seen = self._season - 1

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        while self._seen < slot:
            self._seen += 1
            self._learn(self._seen)
        steps = 1 + np.arange(cluster.settings.move_slots + self._ahead)
        phase = self._phase[(slot + steps) % self._season].T
        expected = np.maximum(self._level[:, None] + self._trend[:, None] * steps + phase, 0.0)
        believed = expected[cluster.column] * cluster.share[:, None]
        limit = self._limit * cluster.settings.capacity
        return relieve(cluster, believed, limit, limit)

    def _learn(self, slot: int) -> None:
        a, b, g = self._rates
        at, value, before = slot % self._season, self._series.loads[slot], self._level
        self._level = a * (value - self._phase[at]) + (1 - a) * (before + self._trend)
        self._trend = b * (self._level - before) + (1 - b) * self._trend
        self._phase[at] = g * (value - self._level) + (1 - g) * self._phase[at]


def merges(
    cluster: SimulatedCluster, cold: NDArray[np.bool_], rate: Floats, limit: float
) -> list[Action]:
    """Joins of cold neighbours on one instance that stay under `limit` together."""
    rows = sorted(np.flatnonzero(cold).tolist(), key=lambda r: cluster.uids[r])
    found: list[Action] = []
    i = 0
    while i + 1 < len(rows):
        a, b = rows[i], rows[i + 1]
        ua, ub = cluster.uids[a], cluster.uids[b]
        same = ua[0] == ub[0] and ua[2] == ub[1] and cluster.home[a] == cluster.home[b]
        if same and rate[a] + rate[b] < limit:
            found.append(Merge(ua, ub))
            i += 1
        i += 1
    return found
