"""Response times of instances at the loads that they had, of the last slots."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from profiler.types import ShardStatistics
from sharder.view import InstanceView, ResponseTime, View

SLOTS_MAX = 48
"""Slots that are kept of each instance, the newest."""


def p50_of(rows: Sequence[ShardStatistics]) -> float | None:
    """The p50 (ms) of a shard's operations in a slot; None: there were none."""
    ops = sum(row.query_count for row in rows)
    return sum(row.p50_ms * row.query_count for row in rows) / ops if ops else None


class ResponseTimes:
    """What the planner's latency model is calibrated by; each view adds a slot."""

    def __init__(self) -> None:
        self._slots: dict[str, OrderedDict[int, ResponseTime]] = {}

    def seen(self, view: View) -> View:
        """`view`, with the response times of its slot and of those before it."""
        waited: dict[str, float] = {}
        ops: dict[str, float] = {}
        for shard in view.shards:
            if shard.p50_ms is not None and shard.ops_per_s > 0:
                name = shard.instance
                waited[name] = waited.get(name, 0.0) + shard.p50_ms * shard.ops_per_s
                ops[name] = ops.get(name, 0.0) + shard.ops_per_s
        known = {i.id for i in view.instances}
        self._slots = {name: slots for name, slots in self._slots.items() if name in known}
        for instance in view.instances:
            if ops.get(instance.id, 0.0) > 0:
                slots = self._slots.setdefault(instance.id, OrderedDict())
                p50_ms = waited[instance.id] / ops[instance.id]
                slots[view.slot] = ResponseTime(_share(instance), p50_ms)
                while len(slots) > SLOTS_MAX:
                    slots.popitem(last=False)
        return replace(view, instances=tuple(self._measured(i) for i in view.instances))

    def _measured(self, instance: InstanceView) -> InstanceView:
        slots = self._slots.get(instance.id)
        return replace(instance, response_times=tuple(slots.values()) if slots else ())


def _share(instance: InstanceView) -> float:
    """The largest part of its limits that an instance uses."""
    ops = instance.ops_per_s / (instance.capacity_ops_per_s or float("inf"))
    size = instance.bytes_per_s / (instance.capacity_bytes_per_s or float("inf"))
    return max(ops, size, instance.cpu / (instance.capacity_cpu or float("inf")))
