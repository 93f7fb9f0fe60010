"""The capacity of an instance for which none is stated, from what is observed. Pure.

CPU decides mostly: an instance may use what it uses now and what is left, of its cores, its
control group's quota, the machine and its event loop. Operations/s follow from that by what an
operation costs. Memory, disk and space: what it uses and what is left, too.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from profiler.costs import CostModel, Work, cpu_s

SMOOTH_S = 20.0
"""A change of what is left shows by 63 % after this time."""
USE_SMOOTH_S = 3.0
CORES_MIN = 1e-3
MIX_SMOOTH_S = 60.0
SERVED_S = 3600.0
"""What was served well within this time bounds the capacity from below…"""
SERVED_HALF_LIFE_S = 900.0
"""… half of it after this time, and after `BUSY_HALF_LIFE_S` while the instance is overloaded."""
BUSY_HALF_LIFE_S = 60.0
SERVED_STEP_S = 60.0
LAG_WELL_S = 0.02
"""An event loop later than this on the mean does not serve well."""
LAG_BUSY_S = 0.1
"""One later than this can do no more than it does."""
FAIR_PART = 0.5
"""This part of what a fair scheduler gives beside those who use the CPU now counts as capacity: if
they are instances, too, what one gains the others lose."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an instance did and used in `elapsed_s` seconds.

    `loop_cpu_s` is what the thread of its event loop used of `cpu_s`; `cores` is how many it may
    use by quota and affinity; `cores_free` how many of them are idle on the mean. `lag_s` is how
    late the loop ran a timer on the mean. None: it is not known.
    """

    elapsed_s: float
    work: Work
    cpu_s: float
    loop_cpu_s: float | None = None
    cores: float = math.inf
    cores_free: float = math.inf
    cores_fair: float = 0.0
    lag_s: float = 0.0
    throttled: bool = False
    """Its control group had used its quota up."""


@dataclass(slots=True)
class Mean:
    """A mean that fades with time."""

    smooth_s: float
    value: float | None = None

    def add(self, value: float, elapsed_s: float) -> float:
        if self.value is None:
            self.value = value
        else:
            self.value += (value - self.value) * -math.expm1(-elapsed_s / self.smooth_s)
        return self.value


@dataclass(slots=True)
class _Served:
    """The most that was done in a second, by the minute, while the instance served well."""

    best: deque[tuple[float, float]] = field(default_factory=deque)
    """(when, rate) of each minute."""
    age_s: float = 0.0

    def add(self, rate: float, well: bool, busy: bool, elapsed_s: float) -> None:
        self.age_s += elapsed_s
        if busy:
            fade = 0.5 ** (elapsed_s / BUSY_HALF_LIFE_S)
            self.best = deque((at_s, kept * fade) for at_s, kept in self.best)
        if well:
            if self.best and self.age_s - self.best[-1][0] < SERVED_STEP_S:
                at_s, kept = self.best[-1]
                self.best[-1] = at_s, max(kept, rate)
            else:
                self.best.append((self.age_s, rate))
        while self.best and self.age_s - self.best[0][0] > SERVED_S:
            self.best.popleft()

    def floor(self) -> float:
        faded = (
            kept * 0.5 ** ((self.age_s - at_s) / SERVED_HALF_LIFE_S) for at_s, kept in self.best
        )
        return max(faded, default=0.0)


class CapacityEstimate:
    """Of one instance that may use `cores` by quota and affinity."""

    def __init__(self, slowness: float = 1.0, cores: float = 1.0) -> None:
        self.model = CostModel(slowness)
        self.limit = min(cores, 1.0)
        """Cores that it could use of an empty machine: its quota and its event loop bound it."""
        self.cores = self.limit
        """Its capacity now."""
        self.used = 0.0
        """CPU share now, in cores."""
        self._room = Mean(SMOOTH_S, self.limit)
        self._limit = Mean(SMOOTH_S, self.limit)
        self._fair = Mean(SMOOTH_S, 0.0)
        self._use = Mean(USE_SMOOTH_S)
        self._lag = Mean(USE_SMOOTH_S)
        self._beside = Mean(MIX_SMOOTH_S, 1.0)
        """CPU of all threads for 1 of the event loop's."""
        self._operations = Mean(MIX_SMOOTH_S)
        self._worked = Mean(MIX_SMOOTH_S)
        self._served = _Served()
        self._served_ops = _Served()

    def observe(self, seen: Observation) -> None:
        """Learn from one more span of time."""
        elapsed_s = seen.elapsed_s
        share = seen.cpu_s / elapsed_s
        self.model.learn(seen.work, seen.cpu_s, elapsed_s)
        self.used = self._use.add(share, elapsed_s)
        if seen.loop_cpu_s is not None and seen.loop_cpu_s > 0.05 * elapsed_s:
            beside = min(max(seen.cpu_s / seen.loop_cpu_s, 1.0), max(seen.cores, 1.0))
            self._beside.add(beside, elapsed_s * min(1.0, share))
        loop_cores = self._beside.value or 1.0
        limit = self.limit = self._limit.add(min(seen.cores, loop_cores), elapsed_s)
        room = self._room.add(min(share + max(seen.cores_free, 0.0), 1e6), elapsed_s)
        fair = self._fair.add(FAIR_PART * seen.cores_fair, elapsed_s)
        lag_s = self._lag.add(seen.lag_s, elapsed_s)
        busy = lag_s > LAG_BUSY_S
        found = min(limit, self.used if busy else max(room, self.used, fair))
        well = lag_s < LAG_WELL_S and not seen.throttled
        short, operations = busy or room < 0.9 * limit, seen.work.operations / elapsed_s
        self._served.add(share, well, short, elapsed_s)
        self._served_ops.add(operations, well, short, elapsed_s)
        self.cores = max(found, min(self._served.floor(), limit), CORES_MIN)
        self._operations.add(operations, elapsed_s)
        worked = max(share - self.model.base_share, 0.0)
        self._worked.add(worked if seen.work.operations else 0.0, elapsed_s)

    @property
    def net_cores(self) -> float:
        """The capacity without what the process uses when idle."""
        return max(self.cores - self.model.base_share, 0.5 * self.cores)

    @property
    def ops_per_s(self) -> float:
        """Operations/s of the present mix (of single appends where there are none), and not less
        than was served well."""
        return max(self.net_cores / self.cost_per_op_s, self._served_ops.floor())

    @property
    def cost_per_op_s(self) -> float:
        """CPU seconds of one operation of the present mix."""
        operations, worked = self._operations.value or 0.0, self._worked.value or 0.0
        if operations >= 0.1 and worked >= 1e-4:
            return worked / operations
        return cpu_s(Work(append=1.0, append_batch=1.0), self.model.costs())
