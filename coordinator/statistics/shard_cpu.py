"""A shard's share of its instance's CPU, by what its operations cost there. Pure."""

from collections.abc import Mapping

from profiler.costs import Work, cpu_s
from profiler.running import CopyLoad, ShardTotals
from profiler.types import DataStoreStatus


def copy_cpu(load: CopyLoad, costs: Mapping[str, float]) -> float:
    """Cores that one copy takes; `costs`: of its instance."""
    work = Work.of(
        load.by_type_per_s,
        load.bytes_in_per_s,
        load.bytes_out_per_s,
        load.replicated_per_s,
        load.replicated_bytes_per_s,
        load.append_batches_per_s,
    )
    return cpu_s(work, costs)


def usual_cpu_s(totals: ShardTotals, costs: Mapping[str, float]) -> float:
    """CPU seconds of an operation of a copy, on the mean since it came; 0: it has served none."""
    if not totals.query_count:
        return 0.0
    work = Work.of(
        totals.counts,
        totals.bytes_in,
        totals.bytes_out,
        append_batches=totals.append_batches,
    )
    return cpu_s(work, costs) / totals.query_count


def planned_cores(status: DataStoreStatus, taken: float) -> float | None:
    """Cores for the shards that an instance leads; `taken`: what its other copies use. None: its
    capacity is unlimited or not known."""
    cores = status.capacity.cpu_share
    if cores == float("inf"):
        return None
    return max(cores - status.idle_cpu_share - taken, 0.1 * cores)
