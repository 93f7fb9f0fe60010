"""Durations of past moves, for the plans and dry runs of the next ones. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from coordinator.migration.dry_run import scheduled_s
from coordinator.migration.move_times import MoveTime, fit
from coordinator.migration.records import MigrationRecord, MoveOptions, State
from sharder.view import (
    MoveHistory,
)

_RECENT_MOVES = 20
_STEPS_S = 1.0
"""For writing the states and asking the instances, all states together."""


def move_history(
    migrations: Sequence[MigrationRecord],
    options: MoveOptions | None = None,
    strategy: str = "shadow",
) -> MoveHistory:
    """What the last completed moves say of the next one, made with `options` by `strategy`."""
    completed = [m for m in migrations if m.state is State.COMPLETED and _says_something(m)]
    switched = [m for m in completed if m.strategy == "switch"][-_RECENT_MOVES:]
    done = [m for m in completed if m.strategy != "switch"][-_RECENT_MOVES:]
    held = [m.blackout_ms for m in done if m.blackout_ms is not None]
    default = MoveHistory()
    known_s = scheduled_s(options or MoveOptions(), strategy)
    copies = fit(_times(done), _STEPS_S, default.copy_mb_per_s * 1e6)
    switches = fit(_times(switched), _STEPS_S, default.copy_mb_per_s * 1e6)
    return MoveHistory(
        copy_mb_per_s=copies.bytes_per_s / 1e6,
        fixed_s=known_s + copies.overhead_s,
        switch_s=switches.overhead_s,
        blackout_ms=fmean(held) if held else default.blackout_ms,
        moves=len(done),
        scheduled_s=known_s,
        spread=copies.spread,
        rate_spread=copies.rate_spread,
        switch_spread=switches.spread,
    )


def move_seconds(
    history: MoveHistory, options: MoveOptions, strategy: str, size_bytes: int
) -> tuple[float, float, float]:
    """Expected seconds of a move until it has soaked, and between which 80 % of such moves take."""
    if options.throttle_bytes_per_s:
        rate = min(history.copy_mb_per_s, options.throttle_bytes_per_s / 1e6)
        history = replace(history, copy_mb_per_s=rate)
    copied = strategy != "switch"
    expected_s = history.duration_s(size_bytes) if copied else history.switching_s
    low_s, high_s = history.range_s(size_bytes, copied=copied)
    return (
        round(expected_s + options.soak_s, 3),
        round(low_s + options.soak_s, 3),
        round(high_s + options.soak_s, 3),
    )


def _says_something(migration: MigrationRecord) -> bool:
    """A copy that was throttled, or a move that fell back, says nothing of the next one."""
    return not migration.setbacks and not migration.options.throttle_bytes_per_s


def _times(migrations: Sequence[MigrationRecord]) -> list[MoveTime]:
    """Of each: seconds to the end of the cutover, without those its options prescribe."""
    found = []
    for migration in migrations:
        ended = [p.at_us for p in migration.phases if p.state is State.SOAKING]
        if not ended:
            continue
        took_s = (ended[-1] - migration.created_us) / 1e6
        rate = migration.copy_mb_per_s
        size = 0 if migration.strategy == "switch" else migration.bytes
        waited_s = scheduled_s(migration.options, migration.strategy)
        found.append(MoveTime(size, max(0.0, took_s - waited_s), rate * 1e6 if rate else None))
    return found
