"""Durations of past moves, for the plans and dry runs of the next ones. Pure."""

from collections.abc import Sequence
from statistics import fmean

from coordinator.migration.dry_run import dry_run
from coordinator.migration.records import MigrationRecord, MoveOptions, State
from sharder.view import (
    MoveHistory,
)

_RECENT_MOVES = 20
_STEPS_S = 1.0
"""For writing the states and asking the instances, all states together."""


def move_history(
    migrations: Sequence[MigrationRecord], options: MoveOptions | None = None
) -> MoveHistory:
    """Measurements of the last completed moves; before the first one, the estimates of `options`
    (without them the planner's defaults)."""
    completed = [m for m in migrations if m.state is State.COMPLETED]
    switched = [m for m in completed if m.strategy == "switch"][-_RECENT_MOVES:]
    done = [m for m in completed if m.strategy != "switch"][-_RECENT_MOVES:]
    rates = [m.copy_mb_per_s for m in done if m.copy_mb_per_s]
    rate = fmean(rates) if rates else MoveHistory().copy_mb_per_s
    fixed = [s - m.bytes / 1e6 / rate for m in done if (s := _to_cutover_s(m)) is not None]
    switches = [s for m in switched if (s := _to_cutover_s(m)) is not None]
    held = [m.blackout_ms for m in done if m.blackout_ms is not None]
    return MoveHistory(
        copy_mb_per_s=rate,
        fixed_s=max(0.0, fmean(fixed)) if fixed else _first_fixed_s(options, "shadow"),
        switch_s=fmean(switches) if switches else _first_fixed_s(options, "switch"),
        blackout_ms=fmean(held) if held else MoveHistory().blackout_ms,
        moves=len(done),
    )


def _to_cutover_s(migration: MigrationRecord) -> float | None:
    """Seconds from the proposal to the end of the cutover."""
    ended = [p.at_us for p in migration.phases if p.state is State.SOAKING]
    return (ended[-1] - migration.created_us) / 1e6 if ended else None


def _first_fixed_s(options: MoveOptions | None, strategy: str) -> float:
    """Seconds to the end of the cutover of a move without bytes, by its options."""
    if options is None:
        return MoveHistory().fixed_s
    steps = dry_run(options, 0, MoveHistory().copy_mb_per_s, strategy)
    return _STEPS_S + sum(step.seconds for step in steps if step.state != State.SOAKING.value)
