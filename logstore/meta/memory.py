"""The in-memory twin of the MetadataStore: for tests, simulation, and as the rocks store's cache.

`Tables` is the synchronous heart (keys, revisions, a bounded history); `MemoryMetadataStore` gives
it the port's asynchronous face. Everything runs in one event loop, so a transaction is atomic.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from itertools import groupby
from operator import attrgetter
from collections.abc import AsyncIterator, Sequence

from logstore.base.errors import (
    ConflictError,
    InvalidArgumentError,
    LimitExceededError,
    UnavailableError,
)
from logstore.meta.port import (
    TXN_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Compare,
    Delete,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    Versioned,
    WatchEvent,
)

HISTORY_EVENTS_MAX = 10_000
"""Changes that a watch may be behind before it must range again."""


def check_txn(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Refuse a transaction that etcd would refuse: too large, or one key changed twice."""
    for field, count in (("txn.compares", len(compares)), ("txn.operations", len(operations))):
        if count > TXN_OPERATIONS_MAX:
            raise LimitExceededError.of(field, count, TXN_OPERATIONS_MAX, "operations")
    keys = {operation.key for operation in operations}
    if len(keys) != len(operations):
        raise InvalidArgumentError("txn.operations change one key twice, the limit is once")
    for operation in operations:
        if isinstance(operation, Put) and len(operation.value) > VALUE_BYTES_MAX:
            raise LimitExceededError.of(
                f"value of {operation.key}", len(operation.value), VALUE_BYTES_MAX, "bytes"
            )


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
        """What `operations` would change, at the next revision; absent deletions change nothing."""
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
        self, tables: Tables | None = None, *, history_events_max: int = HISTORY_EVENTS_MAX
    ) -> None:
        self._tables = tables or Tables(history_events_max=history_events_max)
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
        changes = self._tables.changes(operations)
        if changes:
            self._persist(changes)
            self._tables.apply(changes)
            for watcher in self._watchers:
                watcher.set()
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

    async def close(self) -> None:
        """Ends watches with UnavailableError; a second close does nothing."""
        if self._closed:
            return
        self._closed = True
        for watcher in self._watchers:
            watcher.set()
        self._release()

    def _persist(self, changes: Sequence[WatchEvent]) -> None:
        """Make the changes durable before they are seen; nothing to do without a disk."""

    def _release(self) -> None:
        """Give back what the store holds outside of memory; nothing here."""

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the metadata store is closed")
