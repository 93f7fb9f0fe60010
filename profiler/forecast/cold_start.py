"""Models for a shard without history, borrowed from the middle member of its cluster."""

from dataclasses import dataclass

import numpy as np

from profiler.clusters import clusters_of
from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray

LOOKS = (6, 12, 24, 48, 96)
"""Numbers of own values at which a new shard is compared with the clusters, until it has a day."""
UNLIKE_MAX = 0.5
"""Only clusters whose members are this near to each other lend, relative to a constant
(`Clusters`)."""
LENDERS_MAX = 2_048
REFRESH_PARTS = 8
"""Clusters are computed again at most this often a season."""
WORSE_MAX, NOISE = 1.25, 0.02
"""A cluster must fit the values no worse than this many times a constant does, and a bit."""


@dataclass(frozen=True, slots=True)
class Loan:
    """`lender`: the row whose models are borrowed, `share`: size of the borrower over that of the
    lender."""

    lender: int
    share: float


class ColdStart:
    """Clusters the rows that have a whole season, and finds the cluster of a young row.

    With few values every shape fits, and the largest cluster wins; with more values the shape
    decides. A row that a constant fits much better gets no loan.
    """

    def __init__(self, history: History, season_slots: int) -> None:
        self._history, self._season = history, season_slots
        self._medoids: IntArray = np.zeros(0, dtype=np.int64)
        self._made: int | None = None

    def due(self, age: int) -> bool:
        return age in LOOKS and age < self._season

    def find(self, row: int, age: int, lenders: IntArray) -> Loan | None:
        """The loan for `row`, which has `age` values of its own, by one of the rows `lenders`."""
        now = int(self._history.last[row])
        known = lenders[
            (self._history.count[lenders] >= self._season + age)
            & (self._history.last[lenders] == now)
        ][:LENDERS_MAX]
        if not len(known):
            return None
        if self._made is None or now - self._made >= max(1, self._season // REFRESH_PARTS):
            found = clusters_of(self._history.lag(known, np.arange(self._season)))
            self._medoids, self._made = known[found.medoids[found.unlike <= UNLIKE_MAX]], now
        medoids = self._medoids[np.isin(self._medoids, known)]
        if not len(medoids):
            return None
        lags = np.arange(age)
        own = self._history.lag(np.array([row]), lags)[0]
        theirs = self._history.lag(medoids, lags)
        return self._fitting(own, theirs, medoids)

    @staticmethod
    def _fitting(own: FloatArray, theirs: FloatArray, medoids: IntArray) -> Loan | None:
        sums = theirs.sum(axis=1)
        if not own.any() or not (sums > 0).any():
            return None
        share = own.sum() / np.where(sums > 0, sums, np.inf)
        gap = np.abs(own - share[:, None] * theirs).mean(axis=1)
        gap[sums <= 0] = np.inf
        # Larger clusters first: of those that fit about as well, the first is taken.
        best = int(np.flatnonzero(gap <= 1.1 * gap.min() + 1e-12)[0])
        level = float(own.mean())
        constant = float(np.abs(own - level).mean())
        if gap[best] > WORSE_MAX * constant + NOISE * level:
            return None
        return Loan(int(medoids[best]), float(share[best]))
