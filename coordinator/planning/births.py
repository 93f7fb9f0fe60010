"""When shards were opened, with how many their logs began, and how busy they were lately."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.migration.reshape import ReshapeRecord
from logstore.meta.records import LogRecord
from profiler.types import ShardStatistics


@dataclass(frozen=True, slots=True)
class Births:
    """`split_s`: shard -> when a split opened it; `merged`: shards that a merge opened, whose
    parents were old enough; the others were created with their log, at `created_s`."""

    split_s: Mapping[str, float] = field(default_factory=dict)
    merged: frozenset[str] = frozenset()
    created_s: Mapping[str, float] = field(default_factory=dict)
    shards_created: Mapping[str, int] = field(default_factory=dict)
    """Log -> the number of shards that it was created with, where that is known."""

    @classmethod
    def of(cls, logs: Sequence[LogRecord], reshapes: Sequence[ReshapeRecord]) -> "Births":
        splits: dict[str, float] = {}
        merged: set[str] = set()
        for record in reshapes:
            if record.kind == "merge":
                merged.update(record.successors)
            elif record.phases:
                splits.update(dict.fromkeys(record.successors, record.phases[-1].at_us / 1e6))
        return cls(
            splits,
            frozenset(merged),
            {log.name: log.created_us / 1e6 for log in logs},
            {log.name: n for log in logs if (n := log.shards_created) is not None},
        )

    def opened_s(self, shard: str, log: str) -> float | None:
        """When the shard was opened, as far as its age stands against a merge."""
        if shard in self.merged:
            return None
        return self.split_s.get(shard, self.created_s.get(log))


NO_BIRTHS = Births()


def peak_ops(rows: Sequence[ShardStatistics], slots: int) -> float:
    """The most operations in one of the last `slots` slots; rows are oldest first, several
    instances may report a slot."""
    if not rows:
        return 0.0
    newest = max(row.slot for row in rows[-8:])
    found: dict[int, float] = defaultdict(float)
    for row in reversed(rows):
        if row.slot <= newest - slots:
            break
        found[row.slot] += row.query_count
    return max(found.values(), default=0.0)
