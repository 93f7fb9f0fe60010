"""The time of each log, by many reporters, of which none is trusted alone. Pure.

Logs that count by their records' times (`LogClock`): each reporter has a clock of its own, which no
single report moves far (`profiler.slot_clock`); the log's time is the newest slot that reporters of
more than half of its operations have reached. So a reporter that is far ahead moves a log only if
it carries most of it, and quiet ones do not hold it back.

Logs that count by the wall clock (`WallClocks`): every report carries its sender's clock.
The shared time is the median of all living reporters' clocks and the coordinator's own. The slots
of a reporter that is off by more than OFF_MIN_S are corrected by its difference in slots, so that a
clock that is wrong by an hour, or by 30 days for 6 s, reports the same slots as a right one. A slot
after the shared time does not exist yet, and is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from profiler.slot_clock import GAP_SLOTS_MAX, SlotClock

REACH_SLOTS = 2
"""Reach of a reporter's single slot: the reporter has agreed on its slots already."""
UNBOUND = 2**62
"""Reach of a clock whose slots are bounded otherwise."""
TELLINGS_SILENT_MAX = 2.0
"""A reporter without a report on a log for this many of its usual intervals does not count."""
WEIGHT_RATE = 0.5
OFF_MIN_S = 30.0
"""A smaller difference may be the transmission time of a report."""


@dataclass(slots=True)
class _Reporter:
    clock: SlotClock
    reported_s: float
    ops: float = 0.0
    """Recent operations per slot."""


class LogClock:
    """The time of one log. `slot`: the newest that is over; None before the first report."""

    def __init__(self, alive_s: float) -> None:
        self._alive_s = alive_s
        self._reporters: dict[str, _Reporter] = {}
        self._every_s = 0.0
        """The usual time between two reports of one reporter."""
        self.slot: int | None = None

    def tell(
        self, instance: str, slots: Sequence[int], ops: float, now_s: float, bounded: bool
    ) -> bool:
        """One report: `slots` are those of this log, ascending, with `ops` operations in all.

        `bounded`: none of the slots can be in the future. True when the log's time went back:
        statistics of later slots are wrong then.
        """
        reporter = self._reporters.get(instance)
        if reporter is None:
            reach = UNBOUND if bounded else REACH_SLOTS
            reporter = _Reporter(SlotClock(reach, self.slot), now_s)
            self._reporters[instance] = reporter
        elif (since_s := now_s - reporter.reported_s) > 0:
            self._every_s += 0.2 * (since_s - self._every_s)
        reporter.reported_s = now_s
        reporter.ops += WEIGHT_RATE * (ops / len(slots) - reporter.ops)
        reporter.clock.tell(slots, [1] * len(slots), now_s)
        return self._settle(now_s)

    def restore(self, slot: int) -> None:
        """Restore the log's time from before a restart."""
        self.slot = slot

    def _settle(self, now_s: float) -> bool:
        limit_s = max(self._alive_s, TELLINGS_SILENT_MAX * self._every_s)
        for name in [n for n, r in self._reporters.items() if now_s - r.reported_s > limit_s]:
            del self._reporters[name]
        before = self.slot
        self.slot = _reached([(r.clock.slot, r.ops) for r in self._reporters.values()
                              if r.clock.slot is not None])  # fmt: skip
        if before is None or self.slot >= before:
            return False
        if self.slot >= before - GAP_SLOTS_MAX:
            self.slot = before  # the reporter with most weight changed; time itself did not go back
            return False
        return True


def _reached(reporters: Sequence[tuple[int, float]]) -> int:
    """The newest slot that more than half of the weight has reached; without weight, of
    reporters."""
    whole = sum(weight for _, weight in reporters)
    beyond = 0.0
    for slot, weight in sorted(reporters, reverse=True):
        beyond += weight if whole > 0 else 1.0
        if beyond > (whole if whole > 0 else len(reporters)) / 2:
            return slot
    return min(slot for slot, _ in reporters)


class WallClocks:
    """The reporters' wall clocks, compared with the coordinator's own."""

    def __init__(self, alive_s: float) -> None:
        self._alive_s = alive_s
        self._off_us: dict[str, tuple[int, float]] = {}
        """Instance -> (its clock less ours, when it reported)."""

    def tell(self, instance: str, wall_us: int, now_us: int, now_s: float) -> None:
        """`wall_us` is the reporter's clock, 0: unknown; `now_us` ours."""
        self._off_us.pop(instance, None)
        if wall_us:
            self._off_us[instance] = (wall_us - now_us, now_s)
        for name in [n for n, (_, at) in self._off_us.items() if now_s - at > self._alive_s]:
            del self._off_us[name]

    def newest_us(self, now_us: int) -> int:
        """The shared time; later slots are still to come."""
        return now_us + self._shared_us() + round(OFF_MIN_S * 1e6)

    def slots_ahead(self, instance: str, slot_us: int) -> int:
        """How many slots the instance's clock is ahead of the shared time."""
        entry = self._off_us.get(instance)
        off_us = entry[0] - self._shared_us() if entry is not None else 0
        return round(off_us / slot_us) if abs(off_us) > OFF_MIN_S * 1e6 else 0

    def _shared_us(self) -> int:
        """Our clock counts as one: of two that differ, the earlier one is followed."""
        return median_low([0, *(off for off, _ in self._off_us.values())])
