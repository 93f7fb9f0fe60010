"""The profiling agent of an instance (R1.1): counts on the hot path, a report each period.

The counting is `profiler.Agent`; here are its clock, the system's metrics and the way to the
coordinator. While no coordinator answers, closed slots wait here (bounded by the profiler).
"""

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
import numpy as np
import psutil
import structlog

from logstore.base.env import Env
from logstore.base.errors import (
    LogstoreError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from logstore.node.appends import PendingAppend
from logstore.node.config import NodeConfig
from logstore.node.totals import Total
from logstore.proto.coordinator_v1 import coordinator_pb2
from profiler.agent import Agent as Recorder
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics

_log = structlog.get_logger(__name__)

REPORT_STATISTICS_MAX = 2_000
"""Statistics in one report; more wait for the next call."""
WAITING_STATISTICS_MAX = 500_000
KEPT_FOR_OTHERS_MAX = 10_000
"""Statistics that one coordinator has taken wait for the others up to this many."""
LATENESS_S = 2.0
LIVE_SLOTS_MAX = 8
"""While event time runs faster than this many slots in LATENESS_S, history is being fed: shards are
then apart in event time, and a slot stays open LATENESS_S longer."""

FAULTS = (StorageError, OverloadedError, UnavailableError)

Send = Callable[
    [coordinator_pb2.ReportRequest], Coroutine[Any, Any, coordinator_pb2.ReportResponse]
]


class Agent:
    """Records operations and reports them. Owned by the loop.

    Logs count by the wall clock or by their records' own times. The two run far apart (history is
    replayed in years that are past), so each has a recorder of its own, whose slots close by its
    own newest time. All logs of event time in a cluster share one time line.
    """

    def __init__(self, config: NodeConfig, env: Env, slot_s: float = 300.0) -> None:
        self._config = config
        self._env = env
        self.slot_s = slot_s
        self._wall = self._new_recorder()
        self._event = self._new_recorder()
        self._event_us = -1
        """The newest event time seen here; -1: none."""
        self._newest_slot = -1
        """The newest slot of event time heard of anywhere; -1: none."""
        self._passed: deque[tuple[float, int]] = deque()
        """When event time was where: the oldest is from LATENESS_S ago, or the first."""
        self._waiting: deque[ShardStatistics] = deque()
        self._first = 0
        """Number of the first that waits."""
        self._told: dict[str, int] = {}
        """Coordinator -> the number that it is told next."""
        self._process = psutil.Process()
        self._totals = (0, 0, 0.0, 0.0)
        self._operations = 0
        self._bytes = 0
        self.totals = {op: Total() for op in OpType}
        """Since the start, for the metrics."""
        self.failures: Counter[str] = Counter()
        """Operations that failed here since the start, by error code."""
        self.round_trip_ms: dict[str, float] = {}

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
        now_us, now_s = self._env.clock.wall_us(), self._env.clock.monotonic_s()
        small: dict[str, list[PendingAppend]] = {}
        for append in appends:
            if append.duplicate:
                continue
            self._operations += append.count
            self._bytes += append.size
            if not self._config.profile:
                latency_s = now_s - append.received_s
                self.totals[OpType.APPEND].add(append.count, append.size, latency_s)
                continue
            times = append.event_times() if event_time else None
            if times is None and append.count == 1:
                small.setdefault(append.group, []).append(append)
                continue
            if times is not None and append.time_max_us is not None:
                self._event_us = max(self._event_us, append.time_max_us)
            recorder = self._wall if times is None else self._event
            latency_s = now_s - append.received_s
            self.totals[OpType.APPEND].add(append.count, append.size, latency_s)
            recorder.record(shard, OpType.APPEND, append.count, append.size, latency_s, now_us,
                            times, append.record_keys(), append.group)  # fmt: skip
        for group, singles in small.items():
            self._append_singles(shard, singles, now_us, now_s, group)

    def _append_singles(
        self, shard: str, singles: list[PendingAppend], now_us: int, now_s: float, group: str
    ) -> None:
        """One commit's single records arrived within one gathering: told as one batch."""
        mean_s = now_s - sum(a.received_s for a in singles) / len(singles)
        size = sum(a.size for a in singles)
        self.totals[OpType.APPEND].add(len(singles), size, mean_s)
        keys = [key for a in singles for key in a.record_keys()]
        self._wall.record(shard, OpType.APPEND, len(singles), size, mean_s, now_us, None, keys,
                          group)  # fmt: skip

    def read(
        self,
        shard: str,
        event_time: bool,
        op: OpType,
        size: int,
        latency_s: float,
        key: bytes | None,
        group: str = "",
    ) -> None:
        """One read of a shard; in a log of event time it counts at the newest event."""
        self._operations += 1
        self._bytes += size
        self.totals[op].add(1, size, latency_s)
        if not self._config.profile:
            return
        keys = None if key is None else [key]
        if not event_time:
            at_us = self._env.clock.wall_us()
            self._wall.record(shard, op, 1, size, latency_s, at_us, None, keys, group)
        elif (slot := self._event_slot()) >= 0:
            at_us = slot * round(self.slot_s * 1e6)
            self._event.record(shard, op, 1, size, latency_s, at_us, None, keys, group)

    def copied(self, size_bytes: int) -> None:
        """Bytes of a move that were sent or taken: they are load like any other (R1.2)."""
        self._bytes += size_bytes

    def failed(self, shard: str, event_time: bool, error: Exception, count: int = 1) -> None:
        """An operation failed here. Only what the instance is to blame for counts: not a bad
        request, and not one that belongs elsewhere now, which the client sends there.
        """
        if isinstance(error, LogstoreError) and not isinstance(error, FAULTS):
            return
        self.failures[error.code if isinstance(error, LogstoreError) else "internal"] += count
        if not event_time:
            self._wall.failed(shard, count, self._env.clock.wall_us())
        elif (slot := self._event_slot()) >= 0:
            self._event.failed(shard, count, slot * round(self.slot_s * 1e6))

    def track(self, shard: str, event_time: bool) -> None:
        """The shard's primary is here from now on."""
        (self._event if event_time else self._wall).track(shard)

    def forget(self, shard: str, event_time: bool) -> None:
        """The shard's primary is elsewhere: hand over what was counted."""
        recorder = self._event if event_time else self._wall
        newest = self._event_slot() if event_time else self._wall_slot()
        self._waiting.extend(
            s for s in recorder.drain(newest) if s.shard == shard or s.query_count or s.failed_count
        )
        recorder.forget(shard)

    # ---- reports ---------------------------------------------------------------------------

    def _wall_slot(self) -> int:
        return self._env.clock.wall_us() // round(self.slot_s * 1e6)

    def _event_slot(self) -> int:
        """The newest slot of event time, here or elsewhere; -1: there is none."""
        return max(self._event_us // round(self.slot_s * 1e6), self._newest_slot)

    def _open_event_slot(self) -> int:
        """The first slot of event time that still takes operations; -1: no event was seen."""
        newest, now_s = self._event_slot(), self._env.clock.monotonic_s()
        if newest < 0:
            return -1
        self._passed.append((now_s, newest))
        while len(self._passed) > 1 and self._passed[1][0] <= now_s - LATENESS_S:
            self._passed.popleft()
        since_s, before = self._passed[0]
        if now_s - since_s < LATENESS_S:
            return -1
        return newest if newest - before <= LIVE_SLOTS_MAX else before

    def _close_slots(self) -> None:
        """Close every slot before the newest one."""
        self._waiting.extend(self._wall.drain(self._wall_slot() - 1))
        if (open_slot := self._open_event_slot()) > 0:
            self._waiting.extend(self._event.drain(open_slot - 1))
        while len(self._waiting) > WAITING_STATISTICS_MAX:
            self._drop_first()

    def _drop_first(self) -> None:
        self._waiting.popleft()
        self._first += 1

    def _drop_taken(self) -> None:
        """What every coordinator has taken, and what waits too long for those that are away."""
        last, all_ = max(self._told.values()), min(self._told.values())
        while self._waiting and self._first < last:
            if self._first >= all_ and len(self._waiting) <= KEPT_FOR_OTHERS_MAX:
                return
            self._drop_first()

    def status(self, stored_bytes: int, elapsed_s: float, throttled: int = 0) -> DataStoreStatus:
        """What the instance carries, as rates since the last call (R1.2)."""
        cpu = self._process.cpu_times()
        io = self._process.io_counters()
        totals = (self._operations, self._bytes, cpu.user + cpu.system,
                  float(io.read_bytes + io.write_bytes))  # fmt: skip
        before, self._totals = self._totals, totals
        ops, size, cpu_s, io_bytes = (
            (now - then) / elapsed_s for now, then in zip(totals, before, strict=True)
        )
        inf = float("inf")
        capacity = Capacity(
            ops_per_s=self._config.ops_per_s_max or inf,
            bytes_per_s=self._config.bytes_per_s_max or inf,
            cpu_share=float(psutil.cpu_count() or 1),
            stored_bytes=float(self._config.stored_bytes_max or inf),
        )
        return DataStoreStatus(
            instance=self._config.instance,
            load=capacity.load(ops, size, cpu_s, stored_bytes),
            capacity=capacity,
            ops_per_s=ops,
            bytes_per_s=size,
            cpu_share=cpu_s,
            stored_bytes=stored_bytes,
            memory_bytes=self._process.memory_info().rss,
            io_bytes_per_s=io_bytes,
            round_trip_ms=dict(self.round_trip_ms),
            throttled=throttled,
        )

    async def report(
        self, send: Send, incarnation: int, status: DataStoreStatus, to: str = ""
    ) -> None:
        """Send what is closed; what coordinator `to` did not take is sent again the next time.

        Every coordinator is told everything: each may lead a cell, or follow a dead leader.
        """
        self._close_slots()
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
            )
            try:
                answer = await send(request)
            except LogstoreError as e:
                _log.warning("report was not taken", coordinator=to, error=e.message)
                return
            self._told[to] = begin + count
            self._drop_taken()
            self._take(answer)
            more = self._told[to] < self._first + len(self._waiting)

    def _take(self, answer: coordinator_pb2.ReportResponse) -> None:
        if answer.slot_s > 0 and answer.slot_s != self.slot_s:
            self.slot_s = answer.slot_s
            self._wall, self._event = self._new_recorder(), self._new_recorder()
        self._newest_slot = max(self._newest_slot, answer.newest_slot)
