"""The instances' reports, kept and learned: statistics, heatmaps, forecasts.

Slots are periods of a log's own time (`log_clock`). A slot is learned once its
reporters have gone past it, or have had time to, in slot order; so history that is fed faster than
it happened trains the models like live statistics. Statistics of slots that have not come wait
until they have; when a log's time turns out to have been wrong, those of later slots are dropped.
All of it is a cache: nothing here decides what is true.

Two threads meet here. The event loop owns the records (reports, loads, pending slots); learning is
slow and runs in a thread (`model_trainer`), which owns models and heatmaps: `absorb`,
`forecasts`, `score`, `heatmap`, `saved` and `restore` are called there. `learn` does all at once.
"""

import copy
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import structlog

from coordinator.statistics.correlations import Correlations
from coordinator.statistics.instances_heard import InstancesHeard
from coordinator.statistics.log_clock import LogClock
from coordinator.statistics.present import PresentLoads
from coordinator.statistics.reliability import Reliability
from coordinator.statistics.slot_loads import SlotLoad, SlotLoads
from coordinator.statistics.state import (
    Due,
    LogState,
    Pending,
    Saved,
    SavedLog,
    log_of,
    plausible,
    repeated,
)
from profiler.anomaly import Anomaly, AnomalyBook
from profiler.calendar import Calendar, Event
from profiler.forecast.book import ForecastBook, seasons_of
from profiler.forecast.groups import GroupBook, UsageProfile
from profiler.heatmap import AccessHeatmap
from profiler.running import ShardTotals
from profiler.scoreboard import Score
from profiler.types import DataStoreStatus, Forecast, ShardStatistics

SHARDS_MAX = 16_384
SILENT_SLOTS_MAX = 24
"""How long a log's time is assumed to go on without a report."""
SAVED_SLOTS_MAX = 48
"""Slots of statistics, with their sampled keys, that are saved for each shard."""
PENDING_SLOTS_MAX = 20_000
"""Slots of one log that wait to be learned; beyond it the oldest are learned early."""

_log = structlog.get_logger(__name__)


