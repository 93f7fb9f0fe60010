"""Each copy's load in the newest slot that it reported. Pure.

For shards whose instances report slots only: history that is replayed, other reporters.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from profiler.types import ShardStatistics


@dataclass(frozen=True, slots=True)
class SlotLoad:
    """A shard, or a copy, in the newest reported slot, in units per slot: operations that came for
    the first time, and bytes."""

    slot: int
    ops: float
    bytes_moved: float


class SlotLoads:
    """By shard and instance."""

    def __init__(self) -> None:
        self._copies: dict[str, dict[str, SlotLoad]] = {}

    def take(self, statistic: ShardStatistics) -> None:
        """One copy in one slot; a further report on the same slot is added."""
        copies = self._copies.setdefault(statistic.shard, {})
        before = copies.get(statistic.instance)
        ops, moved = float(statistic.new_count), float(statistic.bytes_in + statistic.bytes_out)
        if before is not None and before.slot == statistic.slot:
            ops, moved = before.ops + ops, before.bytes_moved + moved
        if before is None or statistic.slot >= before.slot:
            copies[statistic.instance] = SlotLoad(statistic.slot, ops, moved)

    def forget(self, shard: str) -> None:
        self._copies.pop(shard, None)

    def replace(self, shard: str, statistics: Iterable[ShardStatistics]) -> None:
        """Only these are true of the shard."""
        self.forget(shard)
        for statistic in statistics:
            self.take(statistic)

    def by_copy(self, shard: str, closed: int | None) -> dict[str, SlotLoad]:
        """The copies of a shard in its newest slot. `closed`: the newest slot to which no report is
        expected any more; until then a copy's slot before stands for the one to come."""
        copies = dict(self._copies.get(shard, {}))
        newest = max((load.slot for load in copies.values()), default=0)
        oldest = newest if closed is not None and closed >= newest else newest - 1
        return {name: load for name, load in copies.items() if load.slot >= oldest}

    def whole(self, shard: str, closed: int | None) -> SlotLoad | None:
        """The sum over the copies; None: nothing was reported."""
        loads = list(self.by_copy(shard, closed).values())
        if not loads:
            return None
        return SlotLoad(
            max(load.slot for load in loads),
            sum(load.ops for load in loads),
            sum(load.bytes_moved for load in loads),
        )
