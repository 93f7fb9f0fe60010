"""The agent on an instance's hot path: counts each shard's load in each slot, by batch."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.histogram import LatencyHistogram
from profiler.key_sample import KeySample, as_key
from profiler.types import OpType, ShardStatistics

SHARDS_MAX = 16_384
GROUPS_MAX = 64
"""Client groups of a shard in a slot; operations of more are counted under OTHER_GROUPS."""
OTHER_GROUPS = "other"
GROUP_CHARS_MAX = 64
OPEN_SLOTS_MAX = 65_536
"""Slots of all shards held at once, not drained; beyond it, batches count in the next slot that is
held already."""
ZERO_RUN_SLOTS_MAX = 1_024
"""A longer silence of a shard is not reported slot by slot: it is a gap in its statistics."""


class _OpenSlot:
    """One shard in one slot that still counts."""

    __slots__ = ("bytes_in", "bytes_out", "counts", "failed", "groups", "keys", "late", "latency",
                 "refused", "retried")  # fmt: skip

    def __init__(self, keys_max: int) -> None:
        self.counts: dict[OpType, int] = {}
        self.groups: dict[str, int] = {}
        self.bytes_in = 0.0
        self.bytes_out = 0.0
        self.late = 0
        self.failed = self.refused = self.retried = 0
        self.latency = LatencyHistogram()
        self.keys = KeySample(keys_max)

    def take(self, other: "_OpenSlot") -> None:
        """Add the operations of `other`, without its response times and keys."""
        for op, count in other.counts.items():
            self.counts[op] = self.counts.get(op, 0) + count
        for group, count in other.groups.items():
            if group not in self.groups and len(self.groups) >= GROUPS_MAX:
                group = OTHER_GROUPS
            self.groups[group] = self.groups.get(group, 0) + count
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.failed += other.failed
        self.refused += other.refused
        self.retried += other.retried
        self.late += sum(other.counts.values())


class Agent:
    """Counts operations, bytes, response times and sampled keys by shard and slot.

    A slot is `time_us // period_us`, of the records' own times if given (event time: one batch
    may span many slots), else of `now_us`. Late operations are not lost: those of a slot that
    was drained already are counted in the first open one, and in `late_count`.
    Not thread-safe: one event loop owns it.
    """

    def __init__(
        self,
        instance: str,
        period_us: int,
        generator: np.random.Generator,
        *,
        keys_per_batch: int = 8,
        keys_per_slot: int = 512,
        shards_max: int = SHARDS_MAX,
        open_slots_max: int = OPEN_SLOTS_MAX,
    ) -> None:
        for name, value in (("period_us", period_us), ("keys_per_batch", keys_per_batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}, the limit is at least 1")
        self.instance, self.period_us = instance, period_us
        self._generator = generator
        self._keys_per_batch, self._keys_per_slot = keys_per_batch, keys_per_slot
        self._shards_max, self._open_slots_max = shards_max, open_slots_max
        self._open: dict[str, dict[int, _OpenSlot]] = {}
        self._next: dict[str, int] = {}  # first slot of the shard that was not drained
        self._weights: dict[str, float] = {}
        self._quiet: set[str] = set()
        """Tracked shards that no slot is reported of yet."""
        self._floor: int | None = None  # first slot of any shard that was not drained
        self._open_count = 0
        self.late_count = 0
        self.folded_count = 0
        self.refused_count = 0

    def track(self, shard: str, migration_weight: float = 1.0) -> None:
        """Count the shard under this weight; it is reported from the next `begin` on, also where
        nothing happens in it."""
        if shard not in self._open:
            if len(self._open) >= self._shards_max:
                raise ValueError(
                    f"shards is {len(self._open) + 1}, the limit is {self._shards_max}"
                )
            self._open[shard] = {}
        self._weights[shard] = migration_weight
        if shard not in self._next:
            self._quiet.add(shard)

    def begin(self, slot: int) -> None:
        """The present slot: tracked shards without operations so far are reported from it on."""
        for shard in self._quiet:
            if shard in self._open and not self._open[shard]:
                self._next.setdefault(shard, slot)
        self._quiet.clear()

    def forget(self, shard: str) -> None:
        """The shard has left this instance: drop its figures that are not drained."""
        self._open_count -= len(self._open.pop(shard, ()))
        self._next.pop(shard, None)
        self._weights.pop(shard, None)
        self._quiet.discard(shard)

    def record(
        self,
        shard: str,
        op: OpType,
        count: int,
        byte_count: int,
        latency_s: float,
        now_us: int,
        event_time_us: npt.NDArray[np.int64] | None = None,
        keys: Sequence[Any] | None = None,
        group: str = "",
        retried: int = 0,
    ) -> None:
        """One batch: `count` operations of `byte_count` bytes in all that took `latency_s` each.

        `group` is the client group that sent them; empty: unknown. `retried` of them had been
        refused before.

        `event_time_us` and `keys`, where given, have one element for each operation; only a few of
        the keys are read. A shard beyond the limit counts only in `refused_count`.
        """
        if count <= 0:
            return
        slots = self._open.get(shard)
        if slots is None:
            if len(self._open) >= self._shards_max:
                self.refused_count += count
                return
            slots = self._open[shard] = {}
        if retried:
            at_us = now_us if event_time_us is None else int(event_time_us.min())
            self._at(slots, at_us // self.period_us).retried += retried
        if event_time_us is None:
            self._add(slots, now_us // self.period_us, op, count, byte_count, latency_s, group)
            self._sample(slots, now_us // self.period_us, count, keys)
            return
        first = int(event_time_us.min()) // self.period_us
        if first == int(event_time_us.max()) // self.period_us:
            self._add(slots, first, op, count, byte_count, latency_s, group)
            self._sample(slots, first, count, keys)
            return
        each = event_time_us // self.period_us
        found, counts = np.unique(each, return_counts=True)
        for slot, part in zip(found.tolist(), counts.tolist(), strict=True):
            self._add(slots, slot, op, part, byte_count * part / count, latency_s, group)
        self._sample(slots, each, count, keys)

    def failed(
        self, shard: str, count: int, now_us: int, *, refused: bool = False, retried: bool = False
    ) -> None:
        """Count `count` operations that were requested and could not be served; `refused`: for want
        of capacity; `retried`: they had been refused before."""
        slots = self._open.get(shard)
        if slots is None:
            if len(self._open) >= self._shards_max:
                self.refused_count += count
                return
            slots = self._open[shard] = {}
        opened = self._at(slots, now_us // self.period_us)
        opened.failed += count
        if refused:
            opened.refused += count
            opened.retried += count if retried else 0

    def open_count(self, shard: str, slot: int) -> int:
        """A shard's operations so far in a slot that is not drained."""
        opened = self._open.get(shard, {}).get(slot)
        return 0 if opened is None else sum(opened.counts.values())

    def open_keys(self, shard: str, slot: int) -> tuple[tuple[bytes, float], ...]:
        """The sampled keys of a slot that is not drained, as in its statistics later."""
        opened = self._open.get(shard, {}).get(slot)
        return () if opened is None else opened.keys.counts()

    def drain(self, up_to_slot: int) -> list[ShardStatistics]:
        """Close the slots up to and with `up_to_slot`: their statistics, by shard and slot.

        A known shard has zeros for slots without operations, so that silence and absence
        differ; after more than ZERO_RUN_SLOTS_MAX of them only the last one is reported.
        """
        found: list[ShardStatistics] = []
        for shard, slots in self._open.items():
            due = [slot for slot in slots if slot <= up_to_slot]
            first = min(due, default=up_to_slot + 1)
            start = min(self._next.get(shard, first), first)
            if up_to_slot - start >= ZERO_RUN_SLOTS_MAX:
                reported: Sequence[int] = sorted({*due, up_to_slot})
            else:
                reported = range(start, up_to_slot + 1)
            for slot in reported:
                opened = slots.pop(slot, None)
                self._open_count -= opened is not None
                found.append(self._statistics(shard, slot, opened))
            if reported:
                self._next[shard] = up_to_slot + 1
        self._floor = max(up_to_slot + 1, self._floor or up_to_slot + 1)
        return found

    def reopen(self, slot: int) -> None:
        """Open slots from `slot` on again, which a wrong clock closed too early: they count further
        operations, and are reported again with those."""
        if self._floor is not None and slot < self._floor:
            self._floor = slot
            self._next = {shard: min(slot, first) for shard, first in self._next.items()}

    def fold(self, beyond: int, into: int) -> None:
        """Count operations of slots after `beyond`, whose times were wrong, in `into`."""
        for slots in self._open.values():
            for slot in [slot for slot in slots if slot > beyond]:
                wrong = slots.pop(slot)
                self._open_count -= 1
                self._at(slots, into).take(wrong)

    @property
    def tracked(self) -> Collection[str]:
        return self._weights.keys()

    @property
    def shards(self) -> Collection[str]:
        return self._open.keys()

    def _add(
        self,
        slots: dict[int, _OpenSlot],
        slot: int,
        op: OpType,
        count: int,
        byte_count: float,
        latency_s: float,
        group: str,
    ) -> None:
        late = self._floor is not None and slot < self._floor
        opened = self._at(slots, slot)
        opened.counts[op] = opened.counts.get(op, 0) + count
        if group:
            group = group[:GROUP_CHARS_MAX]
            if group not in opened.groups and len(opened.groups) >= GROUPS_MAX:
                group = OTHER_GROUPS
            opened.groups[group] = opened.groups.get(group, 0) + count
        if op is OpType.APPEND:
            opened.bytes_in += byte_count
        else:
            opened.bytes_out += byte_count
        opened.latency.add(latency_s, count)
        if late:
            opened.late += count
            self.late_count += count

    def _at(self, slots: dict[int, _OpenSlot], slot: int) -> _OpenSlot:
        if self._floor is not None and slot < self._floor:
            slot = self._floor
        opened = slots.get(slot)
        if opened is None:
            if self._open_count >= self._open_slots_max and slots:
                self.folded_count += 1
                return slots[min(slots, key=lambda held: (held > slot, abs(held - slot)))]
            opened = slots[slot] = _OpenSlot(self._keys_per_slot)
            self._open_count += 1
        return opened

    def _sample(
        self,
        slots: dict[int, _OpenSlot],
        each: npt.NDArray[np.int64] | int,
        count: int,
        keys: Sequence[Any] | None,
    ) -> None:
        if keys is None:
            return
        if isinstance(each, int) and count > self._keys_per_batch:
            # Draw only as many as the full sample would keep: a busier slot costs less.
            held = self._at(slots, each).keys
            wanted = self._keys_per_batch * held.rate
            n = int(wanted + self._generator.random())
            if n:
                drawn = self._generator.integers(0, count, n)
                weight = count / self._keys_per_batch
                held.add_kept(_taken(keys, drawn), weight, self._generator)
            return
        if count <= self._keys_per_batch:
            picked = list(range(count))
        else:
            picked = self._generator.integers(0, count, self._keys_per_batch).tolist()
        weight = count / len(picked)
        if isinstance(each, int):
            chosen = [as_key(keys[i]) for i in picked]
            self._at(slots, each).keys.add(chosen, weight, self._generator)
            return
        for i in picked:
            opened = self._at(slots, int(each[i]))
            opened.keys.add([as_key(keys[i])], weight, self._generator)

    def _statistics(self, shard: str, slot: int, opened: _OpenSlot | None) -> ShardStatistics:
        at = opened or _OpenSlot(2)
        return ShardStatistics(
            shard=shard,
            instance=self.instance,
            slot=slot,
            period_s=self.period_us / 1e6,
            counts={op: at.counts.get(op, 0) for op in OpType},
            query_count=sum(at.counts.values()),
            bytes_in=round(at.bytes_in),
            bytes_out=round(at.bytes_out),
            mean_ms=at.latency.mean_s * 1e3,
            p50_ms=at.latency.percentile_s(0.5) * 1e3,
            p99_ms=at.latency.percentile_s(0.99) * 1e3,
            migration_weight=self._weights.get(shard, 1.0),
            late_count=at.late,
            failed_count=at.failed,
            group_counts=at.groups,
            sampled_keys=at.keys.counts(),
            refused_count=at.refused,
            retried_count=at.retried,
        )


def _taken(keys: Sequence[Any], at: npt.NDArray[np.int64]) -> list[bytes]:
    """The keys at these places: by one call where the sequence (an Arrow array) has one."""
    take = getattr(keys, "take", None)
    if take is None:
        return [as_key(keys[i]) for i in at.tolist()]
    return [as_key(key) for key in take(at).to_pylist()]
