"""Copies beside live traffic: the present delay of appends, and the pace that follows from it.

The pace is one for the instance: copies it sends and copies it takes share it (design note 0007).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from logstore.base.limits import COPY_CHUNK_BYTES_MAX, COPY_CHUNK_BYTES_MIN
from logstore.feed.aimd import Aimd, Felt, Guard
from logstore.node.config import NodeConfig

NOW_S = 2.0
"""Span of the present p99."""
BEFORE_S = 10.0
"""Span of the p99 before a copy."""
SAMPLES_MIN = 50
"""Fewer acks than this in the last NOW_S are no traffic."""
SAMPLES_MAX = 20_000
ACKS_AT_ONCE = 16
"""Of appends acked together about this many are measured."""
CHUNK_S = 0.005
"""A chunk is what the pace allows in this time: small beside traffic, large without."""


class LiveLatency:
    """Delays of appends here: from arrival to ack, plus how late the loop was just before, because
    an append that waits in a socket has not arrived yet."""

    def __init__(self) -> None:
        self._acks: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._late_s = 0.0

    def acked(self, now_s: float, received_s: Sequence[float]) -> None:
        """These arrived at those times and were acked now."""
        for at_s in received_s[:: 1 + len(received_s) // ACKS_AT_ONCE]:
            self._acks.append((now_s, now_s - at_s + self._late_s))

    def lagged(self, late_s: float) -> None:
        self._late_s = late_s

    def p99_ms(self, now_s: float, window_s: float) -> float | None:
        """None: there is hardly any traffic."""
        acks = self._since(now_s - window_s)
        return float(np.percentile(acks, 99)) * 1e3 if len(acks) >= SAMPLES_MIN else None

    def felt(self, now_s: float, since_s: float, limit_ms: float) -> Felt | None:
        """Of the appends acked since then; None: there is hardly any traffic."""
        p99_ms = self.p99_ms(now_s, NOW_S)
        if p99_ms is None:
            return None
        acks = self._since(since_s)
        return Felt(p99_ms, len(acks), sum(took_s * 1e3 > limit_ms for took_s in acks))

    def _since(self, start_s: float) -> list[float]:
        found = []
        for at_s, value in reversed(self._acks):
            if at_s < start_s:
                break
            found.append(value)
        return found


class CopyPace:
    """The pace of this instance's copies. `copies`: how many run in the cluster."""

    def __init__(
        self, config: NodeConfig, now_s: Callable[[], float], copies: Callable[[], int]
    ) -> None:
        self.latency = LiveLatency()
        self._config, self._now_s, self._copies = config, now_s, copies
        self.aimd = Aimd(
            config.copy_bytes_per_s_min,
            config.copy_bytes_per_s,
            Guard(config.copy_p99_ratio_max, config.copy_p99_floor_ms),
        )
        self._running = 0
        self._due_s = 0.0
        self._ended_s = float("-inf")
        self.bytes_total = 0

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Around one copy. A copy that follows another at once goes on with its pace."""
        now_s = self._now_s()
        if self._running == 0 and now_s - self._ended_s > BEFORE_S:  # else it is felt in the p99
            self._bound()
            self.aimd.begin(self.latency.p99_ms(now_s, BEFORE_S), now_s)
            self._due_s = now_s
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._ended_s = self._now_s()

    @property
    def chunk_bytes(self) -> int:
        wanted = round(self.aimd.rate * CHUNK_S)
        return min(max(wanted, COPY_CHUNK_BYTES_MIN), COPY_CHUNK_BYTES_MAX)

    async def spend(self, size_bytes: int) -> None:
        """Account for what was copied; returns when more may be."""
        self.bytes_total += size_bytes
        now_s = self._now_s()
        self._bound()
        if self.aimd.due(now_s):
            aimd, latency = self.aimd, self.latency
            aimd.step(latency.felt(now_s, aimd.since_s, aimd.limit_ms), now_s)
        self._due_s = max(self._due_s, now_s) + size_bytes / self.aimd.rate
        await asyncio.sleep(max(0.0, self._due_s - now_s))

    def _bound(self) -> None:
        """The instance's limit, and its share of the cluster's."""
        limit = self._config.copy_bytes_per_s
        cluster = self._config.copy_bytes_per_s_cluster
        if cluster is not None:
            share = max(1, self._running) / max(1, self._copies(), self._running)
            limit = min(limit, cluster * share)
        self.aimd.bound(limit)
