"""The time lines of the logs that count by their records' own times: one for each log, no I/O.

Each has a clock of its own (`profiler.slot_clock`), so that bad stamps of one log close no slot of
another's, and a recorder, whose slots close by that clock.
"""

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from profiler.agent import Agent as Recorder
from profiler.slot_clock import GAP_SLOTS_MAX, SlotClock
from profiler.types import ShardStatistics

LATENESS_S = 2.0
LIVE_SLOTS_MAX = 8
"""While event time runs faster than this many slots in LATENESS_S, history is being fed: shards
are then apart in event time, and a slot stays open LATENESS_S longer."""


class EventLine:
    """One log's counts by slot of its own time."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._clock = SlotClock()
        self._elsewhere: int | None = None
        """The log's time by the coordinator, which hears all instances."""
        self._passed: deque[tuple[float, int]] = deque()
        """Points of event time: the oldest is from LATENESS_S ago, or the first."""

    def tell(self, low_us: int, high_us: int, times: npt.NDArray[np.int64], now_s: float) -> None:
        """Records of these times were appended."""
        low, high = low_us // self.recorder.period_us, high_us // self.recorder.period_us
        if low == high:
            back = self._clock.tell((low,), (len(times),), now_s)
        else:
            slots, counts = np.unique(times // self.recorder.period_us, return_counts=True)
            back = self._clock.tell(slots.tolist(), counts.tolist(), now_s)
        if back:
            self._passed.clear()

    def hear(self, slot: int | None) -> None:
        self._elsewhere = slot

    @property
    def slot(self) -> int | None:
        """The newest slot that has begun, here or elsewhere; None: there is none."""
        known = [slot for slot in (self._clock.slot, self._elsewhere) if slot is not None]
        return max(known, default=None)

    def close(self, now_s: float) -> list[ShardStatistics]:
        """Close the slots that take no more operations."""
        newest = self.slot
        if newest is None:
            return []
        while self._passed and self._passed[-1][1] > newest:
            self._passed.pop()  # time was wrong, and is right again
        self._passed.append((now_s, newest))
        while len(self._passed) > 1 and self._passed[1][0] <= now_s - LATENESS_S:
            self._passed.popleft()
        since_s, before = self._passed[0]
        if now_s - since_s < LATENESS_S:
            return []
        self.recorder.reopen(newest)
        if newest - before > LIVE_SLOTS_MAX:
            return self.recorder.drain(before - 1)
        self.recorder.fold(newest + GAP_SLOTS_MAX, newest)
        self.recorder.begin(newest)
        return self.recorder.drain(newest - 1)


class EventLines:
    """The lines of an instance, by log; made when first needed."""

    def __init__(self, new_recorder: Callable[[], Recorder]) -> None:
        self._new_recorder = new_recorder
        self._lines: dict[str, EventLine] = {}

    def of(self, shard: str) -> EventLine:
        log = shard.rsplit("/", 1)[0]
        line = self._lines.get(log)
        if line is None:
            line = self._lines[log] = EventLine(self._new_recorder())
        return line

    def known(self, shard: str) -> EventLine | None:
        """The line of a shard's log, if there is one."""
        return self._lines.get(shard.rsplit("/", 1)[0])

    def tracked(self) -> list[str]:
        """The tracked shards of all lines."""
        return [shard for line in self._lines.values() for shard in line.recorder.tracked]

    def hear(self, newest: Mapping[str, int]) -> None:
        """The coordinator's times of all logs."""
        for log, line in self._lines.items():
            line.hear(newest.get(log))

    def close(self, now_s: float) -> list[ShardStatistics]:
        """In the order of their slots, line by line, so that time goes on for the reader."""
        found = []
        for line in self._lines.values():
            found += sorted(line.close(now_s), key=lambda statistic: statistic.slot)
        return found

    def forget(self, shard: str) -> list[ShardStatistics]:
        """The shard has left this instance: the counts of its log. The last shard removes the
        line."""
        line = self.of(shard)
        newest = line.slot
        statistics = line.recorder.drain(newest) if newest is not None else []
        line.recorder.forget(shard)
        if not line.recorder.shards:
            del self._lines[shard.rsplit("/", 1)[0]]
        return statistics
