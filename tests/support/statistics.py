"""What instances report, in the few figures that a test states."""

from coordinator.statistics.intake import StatisticsIntake
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics


def statistic(shard: str, instance: str, slot: int, ops: int, reads: int = 0) -> ShardStatistics:
    return ShardStatistics(
        shard,
        instance,
        slot,
        3600.0,
        {OpType.APPEND: ops - reads, OpType.KEY_READ: reads},
        ops,
        ops * 100,
        0,
        1.0,
        0.9,
        2.0,
        sampled_keys=((b"k%d" % slot, float(ops)),),
    )


def status(instance: str) -> DataStoreStatus:
    return DataStoreStatus(instance, 0.5, Capacity(ops_per_s=100.0))


def intake() -> StatisticsIntake:
    return StatisticsIntake(3600.0, seasons_slots=(24,), settle_s=3.0, alive_s=3.0)
