"""The intake's state of each log and shard, and the part that is saved. Plain data."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from coordinator.statistics.log_clock import LogClock
from logstore.meta.records import LogRecord
from profiler.heatmap import AccessHeatmap
from profiler.types import ShardStatistics

SAMPLES_WAITING_MAX = 100_000
HELD_MAX = 100_000
"""Statistics of a log that wait for its time to come."""
HELD_S = 3600.0
"""A statistic of a future slot is held this long: then its slot was wrong."""


@dataclass(slots=True)
class Pending:
    """One slot of one log that still gets reports."""

    first_seen_s: float
    ops: dict[str, float] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Shard -> client group -> operations, as far as groups are known."""


@dataclass(frozen=True, slots=True)
class Due:
    """A complete slot of a log, to be learned."""

    log: str
    slot: int
    ops: dict[str, float]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)

    def parts(self) -> dict[str, dict[str, float]]:
        """Shard -> client group -> operations; those without a group are under ""."""
        found = {}
        for shard, ops in self.ops.items():
            groups = self.groups.get(shard, {})
            rest = ops - sum(groups.values())
            found[shard] = {**groups, "": rest} if rest > 0 or not groups else groups
        return found


class SavedLog(msgspec.Struct, frozen=True):
    learned: int | None
    newest: int | None


class Saved(msgspec.Struct, frozen=True):
    """The state over a restart: models by shard, the last statistics of each, each log's time."""

    slot_s: float
    seasons: tuple[int, ...]
    logs: dict[str, SavedLog]
    models: dict[str, dict[str, Any]]
    history: dict[str, list[ShardStatistics]]
    kinds: dict[str, float] = {}
    """The observed factors of kinds of events (`Calendar.kinds`)."""
    groups: dict[str, Any] = {}
    """Profiles of client groups and the models of their parts (`GroupBook.state`)."""


def ceilings(logs: Sequence[LogRecord], newest_us: int, slot_s: float) -> dict[str, int]:
    """Log -> the newest possible slot; `newest_us`: later times are still to come.

    None for logs of event time that take stamps however far ahead they are.
    """
    found = {}
    for log in logs:
        ahead_s = log.options.timestamp_ahead_max_s if log.options.event_time else 0.0
        if ahead_s is not None:
            found[log.name] = int((newest_us / 1e6 + ahead_s) // slot_s)
    return found


def plausible(saved: Saved, ceilings: Mapping[str, int]) -> tuple[Saved, dict[str, int]]:
    """`saved` without statistics of future slots, and the logs whose models learned
    such slots, with the newest possible slot.

    `ceilings`: log -> that slot, of logs for which it is known.
    """
    wrong: dict[str, int] = {}
    logs = dict(saved.logs)
    learned: dict[str, int] = {}
    for shard, model in saved.models.items():
        log = log_of(shard)
        learned[log] = max(learned.get(log, 0), int(model["last_slot"]))
    for name, was in saved.logs.items():
        newest = ceilings.get(name)
        if newest is not None and max(was.newest or 0, learned.get(name, 0)) > newest:
            slots = [t.slot for s, rows in saved.history.items() if log_of(s) == name for t in rows]
            last = max((slot for slot in slots if slot <= newest), default=None)
            wrong[name] = newest if last is None else last
            logs[name] = SavedLog(last, last)
    history = {
        shard: [t for t in rows if t.slot <= wrong.get(log_of(shard), t.slot)]
        for shard, rows in saved.history.items()
    }
    return msgspec.structs.replace(saved, logs=logs, history=history), wrong


@dataclass(slots=True)
class LogState:
    heatmap: AccessHeatmap
    clock: LogClock
    samples: deque[tuple[int, tuple[tuple[bytes, float], ...]]] = field(
        default_factory=lambda: deque(maxlen=SAMPLES_WAITING_MAX)
    )
    """Sampled keys by slot that the heatmap has yet to take."""
    pending: dict[int, Pending] = field(default_factory=dict)
    held: deque[tuple[float, ShardStatistics]] = field(
        default_factory=lambda: deque(maxlen=HELD_MAX)
    )
    """Statistics of future slots, and when they came."""
    learned: int | None = None
    newest_s: float = 0.0
    """When the newest slot was first reported."""
    reported_up_to: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Instance -> (newest slot it reported, when)."""

    @property
    def newest(self) -> int | None:
        """The newest slot that is over, by the log's clock."""
        return self.clock.slot

    def admits(self, slot: int) -> bool:
        """Whether the slot has come, as far as is known."""
        return self.clock.slot is None or slot <= self.clock.slot

    def released(self, now_s: float) -> Iterator[ShardStatistics]:
        """The held statistics that have come meanwhile; those that waited too long are dropped."""
        held, self.held = self.held, deque(maxlen=HELD_MAX)
        for at_s, statistic in held:
            if self.admits(statistic.slot):
                yield statistic
            elif now_s - at_s <= HELD_S:
                self.held.append((at_s, statistic))

    def rewind(self, slot: int) -> None:
        """Time went back to `slot`: drop later slots."""
        self.pending = {number: p for number, p in self.pending.items() if number <= slot}
        self.samples = deque((s for s in self.samples if s[0] <= slot), SAMPLES_WAITING_MAX)
        self.reported_up_to.clear()
        if self.learned is not None:
            self.learned = min(self.learned, slot)


def log_of(shard: str) -> str:
    return shard.rsplit("/", 1)[0]


def repeated(statistic: ShardStatistics, rows: deque[ShardStatistics]) -> bool:
    """Whether this was reported before. A report whose answer was lost comes again."""
    for row in reversed(rows):
        if row.slot < statistic.slot:
            return False
        if row == statistic:
            return True
    return False
