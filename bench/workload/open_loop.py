"""An open loop: requests start when the schedule says, whatever the system does.

A closed loop waits for the answer before it sends the next request, so a stall of a second counts
once and not for the thousand requests that should have been sent in it (coordinated omission).
Here each latency runs from the *intended* start to the answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from hdrh.histogram import HdrHistogram

from bench.workload.accesses import Floats

LATENCY_US_MAX = 60_000_000
SIGNIFICANT_DIGITS = 3
IN_FLIGHT_MAX = 4_096


@dataclass(frozen=True, slots=True)
class OpenLoopResult:
    """`latency` in microseconds from the intended start; failed requests are not in it."""

    sent: int
    failed: int
    seconds: float
    latency: HdrHistogram
    late_s_max: float
    longest_gap_s: float

    def percentile_ms(self, percent: float) -> float:
        return float(self.latency.get_value_at_percentile(percent)) / 1e3


def histogram(latency_s: Floats) -> HdrHistogram:
    """Latencies in seconds as a histogram in microseconds, 1 us to 60 s, three digits."""
    made = HdrHistogram(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)
    in_us = np.clip(np.rint(latency_s * 1e6), 1, LATENCY_US_MAX).astype(np.int64)
    for value, count in zip(*np.unique(in_us, return_counts=True), strict=True):
        made.record_value(int(value), int(count))
    return made


def even_schedule(rate_per_s: float, duration_s: float) -> Floats:
    return np.arange(int(rate_per_s * duration_s), dtype=np.float64) / rate_per_s


async def open_loop(
    send: Callable[[int, int], Awaitable[object]],
    schedule_s: Floats,
    *,
    batch_max: int = 1,
    linger_s: float = 0.0,
    tick_s: float = 0.001,
    in_flight_max: int = IN_FLIGHT_MAX,
) -> OpenLoopResult:
    """Call `send(start, stop)` for requests [start, stop) of the schedule when they are due.

    With `batch_max` above 1, requests that are due together go in one call, each with its own
    latency; the oldest waits up to `linger_s` for others, which its latency then includes. Beyond
    `in_flight_max` calls, sending waits, and the latency of waiting requests grows: none is left
    out. `longest_gap_s` is the longest time between two answers (a blackout, seen by this client).
    An exception counts its requests as failed and does not stop the loop.
    """
    count = len(schedule_s)
    latency = np.full(count, np.nan)
    answers = np.full(count, np.nan)
    slots = asyncio.Semaphore(in_flight_max)
    tasks: set[asyncio.Task[None]] = set()
    late_s_max = 0.0
    begin = time.perf_counter()

    async def one(start: int, stop: int) -> None:
        try:
            await send(start, stop)
        except Exception:
            return  # stays NaN: counted as failed
        finally:
            slots.release()
        now = time.perf_counter() - begin
        latency[start:stop] = now - schedule_s[start:stop]
        answers[start:stop] = now

    at = 0
    while at < count:
        now = time.perf_counter() - begin
        due = int(np.searchsorted(schedule_s, now, side="right"))
        wait_s = float(schedule_s[at]) + linger_s - now
        if wait_s > 0 and due - at < batch_max:
            await asyncio.sleep(min(wait_s, tick_s))
            continue
        due = max(due, at + 1)
        late_s_max = max(late_s_max, now - float(schedule_s[at]))
        while at < due:
            stop = min(at + batch_max, due)
            await slots.acquire()
            task = asyncio.create_task(one(at, stop))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at = stop
        await asyncio.sleep(0)
    if tasks:
        await asyncio.gather(*tasks)
    seconds = time.perf_counter() - begin
    good = ~np.isnan(latency)
    gaps = np.diff(np.sort(answers[good]))
    return OpenLoopResult(
        sent=count,
        failed=int(count - good.sum()),
        seconds=seconds,
        latency=histogram(latency[good]),
        late_s_max=late_s_max,
        longest_gap_s=float(gaps.max()) if len(gaps) else 0.0,
    )
