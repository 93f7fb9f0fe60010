"""How fast a copy may go beside live traffic (pure): additive increase, multiplicative decrease.

As TCP's congestion control (Chiu and Jain, 1989), with the p99 of live appends in the place of
loss: a copy takes what the machine has left, and gives it back when callers feel it.
"""

from dataclasses import dataclass

STEP_S = 0.25
"""The rate is looked at this often."""
REST_S = 1.0
"""After a decrease, until it shows in the p99; nothing is decided meanwhile."""
INCREASE_BYTES_PER_S = 4e6
"""Added at each step."""
DECREASE = 0.6
"""Factor at a breach."""
START_BYTES_PER_S = 16e6


@dataclass(frozen=True, slots=True)
class Guard:
    """A p99 above `ratio_max` times the one before the copy is a breach; below `floor_ms` never."""

    ratio_max: float = 1.2
    floor_ms: float = 2.0

    def limit_ms(self, before_ms: float) -> float:
        return max(self.floor_ms, self.ratio_max * before_ms)


@dataclass(slots=True)
class Aimd:
    """One instance's copy rate in bytes/s, shared by its copies, between the two bounds."""

    rate_min: float
    rate_max: float
    guard: Guard
    rate: float = 0.0
    before_ms: float | None = None
    """p99 before the first of the present copies; None: nobody was there to be disturbed."""
    breaches: int = 0
    _due_s: float = 0.0

    def begin(self, before_ms: float | None, now_s: float) -> None:
        """The first copy starts. Without live traffic it starts at the upper bound."""
        self.before_ms = before_ms
        self.breaches = 0
        self._due_s = now_s + STEP_S
        self.rate = self.rate_max if before_ms is None else min(START_BYTES_PER_S, self.rate_max)

    def step(self, p99_ms: float | None, now_s: float) -> float:
        """Look at the p99 of the last moments (None: no traffic); returns the rate from now on."""
        if now_s < self._due_s:
            return self._bounded()
        self._due_s = now_s + STEP_S
        if p99_ms is None:
            self.rate = self.rate_max
        elif self.before_ms is None:
            self.before_ms = p99_ms  # traffic came during the copy: hold what it has now
            self.rate = min(self.rate, START_BYTES_PER_S)
        elif p99_ms > self.guard.limit_ms(self.before_ms):
            self.rate *= DECREASE
            self.breaches += 1
            self._due_s = now_s + REST_S
        else:
            self.rate += INCREASE_BYTES_PER_S
        return self._bounded()

    def bound(self, rate_max: float) -> None:
        """The upper bound changes (a share of the cluster's)."""
        self.rate_max = max(self.rate_min, rate_max)

    def _bounded(self) -> float:
        self.rate = min(max(self.rate, self.rate_min), self.rate_max)
        return self.rate
