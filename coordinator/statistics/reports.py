"""Reports from outside: each statistic and status is checked alone. Pure.

A bad entry is refused alone, with the field, the value and the limit; the others
are taken. After these checks no code has to expect a NaN, a negative count, a number beyond 2**53
(no float holds it exactly), a group name of a megabyte or a slot of a shard that does not exist.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from logstore.base.limits import KEY_BYTES_MAX
from profiler.agent import GROUP_CHARS_MAX, GROUPS_MAX
from profiler.histogram import BUCKETS
from profiler.running import ShardTotals
from profiler.types import DataStoreStatus, ShardStatistics
from sharder.keys import TOKEN_BYTES

COUNT_MAX = 2**53
SLOT_MAX = 2**40
KEYS_MAX = 1_024
"""Sampled keys of one statistic."""
INSTANCE_CHARS_MAX = 255
_COUNTS = ("query_count", "bytes_in", "bytes_out", "late_count", "failed_count", "refused_count",
           "retried_count")  # fmt: skip
FIGURES_MAX = 32
"""Resources, and costs, of one status."""
_FIGURES = ("mean_ms", "p50_ms", "p99_ms", "migration_weight")
_STATUS = ("load", "ops_per_s", "bytes_per_s", "cpu_share", "stored_bytes", "memory_bytes",
           "io_bytes_per_s", "throttled", "idle_cpu_share", "lag_ms")  # fmt: skip
_ENTRIES = msgspec.json.Decoder(list[msgspec.Raw])
_STATISTICS = msgspec.json.Decoder(ShardStatistics)
_ALL = msgspec.json.Decoder(list[ShardStatistics])
_TOTALS = msgspec.json.Decoder(list[ShardTotals])
_RUNNING = ("bytes_in", "bytes_out", "failed_count", "refused_count", "retried_count",
            "replicated_count", "replicated_bytes", "append_batches", "stored_bytes", "total_s",
            "age_s")  # fmt: skip


def decode_statistics(data: bytes) -> tuple[list[ShardStatistics], list[str]]:
    """The valid entries, and why the others are not. DecodeError: it is not a list."""
    try:
        return _ALL.decode(data), []
    except msgspec.DecodeError:
        found, refused = [], []
        for entry in _ENTRIES.decode(data):
            try:
                found.append(_STATISTICS.decode(entry))
            except msgspec.DecodeError as e:
                refused.append(str(e))
        return found, refused


def decode_status(data: bytes) -> DataStoreStatus:
    """A status; an unlimited capacity crosses the wire as null. DecodeError says what is wrong."""
    raw = msgspec.json.decode(data, type=dict[str, Any])
    limits: Mapping[str, Any] = raw.get("capacity") or {}
    raw["capacity"] = {k: v if v is not None else math.inf for k, v in limits.items()}
    status = msgspec.convert(raw, DataStoreStatus)
    for name in _STATUS:
        if (why := _figure(name, getattr(status, name))) is not None:
            raise msgspec.ValidationError(why)
    for name, figures in (("loads", status.loads), ("costs", status.costs)):
        if len(figures) > FIGURES_MAX:
            raise msgspec.ValidationError(
                f"{name} has {len(figures)} entries, the limit is {FIGURES_MAX}"
            )
        for key, figure in figures.items():
            if (why := _figure(f"{name}.{key[:40]}", figure)) is not None:
                raise msgspec.ValidationError(why)
    trips = {peer: ms for peer, ms in status.round_trip_ms.items() if not _figure("", ms)}
    pairs = {
        peer: us
        for peer, us in status.round_trips_us.items()
        if not any(_figure("", value) for value in us)
    }
    return replace(status, round_trip_ms=trips, round_trips_us=pairs)


def sound(
    statistics: Sequence[ShardStatistics],
    instance: str,
    period_s: float,
    shards: Mapping[str, int],
) -> tuple[list[ShardStatistics], list[str]]:
    """The usable statistics, and why the others are not.

    `shards`: log -> how many shard numbers were given out. Those of another period are skipped
    without a reason: the sender learns the period from the answer.
    """
    found, refused = [], []
    for statistic in statistics:
        if statistic.period_s != period_s:
            continue
        why = _wrong(statistic, instance, shards)
        if why is None:
            found.append(statistic)
        else:
            refused.append(f"shard {statistic.shard[:200]!r}, slot {statistic.slot}: {why}")
    return found, refused


def decode_totals(data: bytes, shards: Mapping[str, int]) -> tuple[list[ShardTotals], list[str]]:
    """The usable running totals, and why the others are not; all are refused where the list is
    none. `shards`: as in `sound`."""
    try:
        told = _TOTALS.decode(data)
    except msgspec.DecodeError as e:
        return [], [f"totals: {e}"]
    found, refused = [], []
    for totals in told:
        why = None if totals.left else _wrong_totals(totals, shards)
        if why is None:
            found.append(totals)
        else:
            refused.append(f"totals of shard {totals.shard[:200]!r}: {why}")
    return found, refused


def _wrong_totals(totals: ShardTotals, shards: Mapping[str, int]) -> str | None:
    if not _exists(totals.shard, shards):
        return "the shard does not exist"
    for name in _RUNNING:
        if (why := _figure(name, getattr(totals, name))) is not None:
            return why
    for op, count in totals.counts.items():
        if (why := _count(f"counts.{op.value}", count)) is not None:
            return why
    for bucket, count in totals.latency.items():
        if not 0 <= bucket <= BUCKETS:
            return f"latency has bucket {bucket}, the limit is 0 to {BUCKETS}"
        if (why := _count("latency", count)) is not None:
            return why
    if totals.slot is not None and not -SLOT_MAX <= totals.slot <= SLOT_MAX:
        return f"slot is {totals.slot}, the limit is {SLOT_MAX}"
    return _wrong_keys(totals.sampled_keys)


def _exists(shard: str, shards: Mapping[str, int]) -> bool:
    log, _, number = shard.rpartition("/")
    return (len(number) <= 9 and number.isdecimal() and number == str(int(number))
            and int(number) < shards.get(log, 0))  # fmt: skip


def _wrong(statistic: ShardStatistics, instance: str, shards: Mapping[str, int]) -> str | None:
    if not _exists(statistic.shard, shards):
        return "the shard does not exist"
    if statistic.instance != instance:
        return f"instance is {statistic.instance[:200]!r}, the report is of {instance!r}"
    if not -SLOT_MAX <= statistic.slot <= SLOT_MAX:
        return f"slot is {statistic.slot}, the limit is {SLOT_MAX}"
    for name in _COUNTS:
        if (why := _count(name, getattr(statistic, name))) is not None:
            return why
    for name in _FIGURES:
        if (why := _figure(name, getattr(statistic, name))) is not None:
            return why
    for op, count in statistic.counts.items():
        if (why := _count(f"counts.{op.value}", count)) is not None:
            return why
    return _wrong_groups(statistic.group_counts) or _wrong_keys(statistic.sampled_keys)


def _wrong_groups(groups: Mapping[str, int]) -> str | None:
    if len(groups) > GROUPS_MAX + 1:  # and one for the others
        return f"group_counts has {len(groups)} groups, the limit is {GROUPS_MAX + 1}"
    for group, count in groups.items():
        if len(group) > GROUP_CHARS_MAX:
            return f"client_group has {len(group)} characters, the limit is {GROUP_CHARS_MAX}"
        if (why := _count("group_counts", count)) is not None:
            return why
    return None


def _wrong_keys(keys: Collection[tuple[bytes, float]]) -> str | None:
    if len(keys) > KEYS_MAX:
        return f"sampled_keys has {len(keys)} keys, the limit is {KEYS_MAX}"
    for key, weight in keys:
        if len(key) > KEY_BYTES_MAX + TOKEN_BYTES:
            return f"a sampled key has {len(key)} bytes, the limit is {KEY_BYTES_MAX + TOKEN_BYTES}"
        if (why := _figure("weight of a sampled key", weight)) is not None:
            return why
    return None


def _count(name: str, value: int) -> str | None:
    if 0 <= value <= COUNT_MAX:
        return None
    return f"{name} is {value}, it must be within 0..{COUNT_MAX}"


def _figure(name: str, value: float) -> str | None:
    if 0 <= value <= COUNT_MAX:  # false for NaN
        return None
    return f"{name} is {value}, it must be within 0..{COUNT_MAX}"
