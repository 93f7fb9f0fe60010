"""Recorded clients: what they send, when, and how it ended goes into the history at once.

- one *producer* a shard, open loop: it sends on schedule whatever became of the calls before;
- *conditional appenders* that contend for the same keys;
- *readers* by key; *tails* of the whole log from its start.

Keys live for a few dozen records, so reads of a whole key stay small however long the run is.
"""

import asyncio
import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from logstore.base.errors import LogstoreError, OutcomeUnknownError, VersionConflictError
from logstore.client.client import Client, Log, connect
from tests.cluster.cluster import eventually
from tests.support.checkers.history import Row
from tests.support.history.record import Recorder

SHARD_STARTS = (b"a", b"h", b"q")
"""First bytes of the keys of shard 0, 1, 2; `split_keys` are the last two."""

KEYS_AT_ONCE = 8
RECORDS_PER_KEY = 24
CONDITIONAL_RECORDS_PER_KEY = 40
IN_FLIGHT_MAX = 2_000
"""Of one producer: beyond it the producer waits, and says so in the summary."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls a second; modest, since all parties share two cores."""

    per_producer: float = 40.0
    conditional_pause_s: float = 0.05
    reader_pause_s: float = 0.1
    conditional_clients: int = 2
    readers: int = 2
    tails: int = 2


@dataclass(slots=True)
class Counts:
    calls: int = 0
    acked: int = 0
    conflicts: int = 0
    refused: int = 0
    unknown: int = 0
    reads: int = 0
    reads_failed: int = 0
    tails_failed: int = 0
    held_back: int = 0

    @property
    def failed(self) -> int:
        """Calls that failed for the caller; conflicts are answers."""
        return self.refused + self.unknown + self.reads_failed + self.tails_failed


@dataclass(slots=True)
class Acks:
    """Of one shard's producer: (called, returned) of each ack, in the order they came."""

    times: list[tuple[float, float]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, called_s: float, returned_s: float) -> None:
        self.times.append((called_s, returned_s))
        self._news.set()

    async def first_after(self, moment_s: float, limit_s: float) -> float:
        """When the first append that was called after the moment was acked."""
        seen = len(self.times)
        while seen and self.times[seen - 1][1] > moment_s:
            seen -= 1
        async with asyncio.timeout(limit_s):
            while True:
                for called_s, returned_s in self.times[seen:]:
                    if called_s > moment_s:
                        return returned_s
                seen = len(self.times)
                self._news.clear()
                await self._news.wait()


