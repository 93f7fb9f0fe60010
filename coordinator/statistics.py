"""What instances report, kept and learned from: statistics, heatmaps, forecasts.

Slots are periods of a log's own time. A slot is learned once its reporters have gone past it, or
have had time to, in slot order; so history that is fed faster than it happened trains the models
like the real thing. All of it is a cache: nothing here decides what is true.

Two threads meet here. The event loop owns the records (reports, loads, pending slots); learning is
slow and runs in a thread (`coordinator.learning`), which owns models and heatmaps: `absorb`,
`forecasts`, `score`, `heatmap`, `saved` and `restore` are called there. `learn` does all at once.
"""

import copy
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from coordinator.migration.ramp import Figures
from profiler.anomaly import Anomaly, AnomalyBook
from profiler.calendar import Calendar, Event
from profiler.forecast.book import ForecastBook, seasons_of
from profiler.forecast.groups import GroupBook, UsageProfile
from profiler.heatmap import AccessHeatmap
from profiler.scoreboard import Score
from profiler.types import DataStoreStatus, Forecast, OpType, ShardStatistics

SHARDS_MAX = 16_384
SILENT_SLOTS_MAX = 24
"""How far a log's time is taken to have gone on without a word of it."""
SAMPLES_WAITING_MAX = 100_000
SAVED_SLOTS_MAX = 48
"""Slots of statistics, with their sampled keys, that are saved for each shard."""
PENDING_SLOTS_MAX = 20_000
"""Slots of one log that wait to be learned; the oldest are learned early beyond that."""


@dataclass(slots=True)
class _Instance:
    status: DataStoreStatus
    incarnation: int
    heard_s: float


@dataclass(slots=True)
class _Pending:
    """One slot of one log that is still being told."""

    first_seen_s: float
    ops: dict[str, float] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Shard -> client group -> operations, where groups were told."""


@dataclass(frozen=True, slots=True)
class Due:
    """A complete slot of a log, taken out of what is pending: to be learned."""

    log: str
    slot: int
    ops: dict[str, float]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)

    def parts(self) -> dict[str, dict[str, float]]:
        """Shard -> client group -> operations; those that no group was told of are of ""."""
        found = {}
        for shard, ops in self.ops.items():
            told = self.groups.get(shard, {})
            rest = ops - sum(told.values())
            found[shard] = {**told, "": rest} if rest > 0 or not told else told
        return found


class SavedLog(msgspec.Struct, frozen=True):
    learned: int | None
    newest: int | None


class Saved(msgspec.Struct, frozen=True):
    """What a restart needs: models by shard, the last statistics of each, where each log was."""

    slot_s: float
    seasons: tuple[int, ...]
    logs: dict[str, SavedLog]
    models: dict[str, dict[str, Any]]
    history: dict[str, list[ShardStatistics]]
    kinds: dict[str, float] = {}
    """What kinds of announced events turned out to be (`Calendar.kinds`)."""
    groups: dict[str, Any] = {}
    """Profiles of client groups and the models of their parts (`GroupBook.state`)."""


@dataclass(slots=True)
class _Log:
    heatmap: AccessHeatmap
    samples: deque[tuple[int, tuple[tuple[bytes, float], ...]]] = field(
        default_factory=lambda: deque(maxlen=SAMPLES_WAITING_MAX)
    )
    """Sampled keys by slot that the heatmap has yet to take."""
    pending: dict[int, _Pending] = field(default_factory=dict)
    learned: int | None = None
    newest: int | None = None
    newest_s: float = 0.0
    """When the newest slot was first told."""
    told_up_to: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Instance -> (newest slot it told, when)."""


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """A shard in the newest learned slot, in units per slot."""

    slot: int
    ops: float
    bytes_moved: float


def log_of(shard: str) -> str:
    return shard.rsplit("/", 1)[0]


