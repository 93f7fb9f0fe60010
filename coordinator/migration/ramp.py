"""The ramp (pure): how the share of reads at the target rises, under guard rails.

The state lives in the leader's memory: a new leader starts again from 0 (`table.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from coordinator.migration.records import MeasuredWindow, MoveOptions
from coordinator.migration.windows import RampStatistics, SideWindow, p99_ms, times_of

_BACK_INTERVALS = 10
"""After a breach the share rests this many intervals."""
SOAK_REST_S = 1.0
"""After a breach while it soaks, the target is judged again by what comes later than this."""
CALLS_MIN = 20
"""A window of both sides with fewer calls says nothing of a target."""
_HITS_MIN = 3
_SURE = 1.645
"""One-sided 95 %, in standard deviations."""


@dataclass(frozen=True, slots=True)
class RampState:
    """`p` is the share now routed; the next decision is not before `due_us`."""

    p: float = 0.0
    due_us: int = 0
    breaches: int = 0
    judged_us: int = 0
    """What the target served until then was judged."""


class RampAction(StrEnum):
    WAIT = "wait"
    SET = "set"
    BACK = "back"
    ROLL_BACK = "roll back"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RampStep:
    """The decision; `state` holds once it is carried out. `note`: what a reader must know of it."""

    move: RampAction
    state: RampState
    why: str = ""
    note: str = ""


def exceeds(hits: int, of: int, share: float, sure_of: int) -> bool:
    """Whether more than `share` of calls are hits, judged by `hits` of `of` calls.

    From `sure_of` calls on as counted; of fewer, if the lower bound of Wilson's interval (95 %,
    one-sided) is above `share`.
    """
    if of >= sure_of:
        return hits > share * of
    if hits < _HITS_MIN:
        return False
    rate, z2 = hits / of, _SURE * _SURE
    spread = _SURE * math.sqrt(rate * (1 - rate) / of + z2 / (4 * of * of))
    return (rate + z2 / (2 * of) - spread) / (1 + z2 / of) > share


def breach(
    figures: RampStatistics, options: MoveOptions, before: MeasuredWindow | None = None
) -> str | None:
    """Which guard rail the target of a ramp breaks, in words, or None."""
    if figures.lag_records is not None and figures.lag_records > options.lag_records_max:
        return (
            f"lag is {figures.lag_records} records, the limit is {options.lag_records_max} records"
        )
    target, source = figures.target, figures.source
    if target is None:
        return None
    usual_ms = before.read_p99_ms if before is not None else None
    if source is not None and sum(source.reads.values()) >= CALLS_MIN:
        usual_ms = p99_ms(source.reads)
    return _fails(target, options) or _slow("reads", target.reads, usual_ms, options)


def soak_breach(
    figures: RampStatistics, options: MoveOptions, before: MeasuredWindow | None
) -> str | None:
    """Which guard rail the target breaks while it leads; its p99 against the source's before."""
    target = figures.target
    if target is None:
        return None
    usual = before or MeasuredWindow()
    return (
        _fails(target, options)
        or _slow("reads", target.reads, usual.read_p99_ms, options)
        or _slow("appends", target.appends, usual.append_p99_ms, options)
    )


def _fails(target: SideWindow, options: MoveOptions) -> str | None:
    if target.queue_bytes > options.queue_bytes_max:
        return (
            f"the target has {target.queue_bytes} bytes of appends waiting, "
            f"the limit is {options.queue_bytes_max} bytes"
        )
    failed, calls = target.failed_count, target.calls
    if not exceeds(failed, calls, options.error_rate_max, options.samples_min):
        return None
    codes = ", ".join(f"{count} {code}" for code, count in sorted(target.failed.items()))
    return (
        f"the target failed {failed} of {calls} calls in {target.over_s:.1f} s ({codes}), "
        f"the limit is a share of {options.error_rate_max:g}"
    )


def _slow(
    kind: str, times: Mapping[int, int], usual_ms: float | None, options: MoveOptions
) -> str | None:
    if usual_ms is None:
        return None
    limit_ms = max(options.p99_floor_ms, options.p99_ratio_max * usual_ms)
    found = times_of(times)
    if not exceeds(found.count_above(limit_ms / 1e3), found.count, 0.01, options.samples_min):
        return None
    return (
        f"the target's p99 of {kind} is {found.percentile_s(0.99) * 1e3:.2f} ms "
        f"({found.count} calls), the limit is {limit_ms:.2f} ms"
    )


def step(
    state: RampState,
    figures: RampStatistics,
    options: MoveOptions,
    now_us: int,
    before: MeasuredWindow | None = None,
) -> RampStep:
    """The next step. A first breach takes `ramp_back` off p, the second rolls back."""
    if now_us < state.due_us:
        return RampStep(RampAction.WAIT, state)
    interval_us = round(options.ramp_interval_s * 1e6)
    broken = breach(figures, options, before)
    if broken is not None:
        due_us = now_us + _BACK_INTERVALS * interval_us
        after = replace(
            state,
            p=round(max(0.0, state.p - options.ramp_back), 6),
            breaches=state.breaches + 1,
            due_us=due_us,
            judged_us=due_us,
        )
        return RampStep(
            RampAction.ROLL_BACK if after.breaches > 1 else RampAction.BACK, after, broken
        )
    lacking = _lacking(state, figures, options)
    waits = bool(lacking) and options.ramp_quiet == "wait"
    note = lacking and f"the ramp {'waits' if waits else 'goes by time'} while {lacking}"
    if waits:
        return RampStep(RampAction.WAIT, state, lacking, note)
    if state.p >= 1.0:
        return RampStep(RampAction.DONE, state, note=note)
    p = min(1.0, round(state.p + options.ramp_step, 6))
    return RampStep(RampAction.SET, replace(state, p=p, due_us=now_us + interval_us), note=note)


def _lacking(state: RampState, figures: RampStatistics, options: MoveOptions) -> str:
    """Why the target cannot be judged at the present share; empty: it can.

    It must have served a quarter of what the share promises, `CALLS_MIN` at least and
    `samples_min` at most; while the share promises fewer, there is nothing to wait for.
    """
    sides = [side for side in (figures.source, figures.target) if side is not None]
    calls = sum(side.calls for side in sides)
    least = min(CALLS_MIN, options.samples_min)
    window = f"in the last {options.guard_window_s:g} s"
    if calls < least:
        return f"both sides have fewer than {least} calls {window}"
    promised = state.p * calls
    if options.ramp_quiet == "time" or promised < least:
        return ""
    served = figures.target.calls if figures.target is not None else 0
    if served < min(options.samples_min, max(least, promised / 4)):
        return f"the target has too few of the calls {window}"
    return ""
