"""Copies beside live traffic: what appends feel just now, and the pace that follows from it.

The pace is one for the instance: copies it sends and copies it takes share it (design.md 7).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from logstore.base.limits import COPY_CHUNK_BYTES_MAX, COPY_CHUNK_BYTES_MIN
from logstore.feed.aimd import Aimd, Guard
from logstore.node.config import NodeConfig

NOW_S = 2.0
"""The p99 of now is of so long."""
BEFORE_S = 10.0
"""The p99 before a copy is of so long."""
SAMPLES_MIN = 50
"""Fewer acks than this in the last NOW_S are no traffic."""
SAMPLES_MAX = 20_000
CHUNK_S = 0.005
"""A chunk is what the pace gives in so long: small beside traffic, large without."""


class LiveLatency:
    """What an append takes here: from its arrival to its ack, and how long it waited before that
    because the loop was busy. Both as p99, added."""

    def __init__(self) -> None:
        self._acks: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._lags: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)

    def acked(self, now_s: float, took_s: float) -> None:
        self._acks.append((now_s, took_s))

    def lagged(self, now_s: float, late_s: float) -> None:
        self._lags.append((now_s, late_s))

    def p99_ms(self, now_s: float, window_s: float) -> float | None:
        """None: there is hardly any traffic."""
        acks = _since(self._acks, now_s - window_s)
        if len(acks) < SAMPLES_MIN:
            return None
        found = float(np.percentile(acks, 99))
        lags = _since(self._lags, now_s - window_s)
        if lags:
            found += float(np.percentile(lags, 99))
        return found * 1e3


def _since(samples: deque[tuple[float, float]], start_s: float) -> list[float]:
    found = []
    for at_s, value in reversed(samples):
        if at_s < start_s:
            break
        found.append(value)
    return found


class CopyPace:
    """The pace of this instance's copies. `copies` tells how many run in the cluster."""

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
        """Around one copy. One that follows another at once goes on with its pace."""
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
        rate = self.aimd.step(self.latency.p99_ms(now_s, NOW_S), now_s)
        self._due_s = max(self._due_s, now_s) + size_bytes / rate
        await asyncio.sleep(max(0.0, self._due_s - now_s))

    def _bound(self) -> None:
        """The instance's limit, and its share of the cluster's."""
        limit = self._config.copy_bytes_per_s
        cluster = self._config.copy_bytes_per_s_cluster
        if cluster is not None:
            share = max(1, self._running) / max(1, self._copies(), self._running)
            limit = min(limit, cluster * share)
        self.aimd.bound(limit)
