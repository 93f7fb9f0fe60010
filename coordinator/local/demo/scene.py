"""The demo's plan (pure): its shards, their instances and capacities, and its times.

Everything is chosen from the January to September profile and the seed. Loads are in operations
per event hour, and an event hour takes one second on the wall clock, so they are operations/s too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from logstore.base.errors import InvalidArgumentError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOUR_US = 3_600_000_000
SLOT_S = 3_600.0
WALL_S_PER_SLOT = 1.0
SHARDS = 9
INSTANCES = 3
PROFILE_DAYS = 28
READ_SHARE = 0.25
"""Reads per append."""
THRESHOLD, HYSTERESIS = 0.8, 0.05
PEAK_OVER_CAPACITY = 1.3
"""The hot instance's daily peak over its stated capacity."""
UPPER_OVER_MEAN = 1.1
"""Room that a forecast's upper bound needs over the mean."""
BYTES_PER_OP_MAX = 4_096
JITTER_US = HOUR_US // 6
SEARCHES = 4_000


@dataclass(frozen=True, slots=True)
class Scene:
    """`cuts` are the split keys; `homes[i]` is the instance (0..) of shard i at first.

    `ops_per_s` and `bytes_per_s`: the stated capacity of each instance. `hot`: the instance whose
    daily peak is above it. `quiet_hour`: the first hour of the replay's first evening
    in which the hot instance carries less than half of its limit.
    """

    cuts: tuple[bytes, ...]
    homes: tuple[int, ...]
    hot: int
    ops_per_s: float
    bytes_per_s: float
    hot_peak: float
    quiet_hour: int

    @property
    def limit(self) -> float:
        return THRESHOLD * self.ops_per_s

    def shards_of(self, keys: Sequence[bytes]) -> Ints:
        """The shard number of each key."""
        places = np.searchsorted(np.array(self.cuts, dtype=object), np.array(keys, dtype=object),
                                 side="right")  # fmt: skip
        return places.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Replay:
    """Operations in sending order: `at_s` from the replay's start, `row` of the event table."""

    at_s: Floats
    row: Ints
    is_read: npt.NDArray[np.bool_]
    start_us: int
    hours: int


def group_of(key: bytes) -> bytes:
    """`origin/carrier` of `origin/carrier/flight`."""
    return key[: key.rindex(b"/")]


def choose_scene(events: pa.Table, start_us: int, generator: np.random.Generator) -> Scene:
    """Shards and their instances such that one instance's daily peak is over its capacity, a single
    move cures that, and the total fits. The first of random draws that does; `events` is the
    history before `start_us`, of which the last PROFILE_DAYS days count.
    """
    since = start_us - PROFILE_DAYS * 24 * HOUR_US
    recent = events.filter(pa.compute.greater_equal(events["event_time_us"], since))
    hours = (recent["event_time_us"].to_numpy() - since) // HOUR_US
    groups = [group_of(key) for key in recent["key"].to_pylist()]
    names = sorted(set(groups))
    number = {name: i for i, name in enumerate(names)}
    load = np.zeros((len(names), PROFILE_DAYS * 24))
    np.add.at(load, (np.array([number[g] for g in groups]), hours), 1.0 + READ_SHARE)
    for _ in range(SEARCHES):
        at = np.sort(generator.choice(np.arange(1, len(names)), SHARDS - 1, replace=False))
        shard_load = np.add.reduceat(load, np.concatenate([[0], at]), axis=0)
        homes = generator.integers(0, INSTANCES, SHARDS)
        if len(set(homes.tolist())) < INSTANCES:
            continue
        found = _judge(shard_load, homes)
        if found is None:
            continue
        hot, peak = found
        capacity = round(peak / PEAK_OVER_CAPACITY, 1)
        return Scene(
            cuts=tuple(names[i] + b"/" for i in at.tolist()),
            homes=tuple(int(h) for h in homes),
            hot=hot,
            ops_per_s=capacity,
            bytes_per_s=round(capacity * BYTES_PER_OP_MAX, 1),
            hot_peak=peak,
            quiet_hour=_quiet_hour(shard_load[homes == hot].sum(axis=0), THRESHOLD * capacity),
        )
    raise InvalidArgumentError("no assignment of shards fits, try another --seed")


def _peak(load: Floats) -> float:
    """The daily peak that one day in twenty exceeds; `load` (hours,) of whole days."""
    return float(np.percentile(load.reshape(-1, 24).max(axis=1), 95))


def _judge(shard_load: Floats, homes: Ints) -> tuple[int, float] | None:
    """(hot instance, its peak) when one move cures it and no other is or becomes hot."""
    by_instance = np.stack([shard_load[homes == i].sum(axis=0) for i in range(INSTANCES)])
    peaks = [_peak(load) for load in by_instance]
    hot = int(np.argmax(peaks))
    capacity = peaks[hot] / PEAK_OVER_CAPACITY
    limit, target_limit = THRESHOLD * capacity, (THRESHOLD - HYSTERESIS) * capacity
    others = [i for i in range(INSTANCES) if i != hot]
    if any(peaks[i] * UPPER_OVER_MEAN > limit for i in others):
        return None
    for shard in np.flatnonzero(homes == hot).tolist():
        left = _peak(by_instance[hot] - shard_load[shard]) * UPPER_OVER_MEAN
        if left > limit:
            continue
        for other in others:
            if _peak(by_instance[other] + shard_load[shard]) * UPPER_OVER_MEAN <= target_limit:
                return hot, peaks[hot]
    return None


def _quiet_hour(load: Floats, limit: float) -> int:
    """Hours after a local midnight; the profile starts at one, like the replay."""
    by_hour = load.reshape(-1, 24).mean(axis=0)
    for hour in range(12, 36):
        if by_hour[hour % 24] < limit / 2:
            return hour
    return 24


def make_replay(
    events: pa.Table, start_us: int, days: int, generator: np.random.Generator
) -> Replay:
    """Appends at their event time with a little delay, and READ_SHARE reads of keys appended
    shortly before. `events` starts at `start_us`.
    """
    times = events["event_time_us"].to_numpy()
    count = int(np.searchsorted(times, start_us + days * 24 * HOUR_US))
    sent = times[:count] + generator.integers(0, JITTER_US, count)
    reads = np.sort(generator.choice(count, int(count * READ_SHARE), replace=False))
    read_at = times[reads] + JITTER_US + generator.integers(0, HOUR_US, len(reads))
    at_us = np.concatenate([sent, read_at]) - start_us
    order = np.argsort(at_us, kind="stable")
    return Replay(
        at_s=at_us[order] / HOUR_US * WALL_S_PER_SLOT,
        row=np.concatenate([np.arange(count), reads])[order],
        is_read=np.concatenate([np.zeros(count, bool), np.ones(len(reads), bool)])[order],
        start_us=start_us,
        hours=days * 24,
    )