class StatisticsIntake:
    """Takes reports, learns slots, answers questions. One event loop owns it.

    `settle_s`: a slot is learned at the latest this long after it was first reported and passed.
    """

    def __init__(
        self,
        slot_s: float,
        *,
        settle_s: float = 3.0,
        alive_s: float = 3.0,
        seasons_slots: Sequence[int] | None = None,
        history_slots: int = 336,
        heatmap_buckets: int = 256,
    ) -> None:
        self.slot_s = slot_s
        self._seasons = tuple(seasons_slots if seasons_slots is not None else seasons_of(slot_s))
        self.calendar = Calendar()
        self.anomalies = AnomalyBook()
        self.book = ForecastBook(
            self._seasons,
            shards_max=SHARDS_MAX,
            calendar=self.calendar,
            period_s=slot_s,
            anomalies=self.anomalies,
        )
        parts = ForecastBook(
            self._seasons[:1],
            horizons=(1, 6, 12),
            shards_max=SHARDS_MAX,
            calendar=self.calendar,
            period_s=slot_s,
            teaches=False,
        )
        self.groups = GroupBook(self.book, parts)
        """Learned while a client group's profile is announced, and only then: it costs as much."""
        self.reliability = Reliability()
        self.correlations = Correlations()
        self._models = threading.RLock()
        """Held while models or heatmaps are in use."""
        self._settle_s, self._alive_s = settle_s, alive_s
        self._history_slots, self._buckets = history_slots, heatmap_buckets
        self.heard_of = InstancesHeard(alive_s)
        self._logs: dict[str, LogState] = {}
        self._history: dict[str, deque[ShardStatistics]] = {}
        self._slots = SlotLoads()
        self.present = PresentLoads()
        self._known: set[str] = set()
        """Shards with a learned slot."""
        self._rewinds: dict[str, int] = {}
        """Logs whose time went back, and to which slot: the learning thread has yet to follow."""
        self.slots_learned = 0

    # ---- intake ------------------------------------------------------------------------------

    def take(
        self,
        instance: str,
        incarnation: int,
        statistics: Sequence[ShardStatistics],
        status: DataStoreStatus | None,
        now_s: float,
        now_us: int,
        bounded: Collection[str] = (),
        totals: Sequence[ShardTotals] = (),
    ) -> None:
        """One report, checked (`reports`). `now_s` is monotonic, `now_us` the wall
        clock. `bounded`: logs of which no statistic can be of the future. `totals`: of copies
        that changed.
        """
        self.reliability.take(instance, statistics, status, now_s, now_us)
        self.present.take(instance, incarnation, totals, now_s)
        self.heard_of.take(instance, status, now_s)
        by_log: dict[str, list[ShardStatistics]] = {}
        for statistic in sorted(statistics, key=lambda s: s.slot):
            by_log.setdefault(log_of(statistic.shard), []).append(statistic)
        for name, group in by_log.items():
            log = self._tell_time(name, instance, group, now_s, name in bounded)
            for statistic in [*log.released(now_s), *group]:
                if name in bounded or log.admits(statistic.slot):
                    self._take_one(log, statistic, now_s)
                else:
                    log.held.append((now_s, statistic))

    def _tell_time(
        self,
        name: str,
        instance: str,
        statistics: Sequence[ShardStatistics],
        now_s: float,
        bounded: bool,
    ) -> LogState:
        log = self._log(name)
        before = log.newest
        slots = sorted({s.slot for s in statistics})
        ops = float(sum(s.query_count for s in statistics))
        back = log.clock.tell(instance, slots, ops, now_s, bounded)
        if log.newest is not None and log.newest != before:
            log.newest_s = now_s
        if back and log.newest is not None:
            self._rewind(name, log, log.newest)
        return log

    def _rewind(self, name: str, log: LogState, slot: int) -> None:
        """The log's time was wrong: drop the statistics of slots after `slot`."""
        _log.warning("a log's time was wrong and is right again", log=name, slot=slot)
        log.rewind(slot)
        self._rewinds[name] = min(slot, self._rewinds.get(name, slot))
        for shard, rows in self._history.items():
            if log_of(shard) == name:
                kept = [row for row in rows if row.slot <= slot]
                self._history[shard] = deque(kept, maxlen=self._history_slots)
                self._slots.replace(shard, kept)

    def _take_one(self, log: LogState, statistic: ShardStatistics, now_s: float) -> None:
        rows = self._history.get(statistic.shard)
        if rows is None:
            if len(self._history) >= SHARDS_MAX:
                return
            rows = self._history[statistic.shard] = deque(maxlen=self._history_slots)
        if repeated(statistic, rows):
            return
        rows.append(statistic)
        self._add(log, statistic, now_s)

    def _add(self, log: LogState, statistic: ShardStatistics, now_s: float) -> None:
        before = log.reported_up_to.get(statistic.instance, (statistic.slot, now_s))[0]
        log.reported_up_to[statistic.instance] = (max(before, statistic.slot), now_s)
        if statistic.sampled_keys:
            log.samples.append((statistic.slot, statistic.sampled_keys))
        self._slots.take(statistic)
        if self._learned(statistic.shard) >= statistic.slot:
            return  # too late to learn; the models have gone on
        slot = log.pending.setdefault(statistic.slot, Pending(now_s))
        slot.ops[statistic.shard] = slot.ops.get(statistic.shard, 0.0) + statistic.new_count
        if statistic.group_counts:
            groups = slot.groups.setdefault(statistic.shard, {})
            for group, count in statistic.group_counts.items():
                groups[group] = groups.get(group, 0.0) + count

    def _learned(self, shard: str) -> float:
        """The newest slot that was learned of the shard, and counts."""
        if shard not in self._known:
            return float("-inf")
        return min(self.book.last_slot(shard), self._rewinds.get(log_of(shard), float("inf")))

    def learn(self, now_s: float, slots_max: int = 50) -> int:
        """Learn up to `slots_max` slots that are complete, in order; returns how many."""
        due = self.due(now_s, slots_max)
        self.absorb(due)
        self.settle(due)
        return len(due)

    def due(self, now_s: float, slots_max: int = 50) -> list[Due]:
        """Take the next complete slots out of what is pending, each log's in order."""
        found: list[Due] = []
        for name, log in self._logs.items():
            for number in sorted(log.pending):
                if len(found) >= slots_max:
                    return found
                if not self._complete(log, number, now_s):
                    break
                pending = log.pending.pop(number)
                found.append(Due(name, number, pending.ops, pending.groups))
        return found

    def absorb(self, due: Sequence[Due]) -> None:
        """The slow part: models learn the slots, heatmaps take the sampled keys."""
        for name, newest in list(self._rewinds.items()):
            self._unlearn(name, newest)
            self._rewinds.pop(name, None)
        for slot in due:
            with self._models:
                try:
                    if self.groups.profiles():
                        self.groups.learn(slot.slot, slot.parts())
                    else:
                        self.book.learn_many(slot.slot, slot.ops)
                except ValueError as e:
                    _log.error("a slot was not learned", log=slot.log, slot=slot.slot, why=str(e))
        for log in list(self._logs.values()):
            self._take_samples(log)

    def _unlearn(self, name: str, newest: int) -> None:
        """Models and heatmap of the log without what came after slot `newest`."""
        with self._models:
            shards = [shard for shard in self._known if log_of(shard) == name]
            self._known.difference_update(self.groups.rewind(shards, newest))
            log = self._logs.get(name)
            if log is None:
                return
            log.heatmap = self._new_heatmap()
            for rows in self.history(name).values():
                for row in rows:
                    if row.sampled_keys:
                        log.heatmap.add_samples(row.sampled_keys, row.slot)

    def settle(self, due: Sequence[Due]) -> None:
        """The slots are learned: they count."""
        for slot in due:
            log = self._logs.get(slot.log)
            if log is None:  # deleted meanwhile
                with self._models:
                    for shard in slot.ops:
                        self.groups.forget(shard)
                continue
            self._known.update(shard for shard in slot.ops if shard in self.book)
            log.learned = max(slot.slot, log.learned if log.learned is not None else slot.slot)
            self.slots_learned += 1

    def _take_samples(self, log: LogState) -> None:
        with self._models:
            while log.samples:
                slot, samples = log.samples.popleft()
                log.heatmap.add_samples(samples, slot)

    def _complete(self, log: LogState, slot: int, now_s: float) -> bool:
        """Every reporter of this log has reported the slot, or had the time to."""
        if len(log.pending) > PENDING_SLOTS_MAX:
            return True
        if now_s - log.pending[slot].first_seen_s >= self._settle_s:
            return True
        heard = [
            newest for newest, at_s in log.reported_up_to.values() if now_s - at_s <= self._alive_s
        ]
        return bool(heard) and min(heard) >= slot

    def _log(self, name: str) -> LogState:
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = LogState(
                self._new_heatmap(),
                LogClock(self._alive_s),
            )
        return log

    def _new_heatmap(self) -> AccessHeatmap:
        return AccessHeatmap(self._buckets, min(self._history_slots, 336))

    def forget_log(self, name: str) -> None:
        self._logs.pop(name, None)
        for shard in [s for s in self._history if log_of(s) == name]:
            del self._history[shard]
            self._slots.forget(shard)
            with self._models:
                self.groups.forget(shard)
            self._known.discard(shard)
        self.present.forget_log(name)

    # ---- questions -----------------------------------------------------------------------------

    def newest_slots(self, logs: Collection[str]) -> dict[str, int]:
        """The newest slots of these logs, as far as they were reported."""
        known = ((name, self._logs[name].newest) for name in logs if name in self._logs)
        return {name: slot for name, slot in known if slot is not None}

    def alive(self, instance: str, now_s: float) -> bool:
        return self.heard_of.alive(instance, now_s)

    def silent_s(self, instance: str, now_s: float) -> float | None:
        """See `InstancesHeard.silent_s`."""
        return self.heard_of.silent_s(instance, now_s)

    def heard(self, instance: str) -> bool:
        """Whether it ever reported to this coordinator."""
        return self.heard_of.ever(instance)

    def statuses(self) -> dict[str, DataStoreStatus]:
        return self.heard_of.statuses()

    def history(self, log: str = "") -> dict[str, list[ShardStatistics]]:
        """The last statistics of each shard, oldest first."""
        return {
            shard: list(rows)
            for shard, rows in dict(self._history).items()
            if not log or log_of(shard) == log
        }

    def load(self, shard: str) -> SlotLoad | None:
        """The newest reported slot of the shard, summed over its copies."""
        log = self._logs.get(log_of(shard))
        return self._slots.whole(shard, log.learned if log is not None else None)

    def newest(self, shard: str) -> list[ShardStatistics]:
        """The rows of the shard's last reported slot, of each instance."""
        rows = list(self._history.get(shard, ()))  # at once: another thread adds to it
        return list(takewhile(lambda row: row.slot == rows[-1].slot, reversed(rows)))

    def heatmap(self, log: str) -> AccessHeatmap | None:
        """For the learning thread; others get a copy."""
        found = self._logs.get(log)
        if found is None:
            return None
        self._take_samples(found)
        return found.heatmap

    def heatmap_copy(self, log: str) -> AccessHeatmap | None:
        """With the slots that are open, as far as they have come."""
        found = self._logs.get(log)
        newest = found.newest if found is not None else None
        reported = dict(found.reported_up_to) if found is not None else {}
        keys = self.present.open_keys(log, {name: slot for name, (slot, _) in reported.items()})
        with self._models:
            seen = copy.deepcopy(self.heatmap(log))
        if seen is None and keys:
            seen = self._new_heatmap()
        for slot, sample in keys:
            if seen is not None and (newest is None or abs(slot - newest) <= SILENT_SLOTS_MAX):
                seen.add_samples(sample, slot)
        return seen

    def slot_before_now(self, log: str, now_s: float, wall_s_per_slot: float) -> int | None:
        """The last slot that is over by now: the newest reported one, and the time since.

        A quiet log reports no slots, but its time goes on. Bounded, because a replay may have
        ended.
        """
        found = self._logs.get(log)
        if found is None or found.newest is None:
            return None
        since = int((now_s - found.newest_s) / wall_s_per_slot)
        return found.newest + min(max(since, 0), SILENT_SLOTS_MAX)

    def forecasts(
        self, shards: Sequence[str], horizon_slots: int, now_s: float, wall_s_per_slot: float
    ) -> dict[str, Forecast]:
        """Forecasts in ops per slot from the present slot on, of shards with learned slots.
        `now_s` is monotonic.
        """
        by_log: dict[str, list[str]] = {}
        for shard in shards:
            if shard in self._known:
                by_log.setdefault(log_of(shard), []).append(shard)
        found: dict[str, Forecast] = {}
        for name, group in by_log.items():
            over = self.slot_before_now(name, now_s, wall_s_per_slot)
            if over is not None and self._log(name).learned is not None:
                with self._models:
                    found.update(self._forecasts(group, horizon_slots, over))
        return found

    def _forecasts(self, shards: list[str], horizon_slots: int, over: int) -> dict[str, Forecast]:
        if not self.groups.profiles():
            return self.book.forecast_many(shards, horizon_slots, over)
        return {shard: self.groups.forecast(shard, horizon_slots, over)[0] for shard in shards}

    def announce(self, events: Collection[Event], profiles: Mapping[str, UsageProfile]) -> None:
        """Replace all announcements; for the learning thread.

        The observed factors of kinds of events are kept. ValueError beyond the limits.
        """
        with self._models:
            for event in self.calendar.events():
                self.calendar.remove(event.name)
            for event in events:
                self.calendar.add(event)
            before = self.groups.profiles()
            for group in before.keys() - profiles.keys():
                self.groups.set_profile(group, None)
            for group, profile in profiles.items():
                if before.get(group) != profile:
                    self.groups.set_profile(group, profile)
            self.groups.know(self._known)

    def score(self, shard: str | None = None) -> dict[str, dict[int, Score]]:
        """Live scores of a shard, or of all together; empty before the first learned slot."""
        with self._models:
            if shard is not None and shard not in self._known:
                return {}
            return self.book.score(shard)

    def unusual(self, shard: str | None = None) -> list[tuple[str, Anomaly]]:
        """The newest anomalies of a shard, or of all, with their shards."""
        with self._models:
            return self.anomalies.newest(shard)

    # ---- over a restart --------------------------------------------------------------------------

    def saved(self) -> Saved:
        """All models and scores, and the last statistics, without pending slots."""
        models: dict[str, dict[str, Any]] = {}
        for shard in list(self._known):
            with self._models:  # a shard at a time: others wait for no more than that
                if shard in self._known:
                    models[shard] = self.book.state(shard)
        logs = {n: SavedLog(log.learned, log.newest) for n, log in dict(self._logs).items()}
        history = {s: rows[-SAVED_SLOTS_MAX:] for s, rows in self.history().items()}
        with self._models:
            kinds, groups = self.calendar.kinds(), self.groups.state()
        return Saved(self.slot_s, self._seasons, logs, models, history, kinds, groups)

    def restore(
        self, saved: Saved, logs: Collection[str], now_s: float, ceilings: Mapping[str, int] | None
    ) -> int:
        """Restore the saved state of `logs`, before the first report; returns how many shards.

        A state with other slots or seasons is ignored, and so are slots after
        those in `ceilings` (log -> the newest possible slot): a clock was wrong.
        """
        saved, wrong = plausible(saved, ceilings or {})
        if saved.slot_s != self.slot_s or tuple(saved.seasons) != self._seasons:
            return 0
        models = {s: m for s, m in saved.models.items() if log_of(s) in logs}
        with self._models:
            self.book.restore(models)
            self.calendar.restore(saved.kinds)
            self.groups.restore(saved.groups, models)
        self._known.update(models)
        for name, was in saved.logs.items():
            if name in logs:
                log = self._log(name)
                log.learned, log.newest_s = was.learned, now_s
                if was.newest is not None:
                    log.clock.restore(was.newest)
        for shard, rows in saved.history.items():
            if log_of(shard) not in logs or not rows:
                continue
            self._history[shard] = deque(rows, maxlen=self._history_slots)
            log = self._log(log_of(shard))
            log.samples.extend((t.slot, t.sampled_keys) for t in rows if t.sampled_keys)
            self._slots.replace(shard, rows)
        for name, newest in wrong.items():
            if name in logs:
                _log.warning("a log's time had been wrong", log=name, slot=newest)
                self._unlearn(name, newest)
        return len(models)
