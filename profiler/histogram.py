"""Response times in fixed log buckets: percentiles within 5 %, from 1 µs to 100 s."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

PER_OCTAVE = 8
LOWEST_S = 1e-6
HIGHEST_S = 100.0
BUCKETS = math.ceil(math.log2(HIGHEST_S / LOWEST_S) * PER_OCTAVE) + 1
RELATIVE_ERROR_MAX = 2 ** (1 / (2 * PER_OCTAVE)) - 1
"""Half a bucket in log scale, 4.4 %: a percentile is the geometric middle of its bucket."""


class LatencyHistogram:
    """Counts by bucket, kept sparse: a batch touches one bucket, a slot few."""

    __slots__ = ("_counts", "count", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0

    def add(self, latency_s: float, count: int) -> None:
        """`count` operations that took `latency_s` each."""
        clipped = min(max(latency_s, LOWEST_S), HIGHEST_S)
        bucket = int(math.log2(clipped / LOWEST_S) * PER_OCTAVE)
        self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += count
        self.total_s += latency_s * count

    def add_array(self, latency_s: npt.NDArray[np.float64]) -> None:
        """One operation for each element."""
        clipped = np.clip(latency_s, LOWEST_S, HIGHEST_S)
        buckets = (np.log2(clipped / LOWEST_S) * PER_OCTAVE).astype(np.int64)
        found, counts = np.unique(buckets, return_counts=True)
        for bucket, count in zip(found.tolist(), counts.tolist(), strict=True):
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += len(latency_s)
        self.total_s += float(latency_s.sum())

    def counts(self) -> dict[int, int]:
        """Operations by bucket, without the empty ones."""
        return dict(self._counts)

    def add_counts(self, now: Mapping[int, int], before: Mapping[int, int]) -> None:
        """The operations that came between two `counts` of another histogram; their response times
        are known only to the bucket, so `total_s` stays."""
        for bucket, count in now.items():
            more = count - before.get(bucket, 0)
            if more > 0:
                self._counts[bucket] = self._counts.get(bucket, 0) + more
                self.count += more

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count if self.count else 0.0

    def percentile_s(self, share: float) -> float:
        """The response time that `share` (0 to 1) of operations did not exceed; 0 when empty."""
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share is {share}, the limit is 0 to 1")
        need = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= need:
                return _middle_s(bucket)
        return 0.0

    def count_above(self, latency_s: float) -> int:
        """Operations whose bucket's middle is above `latency_s`."""
        return sum(n for bucket, n in self._counts.items() if _middle_s(bucket) > latency_s)


def _middle_s(bucket: int) -> float:
    return float(LOWEST_S * 2.0 ** ((bucket + 0.5) / PER_OCTAVE))