class StatisticsIntake:
    """Takes reports, learns slots, answers questions. One event loop owns it.

    `settle_s`: a slot is learned at the latest this long after it was first heard of and passed.
    """

    def __init__(
        self,
        slot_s: float,
        *,
        settle_s: float = 3.0,
        silence_s: float = 3.0,
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
        self._models = threading.RLock()
        """Held while models or heatmaps are at work."""
        self._settle_s, self._silence_s = settle_s, silence_s
        self._history_slots, self._buckets = history_slots, heatmap_buckets
        self._instances: dict[str, _Instance] = {}
        self._logs: dict[str, _Log] = {}
        self._history: dict[str, deque[ShardStatistics]] = {}
        self._received: dict[tuple[str, str], tuple[ShardStatistics, int]] = {}
        self._loads: dict[str, ShardLoad] = {}
        self._known: set[str] = set()
        """Shards that the book has learned something of."""
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
    ) -> None:
        """One report. `now_s` is monotonic, `now_us` the wall clock."""
        if status is not None:
            self._instances[instance] = _Instance(status, incarnation, now_s)
        elif instance in self._instances:
            self._instances[instance].heard_s = now_s
        for told in sorted(statistics, key=lambda s: s.slot):
            if told.shard not in self._history:
                if len(self._history) >= SHARDS_MAX:
                    continue
                self._history[told.shard] = deque(maxlen=self._history_slots)
            self._history[told.shard].append(told)
            if told.query_count or told.failed_count:
                self._received[told.shard, told.instance] = (told, now_us)
            self._add(told, now_s)

    def _add(self, told: ShardStatistics, now_s: float) -> None:
        log = self._log(log_of(told.shard))
        if log.newest is None or told.slot > log.newest:
            log.newest, log.newest_s = told.slot, now_s
        before = log.told_up_to.get(told.instance, (told.slot, now_s))[0]
        log.told_up_to[told.instance] = (max(before, told.slot), now_s)
        if told.sampled_keys:
            log.samples.append((told.slot, told.sampled_keys))
        moved = float(told.bytes_in + told.bytes_out)
        load = self._loads.get(told.shard)
        if load is None or told.slot > load.slot:
            self._loads[told.shard] = ShardLoad(told.slot, float(told.query_count), moved)
        elif told.slot == load.slot:
            self._loads[told.shard] = ShardLoad(
                load.slot, load.ops + told.query_count, load.bytes_moved + moved
            )
        if told.shard in self._known and self.book.last_slot(told.shard) >= told.slot:
            return  # too late to learn; the models have gone on
        slot = log.pending.setdefault(told.slot, _Pending(now_s))
        slot.ops[told.shard] = slot.ops.get(told.shard, 0.0) + told.query_count
        if told.group_counts:
            groups = slot.groups.setdefault(told.shard, {})
            for group, count in told.group_counts.items():
                groups[group] = groups.get(group, 0.0) + count

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
        for slot in due:
            with self._models:
                if self.groups.profiles():
                    self.groups.learn(slot.slot, slot.parts())
                else:
                    self.book.learn_many(slot.slot, slot.ops)
        for log in list(self._logs.values()):
            self._take_samples(log)

    def settle(self, due: Sequence[Due]) -> None:
        """The slots are learned: they count."""
        for slot in due:
            log = self._logs.get(slot.log)
            if log is None:  # deleted meanwhile
                with self._models:
                    for shard in slot.ops:
                        self.groups.forget(shard)
                continue
            self._known.update(slot.ops)
            log.learned = max(slot.slot, log.learned if log.learned is not None else slot.slot)
            self.slots_learned += 1

    def _take_samples(self, log: _Log) -> None:
        with self._models:
            while log.samples:
                slot, samples = log.samples.popleft()
                log.heatmap.add_samples(samples, slot)

    def _complete(self, log: _Log, slot: int, now_s: float) -> bool:
        """Every instance that tells of this log has told the slot, or had the time to."""
        if len(log.pending) > PENDING_SLOTS_MAX:
            return True
        if now_s - log.pending[slot].first_seen_s >= self._settle_s:
            return True
        heard = [told for told, at_s in log.told_up_to.values() if now_s - at_s <= self._silence_s]
        return bool(heard) and min(heard) >= slot

    def _log(self, name: str) -> _Log:
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = _Log(
                AccessHeatmap(self._buckets, min(self._history_slots, 336))
            )
        return log

    def forget_log(self, name: str) -> None:
        self._logs.pop(name, None)
        for shard in [s for s in self._history if log_of(s) == name]:
            del self._history[shard]
            self._loads.pop(shard, None)
            with self._models:
                self.groups.forget(shard)
            self._known.discard(shard)
        for key in [k for k in self._received if log_of(k[0]) == name]:
            del self._received[key]

    # ---- questions -----------------------------------------------------------------------------

    def newest_slot(self, logs: Sequence[str]) -> int:
        """The newest slot heard of in these logs; -1 when none was."""
        known = [self._logs[name].newest for name in logs if name in self._logs]
        return max((slot for slot in known if slot is not None), default=-1)

    def alive(self, instance: str, now_s: float) -> bool:
        found = self._instances.get(instance)
        return found is not None and now_s - found.heard_s <= self._silence_s

    def silent_s(self, instance: str, now_s: float) -> float | None:
        """Seconds since the instance was heard, 0 while it counts as alive; None: never heard."""
        found = self._instances.get(instance)
        if found is None:
            return None
        unheard_s = now_s - found.heard_s
        return unheard_s if unheard_s > self._silence_s else 0.0

    def heard(self, instance: str) -> bool:
        """Has it ever reported to this coordinator?"""
        return instance in self._instances

    def statuses(self) -> dict[str, DataStoreStatus]:
        return {name: found.status for name, found in dict(self._instances).items()}

    def history(self, log: str = "") -> dict[str, list[ShardStatistics]]:
        """The last statistics of each shard, oldest first."""
        return {
            shard: list(told)
            for shard, told in dict(self._history).items()
            if not log or log_of(shard) == log
        }

    def load(self, shard: str) -> ShardLoad | None:
        """The newest slot that was told of the shard, summed over instances."""
        return self._loads.get(shard)

    def heatmap(self, log: str) -> AccessHeatmap | None:
        """For the thread that learns; others take a copy."""
        found = self._logs.get(log)
        if found is None:
            return None
        self._take_samples(found)
        return found.heatmap

    def heatmap_copy(self, log: str) -> AccessHeatmap | None:
        with self._models:
            return copy.deepcopy(self.heatmap(log))

    def slot_before_now(self, log: str, now_s: float, wall_s_per_slot: float) -> int | None:
        """The last slot that is over by now: what was told, and the time since.

        A quiet log tells no slots, but its time goes on. Bounded, because a replay may have ended.
        """
        found = self._logs.get(log)
        if found is None or found.newest is None:
            return None
        since = int((now_s - found.newest_s) / wall_s_per_slot)
        return found.newest + min(max(since, 0), SILENT_SLOTS_MAX)

    def forecasts(
        self, shards: Sequence[str], horizon_slots: int, now_s: float, wall_s_per_slot: float
    ) -> dict[str, Forecast]:
        """Forecasts in ops per slot from the present slot on, of shards that something was learned
        of. `now_s` is monotonic.
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
        """All that is announced now, in place of what was; for the thread that learns.

        What kinds of events turned out to be is kept. ValueError beyond the limits.
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
        """Live scores of a shard, or of all together; empty where nothing was learned."""
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
        """All that was learned and scored, and the last statistics; pending slots are not in it."""
        models: dict[str, dict[str, Any]] = {}
        for shard in list(self._known):
            with self._models:  # a shard at a time: others wait for no more than that
                if shard in self._known:
                    models[shard] = self.book.state(shard)
        logs = {n: SavedLog(log.learned, log.newest) for n, log in dict(self._logs).items()}
        history = {s: told[-SAVED_SLOTS_MAX:] for s, told in self.history().items()}
        with self._models:
            kinds, groups = self.calendar.kinds(), self.groups.state()
        return Saved(self.slot_s, self._seasons, logs, models, history, kinds, groups)

    def restore(self, saved: Saved, logs: Collection[str], now_s: float) -> int:
        """Take what was saved of `logs`, before anything was reported; returns how many shards.

        What other slots or seasons made is of no use and is left.
        """
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
                log.learned, log.newest, log.newest_s = was.learned, was.newest, now_s
        for shard, told in saved.history.items():
            if log_of(shard) not in logs or not told:
                continue
            self._history[shard] = deque(told, maxlen=self._history_slots)
            log = self._log(log_of(shard))
            log.samples.extend((t.slot, t.sampled_keys) for t in told if t.sampled_keys)
            last = [t for t in told if t.slot == told[-1].slot]
            self._loads[shard] = ShardLoad(
                last[-1].slot,
                float(sum(t.query_count for t in last)),
                float(sum(t.bytes_in + t.bytes_out for t in last)),
            )
        return len(models)

    def figures(self, shard: str, source: str, target: str, since_us: int) -> Figures:
        """Both sides' last statistics for the ramp's guard rails; the target's only since then."""
        ours = self._received.get((shard, source))
        theirs = self._received.get((shard, target))
        if theirs is not None and theirs[1] < since_us:
            theirs = None
        both = [told[0] for told in (ours, theirs) if told is not None]
        samples = min(_reads(told) for told in both) if len(both) == 2 else 0
        return Figures(
            error_rate=theirs[0].error_rate if theirs is not None else None,
            source_p99_ms=ours[0].p99_ms if ours is not None else None,
            target_p99_ms=theirs[0].p99_ms if theirs is not None else None,
            samples=samples,
            target_samples=_reads(theirs[0]) if theirs is not None else 0,
            at_us=theirs[1] if theirs is not None else 0,
        )


def _reads(told: ShardStatistics) -> int:
    """Reads, and whatever failed: a side that serves nothing has samples too."""
    return told.query_count - told.counts.get(OpType.APPEND, 0) + told.failed_count
