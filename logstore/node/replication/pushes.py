"""What the primary pushes to one copy: checked against its term, compared, written, acked (P1, P5).

Probes, batches and heartbeats come by one stream; each is answered with where this copy's log ends.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from logstore.base.errors import FencedError, NotServingError
from logstore.base.types import Position
from logstore.feed.direct import stored_batch
from logstore.node.integrity.integrity import Integrity
from logstore.node.replication.catch_up import CatchUpControl
from logstore.node.replication.receiver import Receiver
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, LogEnds, Pushed, is_sealed
from logstore.proto.v1 import node_pb2
from logstore.replication.events import NEVER, PrimaryHeard
from logstore.replication.machine import ReplicationMachine


@dataclass(eq=False, slots=True)
class PushIntake:
    """Takes pushes one at a time. `machine` is read only; `at_rest` returns when nothing is being
    written to the copy, `read_config` reads the shard's record linearizably."""

    copy: Copy
    node: NodeContext
    machine: ReplicationMachine
    receiver: Receiver
    catch_up: CatchUpControl
    integrity: Integrity
    at_rest: Callable[[], Awaitable[None]]
    read_config: Callable[[], Awaitable[None]]

    async def take(self, request: node_pb2.ReplicateRequest) -> node_pb2.ReplicateAck:
        """FencedError or NotServingError unless the copy may be written to; else see `Receiver`."""
        await self._fence(request)
        await self.catch_up.stopped()
        async with self.receiver.lock:
            await self.at_rest()  # what an earlier term wrote here lands before it is cut
            self._check(request)  # what waited for the lock may be of a term that is over
            self.catch_up.pushed_s = self.node.now_s()
            self.copy.report(PrimaryHeard())
            with self.integrity.watching(for_peer=True):
                return await self._apply(request)

    async def _apply(self, request: node_pb2.ReplicateRequest) -> node_pb2.ReplicateAck:
        copy, receiver = self.copy, self.receiver
        if request.probe:
            end = Position(request.end, request.chain)
            own = receiver.probe(end, copy.high_watermark, request.sent_s)
            copy.report(LogEnds(copy.log.end()))
            return self._ack(own, request)
        batches = [stored_batch(b) for b in request.batches]
        matched = receiver.matched
        if batches:
            matched = await receiver.apply(batches, copy.high_watermark, request.high_watermark)
            copy.report(LogEnds(copy.log.end()))
            records, size = sum(b.count for b in batches), sum(len(b.data) for b in batches)
            self.node.reporter.replicated(copy.shard, records, size)
        mark, end = request.high_watermark, copy.log.end()
        copy.report(Pushed(end, matched, mark, request.settled))
        return self._ack(matched, request)

    async def _fence(self, request: node_pb2.ReplicateRequest) -> None:
        if request.replica_id != self.copy.log.id:
            raise FencedError(
                f"copy {request.replica_id} of {request.shard} is not on {self.node.instance}"
            )
        if request.epoch > self.copy.epoch:
            await self.read_config()
        record = self.machine.record
        if request.sealed and (record is None or not is_sealed(record)):
            await self.read_config()  # cut off from the metadata it would pass for an open one
        self._check(request)

    def _check(self, request: node_pb2.ReplicateRequest) -> None:
        """P1: by what this copy knows now; nothing is written to one that is being deleted."""
        if self.node.open_copy(request.shard) is not self.copy:
            raise NotServingError(f"shard {request.shard} left {self.node.instance}")
        if request.epoch < self.copy.epoch:
            raise FencedError(
                f"epoch is {request.epoch}, shard {request.shard} is in epoch {self.copy.epoch}"
            )
        self.copy.check(Purpose.RECEIVE)

    def _ack(self, end: Position, request: node_pb2.ReplicateRequest) -> node_pb2.ReplicateAck:
        copy, mark = self.copy, self.copy.high_watermark
        at = copy.log.position_at(mark)
        return node_pb2.ReplicateAck(
            shard=copy.shard,
            replica_id=copy.log.id,
            epoch=copy.epoch,
            end=end.end,
            chain=end.chain,
            high_watermark=mark,
            high_watermark_chain=at.chain if at is not None else b"",
            probe=request.probe,
            incarnation=self.node.incarnation,
            sent_s=request.sent_s if self.machine.grants_lease() else NEVER,
        )
