"""The story of a migration from planned to its end, by its record. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime

from coordinator.migration.answers import Migration
from coordinator.migration.records import MeasuredWindow

WHAT = {
    "planned": "asked for",
    "preparing": "the target is given a copy id",
    "snapshot": "what is committed now is copied",
    "catching-up": "batches since the snapshot follow",
    "verifying": "both hash chains are compared",
    "shadowing": "every write is on both sides",
    "ramping": "reads go to the target step by step",
    "cutover": "the primary changes",
    "soaking": "the source stays in sync, the way back is open",
    "completed": "the source's copy is gone",
    "rolling-back": "back to the source",
    "rolled-back": "the source leads, the target's copy is gone",
    "aborted": "given up before anything was copied",
}


def story_lines(migration: Migration) -> Iterator[str]:
    """`migration`: the answer of `Migrations.Get`."""
    yield (
        f"{migration.id}: {migration.shard} from {migration.source} to {migration.target} by "
        f"{migration.strategy}, feed {migration.options.feed}, trigger {migration.trigger}"
    )
    if migration.reason:
        yield f"because: {migration.reason}"
    forecast = migration.forecast
    if forecast:
        yield (
            f"forecast: {forecast.mean:.1f} ops/s in {forecast.horizon_s:g} s, between "
            f"{forecast.lower:.1f} and {forecast.upper:.1f}; risk {migration.risk or 0:.3g}"
        )
    phases = migration.phases
    for i, phase in enumerate(phases):
        begun = datetime.fromtimestamp(phase.at_us / 1e6, UTC)
        end_us = phases[i + 1].at_us if i + 1 < len(phases) else None
        took = "" if end_us is None else f"{(end_us - phase.at_us) / 1e6:.3f} s"
        since_s = (phase.at_us - migration.created_us) / 1e6
        yield (
            f"{begun:%Y-%m-%d %H:%M:%S.%f}"[:-3]
            + f"Z  +{since_s:8.3f} s  {phase.state.value:<12} {took:>10}  {WHAT[phase.state]}"
        )
    for note in migration.notes:
        yield f"note: {note}"
    if migration.cause:
        yield f"cause: {migration.cause}"
    yield from _figures(migration)
    if migration.waits_for:
        paused = "paused; " if migration.paused else ""
        yield f"now: {paused}waits for {migration.waits_for}; about {migration.eta_s:.1f} s left"


def _figures(migration: Migration) -> Iterator[str]:
    yield f"copied: {copied(migration)}"
    checked = migration.hash
    if checked:
        same = "equal" if checked.equal else "DIFFERENT"
        yield (
            f"hash chains: {same} at offset {checked.end}: source "
            f"{checked.source_chain[:16]}, target {checked.target_chain[:16]} (recomputed)"
        )
    if migration.blackout_ms is not None:
        yield f"blackout at the source: {migration.blackout_ms:.1f} ms"
    for when, window in migration.windows.items():
        yield f"{when}: {window_text(window)}"


def copied(migration: Migration) -> str:
    """What was copied of the shard so far, or in all."""
    if migration.strategy == "switch":
        return "nothing, the target had a copy in sync"
    whole = "" if migration.bytes_copied == migration.bytes else f" of {migration.bytes / 1e6:.3f}"
    rate = migration.copy_mb_per_s
    at = "" if rate is None else f" at {rate:.1f} MB/s"
    return f"{migration.bytes_copied / 1e6:.3f}{whole} MB{at}"


def expected_text(seconds: float, low: float, high: float) -> str:
    """An expected time with its range."""
    return f"{seconds:.1f} s, 80 %: {low:.1f}-{high:.1f} s"


def window_text(window: MeasuredWindow) -> str:
    """What clients felt in some seconds of a move."""
    times = [
        f"{kind} {ms:.1f} ms"
        for kind, ms in (("reads", window.read_p99_ms), ("appends", window.append_p99_ms))
        if ms is not None
    ]
    p99 = f"; p99 {', '.join(times)}" if times else ""
    return (
        f"{window.calls} calls in {window.seconds:.1f} s, {window.failed} failed "
        f"({window.refused} refused){p99}"
    )
