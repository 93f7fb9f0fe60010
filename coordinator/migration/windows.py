"""What both sides of a move served in the last seconds, and how many seconds a decision looks at.

Instances count (`logstore.node.statistics.recent_operations`); the driver asks them with their
status, so a window is as long as it says whatever the statistics' slots are. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from coordinator.migration.records import MeasuredWindow, MigrationRecord, State
from logstore.base.errors import OverloadedError
from profiler.histogram import LatencyHistogram

AROUND_CUTOVER_S = 15.0
"""Of the source, after the cutover: what it served around it. Instances keep no more."""
SETTLED_S = 1.0
"""After a cutover without a ramp, this much of the target's time belongs to `during`."""


@dataclass(frozen=True, slots=True)
class SideWindow:
    """Calls at one copy in the last `over_s` seconds; a call of many records counts once.

    `reads`, `appends`: answered ones by bucket of `LatencyHistogram`; a read counts until its first
    answer. `failed`: by error code.
    """

    over_s: float = 0.0
    reads: Mapping[int, int] = field(default_factory=dict)
    appends: Mapping[int, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    queue_bytes: int = 0

    @property
    def failed_count(self) -> int:
        return sum(self.failed.values())

    @property
    def refused_count(self) -> int:
        return self.failed.get(OverloadedError.code, 0)

    @property
    def calls(self) -> int:
        """All of them, also those that failed."""
        return sum(self.reads.values()) + sum(self.appends.values()) + self.failed_count


@dataclass(frozen=True, slots=True)
class RampStatistics:
    """Both sides of a move for one decision. None: not asked for, or no answer.

    `lag_records`: the source's high watermark less the target's end.
    """

    lag_records: int | None = None
    source: SideWindow | None = None
    target: SideWindow | None = None


def seconds_asked(record: MigrationRecord, judged_us: int, now_us: int) -> tuple[float, float]:
    """How many of the last seconds of source and target count now; 0: they are not asked for.

    The target's begin with the state, and after what a guard rail has judged (`judged_us`).
    """
    window_s = record.options.guard_window_s
    if record.state in (State.PLANNED, State.SHADOWING):
        return window_s, window_s  # the target begins to count in fine slices
    if record.successor is not None and record.state is State.VERIFYING:
        return 0.0, window_s
    if record.state not in (State.RAMPING, State.SOAKING):
        return 0.0, 0.0
    since_us = max(_entered_us(record, record.state), judged_us)
    target_s = max(0.0, min(window_s, (now_us - since_us) / 1e6))
    if record.state is State.RAMPING:
        return window_s, target_s
    around_s = (now_us - _entered_us(record, State.CUTOVER)) / 1e6
    return (around_s if around_s <= AROUND_CUTOVER_S else 0.0), target_s


def _entered_us(record: MigrationRecord, state: State) -> int:
    return next((p.at_us for p in reversed(record.phases) if p.state is state), record.created_us)


def times_of(*counts: Mapping[int, int]) -> LatencyHistogram:
    """One histogram of all of them."""
    found = LatencyHistogram()
    for part in counts:
        found.add_counts(part, {})
    return found


def p99_ms(*counts: Mapping[int, int]) -> float | None:
    """None: no call."""
    times = times_of(*counts)
    return round(times.percentile_s(0.99) * 1e3, 3) if times.count else None


def measured(*sides: SideWindow) -> MeasuredWindow:
    """What these sides served together, in a migration's record."""
    reads, appends = [s.reads for s in sides], [s.appends for s in sides]
    return MeasuredWindow(
        seconds=round(max(s.over_s for s in sides), 3),
        calls=sum(s.calls for s in sides),
        failed=sum(s.failed_count for s in sides),
        refused=sum(s.refused_count for s in sides),
        p99_ms=p99_ms(*reads, *appends),
        read_p99_ms=p99_ms(*reads),
        append_p99_ms=p99_ms(*appends),
    )


def with_window(record: MigrationRecord, when: str, *sides: SideWindow | None) -> MigrationRecord:
    """The record with the figures of `before`, `during` or `after`; unchanged without a side."""
    known = [side for side in sides if side is not None and side.over_s > 0]
    if not known:
        return record
    found = measured(*known)
    times = record.p99_ms if found.p99_ms is None else {**record.p99_ms, when: found.p99_ms}
    return replace(record, windows={**record.windows, when: found}, p99_ms=times)
