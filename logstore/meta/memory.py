"""The in-memory twin of the MetadataStore: for tests, simulation, and as the rocks store's cache.

`Tables` is the synchronous heart (keys, revisions, a bounded history); `MemoryMetadataStore` gives
it the port's asynchronous face. Everything runs in one event loop, so a transaction is atomic.
Leases end by a timer of the loop, by the clock of the `Env` given.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

import structlog

from logstore.base.env import Env
from logstore.base.errors import (
    ConflictError,
    InvalidArgumentError,
    LimitExceededError,
    StorageError,
    UnavailableError,
)
from logstore.meta.leases import LeaseTable, check_ttl
from logstore.meta.port import (
    TXN_BYTES_MAX,
    TXN_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
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

HISTORY_EVENTS_MAX = 10_000
"""Changes that a watch may be behind before it must range again."""
LEASE_TIMER_S_MIN = 0.01
"""Least interval of the timer, also with a clock that does not move."""
LEASE_RETRY_S = 1.0
"""Wait before a lease's end is tried again after its write failed."""

_log = structlog.get_logger(__name__)


def check_txn(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Refuse a transaction that etcd would refuse: too large, or one key changed twice."""
    for name, count in (("txn.compares", len(compares)), ("txn.operations", len(operations))):
        if count > TXN_OPERATIONS_MAX:
            raise LimitExceededError.of(name, count, TXN_OPERATIONS_MAX, "operations")
    keys = {operation.key for operation in operations}
    if len(keys) != len(operations):
        raise InvalidArgumentError("txn.operations change one key twice, the limit is once")
    for operation in operations:
        if isinstance(operation, Put) and len(operation.value) > VALUE_BYTES_MAX:
            raise LimitExceededError.of(
                f"value of {operation.key}", len(operation.value), VALUE_BYTES_MAX, "bytes"
            )
    size = sum(
        len(op.key.encode()) + (len(op.value) if isinstance(op, Put) else 0) for op in operations
    )
    if size > TXN_BYTES_MAX:
        raise LimitExceededError.of("txn.operations", size, TXN_BYTES_MAX, "bytes")


@dataclass(frozen=True, slots=True)
class Write:
    """The changes of one atomic write. `attached`: key -> its new lease, 0 for none."""

    changes: Sequence[WatchEvent] = ()
    attached: Mapping[str, int] = field(default_factory=dict)
    granted: Lease | None = None
    ended: int | None = None


class Tables:
    """Keys with their revisions, and the last changes in revision order."""

    def __init__(
        self,
        items: Sequence[Versioned] = (),
        revision: int = 0,
        history_events_max: int = HISTORY_EVENTS_MAX,
    ) -> None:
        self.items = {item.key: item for item in items}
        self.keys = sorted(self.items)
        self.revision = revision
        self.compacted = revision
        """History at and below this revision is gone; a watch must start at or above it."""
        self._history: deque[WatchEvent] = deque()
        self._history_events_max = history_events_max

    def range(self, prefix: str) -> RangeResult:
        found: list[Versioned] = []
        for i in range(bisect_left(self.keys, prefix), len(self.keys)):
            key = self.keys[i]
            if not key.startswith(prefix):
                break
            found.append(self.items[key])
        return RangeResult(tuple(found), self.revision)

    def holds(self, compares: Sequence[Compare]) -> bool:
        for compare in compares:
            item = self.items.get(compare.key)
            if (item.revision if item is not None else 0) != compare.revision:
                return False
        return True

    def changes(self, operations: Sequence[Operation]) -> list[WatchEvent]:
        """The changes of `operations`, at the next revision; absent deletions change nothing."""
        at = self.revision + 1
        return [
            WatchEvent(op.key, op.value if isinstance(op, Put) else None, at)
            for op in operations
            if not (isinstance(op, Delete) and op.key not in self.items)
        ]

    def apply(self, changes: Sequence[WatchEvent]) -> None:
        for change in changes:
            if change.value is None:
                del self.items[change.key]
                del self.keys[bisect_left(self.keys, change.key)]
            else:
                if change.key not in self.items:
                    insort(self.keys, change.key)
                self.items[change.key] = Versioned(change.key, change.value, change.revision)
            self._history.append(change)
            self.revision = change.revision
        while len(self._history) > self._history_events_max:
            self.compacted = self._history.popleft().revision

    def since(self, prefix: str, after_revision: int) -> list[WatchEvent]:
        """Changes above `after_revision` under `prefix`; ConflictError when compacted."""
        if after_revision < self.compacted:
            raise ConflictError(
                f"watch of {prefix!r} after revision {after_revision}: history up to "
                f"{self.compacted} was compacted; range again"
            )
        found: list[WatchEvent] = []
        for event in reversed(self._history):
            if event.revision <= after_revision:
                break
            if event.key.startswith(prefix):
                found.append(event)
        found.reverse()
        return found


class MemoryMetadataStore:
    """The port over `Tables`, without a disk. Forgets everything when it is dropped."""

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        history_events_max: int = HISTORY_EVENTS_MAX,
        env: Env | None = None,
    ) -> None:
        """`env`: the clock by which leases end, and the generator of their ids."""
        self._tables = tables or Tables(history_events_max=history_events_max)
        self._env = env or Env()
        self._leases = LeaseTable()
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: set[asyncio.Event] = set()
        self._closed = False

    async def get(self, key: str) -> Versioned | None:
        self._check_open()
        return self._tables.items.get(key)

    async def range(self, prefix: str) -> RangeResult:
        self._check_open()
        return self._tables.range(prefix)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        self._check_open()
        check_txn(compares, operations)
        if not self._tables.holds(compares):
            return TxnResult(False, self._tables.revision)
        leases = {op.key: op.lease for op in operations if isinstance(op, Put)}
        for lease in set(leases.values()) - {0}:
            self._leases.check_alive(lease, self._now_s())
        changes = self._tables.changes(operations)
        if changes:
            self._write(Write(changes, {c.key: leases.get(c.key, 0) for c in changes}))
        return TxnResult(True, self._tables.revision)

    async def watch(
        self, prefix: str, after_revision: int
    ) -> AsyncIterator[tuple[WatchEvent, ...]]:
        seen = after_revision
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                self._check_open()
                changed.clear()
                upto = self._tables.revision
                found = self._tables.since(prefix, seen)
                for _, events in groupby(found, key=attrgetter("revision")):
                    yield tuple(events)
                seen = max(seen, upto)
                if seen >= self._tables.revision and not self._closed:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    async def lease_grant(self, ttl_s: float) -> Lease:
        self._check_open()
        check_ttl(ttl_s)
        self._leases.check_room()
        lease = Lease(self._env.new_id(), ttl_s)
        self._write(Write(granted=lease))
        self._disarm()  # it may end before the one that the timer waits for
        self._arm()
        return lease

    async def lease_keep_alive(self, lease: int) -> Lease:
        self._check_open()
        return self._leases.keep_alive(lease, self._now_s())

    async def lease_revoke(self, lease: int) -> None:
        self._check_open()
        if lease in self._leases:
            self._end(lease)

    def expire(self) -> None:
        """End every lease whose time is over; the loop's timer does it too."""
        for lease in self._leases.due(self._now_s()):
            self._end(lease)

    async def close(self) -> None:
        """Ends watches with UnavailableError; a second close does nothing."""
        if self._closed:
            return
        self._closed = True
        self._disarm()
        for watcher in self._watchers:
            watcher.set()
        self._release()

    def _end(self, lease: int) -> None:
        changes = self._tables.changes([Delete(key) for key in self._leases.keys(lease)])
        self._write(Write(changes, {c.key: 0 for c in changes}, ended=lease))

    def _write(self, write: Write) -> None:
        self._persist(write)
        self._tables.apply(write.changes)
        for key, lease in write.attached.items():
            self._leases.attach(key, lease)
        if write.granted is not None:
            self._leases.grant(write.granted, self._now_s())
        if write.ended is not None:
            self._leases.drop(write.ended)
        if write.changes:
            for watcher in self._watchers:
                watcher.set()

    def _arm(self, wait_s: float | None = None) -> None:
        """One timer for the earliest end; after keep-alives it may fire without effect."""
        if self._timer is not None:
            return
        end_s = self._leases.next_end_s()
        if end_s is None:
            return
        if wait_s is None:
            wait_s = max(LEASE_TIMER_S_MIN, end_s - self._now_s())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        try:
            self.expire()
        except StorageError as e:
            _log.error("a lease's end was not written; it is tried again", error=e.message)
            self._arm(LEASE_RETRY_S)
        else:
            self._arm()

    def _now_s(self) -> float:
        return self._env.clock.monotonic_s()

    def _persist(self, write: Write) -> None:
        """Make a write durable before it is seen; nothing to do without a disk."""

    def _release(self) -> None:
        """Free resources of the store outside of memory; none here."""

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the metadata store is closed")
        self._arm()  # leases restored from a disk, before there was a loop
