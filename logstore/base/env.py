"""The edge of the process: clock, randomness, ids. The only module that may use them directly.

Pure code takes `now` and a seeded generator as arguments; edge classes take an `Env`.
"""

import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `wall_us` for people and timestamps, `monotonic_s` for durations and leases."""

    def wall_us(self) -> int:
        """Microseconds since 1970-01-01 UTC; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some start; never goes back."""
        ...


class SystemClock:
    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that tests and the simulator move by hand."""

    def __init__(self, wall_us: int = 1_700_000_000_000_000, monotonic_s: float = 0.0) -> None:
        self._wall_us = wall_us
        self._monotonic_s = monotonic_s

    def wall_us(self) -> int:
        return self._wall_us

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._wall_us += round(seconds * 1e6)
        self._monotonic_s += seconds


def system_random() -> random.Random:
    return random.Random(secrets.randbits(64))


@dataclass(frozen=True, slots=True)
class Env:
    """Clock and random generator of one process. `Env()` is the real one; tests pass seeded
    parts."""

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=system_random)

    def new_id(self) -> int:
        """A 63-bit id that no other process will draw (incarnations, producers)."""
        return self.rng.getrandbits(63) or 1
