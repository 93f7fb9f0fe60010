"""Items from tasks to one consumer: bounded, and never a wait for a task that ended."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from logstore.base.background import end
from logstore.base.errors import LogstoreError
from logstore.client.lifetime import Lifetime

T = TypeVar("T")


class Funnel(Generic[T]):
    """Producers are started by `add` and put items; `take` gives them in the order of their coming.

    A taker waits only while a producer runs: each end of one is heard (`Lifetime.spawn`). The first
    error, of a producer or by `fail`, ends the others and is raised by every `take` after the items
    that came before it. A `take` that is cancelled takes nothing.
    """

    def __init__(self, lifetime: Lifetime, limit: int) -> None:
        """`limit`: items that wait; then the producers do."""
        self._lifetime = lifetime
        self._limit = limit
        self._items: deque[T] = deque()
        self._running: dict[asyncio.Task[Any], None] = {}
        self._error: LogstoreError | None = None
        self._closed = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        lifetime.hold(self.stop)

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a producer. After the end of the funnel it is not started."""
        if self._closed or self._error is not None:
            work.close()
            return
        self._running[self._lifetime.spawn(work, self._ended)] = None

    async def put(self, item: T) -> None:
        """For producers; waits for room."""
        while len(self._items) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._arrived.set()

    async def take(self) -> T:
        """The next item; StopAsyncIteration when all producers have ended, or after `close`."""
        while not self._items:
            if self._error is not None:
                raise self._error.with_traceback(None)
            if not self._running:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        self._room.set()
        return item

    async def take_or_none(self) -> T | None:
        """Like `take`; None when all producers have ended."""
        try:
            return await self.take()
        except StopAsyncIteration:
            return None

    def fail(self, error: LogstoreError) -> None:
        """End it from outside: what came before is still given."""
        if self._error is None and not self._closed:
            self._error = error
            self._cancel()

    def stop(self, error: LogstoreError) -> None:
        """End it from outside at once: waiting items are dropped."""
        self._items.clear()
        self.fail(error)

    def leave(self) -> None:
        """The taker has left: end the producers, wait for nothing."""
        self._part()
        self._cancel()

    async def close(self) -> None:
        """Leave, and wait until the producers have ended."""
        self._part()
        self._arrived.set()
        await end(*self._running)

    def _part(self) -> None:
        self._closed = True
        self._error = None
        self._items.clear()
        self._lifetime.let_go(self.stop)

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()
        self._arrived.set()

    def _ended(self, task: "asyncio.Task[Any]", error: LogstoreError | None) -> None:
        self._running.pop(task, None)
        if error is not None:
            self.fail(error)
        if not self._running:
            self._lifetime.let_go(self.stop)
        self._arrived.set()
