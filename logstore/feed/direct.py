"""The feed straight from another instance, over PeerService."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, TypeVar

import google_crc32c
import msgspec
from grpc.aio import Channel, UnaryStreamCall

from logstore.base.errors import CorruptBatchError, UnavailableError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch, parse
from logstore.engine.port import Anchor, ProducerEntry
from logstore.feed.port import FeedPart, SnapshotPart
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceStub

FEED_SILENCE_S = 10.0
"""A source sends its high watermark several times a second: silence means that it, or the way to
it, is gone."""
SNAPSHOT_SILENCE_S = 30.0
"""Chunks may be paced; a move's own bound of bytes/s lengthens the wait accordingly."""

M = TypeVar("M")


def encode_anchor(anchor: Anchor) -> bytes:
    """An anchor as bytes for the wire."""
    return msgspec.msgpack.encode(
        (
            anchor.base,
            {p: list(entries) for p, entries in anchor.producers.items()},
            list(anchor.key_counts.items()),
        )
    )


def decode_anchor(data: bytes) -> Anchor:
    """The anchor that `encode_anchor` made."""
    base, producers, counts = msgspec.msgpack.decode(
        data,
        type=tuple[Position, dict[int, tuple[ProducerEntry, ...]], list[tuple[bytes, int]]],
    )
    return Anchor(base, producers, dict(counts))


def stored_batch(message: node_pb2.StoredBatchData) -> StoredBatch:
    """A batch from the wire: its checksum and chain link are verified."""
    batch = parse(message.data, message.chain_before)
    if batch.chain_after != message.chain_after:
        raise CorruptBatchError(
            f"batch at offset {batch.base_offset}: chain after it is not what the sender says"
        )
    return batch


def chunk_crc(batches: Iterable[node_pb2.StoredBatchData]) -> int:
    """crc32c over the envelopes of a chunk."""
    crc = 0
    for batch in batches:
        crc = google_crc32c.extend(crc, batch.data)
    return crc


class DirectFeed:
    """A FeedSource at the other end of a channel. `epoch` fences it (P1)."""

    def __init__(self, channel: Channel, shard: str, epoch: int, bytes_per_s: float = 0.0) -> None:
        self._stub = PeerServiceStub(channel)
        self._shard = shard
        self._epoch = epoch
        self._bytes_per_s = bytes_per_s

    async def snapshot(self, start: int, want_anchor: bool) -> AsyncGenerator[SnapshotPart, None]:
        request = node_pb2.SnapshotRequest(
            shard=self._shard,
            epoch=self._epoch,
            start_offset=start,
            want_anchor=want_anchor,
            bytes_per_s=self._bytes_per_s,
        )
        byte, anchor = 0, bytearray()
        async with called():
            own_s = 2 * SNAPSHOT_CHUNK_BYTES / self._bytes_per_s if self._bytes_per_s > 0 else 0.0
            async for chunk in self._heard(
                self._stub.Snapshot(request), SNAPSHOT_SILENCE_S + own_s
            ):
                anchor += chunk.anchor
                if chunk.anchor_goes_on:
                    continue
                crc = chunk_crc(chunk.batches)
                first_byte, byte = byte, byte + sum(len(b.data) for b in chunk.batches)
                if crc != chunk.crc32c:
                    raise CorruptBatchError(
                        f"snapshot chunk with bytes {first_byte}..{byte - 1} from offset {start} "
                        f"on: crc32c is {crc:#010x}, the source says {chunk.crc32c:#010x}"
                    )
                yield SnapshotPart(
                    anchor=decode_anchor(bytes(anchor)) if anchor else None,
                    batches=tuple(stored_batch(b) for b in chunk.batches),
                    end=chunk.snapshot_end,
                    bytes_total=chunk.bytes_total,
                )
                anchor.clear()

    async def follow(self, start: int, cursor: int | None = None) -> AsyncGenerator[FeedPart, None]:
        request = node_pb2.FeedRequest(shard=self._shard, epoch=self._epoch, start_offset=start)
        async with called():
            async for message in self._heard(self._stub.Feed(request), FEED_SILENCE_S):
                batches = (stored_batch(message.batch),) if message.HasField("batch") else ()
                yield FeedPart(batches, message.high_watermark, message.epoch)

    async def _heard(
        self, call: UnaryStreamCall[Any, M], silence_s: float
    ) -> AsyncGenerator[M, None]:
        """The messages of a call; UnavailableError once the other end is silent for too long."""
        messages = aiter(call)
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    message = await anext(messages)
                yield message
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UnavailableError(
                f"the source of shard {self._shard} was silent for {silence_s:g} s"
            ) from None
        finally:
            call.cancel()
