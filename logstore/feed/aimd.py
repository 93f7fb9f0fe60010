"""The rate of a copy beside live traffic (pure): additive increase, multiplicative decrease.

Like TCP's congestion control (Chiu and Jain, 1989), with slow appends in the place of loss: a copy
uses the capacity that is left, and gives it back when appends slow down.

A p99 that holds means that no more than one in a hundred appends is slower than the limit. So the
slow ones are counted against that allowance, as an error budget is, over seconds: the p99 of a
quarter of a second varies by far more than 1.2 times without any copy, and would stop each.
"""

from dataclasses import dataclass

STEP_S = 0.25
"""The rate is adjusted this often."""
REST_S = 1.0
"""Rest after a decrease, until it shows in the p99; there is no decision meanwhile, and only
appends in its second half are judged afterwards."""
INCREASE_BYTES_PER_S = 4e6
"""Added at each step."""
DECREASE = 0.6
"""Factor at a breach."""
START_BYTES_PER_S = 16e6
SLOW_SHARE = 0.01
"""Share of the appends that may be slower than the limit: the meaning of a p99."""
CREDIT_STEPS = 8
DEBT_STEPS = 16
"""An unused allowance is kept for this many steps; a debt is no larger than this many."""


LOWEST_MAX = 3
"""Breaches in a row at the least rate: other load came (a copy-on-write brings the shard's own
before its copy), and the present p99 of appends becomes the one to hold."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A p99 above `ratio_max` times the one before the copy is a breach; below `floor_ms` never."""

    ratio_max: float = 1.2
    floor_ms: float = 2.0

    def limit_ms(self, before_ms: float) -> float:
        return max(self.floor_ms, self.ratio_max * before_ms)


@dataclass(frozen=True, slots=True)
class Felt:
    """Live appends since the last step: how many, how many above `Aimd.limit_ms`, and the p99 of
    the last seconds."""

    p99_ms: float
    calls: int
    slow: int


@dataclass(slots=True)
class Aimd:
    """One instance's copy rate in bytes/s, shared by its copies, between the two bounds."""

    rate_min: float
    rate_max: float
    guard: Guard
    rate: float = 0.0
    before_ms: float | None = None
    """p99 before the first of the present copies; None: there was no traffic."""
    breaches: int = 0
    since_s: float = 0.0
    """The next step judges appends that were acked from then on."""
    credit: float | None = None
    """Slow appends that are still allowed; below 0: overdrawn. None: no step was taken yet."""
    _due_s: float = 0.0
    _lowest: int = 0

    @property
    def limit_ms(self) -> float:
        """An append that takes longer is slow."""
        return self.guard.limit_ms(self.before_ms) if self.before_ms is not None else 0.0

    def begin(self, before_ms: float | None, now_s: float) -> None:
        """The first copy starts. Without live traffic it starts at the upper bound."""
        self.before_ms = before_ms
        self.breaches = 0
        self.credit = None
        self._lowest = 0
        self.since_s = now_s
        self._due_s = now_s + STEP_S
        self.rate = self.rate_max if before_ms is None else min(START_BYTES_PER_S, self.rate_max)

    def due(self, now_s: float) -> bool:
        """Whether a step is due; it has a cost."""
        return now_s >= self._due_s

    def step(self, felt: Felt | None, now_s: float) -> float:
        """Appends since the last step (None: no traffic); returns the rate from now on."""
        if now_s < self._due_s:
            return self._bounded()
        self._due_s, self.since_s = now_s + STEP_S, now_s
        if felt is None:
            self.rate = self.rate_max
        elif self.before_ms is None:
            self.before_ms = felt.p99_ms  # traffic came during the copy: hold what it has now
            self.rate = min(self.rate, START_BYTES_PER_S)
        else:
            self._judge(felt, now_s)
        return self._bounded()

    def _judge(self, felt: Felt, now_s: float) -> None:
        allowed = SLOW_SHARE * felt.calls
        before = CREDIT_STEPS * allowed if self.credit is None else self.credit
        after = before + allowed - felt.slow
        self.credit = min(max(after, -DEBT_STEPS * allowed), CREDIT_STEPS * allowed)
        if felt.slow > allowed and self.credit < 0:
            self._lowest = self._lowest + 1 if self.rate <= self.rate_min else 0
            if self._lowest >= LOWEST_MAX:  # it is not the copy that they feel
                self.before_ms, self.credit, self._lowest = felt.p99_ms, None, 0
                return
            self.rate *= DECREASE
            self.breaches += 1
            self._due_s, self.since_s = now_s + REST_S, now_s + REST_S / 2
        elif felt.slow <= allowed and self.credit >= 0:
            self.rate += INCREASE_BYTES_PER_S

    def bound(self, rate_max: float) -> None:
        """The upper bound changes (a share of the cluster's)."""
        self.rate_max = max(self.rate_min, rate_max)

    def _bounded(self) -> float:
        self.rate = min(max(self.rate, self.rate_min), self.rate_max)
        return self.rate
