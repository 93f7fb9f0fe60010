"""What instances report, kept and learned from: statistics, heatmaps, forecasts.

Slots are periods of a log's own time. A slot is learned once its reporters have gone past it, or
have had time to, in slot order; so history that is fed faster than it happened trains the models
like the real thing. All of it is a cache: nothing here decides what is true.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.migration.ramp import Figures
from profiler.forecast.book import ForecastBook, seasons_of
from profiler.heatmap import AccessHeatmap
from profiler.scoreboard import Score
from profiler.types import DataStoreStatus, Forecast, OpType, ShardStatistics

SHARDS_MAX = 16_384
SILENT_SLOTS_MAX = 24
"""How far a log's time is taken to have gone on without a word of it."""
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


@dataclass(slots=True)
class _Log:
    heatmap: AccessHeatmap
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
        heatmap_buckets: int = 128,
    ) -> None:
        self.slot_s = slot_s
        self.book = ForecastBook(
            seasons_slots if seasons_slots is not None else seasons_of(slot_s),
            shards_max=SHARDS_MAX,
        )
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
            if told.query_count:
                self._received[told.shard, told.instance] = (told, now_us)
            self._add(told, now_s)

    def _add(self, told: ShardStatistics, now_s: float) -> None:
        log = self._log(log_of(told.shard))
        if log.newest is None or told.slot > log.newest:
            log.newest, log.newest_s = told.slot, now_s
        before = log.told_up_to.get(told.instance, (told.slot, now_s))[0]
        log.told_up_to[told.instance] = (max(before, told.slot), now_s)
        log.heatmap.add_samples(told.sampled_keys, told.slot)
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

    def learn(self, now_s: float, slots_max: int = 50) -> int:
        """Learn up to `slots_max` slots that are complete, in order; returns how many."""
        done = 0
        for log in self._logs.values():
            for number in sorted(log.pending):
                if done >= slots_max:
                    return done
                if not self._complete(log, number, now_s):
                    break
                ops = log.pending.pop(number).ops
                self.book.learn_many(number, ops)
                self._known.update(ops)
                log.learned = max(number, log.learned if log.learned is not None else number)
                done += 1
                self.slots_learned += 1
        return done

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
            self.book.forget(shard)
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
        return {name: found.status for name, found in self._instances.items()}

    def history(self, log: str = "") -> dict[str, list[ShardStatistics]]:
        """The last statistics of each shard, oldest first."""
        return {
            shard: list(told)
            for shard, told in self._history.items()
            if not log or log_of(shard) == log
        }

    def load(self, shard: str) -> ShardLoad | None:
        """The newest slot that was told of the shard, summed over instances."""
        return self._loads.get(shard)

    def heatmap(self, log: str) -> AccessHeatmap | None:
        found = self._logs.get(log)
        return found.heatmap if found is not None else None

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
                found.update(self.book.forecast_many(group, horizon_slots, over))
        return found

    def score(self) -> dict[str, dict[int, Score]]:
        return self.book.score()

    def figures(self, shard: str, source: str, target: str, since_us: int) -> Figures:
        """Both sides' last statistics for the ramp's guard rails; the target's only since then."""
        ours = self._received.get((shard, source))
        theirs = self._received.get((shard, target))
        if theirs is not None and theirs[1] < since_us:
            theirs = None
        both = [told[0] for told in (ours, theirs) if told is not None]
        samples = min(_reads(told) for told in both) if len(both) == 2 else 0
        return Figures(
            source_p99_ms=ours[0].p99_ms if ours is not None else None,
            target_p99_ms=theirs[0].p99_ms if theirs is not None else None,
            samples=samples,
            at_us=theirs[1] if theirs is not None else 0,
        )


def _reads(told: ShardStatistics) -> int:
    return told.query_count - told.counts.get(OpType.APPEND, 0)
