"""Operations since the process began, by kind: for Prometheus counters. No I/O."""

from bisect import bisect_left

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the response-time buckets, in seconds."""


class Total:
    """Count, bytes and response times of one kind of operation."""

    __slots__ = ("_counts", "bytes", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.seconds = 0.0
        self._counts = [0] * (len(BOUNDS_S) + 1)

    def add(self, count: int, size: int, latency_s: float) -> None:
        """`count` operations of `size` bytes in all that took `latency_s` each."""
        self.count += count
        self.bytes += size
        self.seconds += latency_s * count
        self._counts[bisect_left(BOUNDS_S, latency_s)] += count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, in the form of a Prometheus histogram."""
        found, seen = [], 0
        for bound, count in zip((*BOUNDS_S, float("inf")), self._counts, strict=True):
            seen += count
            found.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(seen)))
        return found
