"""Round trips to the peers, with percentiles in microseconds."""

from collections import deque

import numpy as np

KEPT_MAX = 256
"""Newest round trips of each peer: about four minutes of pings."""
PERCENTILES = (50.0, 90.0, 99.0)


class RoundTrips:
    """The newest round trips of each peer; a peer that does not answer is forgotten."""

    def __init__(self) -> None:
        self._taken_us: dict[str, deque[float]] = {}

    def add(self, peer: str, took_s: float) -> None:
        self._taken_us.setdefault(peer, deque(maxlen=KEPT_MAX)).append(took_s * 1e6)

    def forget(self, peer: str) -> None:
        self._taken_us.pop(peer, None)

    def percentiles_us(self) -> dict[str, tuple[float, float, float]]:
        """Peer -> p50, p90 and p99."""
        found = {}
        for peer, taken in self._taken_us.items():
            p50, p90, p99 = np.percentile(np.fromiter(taken, np.float64), PERCENTILES).tolist()
            found[peer] = (p50, p90, p99)
        return found
