"""The profiling agent of an instance: counts on the hot path, a report each second.

The counting is `profiler.Agent` by slot and `profiler.running` from second to second; here are
their clock, the system's metrics and the way to the coordinator. While no coordinator answers,
closed slots wait here (bounded by the profiler).
"""

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import structlog

from logstore.base.env import Env
from logstore.base.errors import (
    LogstoreError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from logstore.base.steady_clock import SteadyClock
from logstore.node.config import NodeConfig
from logstore.node.intake.appends import PendingAppend
from logstore.node.statistics.access_sampler import AccessSampler
from logstore.node.statistics.event_lines import EventLines
from logstore.node.statistics.instance_load import Counted, InstanceLoad
from logstore.node.statistics.operation_counters import Total
from logstore.node.statistics.round_trips import RoundTrips
from logstore.node.statistics.totals_sent import Keys, TotalsSent
from logstore.node.usage.process import ProcessUsage, Usage
from logstore.proto.coordinator_v1 import coordinator_pb2
from profiler.agent import Agent as Recorder
from profiler.costs import Work
from profiler.running import REPLICATED_COST, RunningTotals
from profiler.types import DataStoreStatus, OpType, ShardStatistics

_log = structlog.get_logger(__name__)

REPORT_STATISTICS_MAX = 2_000
"""Statistics in one report; more wait for the next call."""
WAITING_STATISTICS_MAX = 500_000
KEPT_FOR_OTHERS_MAX = 10_000
"""Statistics that one coordinator has taken wait for the others up to this many."""
FAULTS = (StorageError, OverloadedError, UnavailableError)

Send = Callable[
    [coordinator_pb2.ReportRequest], Coroutine[Any, Any, coordinator_pb2.ReportResponse]
]


class StatisticsReporter:
    """Records operations and reports them. Owned by the loop.

    Logs count by the wall clock or by their records' own times. These run far apart (history is
    replayed in years that are past), so each log of event time has a line of its own. The wall
    clock is a steady one: a glitch of the machine's closes no slot.
    """

    def __init__(self, config: NodeConfig, env: Env, slot_s: float = 300.0) -> None:
        self._config = config
        self._env = env
        self.slot_s = slot_s
        self.clock = SteadyClock(env.clock.wall_us, env.clock.monotonic_s)
        self._wall = self._new_recorder()
        self._event = EventLines(self._new_recorder)
        self._waiting: deque[ShardStatistics] = deque()
        self._first = 0
        """Number of the first waiting one."""
        self._told: dict[str, int] = {}
        """Coordinator -> the number of its next one."""
        self.usage: Callable[[], Usage] = ProcessUsage(config.data)
        self._load = InstanceLoad(config)
        self.last: DataStoreStatus | None = None
        """As measured last."""
        self._operations = 0
        self._replicated = self._replicated_bytes = 0
        self._bytes = self._append_batches = 0
        self.totals = {op: Total() for op in OpType}
        """Since the start, for the metrics."""
        self.failures: Counter[str] = Counter()
        """Operations that failed here since the start, by error code."""
        self.round_trips = RoundTrips()
        self.started_us = env.clock.wall_us()
        self.unclean_start = False
        """Whether the process before this one was killed."""
        self.accesses = AccessSampler(config.instance, config.access_samples_per_s)
        self._running = RunningTotals()
        self._totals_sent = TotalsSent(self._running, self._open_slot, self._open_keys)

    def _new_recorder(self) -> Recorder:
        return Recorder(
            self._config.instance,
            round(self.slot_s * 1e6),
            np.random.default_rng(self._env.rng.getrandbits(63)),
            keys_per_batch=max(1, self._config.sample_keys_per_batch),
            keys_per_slot=64,
        )

    # ---- hot path ------------------------------------------------------------------------

    def appended(self, shard: str, event_time: bool, appends: Iterable[PendingAppend]) -> None:
        """Appends of a shard were acked; by event time if the log says so."""
        now_us, now_s = self.clock.now_us(), self._env.clock.monotonic_s()
        small: dict[str, list[PendingAppend]] = {}
        for append in appends:
            if append.duplicate:
                continue
            self._operations += append.count
            self._bytes += append.size
            self._append_batches += 1
            if not self._config.profile:
                latency_s = now_s - append.received_s
                self.totals[OpType.APPEND].add(append.count, append.size, latency_s)
                continue
            times = append.event_times() if event_time else None
            if times is None and append.count == 1:
                small.setdefault(append.group, []).append(append)
                continue
            recorder = self._wall
            if times is not None and append.time_min_us is not None:
                line, high_us = self._event.of(shard), append.time_max_us or append.time_min_us
                line.tell(append.time_min_us, high_us, times, now_s)
                recorder = line.recorder
            latency_s, retried = now_s - append.received_s, append.count if append.retry else 0
            self.totals[OpType.APPEND].add(append.count, append.size, latency_s)
            keys = append.record_keys()
            self._running.served(shard, OpType.APPEND, append.count, append.size, latency_s, now_s,
                                 retried)  # fmt: skip
            recorder.record(shard, OpType.APPEND, append.count, append.size, latency_s, now_us,
                            times, keys, append.group, retried)  # fmt: skip
            self.accesses.take(shard, OpType.APPEND, append.count, append.size, latency_s, now_us,
                               keys, append.group)  # fmt: skip
        for group, singles in small.items():
            self._append_singles(shard, singles, now_us, now_s, group)

    def _append_singles(
        self, shard: str, singles: list[PendingAppend], now_us: int, now_s: float, group: str
    ) -> None:
        """One commit's single records arrived within one gathering: counted as one batch."""
        mean_s = now_s - sum(a.received_s for a in singles) / len(singles)
        size = sum(a.size for a in singles)
        self.totals[OpType.APPEND].add(len(singles), size, mean_s)
        keys = [key for a in singles for key in a.record_keys()]
        retried = sum(a.retry for a in singles)
        self._running.served(shard, OpType.APPEND, len(singles), size, mean_s, now_s, retried,
                             len(singles))  # fmt: skip
        self._wall.record(shard, OpType.APPEND, len(singles), size, mean_s, now_us, None, keys,
                          group, retried)  # fmt: skip
        self.accesses.take(shard, OpType.APPEND, len(singles), size, mean_s, now_us, keys, group)

    def read(
        self,
        shard: str,
        event_time: bool,
        op: OpType,
        size: int,
        latency_s: float,
        key: bytes | None,
        group: str = "",
        retry: bool = False,
    ) -> None:
        """One read of a shard; in a log of event time it counts at the newest event. `retry`: it
        had been refused before."""
        self._operations += 1
        self._bytes += size
        self.totals[op].add(1, size, latency_s)
        if not self._config.profile:
            return
        retried, now_s = int(retry), self._env.clock.monotonic_s()
        self._running.served(shard, op, 1, size, latency_s, now_s, retried)
        keys, at_us = None if key is None else [key], self.clock.now_us()
        self.accesses.take(shard, op, 1, size, latency_s, at_us, keys, group)
        if not event_time:
            self._wall.record(shard, op, 1, size, latency_s, at_us, None, keys, group, retried)
        elif (slot := (line := self._event.of(shard)).slot) is not None:
            at_us = slot * line.recorder.period_us
            line.recorder.record(shard, op, 1, size, latency_s, at_us, None, keys, group, retried)

    def copied(self, size_bytes: int) -> None:
        """Bytes of a move that were sent or taken: they count as load."""
        self._bytes += size_bytes

    def replicated(self, shard: str, records: int, size_bytes: int) -> None:
        """Records were written for the primary: they cost this instance, too."""
        self._replicated += records
        self._replicated_bytes += size_bytes
        self._bytes += size_bytes
        if self._config.profile:
            now_s = self._env.clock.monotonic_s()
            self._running.replicated(shard, records, size_bytes, now_s)

    def failed(
        self, shard: str, event_time: bool, error: Exception, count: int = 1, retry: bool = False
    ) -> None:
        """Operations failed here. Only faults of the instance count: not a bad request, and not
        one that belongs elsewhere now, which the client sends there. `retry`: they had been
        refused before.
        """
        if isinstance(error, LogstoreError) and not isinstance(error, FAULTS):
            return
        self.failures[error.code if isinstance(error, LogstoreError) else "internal"] += count
        refused, now_s = isinstance(error, OverloadedError), self._env.clock.monotonic_s()
        self._running.failed(shard, count, now_s, refused=refused, retried=retry)
        if not event_time:
            now_us = self.clock.now_us()
            self._wall.failed(shard, count, now_us, refused=refused, retried=retry)
        elif (slot := (line := self._event.of(shard)).slot) is not None:
            at_us = slot * line.recorder.period_us
            line.recorder.failed(shard, count, at_us, refused=refused, retried=retry)

    def track(self, shard: str, event_time: bool) -> None:
        """The shard's primary is here from now on."""
        (self._event.of(shard).recorder if event_time else self._wall).track(shard)

    def gone(self, shard: str, event_time: bool) -> None:
        """The copy is not served here any more."""
        self.forget(shard, event_time)
        self._running.forget(shard)

    def forget(self, shard: str, event_time: bool) -> None:
        """The shard's primary is elsewhere: hand its counts over."""
        if event_time:
            statistics = self._event.forget(shard)
        else:
            statistics = self._wall.drain(self._wall_slot())
            self._wall.forget(shard)
        self._waiting.extend(
            s for s in statistics if s.shard == shard or s.query_count or s.failed_count
        )

    # ---- reports ---------------------------------------------------------------------------

    def _wall_slot(self) -> int:
        return self.clock.now_us() // round(self.slot_s * 1e6)

    def _close_slots(self) -> None:
        """Close every slot before the newest one; slots that a wrong clock closed are open
        again."""
        present = self._wall_slot()
        self._wall.reopen(present)
        self._wall.fold(present, present)
        self._wall.begin(present)
        self._waiting.extend(self._wall.drain(present - 1))
        self._waiting.extend(self._event.close(self._env.clock.monotonic_s()))
        while len(self._waiting) > WAITING_STATISTICS_MAX:
            self._drop_first()

    def _drop_first(self) -> None:
        self._waiting.popleft()
        self._first += 1

    def _drop_taken(self) -> None:
        """Drop what every coordinator has taken, and what waits too long for those that are
        away."""
        last, all_ = max(self._told.values()), min(self._told.values())
        while self._waiting and self._first < last:
            if self._first >= all_ and len(self._waiting) <= KEPT_FOR_OTHERS_MAX:
                return
            self._drop_first()

    def _open_slot(self, shard: str) -> tuple[int, int] | None:
        """The newest open slot of a shard and its operations so far; None: there is none."""
        present = self._wall_slot()
        if operations := self._wall.open_count(shard, present):
            return present, operations
        line = self._event.known(shard)
        if line is None or line.slot is None:
            return None
        return line.slot, line.recorder.open_count(shard, line.slot)

    def _open_keys(self, shard: str, slot: int) -> Keys:
        line = self._event.known(shard)
        return (line.recorder if line is not None else self._wall).open_keys(shard, slot)

    def stored(self, by_shard: Mapping[str, int]) -> None:
        """The bytes of each copy on the disk now."""
        now_s = self._env.clock.monotonic_s()
        for shard, stored_bytes in by_shard.items():
            self._running.stored(shard, stored_bytes, now_s)

    def status(
        self, stored_bytes: int, elapsed_s: float, throttled: int = 0, lag_s: float = 0.0
    ) -> DataStoreStatus:
        """The instance's load, as rates since the last call; `lag_s`: of the event loop."""
        counted, used = self._counted(), self.usage()
        found = self._load.measure(counted, used, stored_bytes, elapsed_s, lag_s)
        bound_by = max(found.loads, key=lambda resource: found.loads[resource])
        trips_us = self.round_trips.percentiles_us()
        self.last = DataStoreStatus(
            instance=self._config.instance,
            load=found.loads[bound_by],
            capacity=found.capacity,
            ops_per_s=found.ops_per_s,
            bytes_per_s=found.bytes_per_s,
            cpu_share=found.cpu_share,
            stored_bytes=stored_bytes,
            memory_bytes=used.memory_bytes,
            io_bytes_per_s=found.io_bytes_per_s,
            round_trip_ms={peer: p50 / 1e3 for peer, (p50, _, _) in trips_us.items()},
            round_trips_us=trips_us,
            throttled=throttled,
            started_us=self.started_us,
            unclean_start=self.unclean_start,
            faults=dict(self.failures),
            loads=found.loads,
            bound_by=bound_by,
            estimated=found.estimated,
            costs=found.costs,
            idle_cpu_share=found.idle_cpu_share,
            lag_ms=1e3 * lag_s,
        )
        return self.last

    def _counted(self) -> Counted:
        counts: dict[OpType, float] = {op: total.count for op, total in self.totals.items()}
        sizes = {op: total.bytes for op, total in self.totals.items()}
        bytes_in = sizes.pop(OpType.APPEND)
        bytes_out = sum(sizes.values())
        work = Work.of(counts, bytes_in, bytes_out, self._replicated, self._replicated_bytes,
                       self._append_batches)  # fmt: skip
        operations = self._operations + REPLICATED_COST * self._replicated
        return Counted(work, operations, self._bytes)

    async def report(
        self, send: Send, incarnation: int, status: DataStoreStatus, to: str = ""
    ) -> None:
        """Send closed slots; those that coordinator `to` did not take are sent again the next time.

        Every coordinator gets everything: each may lead a cell, or follow a dead leader.
        """
        self._close_slots()
        running = self._totals_sent.take(to, self._env.clock.monotonic_s())
        more = True
        while more:
            begin = max(self._told.setdefault(to, 0), self._first)
            count = min(self._first + len(self._waiting) - begin, REPORT_STATISTICS_MAX)
            part = [self._waiting[begin - self._first + i] for i in range(count)]
            request = coordinator_pb2.ReportRequest(
                instance=self._config.instance,
                incarnation=incarnation,
                shard_statistics_json=msgspec.json.encode(part),
                status_json=msgspec.json.encode(status),
                wall_us=self.clock.now_us(),
                totals_json=msgspec.json.encode(running) if running else b"",
            )
            try:
                answer = await send(request)
            except LogstoreError as e:
                self._totals_sent.put_back(to, running)
                _log.warning("report was not taken", coordinator=to, error=e.message)
                return
            self._told[to] = begin + count
            running = []
            self._drop_taken()
            self._take(answer)
            more = self._told[to] < self._first + len(self._waiting)

    def _take(self, answer: coordinator_pb2.ReportResponse) -> None:
        if answer.slot_s > 0 and answer.slot_s != self.slot_s:
            self.slot_s, wall, event = answer.slot_s, self._wall, self._event
            self._wall, self._event = self._new_recorder(), EventLines(self._new_recorder)
            for shard in wall.tracked:
                self._wall.track(shard)
            for shard in event.tracked():
                self._event.of(shard).recorder.track(shard)
        self._event.hear(answer.newest_slots)
