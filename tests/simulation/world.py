"""What one seed's run shares: time, its dice, the story, and what went wrong."""

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from logstore.base.env import Env
from tests.simulation.loop import PROCESS, Process, SimLoop
from tests.support.checkers.history import History, Violation

STORY_LINES_MAX = 50_000
PARTS = ("delays", "faults", "clients")
"""Mutation `m` of a seed draws part `m % 3` again: 1 faults, 2 clients, 3 delays, 4 faults ..."""
SLOW_SHARE, SLOW_S, STALL_S = 0.3, 0.3, 2.0
"""A slow disk holds this share of its calls, each for up to so long; one of three calls in a thread
stalls for up to STALL_S, which is longer than any grace."""

Triple = tuple[str, str, str]
"""A fault, the state of the move or reshape that its shard is in, and the role that it hit."""


class SimClock:
    """A process's clocks: the monotonic one drifts, the wall clock drifts and jumps."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._rate = 1.0
        self._base_s = self._read_s = 0.0
        self._jump_us = 0

    def monotonic_s(self) -> float:
        return self._base_s + (self._loop.now_s - self._read_s) * self._rate

    def wall_us(self) -> int:
        return 1_700_000_000_000_000 + round(self.monotonic_s() * 1e6) + self._jump_us

    def drift(self, rate: float) -> None:
        """From now on this clock runs at `rate` seconds a second."""
        self._base_s, self._read_s = self.monotonic_s(), self._loop.now_s
        self._rate = rate

    def jump(self, seconds: float) -> None:
        """The wall clock is set."""
        self._jump_us += round(seconds * 1e6)


class World:
    """One seed."""

    def __init__(self, seed: int, mutation: int = 0) -> None:
        """`mutation`: 0, or the number of a neighbour, of whose `PARTS` one is drawn again."""
        self.seed, self.mutation = seed, mutation
        self.rng = self.dice("cluster")
        self.delays = self.dice("delays")
        """Of the network, the store and the threads."""
        self.chaos = self.dice("faults")
        self.callers = self.dice("clients")
        self.loop = SimLoop(self._thread_s)
        self.history = History()
        self.violations: list[Violation] = []
        self.coverage: Counter[tuple[str, str]] = Counter()
        self.triples: Counter[Triple] = Counter()
        self.story: deque[str] = deque(maxlen=STORY_LINES_MAX)
        self.faults = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._root = Context()

    def dice(self, part: str) -> random.Random:
        """Each part of a run has dice of its own, so that a neighbour differs in one of them."""
        anew = self.mutation and PARTS[self.mutation % len(PARTS)] == part
        return random.Random(f"{self.seed}/{part}/{self.mutation if anew else 0}")

    @property
    def now_s(self) -> float:
        return self.loop.now_s

    def _thread_s(self, process: Process | None) -> float:
        """How long a call in a thread takes; the loop goes on meanwhile."""
        rng = self.delays
        quick_s = rng.uniform(0.0001, 0.002)
        if process is not None and process.stall_s:
            stall_s, process.stall_s = process.stall_s, 0.0
            return quick_s + stall_s
        if process is None or not process.slow_disk() or rng.random() >= SLOW_SHARE:
            return quick_s
        return quick_s + rng.random() * rng.choice((SLOW_S, SLOW_S, STALL_S))

    def env(self) -> Env:
        """Clock and dice of a new process."""
        return Env(SimClock(self.loop), random.Random(self.rng.getrandbits(64)))

    def at(self, when_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call at a time, outside of every process."""
        self.loop.call_at(when_s, call, *args, context=self._root)

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self.loop.call_at(self.loop.now_s + seconds, call, *args, context=self._root)

    def tell(self, text: str) -> None:
        """A line of the story; it is part of the trace."""
        process = PROCESS.get()
        who = process.name if process is not None else "-"
        line = f"{self.loop.now_s:10.6f} {who:<12} {text}"
        self._digest.update(line.encode())
        self.story.append(line)

    def trace(self, text: str) -> None:
        """Goes into the trace only."""
        self._digest.update(f"{self.loop.now_s:.9f} {text}".encode())

    def trace_hash(self) -> str:
        return self._digest.hexdigest()

    def violate(self, invariant: str, text: str) -> None:
        """An invariant does not hold; the run goes on, so that the story shows what follows."""
        self.tell(f"VIOLATION {invariant}: {text}")
        self.violations.append(Violation(invariant, text, self.loop.now_s))

    def cover(self, fault: str, where: str) -> None:
        self.coverage[fault, where] += 1
