"""Group commit: one WAL write for the queued batches of all shards of the instance.

While one group is being written the next one gathers. Small unsynced groups are written on the
loop: RocksDB's binding holds the interpreter's lock inside a write anyway, so a worker thread
would only add a hop. Synced groups and large ones go to the writer thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from logstore.base.errors import CorruptStorageError, LogstoreError
from logstore.base.limits import GROUP_BYTES_MAX
from logstore.base.types import Durability
from logstore.engine.port import Engine, ReplicaWrite

INLINE_BYTES_MAX = 64 * 1024
GATHER_TURNS_MAX = 8
"""Turns of the loop in which a group may grow before it is written."""


class Source(Protocol):
    """Something with batches to write. All methods run on the loop."""

    durability: Durability

    def next_write(self, max_bytes: int) -> ReplicaWrite | None:
        """The next write, about `max_bytes` at most; None when nothing waits."""
        ...

    def written(self) -> None:
        """The last write taken is durable."""
        ...

    def failed(self, error: LogstoreError) -> None:
        """The last write taken failed: none of it was written."""
        ...


def _unheard(source: Source | None, error: CorruptStorageError) -> None:
    raise error


class GroupCommit:
    """The one writer of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.on_damage: Callable[[Source | None, CorruptStorageError], None] = _unheard
        """Called with damage that a source met, or (None) that stopped the writes of the engine."""
        self._dirty: dict[Source, None] = {}
        self._wake = asyncio.Event()
        self._woken = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def wake(self, source: Source) -> None:
        """`source` has something to write."""
        self._dirty[source] = None
        self._woken += 1
        self._wake.set()

    async def run(self) -> None:
        """Write groups until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._dirty:
                    await self._gather()
                    await self._write_group()
        finally:
            self._thread.shutdown(wait=True)

    async def _gather(self) -> None:
        """Let ready callbacks of the loop come in first, while they bring more: no timer."""
        for _ in range(GATHER_TURNS_MAX):
            before = self._woken
            await asyncio.sleep(0)
            if self._woken == before:
                return

    async def _write_group(self) -> None:
        writes: list[ReplicaWrite] = []
        sources: list[Source] = []
        size = 0
        durability = Durability.OS
        for source in list(self._dirty):
            try:
                write = source.next_write(GROUP_BYTES_MAX - size)
            except CorruptStorageError as e:  # met while looking up what an append cites
                self.on_damage(source, e)
                write = None
            if write is None:
                del self._dirty[source]
                continue
            writes.append(write)
            sources.append(source)
            size += sum(len(b.data) for b in write.batches)
            if source.durability is Durability.FSYNC:
                durability = Durability.FSYNC
            if size >= GROUP_BYTES_MAX:
                break
        if not writes:
            return
        try:
            if durability is Durability.OS and size <= INLINE_BYTES_MAX:
                self._engine.write(writes, durability)
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._engine.write, writes, durability)
        except LogstoreError as e:
            if isinstance(e, CorruptStorageError):
                self.on_damage(None, e)
            for source in sources:
                try:
                    source.failed(e)
                except CorruptStorageError as found:
                    self.on_damage(source, found)
        else:
            for source in sources:
                source.written()
        await asyncio.sleep(0)  # lets the streams bring the next group
