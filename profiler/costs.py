"""What an operation costs: CPU seconds by kind, learned from what a process did and used. Pure.

A regression with weights that fade: used = base x seconds + sum of cost x count. The costs stay
near the expected ones until work of a kind was seen, and within a factor of them (`FACTOR_MAX`).
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from profiler.types import OpType

MIB = 1 << 20
HALF_LIFE_S = 600.0
"""What was seen this long ago counts half."""
FACTOR_MAX = 50.0
BASE_SHARE = 0.01
"""Expected CPU share of a process without operations…"""
BASE_SHARE_MAX = 0.05
"""… and the most that is believed."""
_PRIOR = 1e-3
"""Variance of what was used (5 % of 0.3 s, per second of use) over that of an expected cost (a
factor of 2 or so): what was expected counts this much against what was seen."""
_ROUNDS = 12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """Operations, and MiB of them, in some time; or their rates."""

    append: float = 0.0
    append_batch: float = 0.0
    """Requests that brought the appends."""
    append_mib: float = 0.0
    key_read: float = 0.0
    scan: float = 0.0
    tail: float = 0.0
    read_mib: float = 0.0
    replicated: float = 0.0
    """Records that were written for the primary."""
    replicated_mib: float = 0.0

    @classmethod
    def of(
        cls,
        counts: Mapping[OpType, float],
        bytes_in: float,
        bytes_out: float,
        replicated: float = 0.0,
        replicated_bytes: float = 0.0,
        append_batches: float = 0.0,
    ) -> "Work":
        return cls(
            counts.get(OpType.APPEND, 0.0),
            append_batches,
            bytes_in / MIB,
            counts.get(OpType.KEY_READ, 0.0),
            counts.get(OpType.SCAN, 0.0),
            counts.get(OpType.TAIL, 0.0),
            bytes_out / MIB,
            replicated,
            replicated_bytes / MIB,
        )

    @property
    def operations(self) -> float:
        """Of clients."""
        return self.append + self.key_read + self.scan + self.tail

    def since(self, before: "Work") -> "Work":
        return Work(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


KINDS = tuple(f.name for f in fields(Work))
EXPECTED_S = {
    "append": 3e-6,
    "append_batch": 4e-4,
    "append_mib": 4e-3,
    "key_read": 5e-4,
    "scan": 1e-3,
    "tail": 5e-4,
    "read_mib": 2e-3,
    "replicated": 1e-5,
    "replicated_mib": 4e-3,
}
"""CPU seconds of an operation, or a MiB, on a core of 2020."""


def cpu_s(work: Work, costs: Mapping[str, float]) -> float:
    """CPU seconds of `work` at these costs; a kind without a cost is free."""
    return float(
        sum(getattr(work, kind) * cost for kind, cost in costs.items() if kind in EXPECTED_S)
    )


class CostModel:
    """Of one process. `slowness`: how many times slower than expected its CPU is."""

    def __init__(self, slowness: float = 1.0) -> None:
        self._expected: Floats = np.array([EXPECTED_S[kind] * slowness for kind in KINDS])
        n = len(KINDS) + 1  # the last one is the base
        self._products: Floats = np.zeros((n, n))
        self._used: Floats = np.zeros(n)
        self._factors: Floats = np.ones(n)
        self._most = [FACTOR_MAX] * len(KINDS) + [BASE_SHARE_MAX / BASE_SHARE]

    def learn(self, work: Work, used_cpu_s: float, elapsed_s: float) -> None:
        """`work` was done in `elapsed_s` seconds and `used_cpu_s` of CPU."""
        expected = np.append(np.array(astuple(work)) * self._expected, BASE_SHARE * elapsed_s)
        fade = 0.5 ** (elapsed_s / HALF_LIFE_S)
        weight = 1.0 / (used_cpu_s + 0.05 * elapsed_s)  # the error grows with the work
        self._products = self._products * fade + weight * np.outer(expected, expected)
        self._used = self._used * fade + weight * used_cpu_s * expected
        self._fit()

    def _fit(self) -> None:
        """Least squares within bounds, one factor after the other (coordinate descent)."""
        left = self._products + _PRIOR * np.eye(len(self._used))
        right = self._used + _PRIOR
        factors = self._factors.copy()
        for _ in range(_ROUNDS):
            for i in range(len(factors)):
                rest = right[i] - left[i] @ factors + left[i, i] * factors[i]
                factors[i] = min(max(rest / left[i, i], 1.0 / FACTOR_MAX), self._most[i])
        self._factors = factors

    @property
    def base_share(self) -> float:
        """CPU share of the process without operations."""
        return float(BASE_SHARE * self._factors[-1])

    def costs(self) -> dict[str, float]:
        """CPU seconds of an operation, or a MiB, by kind."""
        found = self._expected * self._factors[:-1]
        return {kind: float(cost) for kind, cost in zip(KINDS, found, strict=True)}
