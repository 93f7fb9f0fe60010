"""The last statistic with operations of each shard from each instance: the ramp's guard rails."""

from coordinator.statistics.ramp_statistics import RampStatistics
from profiler.types import OpType, ShardStatistics


class LastReports:
    """By shard and instance, with the wall clock (us) at which each came."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[ShardStatistics, int]] = {}

    def take(self, statistic: ShardStatistics, now_us: int) -> None:
        if statistic.query_count or statistic.failed_count:
            self._last[statistic.shard, statistic.instance] = (statistic, now_us)

    def forget_log(self, log: str) -> None:
        for key in [k for k in self._last if k[0].rpartition("/")[0] == log]:
            del self._last[key]

    def figures(self, shard: str, source: str, target: str, since_us: int) -> RampStatistics:
        """Both sides' last statistics for the ramp's guard rails; the target's only since then."""
        ours = self._last.get((shard, source))
        theirs = self._last.get((shard, target))
        if theirs is not None and theirs[1] < since_us:
            theirs = None
        both = [side[0] for side in (ours, theirs) if side is not None]
        samples = min(_reads(side) for side in both) if len(both) == 2 else 0
        return RampStatistics(
            error_rate=theirs[0].error_rate if theirs is not None else None,
            source_p99_ms=ours[0].p99_ms if ours is not None else None,
            target_p99_ms=theirs[0].p99_ms if theirs is not None else None,
            samples=samples,
            target_samples=_reads(theirs[0]) if theirs is not None else 0,
            at_us=theirs[1] if theirs is not None else 0,
        )


def _reads(statistic: ShardStatistics) -> int:
    """Reads and failed operations: a side that serves nothing has samples, too."""
    return statistic.query_count - statistic.counts.get(OpType.APPEND, 0) + statistic.failed_count
