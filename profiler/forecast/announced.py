"""Announced events in what a book learns and forecasts, and how far they are still believed."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from profiler.calendar import Calendar
from profiler.forecast.intervals import LEVELS, coherent
from profiler.forecast.port import FloatArray, IntArray

DOUBT = 0.4
"""Factor of the belief in an event with each of its slots that looks like usual load."""
BELIEF_MIN = 0.02


class EventBelief:
    """Removes events from learned values and adds them to forecasts.

    An announcement is believed until its first slot. A value nearer to the usual load than to the
    announced one is learned as it is and lowers the belief; one nearer to the announced load
    restores it. With belief p, a forecast of the event's later slots is the mixture of the
    announced load (p) and of the usual load (1 - p).
    """

    def __init__(self, calendar: Calendar, period_s: float, teaches: bool) -> None:
        self._calendar, self._period_s, self._teaches = calendar, period_s, teaches
        self._held: dict[str, tuple[tuple[str, ...], float]] = {}
        """Shard -> the newest events that it was in, and the belief in them, while in doubt."""

    def usual(
        self, shard: str, slot: int, value: float, expect: Callable[[], float | None]
    ) -> float:
        """The value without the events of its slot; their kinds learn from it.

        `expect`: the usual load that was forecast for the slot; None without a history.
        """
        start_s, end_s = self._span(slot)
        if not self._calendar.active(start_s, end_s):
            return value
        factor = self._calendar.factor(shard, start_s, end_s)
        expected = expect()
        if expected is None:
            return value / factor
        if self._calendar.unknown(shard, start_s, end_s):
            usual = expected  # only the factor is learned of it
        else:
            came = _nearer(value, expected * factor, expected)
            usual = value / factor if came else value
            self._judge(shard, self._calendar.touching(shard, start_s, end_s), came)
        if self._teaches:
            self._calendar.learn(shard, start_s, end_s, expected, value)
        return usual

    def applied(
        self, shards: Sequence[str], slots: IntArray, quantiles: FloatArray, mean: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Forecasts of the usual load (shards, steps, levels) and (shards, steps) with the events
        of `slots` (shards, steps) in them."""
        first_s, last_s = int(slots.min()) * self._period_s, (int(slots.max()) + 1) * self._period_s
        if not self._calendar.active(first_s, last_s):
            return quantiles, mean
        factors, belief = np.ones_like(mean), np.ones_like(mean)
        for i, (shard, row) in enumerate(zip(shards, slots.tolist(), strict=True)):
            for k, slot in enumerate(row):
                factors[i, k] = self._calendar.factor(shard, *self._span(slot))
                belief[i, k] = self._belief(shard, slot)
        with_events = quantiles * factors[:, :, None]
        moved = mean * (1.0 + (factors - 1.0) * belief)
        doubted = (belief < 1.0) & (factors != 1.0)
        if doubted.any():
            with_events[doubted] = mixed(with_events[doubted], quantiles[doubted], belief[doubted])
            with_events = coherent(with_events, with_events, moved)
        return with_events, moved

    def forget(self, shard: str) -> None:
        self._held.pop(shard, None)

    def _span(self, slot: int) -> tuple[float, float]:
        return slot * self._period_s, (slot + 1) * self._period_s

    def _belief(self, shard: str, slot: int) -> float:
        held = self._held.get(shard)
        if held is None or held[0] != self._calendar.touching(shard, *self._span(slot)):
            return 1.0
        return held[1]

    def _judge(self, shard: str, events: tuple[str, ...], came: bool) -> None:
        names, belief = self._held.get(shard, ((), 1.0))
        if came:
            self._held.pop(shard, None)
            return
        belief = DOUBT * (belief if names == events else 1.0)
        self._held[shard] = events, belief if belief >= BELIEF_MIN else 0.0


def mixed(first: FloatArray, second: FloatArray, share: FloatArray) -> FloatArray:
    """Quantiles at LEVELS of `share` of the distribution `first` and the rest of `second`.

    `first` and `second` are (n, levels), `share` (n,).
    """
    found = np.empty_like(first)
    for i, part in enumerate(share.tolist()):
        at = np.sort(np.concatenate([first[i], second[i]]))
        below = part * _below(at, first[i]) + (1.0 - part) * _below(at, second[i])
        found[i] = np.interp(LEVELS, below, at)
    return found


def _below(at: FloatArray, quantiles: FloatArray) -> FloatArray:
    """P(value <= at), linear between quantiles."""
    found: FloatArray = np.interp(at, quantiles, LEVELS, left=0.0, right=1.0)
    return found


def _nearer(value: float, this: float, other: float) -> bool:
    """Whether `value` is nearer to `this` than to `other` by its ratio to them; equal: yes."""
    return abs(math.log((value + 1.0) / (this + 1.0))) <= abs(
        math.log((value + 1.0) / (other + 1.0))
    )
