"""The weight of stored records: content, headers and Arrow's encoding, in bytes. One count for all.

The client's check, the unary append and the append stream all count with this. It is never below
the uncompressed Arrow IPC message of the same records (a property test checks it), and it
bounds a batch whatever its compression, because batches are read, filtered and joined uncompressed.
So an accepted batch fits every later message (`MESSAGE_BYTES_MAX`).
"""

from collections.abc import Iterable

from logstore.base.errors import LimitExceededError
from logstore.base.limits import BATCH_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADERS_MAX
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES

BATCH_FIXED_BYTES = 1_024
"""Bytes of the message's metadata, and of its buffers' padding."""
RECORD_FIXED_BYTES = 8
"""Bytes of the offsets of key and value."""
TIME_BYTES = 8
HEADER_LIST_BYTES = 5
"""Bytes of each record in a batch with headers: the offset of its list, and a validity bit."""
HEADER_FIXED_BYTES = 9
"""Bytes of each header: offsets of name and value, and their validity bits."""


def content_bytes(key: bytes, value: bytes, headers: Iterable[tuple[str, bytes]] = ()) -> int:
    """Bytes of one record as sent: key, value, header names (in UTF-8) and header values."""
    return len(key) + len(value) + sum(len(n.encode()) + len(v) for n, v in headers)


def weight(records: int, content: int, flags: int, headers: int = 0) -> int:
    """Bytes of this many records as stored, without the fixed part of a batch.

    `content`: of all of them, by `content_bytes`; `flags`: the batch's columns; `headers`: of all
    of them together.
    """
    each = RECORD_FIXED_BYTES
    each += TIME_BYTES if flags & FLAG_TIMES else 0
    each += HEADER_LIST_BYTES if flags & FLAG_HEADERS else 0
    return records * each + content + headers * HEADER_FIXED_BYTES


def check_weight(bytes_: int) -> None:
    """LimitExceededError for records that weigh too much for one batch."""
    if bytes_ + BATCH_FIXED_BYTES > BATCH_BYTES_MAX:
        raise LimitExceededError(
            f"batch is {bytes_ + BATCH_FIXED_BYTES} bytes with headers and encoding, "
            f"the limit is {BATCH_BYTES_MAX} bytes"
        )


def check_header_count(count: int) -> None:
    if count > HEADERS_MAX:
        raise LimitExceededError.of("headers", count, HEADERS_MAX, "headers")


def check_header_name(size: int) -> None:
    if size > HEADER_NAME_BYTES_MAX:
        raise LimitExceededError.of("header name", size, HEADER_NAME_BYTES_MAX, "bytes")
