"""The demo's load: history in bulk, then an open loop of appends and reads at their own times.

Open loop: an operation starts at its time, whatever became of earlier ones, and its
latency runs from that *intended* time, so a stall counts for everything that waits behind it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coordinator.local.demo.scene import HOUR_US, Replay
from coordinator.local.journal import Journal, JournalEntry, value_hash
from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import AppendManyError, LogstoreError, OutcomeUnknownError
from logstore.base.types import Ack
from logstore.client.client import Log

BULK_ROWS = 16_384
READ_BACK_US = 48 * HOUR_US
"""A read asks for the key's records of the last two days."""
PERCENTILES = (50.0, 99.0, 99.9)

Spans = Sequence[tuple[float, float]]
"""Half-open spans of the replay, in seconds."""


@dataclass(slots=True)
class Counts:
    """The figures of one cluster's clients."""

    acked: int = 0
    read: int = 0
    errors: int = 0
    first_error: str = ""

    def failed(self, error: LogstoreError, count: int = 1) -> None:
        self.errors += count
        self.first_error = self.first_error or error.message


async def append_history(log: Log, events: pa.Table, journal: Journal, counts: Counts) -> None:
    """Append all rows in event order; every ack goes to the journal."""
    shards = await log.shard_map()
    for start in range(0, len(events), BULK_ROWS):
        part = events.slice(start, BULK_ROWS).combine_chunks()
        keys, values = part["key"].to_pylist(), part["value"].to_pylist()
        times = part["event_time_us"]
        numbers = [journal.number(key) for key in keys]
        try:
            acks = await log.append_many(part["key"], part["value"], times)
            stored = np.ones(len(keys), dtype=bool)
        except AppendManyError as e:
            counts.failed(e)
            acks, stored = e.acks, np.zeros(len(keys), dtype=bool)
            for low, high in e.stored:
                stored[low:high] = True
        rows = [i for i in range(len(keys)) if stored[i]]
        places = _places([shards.find(keys[i]).id for i in rows], acks)
        whens = times.to_pylist()
        journal.write(
            [
                JournalEntry(keys[i], value_hash(values[i]), numbers[i], whens[i], *places[at])
                for at, i in enumerate(rows)
            ]
        )
        counts.acked += len(rows)


def _places(shards: list[str], acks: list[Ack]) -> list[tuple[str, int]]:
    """Shard and offset of each row: rows of one shard are stored in order, ack by ack."""
    offsets: dict[str, list[int]] = {}
    for ack in acks:
        offsets.setdefault(ack.shard, []).extend(range(ack.offset, ack.offset + ack.count))
    at = {shard: iter(sorted(found)) for shard, found in offsets.items()}
    return [(shard, next(at[shard])) for shard in shards]


@dataclass(slots=True)
class Driver:
    """Plays a replay against one cluster. Latencies are kept by operation of the replay (ms)."""

    log: Log
    replay: Replay
    events: pa.Table
    env: Env
    journal: Journal | None
    counts: Counts = field(default_factory=Counts)
    begin_s: float = 0.0
    begin_us: int = 0
    sent: int = 0
    latency_ms: npt.NDArray[np.float64] = field(init=False)
    late_s_max: float = 0.0

    def __post_init__(self) -> None:
        self.latency_ms = np.full(len(self.replay.at_s), np.nan)

    def now_s(self) -> float:
        """Since the replay's start; negative before."""
        return self.env.clock.monotonic_s() - self.begin_s

    async def play(self, begin_s: float, begin_us: int) -> None:
        """Start at `begin_s` of the monotonic clock, `begin_us` of the wall clock."""
        self.begin_s, self.begin_us = begin_s, begin_us
        keys = self.events["key"].to_pylist()
        values = self.events["value"].to_pylist()
        times = self.events["event_time_us"].to_pylist()
        at_s, rows, reads = (
            self.replay.at_s.tolist(), self.replay.row.tolist(), self.replay.is_read.tolist()
        )  # fmt: skip
        running = Background("the demo's load")
        while self.sent < len(at_s):
            now = self.now_s()
            if at_s[self.sent] > now:
                await asyncio.sleep(min(at_s[self.sent] - now, 0.05))
                continue
            self.late_s_max = max(self.late_s_max, now - at_s[self.sent])
            while self.sent < len(at_s) and at_s[self.sent] <= now:
                i, row = self.sent, rows[self.sent]
                work = (
                    self._read(i, keys[row], times[row])
                    if reads[i]
                    else self._append(i, keys[row], values[row], times[row])
                )
                running.start(work)
                self.sent += 1
            await asyncio.sleep(0)
        await asyncio.gather(*running)

    async def _append(self, i: int, key: bytes, value: bytes, time_us: int) -> None:
        n = self.journal.number(key) if self.journal is not None else 0
        try:
            ack = await self.log.append(key, value, timestamp=time_us)
        except LogstoreError as e:
            self.counts.failed(e)
            if self.journal is not None and isinstance(e, OutcomeUnknownError):
                self.journal.unknown(key, value, n, time_us)
            return
        self._done(i)
        self.counts.acked += 1
        if self.journal is not None:
            self.journal.acked(key, value, n, ack, time_us)

    async def _read(self, i: int, key: bytes, time_us: int) -> None:
        try:
            async for _ in self.log.read(key=key, since=time_us - READ_BACK_US):
                pass
        except LogstoreError as e:
            self.counts.failed(e)
            return
        self._done(i)
        self.counts.read += 1

    def _done(self, i: int) -> None:
        self.latency_ms[i] = (self.now_s() - self.replay.at_s[i]) * 1e3

    def percentiles(self, reads: bool, spans: Spans) -> dict[str, float | int] | None:
        """p50, p99, p999 in ms of operations intended in the spans; None: there are none."""
        at = self.replay.at_s
        inside = np.logical_or.reduce([(at >= since) & (at < until) for since, until in spans])
        chosen = (self.replay.is_read == reads) & inside
        found = self.latency_ms[chosen & ~np.isnan(self.latency_ms)]
        if not len(found):
            return None
        p50, p99, p999 = np.percentile(found, PERCENTILES)
        return {
            "p50": round(float(p50), 3),
            "p99": round(float(p99), 3),
            "p999": round(float(p999), 3),
            "count": len(found),
        }
