"""Named limits with their unit. Every queue and batch is bounded by one."""

KEY_BYTES_MAX = 4 * 1024
RECORD_BYTES_MAX = 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_RECORDS_MAX = 65_536
HEADERS_MAX = 32
HEADER_NAME_BYTES_MAX = 256
LOG_NAME_CHARS_MAX = 128
SHARDS_PER_LOG_MAX = 65_536
REPLICAS_MAX = 7
NAME_BYTES_MAX = 200
"""Limit of the name of a client group, an event, a profile; UTF-8."""
PLACE_BYTES_MAX = 64
"""Limit of the name of a tier, a zone."""

PAYLOAD_BYTES_MAX = BATCH_BYTES_MAX + 64 * 1024
"""A batch's Arrow message: its weight (logstore/engine/weight.py) is bound by BATCH_BYTES_MAX; the
padding of other writers, and compression that gains nothing, may add the rest."""

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""gRPC message bound: the largest batch and its envelope, with room."""

PRODUCER_WINDOW = 64
"""Appends a producer may have in flight per shard, and how many past acks a replica remembers."""

PRODUCERS_PER_SHARD_MAX = 100_000

GROUP_BYTES_MAX = 2 * 1024 * 1024
"""Bytes that one group commit writes at most (one larger batch still goes alone)."""

SHARD_QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""Appends waiting on one shard, held ones included; above it the answer is `overloaded`."""

READ_BATCHES_MAX = 128
"""Stored batches of one read: opening a small one costs 15 us, on the event loop in some reads."""
SNAPSHOT_CHUNK_BYTES = 1024 * 1024
COPY_CHUNK_BYTES_MIN = 128 * 1024
COPY_CHUNK_BYTES_MAX = 1024 * 1024
"""A snapshot's chunks are within these; the pace of the copy decides."""
REPLICATION_WINDOW_BYTES_MAX = 16 * 1024 * 1024
SCAN_CHUNK_BYTES = 1024 * 1024
