"""Which shards of a log are used together, learned from the samples of all instances (pure).

Accesses are counted in bins of BIN_US. What all shards do together says nothing about a pair, so
a pair's correlation is the partial one, given the load of the log's other shards. The variance that
sampling adds is taken off.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from profiler.correlation import CorrelationMatrix, FloatArray

BIN_US = 100_000
HALF_LIFE_BINS = 6_000.0
"""Ten minutes of accesses."""
BINS_MIN = 100
"""Fewer bins with accesses say nothing."""
LOGS_MAX, SHARDS_MAX = 64, 256
"""Logs that are learned, and shards of each."""
RELATED_MIN, RELATED_MAX = 0.5, 8
"""Pairs that the planner hears of, and how many of a shard."""
OWN_SHARE_MIN = 0.01
"""A shard whose load the others explain but for this share has no pairs of its own."""


class LogCorrelation:
    """One log: its shards, in the order of their first access, and their matrix."""

    def __init__(self, shards: Sequence[str]) -> None:
        self.shards = list(shards)
        self.matrix = CorrelationMatrix(max(1, len(shards)), HALF_LIFE_BINS)

    def partial(self) -> FloatArray:
        """Correlation of each two shards given the others' sum, (n, n); 0 until BINS_MIN."""
        n = len(self.shards)
        if self.matrix.learned_slots < BINS_MIN:
            return np.eye(n)
        c = self.matrix.covariance()
        own, sums, total = np.diag(c), c.sum(axis=1), c.sum()
        with_rest = sums[:, None] - own[:, None] - c
        rest = total - 2.0 * (sums[:, None] + sums[None, :]) + own[:, None] + own[None, :] + 2.0 * c
        known = rest > 1e-9
        scale = np.where(known, rest, 1.0)
        a = np.where(known, with_rest, 0.0)
        left = own[:, None] - a**2 / scale
        enough = left > OWN_SHARE_MIN * np.maximum(own[:, None], 1e-12)
        usable = enough & enough.T & (own[:, None] > 1e-9) & (own[None, :] > 1e-9)
        spread = np.sqrt(np.where(usable, left * left.T, 1.0))
        found: FloatArray = np.where(usable, (c - a * a.T / scale) / spread, 0.0)
        np.fill_diagonal(found, 1.0)
        return np.clip(found, -1.0, 1.0)


class Correlations:
    """All logs. Owned by the event loop."""

    def __init__(self) -> None:
        self._logs: dict[str, LogCorrelation] = {}
        self._related: dict[str, dict[str, float]] = {}

    def of(self, log: str) -> LogCorrelation | None:
        return self._logs.get(log)

    def related(self, shard: str) -> Mapping[str, float]:
        """The shards that are used together with this one, as learned at the last `learn`."""
        return self._related.get(shard, {})

    def learn(
        self,
        shards: Sequence[str],
        time_us: FloatArray,
        weight: FloatArray,
        first_us: int,
        bins: int,
    ) -> None:
        """The samples of [first_us, first_us + bins x BIN_US), one element for each. Logs without
        any learn nothing: silence is no common rhythm."""
        by_log: dict[str, list[int]] = {}
        for row, shard in enumerate(shards):
            by_log.setdefault(shard.rpartition("/")[0], []).append(row)
        slot = np.clip((time_us - first_us) // BIN_US, 0, bins - 1).astype(np.int64)
        for name, rows in by_log.items():
            log = self._log(name, {shards[row] for row in rows})
            if log is None:
                continue
            index = {shard: n for n, shard in enumerate(log.shards)}
            known = [row for row in rows if shards[row] in index]
            column = np.array([index[shards[row]] for row in known], dtype=np.int64)
            counts, noise = np.zeros((2, bins, len(log.shards)))
            at, heavy = (slot[known], column), weight[known]
            np.add.at(counts, at, heavy)
            np.add.at(noise, at, heavy * (heavy - 1.0))
            for n in range(bins):
                log.matrix.learn(counts[n], noise[n])
            self._keep(log)

    def _log(self, name: str, seen: set[str]) -> LogCorrelation | None:
        """The log's matrix, with the shards that are new; a full one begins anew."""
        log = self._logs.get(name)
        if log is None and len(self._logs) >= LOGS_MAX:
            return None
        new = sorted(seen - set(log.shards)) if log is not None else []
        if log is None or (new and len(log.shards) + len(new) > SHARDS_MAX):
            log = self._logs[name] = LogCorrelation(sorted(seen)[:SHARDS_MAX])
        elif new:
            log.shards += new
            log.matrix.grow(len(log.shards))
        return log

    def _keep(self, log: LogCorrelation) -> None:
        found = log.partial()
        for row, shard in enumerate(log.shards):
            near = [n for n in np.argsort(-found[row]).tolist() if n != row][:RELATED_MAX]
            self._related[shard] = {
                log.shards[n]: float(found[row, n]) for n in near if found[row, n] >= RELATED_MIN
            }
