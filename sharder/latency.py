"""Response time against load, and what a move gains in it: M/G/1 processor sharing, calibrated.

An instance that serves its operations at once, each with an equal share of its time, answers after
S / (1 - rho) for service time S and utilisation rho, whatever the distribution of S (Kleinrock,
Queueing Systems, vol. 2, 1976, 4.4). What does not depend on load (the network, a disk's sync) is
added: p50 = fixed + service / (1 - rho). Both come from measured pairs of utilisation and p50.
"""

from collections.abc import Sequence

import numpy as np

from sharder.load import OPS, LoadTable
from sharder.operators import LatencyGain
from sharder.risk import Floats
from sharder.view import ResponseTime

SHARE_MAX = 0.95
"""Utilisation that counts at most: above it queues grow without a bound, and no mean exists."""
FITTED_MIN = 8
"""Fewer measurements do not tell the fixed part from the service time."""
SPREAD_MIN = 0.1
"""Nor do those whose 1 / (1 - utilisation) differs by less than this."""


def calibrated(measured: Sequence[ResponseTime]) -> tuple[float, float] | None:
    """(fixed, service) in ms by least squares, both at least 0; None without measurements.

    Where the measurements cannot tell them apart the fixed part is 0.
    """
    if not measured:
        return None
    stretch = _stretch(np.array([m.share for m in measured]))
    p50_ms = np.array([m.p50_ms for m in measured])
    service = float(np.median(p50_ms / stretch))
    if len(measured) < FITTED_MIN or np.ptp(stretch) < SPREAD_MIN:
        return 0.0, service
    away = stretch - stretch.mean()
    slope = float(away @ p50_ms) / float(away @ away)
    service = min(max(slope, 0.0), float(p50_ms.mean() / stretch.mean()))
    return float(p50_ms.mean()) - service * float(stretch.mean()), service


class LatencyModel:
    """The p50 of each instance by its load. An instance that was not measured counts as the median
    of the others."""

    def __init__(self, table: LoadTable, known: Sequence[tuple[float, float] | None]) -> None:
        figures = np.array([k for k in known if k is not None])
        usual = np.median(figures, axis=0)
        self._table = table
        self._fixed, self._service = np.array([k if k is not None else usual for k in known]).T

    @classmethod
    def of(cls, table: LoadTable) -> "LatencyModel | None":
        """None where no response time is known: then plans are ordered without it."""
        known = [calibrated(i.response_times) for i in table.instances]
        return cls(table, known) if any(k is not None for k in known) else None

    def gain(
        self, row: int, source: int, target: int, end_s: float, part: float = 1.0
    ) -> LatencyGain:
        """What operations on both instances gain from a move of (a part of) a shard that ends then.

        Of the periods that begin after the move; of the last one if there are none.
        """
        t = self._table
        when = t.starts_after(end_s)
        when[-1] |= not when.any()
        pair = [source, target]
        before = t.sum_mean[pair][:, :, when]
        moved = t.shard_load(row)[0][:, when] * part
        after = np.maximum(before + np.stack([-moved, moved]), 0.0)
        ops = float(before[:, OPS].sum())
        waited, waits = self._waiting(pair, before), self._waiting(pair, after)
        per_op = 1.0 / ops if ops > 0 else 0.0
        return LatencyGain(
            before_ms=waited * per_op,
            after_ms=waits * per_op,
            ops_per_s=ops / int(when.sum()),
            saved_s=(waited - waits) / 1e3 * float(t.view.period_s),
        )

    def _waiting(self, pair: list[int], load: Floats) -> float:
        """Sum of ops/s x p50 (ms) over instances and periods; `load` [2, R, H]."""
        share = (load / self._table.capacity[pair][:, :, None]).max(axis=1)
        p50_ms = self._fixed[pair][:, None] + self._service[pair][:, None] * _stretch(share)
        return float((load[:, OPS] * p50_ms).sum())


def _stretch(share: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 - np.clip(share, 0.0, SHARE_MAX)), dtype=np.float64)