class Load:
    """`async with Load(...)`: clients run until `finish`."""

    def __init__(
        self, addresses: str, log: str, recorder: Recorder, *, rates: Rates | None = None,
        seed: int = 0, timeout_s: float = 30.0,
    ) -> None:  # fmt: skip
        self.log, self.recorder, self.counts = log, recorder, Counts()
        self.acks = {f"{log}/{i}": Acks() for i in range(len(SHARD_STARTS))}
        self._addresses, self._rates, self._timeout_s = addresses, rates or Rates(), timeout_s
        self._dice = random.Random(seed)
        self._serial = itertools.count()
        self._stack = contextlib.AsyncExitStack()
        self._senders: list[asyncio.Task[None]] = []
        self._tails: list[asyncio.Task[None]] = []
        self._flying: set[asyncio.Task[int | None]] = set()
        self._stopping = False
        self._acked: dict[str, int] = {}
        """The highest acked offset of each shard."""
        self._tailed: dict[str, dict[str, int]] = {}
        self._recent: list[bytes] = []

    async def __aenter__(self) -> "Load":
        rates = self._rates
        admin = await self._client("admin")
        # The fault before may still keep the coordinators from hearing the instances.
        await eventually(
            functools.partial(
                admin.create_log,
                self.log,
                split_keys=SHARD_STARTS[1:],
                replicas=3,
                min_in_sync=2,
            )
        )
        for number, start in enumerate(SHARD_STARTS):
            await self._spawn(self._senders, f"p{number}", self._produce, start, number)
        shared = _Contended()
        for number in range(rates.conditional_clients):
            await self._spawn(self._senders, f"c{number}", self._contend, shared)
        for number in range(rates.readers):
            await self._spawn(self._senders, f"r{number}", self._read)
        for number in range(rates.tails):
            await self._spawn(self._tails, f"t{number}", self._tail)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in [*self._senders, *self._tails, *self._flying]:
            task.cancel()
        await asyncio.gather(*self._senders, *self._tails, *self._flying, return_exceptions=True)
        await self._stack.aclose()

    async def finish(self, limit_s: float = 30.0) -> None:
        """No new calls; wait for those in flight, then for the tails to see what was acked."""
        self._stopping = True
        async with asyncio.timeout(self._timeout_s + 10):
            await asyncio.gather(*self._senders, *self._flying)
        deadline_s = time.monotonic() + limit_s
        waiting = True
        while waiting and time.monotonic() < deadline_s:
            waiting = not all(
                seen.get(shard, -1) >= offset
                for seen in self._tailed.values()
                for shard, offset in self._acked.items()
            )
            await asyncio.sleep(0.05)
        for consumer in self._tailed:
            self.recorder.ended(consumer, caught_up=True)

    async def final_rows(self) -> list[Row]:
        """The whole log, read by a new client and written into the history."""
        rows: list[Row] = []
        client = await self._client("final")
        log = await client.log(self.log)
        async with contextlib.aclosing(log.lists(tail=False)) as lists:
            async for records in lists:
                part = [Row(r.shard, r.offset, r.key, r.value, 0) for r in records]
                self.recorder.final(part)
                rows += part
        return rows

    # ---- clients -------------------------------------------------------------------------------

    async def _client(self, group: str) -> Client:
        client = connect(self._addresses, client_group=group, timeout_s=self._timeout_s)
        return await self._stack.enter_async_context(client)

    async def _spawn(
        self, tasks: list[asyncio.Task[None]], name: str,
        work: Callable[..., Coroutine[Any, Any, None]], *arguments: object,
    ) -> None:  # fmt: skip
        log = await (await self._client(name)).log(self.log)
        tasks.append(asyncio.create_task(work(log, name, *arguments), name=name))

    async def _produce(self, log: Log, name: str, start: bytes, number: int) -> None:
        acks = self.acks[f"{self.log}/{number}"]
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for count in itertools.count():
            due_s += 1 / self._rates.per_producer
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if self._stopping:
                return
            if len(self._flying) > IN_FLIGHT_MAX:
                self.counts.held_back += 1
                continue
            generation = count // (KEYS_AT_ONCE * RECORDS_PER_KEY)
            key = b"%s-%d-%d" % (start, generation, self._dice.randrange(KEYS_AT_ONCE))
            self._remember(key)
            task = asyncio.create_task(self._append(log, name, key, None, acks))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)

    async def _append(
        self, log: Log, name: str, key: bytes, expected: int | None, acks: Acks | None = None
    ) -> int | None:
        """The key's version if the append returned it."""
        value = b"%s-%d" % (name.encode(), next(self._serial))
        counts, recorder = self.counts, self.recorder
        counts.calls += 1
        called_s = time.monotonic()
        call = recorder.call(name, key, value, expected)
        try:
            ack = await log.append(key, value, expected_version=expected)
        except VersionConflictError as e:
            counts.conflicts += 1
            recorder.returned(call, "conflict", error=e.message)
            return None
        except LogstoreError as e:
            unknown = isinstance(e, OutcomeUnknownError)
            counts.unknown += unknown
            counts.refused += not unknown
            recorder.returned(call, "unknown" if unknown else "refused",
                              error=f"{e.code}: {e.message}")  # fmt: skip
            return None
        counts.acked += 1
        recorder.returned(call, "acked", shard=ack.shard, offset=ack.offset, version=ack.version)
        self._acked[ack.shard] = max(self._acked.get(ack.shard, -1), ack.offset)
        if acks is not None:
            acks.add(called_s, time.monotonic())
        return ack.version

    async def _contend(self, log: Log, name: str, shared: "_Contended") -> None:
        while not self._stopping:
            key, expected = shared.now(self._dice)
            version = await self._append(log, name, key, expected)
            if version is not None:
                shared.reached(key, version)
            else:  # another was faster, or the outcome is unknown: look
                rows = await self._read_key(log, name, key)
                if rows is not None:
                    shared.reached(key, len(rows))
            await asyncio.sleep(self._rates.conditional_pause_s * (0.5 + self._dice.random()))

    async def _read(self, log: Log, name: str) -> None:
        while not self._stopping:
            if self._recent:
                await self._read_key(log, name, self._dice.choice(self._recent))
            await asyncio.sleep(self._rates.reader_pause_s)

    async def _read_key(self, log: Log, name: str, key: bytes) -> list[Row] | None:
        self.counts.reads += 1
        call = self.recorder.call(name, key)
        try:
            rows = [Row(r.shard, r.offset, r.key, r.value, 0) async for r in log.read(key=key)]
        except LogstoreError as e:
            self.counts.reads_failed += 1
            self.recorder.returned(call, "refused", error=f"{e.code}: {e.message}")
            return None
        self.recorder.returned(call, "acked", rows=rows)
        return rows

    async def _tail(self, log: Log, name: str) -> None:
        """A tail that fails is followed by another consumer, from the start again."""
        for life in itertools.count():
            consumer = f"{name}.{life}"
            seen = self._tailed[consumer] = {}
            try:
                async with contextlib.aclosing(log.lists(tail=True, from_start=True)) as lists:
                    async for records in lists:
                        rows = [Row(r.shard, r.offset, r.key, r.value, 0) for r in records]
                        self.recorder.polled(consumer, rows)
                        for row in rows:
                            seen[row.shard] = row.offset
            except LogstoreError as e:
                self.counts.tails_failed += 1
                self.recorder.fault(f"{consumer} ended: {e.code}: {e.message}")
            self.recorder.ended(consumer, caught_up=False)
            del self._tailed[consumer]

    def _remember(self, key: bytes) -> None:
        self._recent.append(key)
        del self._recent[:-64]


class _Contended:
    """The keys that conditional appenders fight over, with the newest version any of them knows."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = dict.fromkeys(SHARD_STARTS, 0)
        self._names = {start: start + b"-c-0" for start in SHARD_STARTS}
        self._generation = itertools.count(1)

    def now(self, dice: random.Random) -> tuple[bytes, int]:
        start = dice.choice(SHARD_STARTS)
        return self._names[start], self._known[start]

    def reached(self, key: bytes, version: int) -> None:
        for start, name in self._names.items():
            if name == key:
                self._known[start] = max(self._known[start], version)
                if version >= CONDITIONAL_RECORDS_PER_KEY:
                    self._names[start] = b"%s-c-%d" % (start, next(self._generation))
                    self._known[start] = 0
