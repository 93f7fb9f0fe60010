"""The figures by which a simulated run is judged.

The queue of an instance is fluid: work over capacity waits, at most `queue_s_max` of it, and is
done when there is room. p95 = waiting time of that backlog + 3 x service time / (1 - utilisation),
the 95 % quantile of M/M/1's response time (ln 20 = 3.0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharder.risk import Floats
from sharder.simulate.cluster import MoveDone, Settings
from sharder.simulate.series import Series

_LN20 = math.log(20.0)
_UTILISATION_MAX = 0.999


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one policy over the scored slots of a run.

    `lead_s`: median time from the end of a move to the first slot (within a day of its start) in
    which the source would have been over capacity without it; negative: it came too late; None:
    no move was needed. `needed_moves` are those with such a slot.
    """

    overloaded_instance_slots: int
    overloaded_share: float
    slo_slots: int
    instance_hours: float
    moves: int
    bytes_moved: float
    splits: int
    flip_flops: int
    worst_slot: float
    excess: float
    lead_s: float | None
    needed_moves: int
    shards: int
    refused: int
    replaced_by: str = ""


def response_p95_ms(loads: Floats, settings: Settings) -> Floats:
    """p95 of each instance in each slot, [T, K], from its offered load."""
    s = settings
    backlog_s = np.zeros(loads.shape[1])
    found = np.zeros_like(loads)
    used = loads / s.capacity
    for t in range(len(loads)):
        busy = np.clip(used[t] + backlog_s / s.slot_s, 0.0, _UTILISATION_MAX)
        backlog_s = np.clip(backlog_s + (used[t] - 1.0) * s.slot_s, 0.0, s.queue_s_max)
        found[t] = 1e3 * backlog_s + _LN20 * s.service_ms / (1.0 - busy)
    return found


def lead_times_s(
    moves: Sequence[MoveDone], loads: Floats, series: Series, first: int, settings: Settings
) -> list[float]:
    """Lead time of each move that was needed; `loads` [T, K] starts at slot `first`."""
    day = max(1, round(86_400.0 / settings.slot_s))
    found = []
    for move in moves:
        begin, end = move.start - first, min(move.start - first + day, len(loads))
        column = series.loads[first + begin : first + end, move.shard[0]] * move.share
        there = loads[begin:end, move.source].copy()
        there[move.end - move.start :] += column[move.end - move.start :]
        over = np.flatnonzero(there > settings.capacity)
        if over.size:
            found.append(float((move.start + over[0] - move.end) * settings.slot_s))
    return found


def measure(
    loads: Floats,
    used: int,
    moves: Sequence[MoveDone],
    splits: int,
    shards: int,
    refused: int,
    series: Series,
    first: int,
    settings: Settings,
) -> Metrics:
    """Metrics of offered instance loads [T, K]; `used` counts instance-slots that held a shard."""
    over = loads > settings.capacity * (1 + 1e-9)
    p95 = response_p95_ms(loads, settings)
    lead = lead_times_s(moves, loads, series, first, settings)
    return Metrics(
        overloaded_instance_slots=int(over.sum()),
        overloaded_share=float(over.mean()),
        slo_slots=int((p95 > settings.slo_ms).sum()),
        instance_hours=used * settings.slot_s / 3600.0,
        moves=len(moves),
        bytes_moved=float(sum(m.bytes for m in moves)),
        splits=splits,
        flip_flops=sum(m.flip for m in moves),
        worst_slot=float(loads.max() / settings.capacity),
        excess=float(np.maximum(loads / settings.capacity - 1.0, 0.0).sum()),
        lead_s=float(np.median(lead)) if lead else None,
        needed_moves=len(lead),
        shards=shards,
        refused=refused,
    )
