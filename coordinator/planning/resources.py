"""What instances have room for and what shards take of it, for the view. Pure.

A stated capacity wins; where none is stated, the instance's own estimate counts. CPU is what
operations/s come from, so it counts only where these are not stated.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.present import NOW_S
from coordinator.statistics.shard_cpu import copy_cpu, planned_cores, usual_cpu_s
from logstore.meta.records import InstanceRecord, ShardRecord
from profiler.costs import Work, cpu_s
from profiler.types import DataStoreStatus
from sharder.view import ShardView

OPS_MIN = 0.1
"""A shard with fewer operations/s does not show what one costs: its totals do."""


class CpuUse:
    """`s_per_op`: shard -> CPU seconds of one operation where its primary is. `beside`: instance ->
    cores that its other copies use."""

    def __init__(
        self, shards: Sequence[ShardRecord], intake: StatisticsIntake, mono_s: float
    ) -> None:
        self.s_per_op: dict[str, float] = {}
        self.beside: dict[str, float] = defaultdict(float)
        statuses = intake.statuses()
        costs = {name: status.costs for name, status in statuses.items()}
        for shard in shards:
            home = shard.primary.instance
            load = intake.present.load(shard.shard, mono_s, NOW_S)
            copies = load.copies if load is not None else {}
            for name, copy in copies.items():
                if name != home:
                    self.beside[name] += copy_cpu(copy, costs.get(name, {}))
            mine = copies.get(home)
            if mine is not None and mine.admitted_per_s >= OPS_MIN:
                per_op = copy_cpu(mine, costs.get(home, {})) / mine.admitted_per_s
            elif (told := intake.present.totals(shard.shard, home)) is not None:
                per_op = usual_cpu_s(told, costs.get(home, {}))
            else:
                per_op = 0.0
            single = cpu_s(Work(append=1.0, append_batch=1.0), costs.get(home, {}))
            self.s_per_op[shard.shard] = per_op or single

    def cores(self, shards: Sequence[ShardView], instance: str) -> float:
        """What the shards that an instance leads use."""
        mine = (s.ops_per_s * s.cpu_s_per_op for s in shards if s.instance == instance)
        return sum(mine, 0.0)


def limits_of(
    record: InstanceRecord, status: DataStoreStatus | None, beside: float
) -> dict[str, Any]:
    """Fields of an `InstanceView`; `beside`: cores that its other copies use."""
    stated = record.capacity
    found: dict[str, Any] = {
        "capacity_bytes_per_s": stated.bytes_per_s,
        "capacity_stored_bytes": stated.stored_bytes,
    }
    if status is None:
        return found
    limits = status.capacity
    for name, limit in (
        ("capacity_bytes_per_s", limits.bytes_per_s),
        ("capacity_stored_bytes", limits.stored_bytes),
    ):
        if found[name] is None and limit != float("inf"):
            found[name] = int(limit) if name == "capacity_stored_bytes" else limit
    return found | {
        "capacity_cpu": planned_cores(status, beside) if stated.ops_per_s is None else None,
        "load": status.load,
        "bound_by": status.bound_by.value if status.bound_by is not None else "",
    }
