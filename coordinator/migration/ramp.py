"""The ramp (pure): how the share of reads at the target rises, under guard rails.

The state lives in the leader's memory: a new leader starts again from 0 (`table.py`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from coordinator.migration.records import MoveOptions
from coordinator.statistics.ramp_statistics import RampStatistics

_BACK_INTERVALS = 10
"""After a breach the share rests this many intervals."""


@dataclass(frozen=True, slots=True)
class RampState:
    """`p` is the share now routed; the next decision is not before `due_us`."""

    p: float = 0.0
    due_us: int = 0
    breaches: int = 0
    judged_us: int = 0
    """Figures received until then were judged before."""


class RampAction(StrEnum):
    WAIT = "wait"
    SET = "set"
    BACK = "back"
    ROLL_BACK = "roll back"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RampStep:
    """The decision; `state` holds once it is carried out."""

    move: RampAction
    state: RampState
    why: str = ""


def breach(state: RampState, figures: RampStatistics, options: MoveOptions) -> str | None:
    """Which guard rail is broken, in words, or None."""
    if figures.lag_records is not None and figures.lag_records > options.lag_records_max:
        return (
            f"lag is {figures.lag_records} records, the limit is {options.lag_records_max} records"
        )
    if figures.samples < options.samples_min or figures.at_us <= state.judged_us:
        return None
    if figures.error_rate is not None and figures.error_rate > options.error_rate_max:
        return f"error rate is {figures.error_rate:.4f}, the limit is {options.error_rate_max:g}"
    source, target = figures.source_p99_ms, figures.target_p99_ms
    if source is not None and target is not None:
        limit = max(options.p99_floor_ms, options.p99_ratio_max * source)
        if target > limit:
            return f"target's p99 is {target:.2f} ms, the limit is {limit:.2f} ms"
    return None


def soak_breach(
    state: RampState, figures: RampStatistics, options: MoveOptions, before_ms: float | None
) -> str | None:
    """Which guard rail the target breaks while it leads; its p99 against the source's before."""
    if figures.target_samples < options.samples_min or figures.at_us <= state.judged_us:
        return None
    if figures.error_rate is not None and figures.error_rate > options.error_rate_max:
        return f"error rate is {figures.error_rate:.4f}, the limit is {options.error_rate_max:g}"
    target = figures.target_p99_ms
    if target is None or before_ms is None:
        return None
    limit = max(options.p99_floor_ms, options.p99_ratio_max * before_ms)
    return f"p99 is {target:.2f} ms, the limit is {limit:.2f} ms" if target > limit else None


def step(state: RampState, figures: RampStatistics, options: MoveOptions, now_us: int) -> RampStep:
    """The next step. A first breach takes `ramp_back` off p, the second rolls back."""
    if now_us < state.due_us:
        return RampStep(RampAction.WAIT, state)
    interval_us = round(options.ramp_interval_s * 1e6)
    broken = breach(state, figures, options)
    judged = replace(state, judged_us=max(state.judged_us, figures.at_us))
    if broken is not None:
        after = replace(
            judged,
            p=round(max(0.0, state.p - options.ramp_back), 6),
            breaches=state.breaches + 1,
            due_us=now_us + _BACK_INTERVALS * interval_us,
        )
        return RampStep(
            RampAction.ROLL_BACK if after.breaches > 1 else RampAction.BACK, after, broken
        )
    if state.p >= 1.0:
        return RampStep(RampAction.DONE, judged)
    p = min(1.0, round(state.p + options.ramp_step, 6))
    return RampStep(RampAction.SET, replace(judged, p=p, due_us=now_us + interval_us))
