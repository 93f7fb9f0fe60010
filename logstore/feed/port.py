"""The Feed ports: a learner's source of batches (`FeedSource`), and the broker it may go through.

Adapters of `FeedSource`: `direct` (another instance) and `topic` (through a broker). Adapters of
`Broker`: `kafka`, and the `memory` twin.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from logstore.base.errors import UnavailableError
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor


class BrokerAwayError(UnavailableError):
    """The broker does not answer, or refused; it may come back."""


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A piece of a snapshot: first the anchor (if requested), then checked batches.

    `end` is the snapshot's point in time as an offset; `bytes_total` its size in all.
    """

    anchor: Anchor | None
    batches: tuple[StoredBatch, ...]
    end: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class FeedPart:
    """Committed batches in order (empty: the source is idle), and the source's high watermark.

    `cursor`: the place in the topic after these batches, where there is one; stored with them.
    """

    batches: tuple[StoredBatch, ...]
    high_watermark: int
    epoch: int
    cursor: int | None = None


class FeedSource(Protocol):
    """An in-sync replica of the shard. Errors: UnavailableError, FencedError (it is not in sync any
    more), OutOfRangeError (trimmed below the offset), CorruptBatchError (a chunk's checksum)."""

    def snapshot(self, start: int, want_anchor: bool) -> AsyncGenerator[SnapshotPart, None]:
        """The records committed now from offset `start` on (or from the base, with the anchor)."""
        ...

    def follow(self, start: int, cursor: int | None = None) -> AsyncGenerator[FeedPart, None]:
        """Committed batches from `start` on, without an end: each once, in order, without a gap; an
        idle source sends its mark. `cursor` is where to begin in a topic, and only a hint (F3).

        Close it (`aclose`) when it is left before its end."""
        ...


@dataclass(frozen=True, slots=True)
class FeedMessage:
    """One committed batch in a topic, as it was read and not yet verified.

    `epoch` is the publisher's, `cursor` the place after this message. `data` is the envelope.
    """

    base_offset: int
    count: int
    epoch: int
    high_watermark: int
    crc32c: int
    chain_before: bytes
    chain_after: bytes
    data: bytes
    cursor: int = 0

    @property
    def end(self) -> int:
        return self.base_offset + self.count


class TopicWriter(Protocol):
    """One publisher's way into a topic."""

    async def write(self, messages: Sequence[FeedMessage]) -> None:
        """Append in this order, each once; at return every in-sync broker holds them.

        BrokerAwayError: some may be in the topic; open a new writer and ask for the last one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """One committed record in a log's change stream, with its place in its shard."""

    offset: int
    key: bytes
    value: bytes
    timestamp_us: int
    headers: tuple[tuple[str, bytes], ...] = ()


class ChangeWriter(Protocol):
    """One shard's way into its log's change stream."""

    async def write(self, shard: str, changes: Sequence[Change]) -> None:
        """Append in this order to the partitions of their keys; at return every in-sync broker
        holds them. BrokerAwayError: some may be in the topic."""
        ...


class Broker(Protocol):
    """Topics of one partition that lose no message by retention. Every call may raise
    BrokerAwayError, within a few seconds."""

    async def ensure(self, topic: str) -> None:
        """Make the topic, with no retention limit; an existing one is left as it is."""
        ...

    def writer(self, topic: str) -> AbstractAsyncContextManager[TopicWriter]:
        """A writer to a topic that exists."""
        ...

    async def last(self, topic: str) -> FeedMessage | None:
        """The newest message, None when there is none."""
        ...

    def read(self, topic: str, cursor: int | None) -> AsyncGenerator[list[FeedMessage], None]:
        """Messages from `cursor` on (None: the first), without an end; an empty list: none came for
        a while and the broker answered. A cursor that the topic does not have means the first."""
        ...

    async def ensure_changefeed(self, topic: str) -> None:
        """Make a topic for a change stream; an existing one (and its partitions) is the user's."""
        ...

    def change_writer(self, topic: str) -> AbstractAsyncContextManager[ChangeWriter]: ...

    async def topics(self, prefix: str) -> list[str]:
        """Names of the topics with this prefix."""
        ...

    async def delete(self, topic: str) -> None:
        """Remove a topic; one that does not exist is no error."""
        ...

    async def close(self) -> None: ...
