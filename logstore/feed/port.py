"""The Feed port: what a learner pulls. Adapters: `direct` (another instance), later `kafka`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from logstore.engine.batch import StoredBatch
from logstore.engine.port import Anchor


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A piece of a snapshot: first the anchor (when asked for), then checked batches.

    `end` is the snapshot's point in time as an offset; `bytes_total` what it will carry in all.
    """

    anchor: Anchor | None
    batches: tuple[StoredBatch, ...]
    end: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class FeedPart:
    """Committed batches in order (none: the source is idle), and the source's high watermark."""

    batches: tuple[StoredBatch, ...]
    high_watermark: int
    epoch: int


class FeedSource(Protocol):
    """An in-sync replica of the shard. Errors: UnavailableError, FencedError (it is none any
    more), OutOfRangeError (trimmed below the offset), CorruptBatchError (a chunk's checksum)."""

    def snapshot(self, start: int, want_anchor: bool) -> AsyncIterator[SnapshotPart]:
        """What is committed now from offset `start` on (or from the base, with the anchor)."""
        ...

    def follow(self, start: int) -> AsyncIterator[FeedPart]:
        """Committed batches from `start` on, for ever; an idle source tells its mark."""
        ...
