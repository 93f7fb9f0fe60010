"""The metadata store as processes see it: linearizable, far away, and sometimes silent.

A request that was given up may still be applied later, and the reply of one that was applied may be
lost: to its caller both are an `UnavailableError` whose outcome is unknown (P3).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from logstore.base.errors import LogstoreError, UnavailableError
from logstore.meta.leases import LeaseTable
from logstore.meta.memory import Tables, check_txn
from logstore.meta.port import (
    Compare,
    Delete,
    Lease,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    Versioned,
    WatchEvent,
)
from logstore.meta.records import (
    CLUSTER_ID,
    GENERATION,
    GenerationRecord,
    encode,
    generation_key,
)
from tests.simulation.loop import PROCESS
from tests.simulation.network import TICK_S, Network
from tests.simulation.world import World
from tests.support.checkers.history import MetadataTxn

CLUSTER, GENERATION_ID = "5eed", "0000000000000001"
STORE = "store"
"""Name of the store in the network's blocked pairs."""
TIMEOUT_S = 1.0
LATE_S = 3.0
"""A late request is applied at most so long after it was sent."""


class Cluster:
    """The store itself."""

    def __init__(self, world: World, network: Network) -> None:
        self.world = world
        self.network = network
        self.tables = Tables()
        self.lost_replies: dict[str, float] = {}
        """Process name -> chance that a reply to it is lost."""
        self.late_requests: dict[str, float] = {}
        """Process name -> chance that a request of it comes late."""
        self.leases = LeaseTable()
        self.watches: dict[int, _Watch] = {}
        self._numbers = 0
        self._foreign = False
        self.on_change: Callable[[tuple[WatchEvent, ...]], None] = lambda events: None

    def swap(self, tables: Tables, leases: LeaseTable, *, foreign: bool) -> None:
        """Another store lies where ours was, or ours again. What is written to a foreign one is no
        part of the history."""
        self.tables, self.leases, self._foreign = tables, leases, foreign
        self._expire()

    def found(self) -> None:
        """The store's first generation, as the first coordinator begins it."""
        puts = [*generation_puts(GENERATION_ID, "created"), Put(CLUSTER_ID, CLUSTER.encode())]
        self.txn("setup", [Compare(put.key, 0) for put in puts], puts)

    def txn(
        self, author: str, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> TxnResult:
        check_txn(compares, operations)
        tables = self.tables
        if not tables.holds(compares):
            return TxnResult(False, tables.revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease:
                self.leases.check_alive(operation.lease, self.world.now_s)
                self.leases.attach(operation.key, operation.lease)
        self._apply(author, compares, operations)
        return TxnResult(True, tables.revision)

    def _apply(
        self, author: str, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> None:
        tables = self.tables
        changes = tables.changes(operations)
        if changes and self._foreign:
            tables.apply(changes)
            for watch in list(self.watches.values()):
                watch.changed(changes)
        elif changes:
            self.world.history.metadata.append(
                MetadataTxn(
                    at_s=self.world.now_s,
                    author=author,
                    compared={c.key: c.revision for c in compares},
                    written={o.key: o.value if isinstance(o, Put) else None for o in operations},
                    revision=tables.revision + 1,
                )
            )
            tables.apply(changes)
            for watch in list(self.watches.values()):
                watch.changed(changes)
            self.on_change(tuple(changes))

    def by_hand(self, operations: Sequence[Operation]) -> None:
        """A person writes with a tool of the store; the write is no part of the history."""
        changes = self.tables.changes(operations)
        self.tables.apply(changes)
        for watch in list(self.watches.values()):
            watch.changed(changes)

    # ---- leases ----------------------------------------------------------------------------------

    def grant(self, ttl_s: float) -> Lease:
        lease = Lease(self.world.rng.getrandbits(60), ttl_s)
        self.leases.grant(lease, self.world.now_s)
        self.world.after(ttl_s, self._expire)
        return lease

    def keep_alive(self, lease: int) -> Lease:
        kept = self.leases.keep_alive(lease, self.world.now_s)
        self.world.after(kept.ttl_s, self._expire)
        return kept

    def _expire(self) -> None:
        for lease in self.leases.due(self.world.now_s):
            self.world.tell("a lease ended")
            self.revoke(lease)

    def revoke(self, lease: int) -> None:
        """Its keys go, compared by the store itself."""
        if lease not in self.leases:
            return
        keys = [key for key in self.leases.keys(lease) if key in self.tables.items]
        compares = [Compare(key, self.tables.items[key].revision) for key in keys]
        self._apply(STORE, compares, [Delete(key) for key in keys])
        self.leases.drop(lease)

    def compact(self) -> None:
        """Forget the history: watches that are behind must range again."""
        tables = self.tables
        tables.compacted = tables.revision
        tables._history.clear()

    def break_watches(self, name: str) -> None:
        for watch in list(self.watches.values()):
            if watch.process.name == name:
                watch.fail(UnavailableError("the watch broke"))

    def watch_number(self, watch: "_Watch") -> int:
        self._numbers += 1
        self.watches[self._numbers] = watch
        return self._numbers


def generation_puts(generation: str, cause: str) -> list[Put]:
    """What begins a generation."""
    record = GenerationRecord(generation, cause, "setup", 0)
    return [
        Put(generation_key(generation), encode(record)),
        Put(GENERATION, generation.encode()),
    ]


class SimStore:
    """A process's way to the store. See `logstore.meta.port.MetadataStore`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        process = PROCESS.get()
        assert process is not None
        self._process = process

    async def get(self, key: str) -> Versioned | None:
        found: Versioned | None = await self._ask(lambda: self._cluster.tables.items.get(key))
        return found

    async def range(self, prefix: str) -> RangeResult:
        found: RangeResult = await self._ask(lambda: self._cluster.tables.range(prefix))
        return found

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        name = self._process.name
        done: TxnResult = await self._ask(lambda: self._cluster.txn(name, compares, operations))
        return done

    async def watch(
        self, prefix: str, after_revision: int
    ) -> AsyncIterator[tuple[WatchEvent, ...]]:
        await self._ask(lambda: None)
        watch = _Watch(self._cluster, self._process, prefix)
        try:
            found = self._cluster.tables.since(prefix, after_revision)
            watch.changed(found)
            while True:
                yield await watch.next()
        finally:
            watch.close()

    async def lease_grant(self, ttl_s: float) -> Lease:
        granted: Lease = await self._ask(lambda: self._cluster.grant(ttl_s))
        return granted

    async def lease_keep_alive(self, lease: int) -> Lease:
        kept: Lease = await self._ask(lambda: self._cluster.keep_alive(lease))
        return kept

    async def lease_revoke(self, lease: int) -> None:
        await self._ask(lambda: self._cluster.revoke(lease))

    async def close(self) -> None:
        return None

    async def _ask(self, apply: Callable[[], Any]) -> Any:
        """Send, apply at one moment, and hear of it or not."""
        cluster, world, network = self._cluster, self._cluster.world, self._cluster.network
        name, rng = self._process.name, self._cluster.world.delays
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def reply(result: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def arrive() -> None:
            if not network.reaches(name, STORE):
                return
            result, error = None, None
            try:
                result = apply()
            except LogstoreError as e:
                error = e
            world.trace(f"{name} asked the store")
            if not network.reaches(STORE, name):
                return
            if rng.random() < cluster.lost_replies.get(name, 0.0):
                return
            world.after(network.delay_s(STORE, name), reply, result, error)

        sent_s = network.delay_s(name, STORE)
        if rng.random() < cluster.late_requests.get(name, 0.0):
            sent_s += rng.random() * LATE_S
        world.after(sent_s, arrive)
        world.after(TIMEOUT_S, reply, None, UnavailableError("the metadata store did not answer"))
        return await answer


class _Watch:
    """Events on their way to one watcher, in order."""

    def __init__(self, cluster: Cluster, process: Any, prefix: str) -> None:
        self.process = process
        self._cluster = cluster
        self._prefix = prefix
        self._queue: deque[tuple[WatchEvent, ...]] = deque()
        self._error: LogstoreError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._last_s = 0.0
        self._number = cluster.watch_number(self)

    def changed(self, changes: Sequence[WatchEvent]) -> None:
        if not self.process.alive:
            self.close()
            return
        ours = [c for c in changes if c.key.startswith(self._prefix)]
        world, network = self._cluster.world, self._cluster.network
        for _, events in groupby(ours, key=attrgetter("revision")):
            when_s = world.now_s + network.delay_s(STORE, self.process.name)
            self._last_s = max(self._last_s + TICK_S, when_s)
            world.at(self._last_s, self._arrive, tuple(events))

    def _arrive(self, events: tuple[WatchEvent, ...]) -> None:
        if not self._cluster.network.reaches(STORE, self.process.name):
            self.fail(UnavailableError("the watch broke"))
            return
        if self._error is None:
            self._queue.append(events)
            self._wake()

    def fail(self, error: LogstoreError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> tuple[WatchEvent, ...]:
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._queue.popleft()

    def close(self) -> None:
        self._cluster.watches.pop(self._number, None)
