"""Digests of ranges of a copy's stored batches, by which two copies find where they differ."""

from collections.abc import Callable

import xxhash

from logstore.base.limits import SCAN_CHUNK_BYTES
from logstore.engine.batch import StoredBatch
from logstore.proto.v1 import node_pb2

RANGES_MAX = 1_024

Read = Callable[[int, int, int], list[StoredBatch]]
"""(start, stop, max_bytes) -> the batches from `start` on, as `Engine.read`."""


def range_digests(read: Read, start: int, stop: int, ranges: int) -> list[node_pb2.RangeDigest]:
    """xxh3-128 over the envelopes of the batches that start in [start, stop), in `ranges` equal
    parts of that span; parts in which no batch starts are left out."""
    width = max(1, -(-(stop - start) // ranges))
    found: list[node_pb2.RangeDigest] = []
    hasher, part, at_byte = xxhash.xxh3_128(), -1, 0
    at = start
    while at < stop and (batches := read(at, stop, SCAN_CHUNK_BYTES)):
        for batch in batches:
            at = batch.end
            if not start <= batch.base_offset < stop:
                continue
            if (batch.base_offset - start) // width != part:
                part = (batch.base_offset - start) // width
                hasher = xxhash.xxh3_128()
                found.append(
                    node_pb2.RangeDigest(start_offset=batch.base_offset, start_byte=at_byte)
                )
            hasher.update(batch.data)
            at_byte += len(batch.data)
            last = found[-1]
            last.end_offset, last.end_byte, last.batches = batch.end, at_byte, last.batches + 1
            last.digest = hasher.digest()
    return found
