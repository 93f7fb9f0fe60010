"""The broker's memory twin: topics in a dict. It can be away, lose its tail, and delay nothing."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from logstore.feed.port import BrokerAwayError, Change, ChangeWriter, FeedMessage, TopicWriter

IDLE_S = 0.05
READ_MESSAGES = 64


class MemoryBroker:
    """The Broker port in this process. Set `away` to make every call fail."""

    def __init__(self) -> None:
        self.held: dict[str, list[FeedMessage]] = {}
        self.changes: dict[str, list[tuple[str, Change]]] = {}
        self._away = False
        self._changed = asyncio.Event()

    @property
    def away(self) -> bool:
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away = value
        self._notify()

    def lose_tail(self, topic: str, messages: int) -> None:
        """Lose the unflushed tail, like a broker that loses power."""
        del self.held[topic][-messages:]

    async def ensure(self, topic: str) -> None:
        self._check()
        self.held.setdefault(topic, [])

    @asynccontextmanager
    async def writer(self, topic: str) -> AsyncIterator[TopicWriter]:
        self._topic(topic)
        yield _MemoryWriter(self, topic)

    async def last(self, topic: str) -> FeedMessage | None:
        held = self._topic(topic)
        return held[-1] if held else None

    async def read(self, topic: str, cursor: int | None) -> AsyncGenerator[list[FeedMessage], None]:
        at = cursor if cursor is not None and cursor <= len(self._topic(topic)) else 0
        while True:
            held = self._topic(topic)
            at = min(at, len(held))
            found = held[at : at + READ_MESSAGES]
            yield [replace(m, cursor=at + i + 1) for i, m in enumerate(found)]
            at += len(found)
            if not found:
                changed = self._changed
                try:
                    async with asyncio.timeout(IDLE_S):
                        await changed.wait()
                except TimeoutError:
                    continue

    async def ensure_changefeed(self, topic: str) -> None:
        self._check()
        self.changes.setdefault(topic, [])

    @asynccontextmanager
    async def change_writer(self, topic: str) -> AsyncIterator[ChangeWriter]:
        self._check()
        yield _MemoryChangeWriter(self, topic)

    def add_changes(self, topic: str, shard: str, changes: Sequence[Change]) -> None:
        self._check()
        self.changes[topic].extend((shard, change) for change in changes)

    async def topics(self, prefix: str) -> list[str]:
        self._check()
        return sorted(t for t in self.held if t.startswith(prefix))

    async def delete(self, topic: str) -> None:
        self._check()
        self.held.pop(topic, None)
        self._notify()

    async def close(self) -> None:
        """Nothing to give back."""

    def add(self, topic: str, messages: Sequence[FeedMessage]) -> None:
        self._topic(topic).extend(messages)
        self._notify()

    def _topic(self, topic: str) -> list[FeedMessage]:
        self._check()
        if topic not in self.held:
            raise BrokerAwayError(f"topic {topic} does not exist")
        return self.held[topic]

    def _check(self) -> None:
        if self._away:
            raise BrokerAwayError("the broker is away")

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _MemoryWriter:
    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic

    async def write(self, messages: Sequence[FeedMessage]) -> None:
        self._broker.add(self._topic, messages)


class _MemoryChangeWriter:
    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic

    async def write(self, shard: str, changes: Sequence[Change]) -> None:
        self._broker.add_changes(self._topic, shard, changes)
