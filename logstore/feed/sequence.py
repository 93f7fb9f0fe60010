"""Which messages of a topic a learner applies (pure): only the next offset (F2).

A topic may hold a batch twice (a publisher that died before its answer, or two of them in turn),
late ones of a fenced publisher, and may lack some (its tail was lost, or there was no publisher).
"""

from dataclasses import dataclass
from enum import StrEnum

from logstore.base.errors import CorruptBatchError, DivergedError
from logstore.engine.batch import StoredBatch, parse
from logstore.feed.port import FeedMessage


class Take(StrEnum):
    """What to do with a message."""

    APPLY = "apply"
    """It is the next one."""
    DUPLICATE = "duplicate"
    """All of it was applied before."""
    OLD_EPOCH = "old epoch"
    """Published by one that was already replaced; its batches come again or are fetched."""
    GAP = "gap"
    """Batches before it are missing: fetch them from an in-sync replica, then look again."""


@dataclass(slots=True)
class Sequence:
    """The place of one reader: `next_offset` is the learner's log end (F3)."""

    next_offset: int
    epoch: int = 0
    """The newest epoch seen in the topic; only earlier messages count, not the configuration: a
    batch that was committed and published in an older epoch stays valid."""

    def look(self, message: FeedMessage) -> Take:
        """Raises DivergedError for a batch that begins inside the applied range and ends outside:
        stored batches are never cut or merged on their way (P5)."""
        if message.epoch < self.epoch:
            return Take.OLD_EPOCH
        self.epoch = message.epoch
        if message.end <= self.next_offset:
            return Take.DUPLICATE
        if message.base_offset > self.next_offset:
            return Take.GAP
        if message.base_offset < self.next_offset:
            raise DivergedError(
                f"batch {message.base_offset}..{message.end} of the feed begins before our end "
                f"{self.next_offset} and ends after it"
            )
        return Take.APPLY

    def applied(self, end: int) -> None:
        self.next_offset = end


def verified(message: FeedMessage) -> StoredBatch:
    """The batch of a message; CorruptBatchError when any of its parts does not hold."""
    batch = parse(message.data, message.chain_before)
    found = (batch.base_offset, batch.count, batch.chain_after, _crc_of(batch.data))
    said = (message.base_offset, message.count, message.chain_after, message.crc32c)
    if found != said:
        raise CorruptBatchError(
            f"batch at offset {message.base_offset} of the feed is not what its headers say"
        )
    return batch


def _crc_of(envelope: bytes) -> int:
    return int.from_bytes(envelope[4:8], "little")


def message_of(batch: StoredBatch, epoch: int, high_watermark: int) -> FeedMessage:
    """A committed batch as a message to publish (F1)."""
    return FeedMessage(
        base_offset=batch.base_offset,
        count=batch.count,
        epoch=epoch,
        high_watermark=high_watermark,
        crc32c=_crc_of(batch.data),
        chain_before=batch.chain_before,
        chain_after=batch.chain_after,
        data=batch.data,
    )
