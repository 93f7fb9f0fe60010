"""The load beyond the horizon: which of the moves that cure leaves the least overload for later.

Crossings are looked for within the horizon, where forecasts are precise; but the effect of a move
lasts longer. So where forecasts reach further (a day of them shows the evening in the morning),
targets and shards are chosen by the expected overload over all of it.
"""

import numpy as np
from numpy.typing import NDArray

from sharder.config import PlannerConfig
from sharder.load import LoadTable
from sharder.risk import Floats, overload_periods

TARGETS_MAX = 16
"""Instances with the most headroom that are compared."""
_TIE_PERIODS = 1e-3
"""Differences of expected overload below this count as equal."""


class Outlook:
    """Loads of instances over all forecast periods, [I, R, F], with operators in flight and
    accepted.

    A load is uncertain by at least `outlook_error` of the limit, whatever its interval says.
    """

    def __init__(self, table: LoadTable, limit: Floats, config: PlannerConfig) -> None:
        """`limit`: [I, R], as in the draft."""
        self._table, self._limit, self._config = table, limit, config
        self._home = table.home.copy()
        for op in table.view.in_flight:
            row = table.row_of.get(op.shard)
            if row is not None and op.kind in ("move", "switch"):
                self._home[row] = table.index[op.target]  # past its cutover: it is there already
        shape = (len(table.instances), limit.shape[1], table.far_mean.shape[1])
        self._sums = np.zeros((3, *shape))
        for total, values, power in (
            (self._sums[0], table.far_mean, 1),
            (self._sums[1], table.far_sigma**2, 2),
            (self._sums[2], table.far_sigma, 1),
        ):
            for resource in range(limit.shape[1]):
                scale = table.scale[:, resource, None] ** power
                np.add.at(total[:, resource], self._home, values * scale)

    def relief(self, instance: int, rows: NDArray[np.int64]) -> Floats:
        """Overloaded periods avoided if a shard leaves `instance`, for each of `rows`."""
        total, limit = self._sums[:, instance], self._limit[instance]
        without = np.maximum(total[:, None] - self._loads(rows), 0.0)
        return self._overload(total, limit) - self._overload(without, limit)

    def burden(self, rows: NDArray[np.int64], at: NDArray[np.int64], part: float = 1.0) -> Floats:
        """Overloaded periods that each of `rows` adds on each of the instances `at`, [n, m].

        `part`: only for that share of the shards.
        """
        total, limit = self._sums[:, at], self._limit[at]
        added = total[:, None] + self._loads(rows, part)[:, :, None]
        return self._overload(added, limit) - self._overload(total, limit)

    def spared(self, instance: int, rows: NDArray[np.int64], at: NDArray[np.int64]) -> Floats:
        """Overloaded periods that a move of each of `rows` from `instance` to each of `at` avoids
        on both sides, [n, m]."""
        return self.relief(instance, rows)[:, None] - self.burden(rows, at)

    def best_of(
        self, row: int, fits: NDArray[np.bool_], headroom: Floats, part: float = 1.0
    ) -> NDArray[np.bool_]:
        """The instances with room where the shard adds the least overload; the others are
        removed."""
        some = np.flatnonzero(fits)
        some = some[np.argsort(-headroom[some], kind="stable")[:TARGETS_MAX]]
        added = self.burden(np.array([row]), some, part)[0]
        best = np.zeros_like(fits)
        best[some[added <= added.min() + _TIE_PERIODS]] = True
        return best

    def shift(self, row: int, source: int, target: int, part: float = 1.0) -> None:
        """Apply a move of a shard, or of that `part` of it, to the sums."""
        load = self._loads(np.array([row]), part)[:, 0]
        self._sums[:, source] = np.maximum(self._sums[:, source] - load, 0.0)
        self._sums[:, target] += load

    def _loads(self, rows: NDArray[np.int64], part: float = 1.0) -> Floats:
        """Mean, sigma^2 and sigma of shards, [3, n, R, F]."""
        t = self._table
        scale = part * t.scale[rows][:, :, None]
        mean, sigma = t.far_mean[rows][:, None] * scale, t.far_sigma[rows][:, None] * scale
        return np.stack([mean, sigma**2, sigma])

    def _overload(self, loads: Floats, limit: Floats) -> Floats:
        """Expected periods over the limit: [3, ..., R, F] and [..., R] -> [...]."""
        floor = self._config.outlook_error
        return overload_periods(loads, limit, floor, self._config.risk)
