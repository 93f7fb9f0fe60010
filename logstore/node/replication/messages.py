"""Stored batches in messages between instances: each message is within the limit."""

from collections.abc import Sequence

from logstore.base.errors import LimitExceededError
from logstore.base.limits import MESSAGE_BYTES_MAX
from logstore.engine.batch import StoredBatch
from logstore.proto.v1 import node_pb2

BATCH_ROOM_BYTES = 128
"""Around each batch in a message: its chain values and field heads."""
BATCHES_BYTES_MAX = MESSAGE_BYTES_MAX - 64 * 1024
"""Batches of one message with their room; the rest is the message's own fields."""


def sent_bytes(batch: StoredBatch) -> int:
    """The batch's size in a message, an upper estimate."""
    return len(batch.data) + BATCH_ROOM_BYTES


def batch_message(batch: StoredBatch) -> node_pb2.StoredBatchData:
    """The batch as peers send it; raises LimitExceededError for one that fits no message."""
    if sent_bytes(batch) > BATCHES_BYTES_MAX:
        raise LimitExceededError.of(
            f"stored batch at offset {batch.base_offset}, as sent to a peer,",
            sent_bytes(batch),
            BATCHES_BYTES_MAX,
            "bytes",
        )
    return node_pb2.StoredBatchData(
        data=batch.data, chain_before=batch.chain_before, chain_after=batch.chain_after
    )


def parts_of(data: bytes, size_max: int = BATCHES_BYTES_MAX) -> list[bytes]:
    """`data` in parts that each fit a message; one empty part of nothing."""
    return [data[at : at + size_max] for at in range(0, len(data) or 1, size_max)]


def fitting(batches: Sequence[StoredBatch]) -> Sequence[StoredBatch]:
    """The first of them that fit one message together; at least one if there is any."""
    size = 0
    for index, batch in enumerate(batches):
        size += sent_bytes(batch)
        if index and size > BATCHES_BYTES_MAX:
            return batches[:index]
    return batches
