"""PeerService: what instances ask of each other: pushes are received here, pulls are served."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc.aio

from logstore.base.errors import FencedError, LogstoreError, NotServingError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import Snapshot as EngineSnapshot
from logstore.feed.direct import chunk_crc, encode_anchor, stored_batch
from logstore.node.availability import Purpose
from logstore.node.messages import BATCHES_BYTES_MAX, batch_message, parts_of, sent_bytes
from logstore.node.replica import Replica
from logstore.node.sealed import key_version
from logstore.proto.status import detail_of, served
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceServicer
from logstore.replication.events import NEVER, PrimaryHeard, Written

if TYPE_CHECKING:
    from logstore.node.instance import Instance

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

    # ---- pushes ------------------------------------------------------------------------------

    async def Replicate(
        self, request_iterator: AsyncIterator[node_pb2.ReplicateRequest], context: "Context"
    ) -> AsyncIterator[node_pb2.ReplicateAck]:
        async for request in request_iterator:
            try:
                yield await self._replicate(request)
            except LogstoreError as e:
                yield node_pb2.ReplicateAck(
                    shard=request.shard, replica_id=request.replica_id, error=detail_of(e)
                )
                return

    async def _replicate(self, request: node_pb2.ReplicateRequest) -> node_pb2.ReplicateAck:
        replica = self._instance.replica(request.shard)
        await self._fence(replica, request)
        await replica.catch_up.stopped()
        async with replica.receiver.lock:
            await replica.settled()  # what an earlier term wrote here lands before it is cut
            self._check(replica, request)  # what waited for the lock may be of a term that is over
            replica.catch_up.pushed_s = self._node.now_s()
            replica.handle(PrimaryHeard())
            with replica.integrity.watching(for_peer=True):
                return await self._apply(replica, request)

    async def _apply(
        self, replica: Replica, request: node_pb2.ReplicateRequest
    ) -> node_pb2.ReplicateAck:
        receiver = replica.receiver
        if request.probe:
            own = receiver.probe(Position(request.end, request.chain), replica.high_watermark)
            replica.machine.truncated(replica.log.end())
            return self._ack(replica, own, request)
        batches = [stored_batch(b) for b in request.batches]
        matched = receiver.matched
        if batches:
            matched = await receiver.apply(batches, replica.high_watermark, request.high_watermark)
            replica.machine.truncated(replica.log.end())
        replica.machine.adopt(min(request.high_watermark, matched.end))
        if request.settled and replica.high_watermark >= request.high_watermark:
            replica.copy.fresh_s = self._node.now_s()
        replica.handle(Written(replica.log.end()))
        return self._ack(replica, matched, request)

    async def _fence(self, replica: Replica, request: node_pb2.ReplicateRequest) -> None:
        if request.replica_id != replica.member.replica_id:
            raise FencedError(
                f"copy {request.replica_id} of {request.shard} is not on {self._node.instance}"
            )
        await replica.await_epoch(request.epoch)
        if request.sealed and not replica.copy.is_sealed():
            await replica.read_config()  # cut off from the metadata it would pass for an open one
        self._check(replica, request)

    def _check(self, replica: Replica, request: node_pb2.ReplicateRequest) -> None:
        """P1: by what this copy knows now; nothing is written to one that is being deleted."""
        if self._instance.replicas.get(request.shard) is not replica:
            raise NotServingError(f"shard {request.shard} left {self._node.instance}")
        if request.epoch < replica.epoch:
            raise FencedError(
                f"epoch is {request.epoch}, shard {request.shard} is in epoch {replica.epoch}"
            )
        replica.copy.check(Purpose.RECEIVE)

    def _ack(
        self, replica: Replica, end: Position, request: node_pb2.ReplicateRequest
    ) -> node_pb2.ReplicateAck:
        mark = replica.high_watermark
        at = replica.log.position_at(mark)
        return node_pb2.ReplicateAck(
            shard=replica.shard,
            replica_id=replica.member.replica_id,
            epoch=replica.epoch,
            end=end.end,
            chain=end.chain,
            high_watermark=mark,
            high_watermark_chain=at.chain if at is not None else b"",
            probe=request.probe,
            incarnation=self._node.incarnation,
            sent_s=request.sent_s if replica.machine.grants_lease() else NEVER,
        )

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
        """Off the loop: letting go of memtables and files takes tens of milliseconds."""
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
        """A feed keeps up with what is committed meanwhile; what is older goes at the pace."""
        records = sum(b.count for b in batches)
        if records:
            size = sum(len(b.data) for b in batches)
            self._node.reporter.copied(size)
            older = max(0, records - committed) / records
            if older:
                with self._node.pace.copying():
                    await self._node.pace.spend(round(size * older))
