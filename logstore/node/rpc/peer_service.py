"""PeerService: calls between instances: batches of primaries come in, pulls are served."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc.aio

from logstore.base.errors import LogstoreError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Snapshot as EngineSnapshot
from logstore.feed.direct import chunk_crc, encode_anchor
from logstore.node.appends.sealed import key_version
from logstore.node.instance.replica import Replica
from logstore.node.replication.messages import (
    BATCHES_BYTES_MAX,
    batch_message,
    parts_of,
    sent_bytes,
)
from logstore.node.resources.availability import Purpose
from logstore.proto.status import detail_of, served
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceServicer

if TYPE_CHECKING:
    from logstore.node.instance.instance import Instance

    Context = grpc.aio.ServicerContext[Any, Any]

FEED_INLINE_RECORDS = 64
FEED_IDLE_S = 0.2


class PeerService(PeerServiceServicer):
    """Every message is checked against (shard, epoch) first (P1)."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._node = instance.node

    async def Ping(
        self, request: node_pb2.PingRequest, context: "Context"
    ) -> node_pb2.PingResponse:
        return node_pb2.PingResponse(
            instance=self._node.instance, incarnation=self._node.incarnation
        )

    async def KeyVersion(
        self, request: node_pb2.KeyVersionRequest, context: "Context"
    ) -> node_pb2.KeyVersionResponse:
        async with served(context):
            replica = self._instance.replica(request.shard)
            return node_pb2.KeyVersionResponse(version=key_version(replica.copy, request.key))
        raise AssertionError("served() ends the call")

    # ---- from primaries ----------------------------------------------------------------------

    async def Replicate(
        self, request_iterator: AsyncIterator[node_pb2.ReplicateRequest], context: "Context"
    ) -> AsyncIterator[node_pb2.ReplicateAck]:
        async for request in request_iterator:
            try:
                yield await self._instance.replica(request.shard).pushes.take(request)
            except LogstoreError as e:
                yield node_pb2.ReplicateAck(
                    shard=request.shard, replica_id=request.replica_id, error=detail_of(e)
                )
                return

    # ---- pulls -------------------------------------------------------------------------------

    async def _source(self, shard: str, epoch: int) -> Replica:
        """F1: only an in-sync replica feeds, and only what is committed."""
        replica = self._instance.replica(shard)
        await replica.await_epoch(epoch)
        replica.copy.check(Purpose.FEED)
        return replica

    async def Snapshot(
        self, request: node_pb2.SnapshotRequest, context: "Context"
    ) -> AsyncIterator[node_pb2.SnapshotChunk]:
        async with served(context):
            replica = await self._source(request.shard, request.epoch)
            snapshot = replica.log.snapshot(replica.high_watermark)
            try:
                with self._node.pace.copying(), replica.integrity.watching(for_peer=True):
                    async for chunk in self._chunks(replica, snapshot, request):
                        yield chunk
            finally:
                self._close(snapshot)

    def _close(self, snapshot: EngineSnapshot) -> None:
        """Off the loop: freeing memtables and files takes tens of milliseconds."""
        try:
            asyncio.get_running_loop().run_in_executor(self._node.readers, snapshot.close)
        except RuntimeError:  # the pool was shut down
            snapshot.close()

    async def _chunks(
        self, replica: Replica, snapshot: EngineSnapshot, request: node_pb2.SnapshotRequest
    ) -> AsyncIterator[node_pb2.SnapshotChunk]:
        pace, limit = self._node.pace, request.bytes_per_s
        total = replica.log.bytes_stored()
        start = max(request.start_offset, snapshot.anchor.base.end)
        anchor = encode_anchor(snapshot.anchor) if request.want_anchor else b""
        *parts, last = parts_of(anchor)
        for part in parts:
            yield node_pb2.SnapshotChunk(anchor=part, anchor_goes_on=True)
        yield node_pb2.SnapshotChunk(anchor=last, snapshot_end=snapshot.end.end, bytes_total=total)
        chunk: list[StoredBatch] = []
        size = 0
        due_s = self._node.now_s()
        batches = snapshot.batches(start)
        while True:
            batch = next(batches, None)
            full = batch is None or size + sent_bytes(batch) > BATCHES_BYTES_MAX
            if chunk and (full or size >= pace.chunk_bytes):
                messages = [batch_message(b) for b in chunk]
                yield node_pb2.SnapshotChunk(
                    snapshot_end=snapshot.end.end,
                    batches=messages,
                    crc32c=chunk_crc(messages),
                    bytes_total=total,
                )
                self._node.reporter.copied(size)
                await pace.spend(size)
                if limit > 0:  # this move's own bound
                    due_s = max(due_s, self._node.now_s()) + size / limit
                    await asyncio.sleep(max(0.0, due_s - self._node.now_s()))
                chunk, size = [], 0
            if batch is None:
                return
            chunk.append(batch)
            size += sent_bytes(batch)

    async def Feed(
        self, request: node_pb2.FeedRequest, context: "Context"
    ) -> AsyncIterator[node_pb2.FeedBatch]:
        async with served(context):
            replica = await self._source(request.shard, request.epoch)
            at, told = request.start_offset, replica.high_watermark
            while True:
                replica.copy.check(Purpose.FEED)
                mark = replica.high_watermark
                with replica.integrity.watching(for_peer=True):
                    batches = await self._committed(replica, at, mark) if at < mark else []
                for batch in batches:
                    yield node_pb2.FeedBatch(
                        epoch=replica.epoch, high_watermark=mark, batch=batch_message(batch)
                    )
                    at = batch.end
                await self._pace_backlog(batches, mark - told)
                told = mark
                if not batches:
                    yield node_pb2.FeedBatch(epoch=replica.epoch, high_watermark=mark)
                    await replica.copy.wait_mark(FEED_IDLE_S)

    async def _committed(self, replica: Replica, at: int, mark: int) -> list[StoredBatch]:
        """A backlog comes from the disk, and is opened off the loop; the newest is in memory."""
        read = partial(replica.log.read, at, mark, SNAPSHOT_CHUNK_BYTES)
        if mark - at <= FEED_INLINE_RECORDS:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._node.readers, read)

    async def _pace_backlog(self, batches: list[StoredBatch], committed: int) -> None:
        """A feed keeps up with new commits; older batches go at the pace."""
        records = sum(b.count for b in batches)
        if records:
            size = sum(len(b.data) for b in batches)
            self._node.reporter.copied(size)
            older = max(0, records - committed) / records
            if older:
                with self._node.pace.copying():
                    await self._node.pace.spend(round(size * older))
