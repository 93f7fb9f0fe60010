"""The results of reads and tails: iterators that a cancelled step does not end.

An async generator ends when a step of it is cancelled, as `asyncio.wait_for(anext(it), 1)` does
after a second; these are classes over a funnel, whose producer goes on meanwhile.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from logstore.base.public import public
from logstore.base.types import Record
from logstore.client import bounds
from logstore.client.funnel import Funnel
from logstore.client.lifetime import Lifetime
from logstore.proto import fork

T = TypeVar("T")

ITEMS_AHEAD_MAX = 2
"""Items (pages of up to about 1 MiB) that are made before they are requested."""

Produce = Callable[[Funnel[T]], Coroutine[Any, Any, None]]


@public
class Results(Generic[T]):
    """An async iterator over what a read finds, in the lists or batches that it comes in.

    It begins with the first step. A step that is cancelled loses nothing: the next one gives what
    it would have given. `aclose`, the end of `async with`, or dropping it ends its calls.

    Example:
        async with log.scan().batches() as batches:
            async for batch in batches:
                print(batch.num_rows)
    """

    def __init__(
        self, lifetime: Lifetime, produce: Produce[T], idle_timeout_s: float | None = None
    ) -> None:
        self._lifetime = lifetime
        self._produce = produce
        self._funnel: Funnel[T] | None = None
        self._idle_s = idle_timeout_s
        self._idle_at: float | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether all is over: everything was given, the idle time passed, or it was closed."""
        return self._ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._ended:
            raise StopAsyncIteration
        self._lifetime.check_place()
        funnel = self._funnel or self._begin()
        try:
            if self._idle_s is None:
                return await funnel.take()
            return await self._take_in_time(funnel, self._idle_s)
        except StopAsyncIteration:
            self._leave()
            raise

    async def aclose(self) -> None:
        """End the calls of this read; the next step says that it has ended."""
        runs = self._funnel is not None and not self._lifetime.is_over()
        self._ended = True
        if self._funnel is not None and runs:
            await self._funnel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _begin(self) -> Funnel[T]:
        self._lifetime.check()
        funnel: Funnel[T] = Funnel(self._lifetime, ITEMS_AHEAD_MAX)
        self._funnel = funnel
        weakref.finalize(self, _dropped, self._lifetime, funnel).atexit = False
        funnel.add(self._produce(funnel))
        return funnel

    async def _take_in_time(self, funnel: Funnel[T], idle_s: float) -> T:
        """The idle time counts from the first step that waits, also if that one is cancelled."""
        if self._idle_at is None:
            self._idle_at = self._lifetime.loop.time() + idle_s
        try:
            async with asyncio.timeout_at(self._idle_at):
                item = await funnel.take()
        except TimeoutError:
            raise StopAsyncIteration from None
        self._idle_at = None
        return item

    def _leave(self) -> None:
        self._ended = True
        if self._funnel is not None:
            self._funnel.leave()


@public
class Records:
    """An async iterator over records, of `Log.read` and `Log.tail`.

    A step that is cancelled, as by `asyncio.wait_for(anext(tail), 1)`, loses nothing: the next one
    goes on with the next record. `poll` is the step with a time-out of its own.

    Example:
        async with log.tail(from_start=True) as tail:
            first = await anext(tail)
            more = await tail.poll(timeout_s=0.1)
    """

    def __init__(self, lists: Results[list[Record]]) -> None:
        self.lists = lists
        self._held: Iterator[Record] = iter(())

    @property
    def ended(self) -> bool:
        """Whether all is over: the limit was reached, the idle time passed, or `aclose`."""
        return self.lists.ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        while True:
            for record in self._held:
                return record
            self._held = iter(await anext(self.lists))

    async def poll(self, timeout_s: float) -> list[Record]:
        """The records that are there, or the next that come within `timeout_s` seconds (0: now);
        an empty list when none came. When it will always be empty, `ended` is true.

        Example:
            records = await log.tail(from_start=True).poll(timeout_s=0.5)
        """
        bounds.seconds("timeout_s", timeout_s, zero=True)
        if held := list(self._held):
            return held
        try:
            async with asyncio.timeout(timeout_s):
                return await anext(self.lists)
        except (TimeoutError, StopAsyncIteration):
            return []

    async def aclose(self) -> None:
        """End the calls of this read; the next step says that it has ended."""
        self._held = iter(())
        await self.lists.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def idle_timeout(idle_timeout_s: float | None) -> float | None:
    """Checked; None: it waits for ever."""
    return None if idle_timeout_s is None else bounds.seconds("idle_timeout_s", idle_timeout_s)


def _dropped(lifetime: Lifetime, funnel: Funnel[Any]) -> None:
    """No more `take` from the funnel; the collector may call this in another thread."""
    if fork.is_here(lifetime.process):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            lifetime.loop.call_soon_threadsafe(funnel.leave)
