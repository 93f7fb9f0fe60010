"""The primary's stream to one peer: probe, then batches in order, then heartbeats.

Probe first, so that nothing is counted before it matched in this term (P5). A broken stream is
opened again for as long as the machine wants the peer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from logstore.base.background import Background, end
from logstore.base.backoff import Backoff
from logstore.base.errors import (
    CorruptStorageError,
    DivergedError,
    FencedError,
    LimitExceededError,
    LogstoreError,
    UnavailableError,
)
from logstore.base.limits import REPLICATION_WINDOW_BYTES_MAX
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.meta.records import Member
from logstore.node.replication.messages import batch_message, fitting
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, DamageFound, is_sealed
from logstore.proto.status import called, error_of
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceStub
from logstore.replication.events import PeerAcked, PeerAhead, PeerDiverged, PeerLost, PeerMatched
from logstore.replication.machine import ReplicationMachine

if TYPE_CHECKING:
    Stream = grpc.aio.StreamStreamCall[node_pb2.ReplicateRequest, node_pb2.ReplicateAck]

_log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.01
"""A new shard's peer may not have opened its copy yet; the wait doubles to the configured one."""
PULL_TIMEOUTS = 2.0
"""Follower timeouts for which a learner is left alone, so that it pulls by itself."""
MESSAGE_BYTES = 1024 * 1024
"""Batches sent in one message, about."""


ReadConfig = Callable[[], Awaitable[None]]
"""Reads the shard's record linearizably; UnavailableError."""


class _TrimmedError(UnavailableError):
    """Our log was trimmed where the peer's is surely committed: no proof that they differ."""


class PeerSender:
    """Sends this copy's log to one peer while the machine says so."""

    def __init__(
        self,
        copy: Copy,
        node: NodeContext,
        machine: ReplicationMachine,
        member: Member,
        batches_from: Callable[[int, int], list[StoredBatch]],
        read_config: ReadConfig,
    ) -> None:
        """`machine`: read only; `batches_from(offset, max_bytes)`: what is to be sent next."""
        self._copy, self._node, self._machine, self._member = copy, node, machine, member
        self._batches_from, self._read_config = batches_from, read_config
        self._sent_end = 0
        self._in_flight: list[tuple[int, int]] = []

    async def run(self) -> None:
        node = self._node
        backoff = Backoff(RETRY_FIRST_S, node.config.retry_interval_s)
        while True:
            began_s = node.now_s()
            try:
                async with called():
                    await self._session()
            except DivergedError as e:
                self._diverged(e.message)
                return
            except FencedError:
                await self._reread()
            except _TrimmedError as e:
                _log.info("push broke", shard=self._copy.shard, peer=self._member.instance,
                          error=e.message)  # fmt: skip
                if self._is_learner():  # it pulls, once it hears nothing
                    self._copy.report(PeerLost(self._member.replica_id))
                    await asyncio.sleep(PULL_TIMEOUTS * node.config.follower_timeout_s)
                    continue
            except CorruptStorageError as e:  # a peer never says this of itself
                self._copy.report(DamageFound(e.message))
            except LimitExceededError as e:  # stored before there was a bound
                _log.error("a batch cannot be pushed", shard=self._copy.shard,
                           peer=self._member.instance, error=e.message)  # fmt: skip
            except LogstoreError as e:
                _log.info("push broke", shard=self._copy.shard, peer=self._member.instance,
                          error=e.message)  # fmt: skip
            self._copy.report(PeerLost(self._member.replica_id))
            if node.now_s() - began_s > node.config.retry_interval_s:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    def _is_learner(self) -> bool:
        learners = self._copy.record.learners
        return any(m.replica_id == self._member.replica_id for m in learners)

    def _diverged(self, error: str) -> None:
        """The peer's copy can never match: the machine sets it aside."""
        copy = self._copy
        own, mark = self._machine.assigned.end, copy.high_watermark
        _log.warning("peer diverged, its copy is set aside", shard=copy.shard,
                     peer=self._member.instance, replica_id=self._member.replica_id,
                     own_end=own, high_watermark=mark, error=error)  # fmt: skip
        copy.report(PeerDiverged(self._member.replica_id))

    def _ahead(self, epoch: int, mark: int) -> None:
        """P11: the peer knows of committed records above our log's end."""
        copy = self._copy
        _log.error("a peer holds committed records that this primary lacks", shard=copy.shard,
                   peer=self._member.instance, replica_id=self._member.replica_id,
                   own_replica_id=copy.log.id, own_end=self._machine.assigned.end,
                   peer_high_watermark=mark, epoch=epoch)  # fmt: skip
        copy.report(PeerAhead(self._member.replica_id, epoch, mark))

    async def _reread(self) -> None:
        try:
            await self._read_config()
        except LogstoreError as e:
            _log.warning("configuration not read", shard=self._copy.shard, error=e.message)

    async def _session(self) -> None:
        stub = PeerServiceStub(self._node.channel_to(self._member.instance))
        call: Stream = stub.Replicate()
        try:
            at = await self._probe(call)
            reading = Background("a peer's acks")
            reader = reading.answer(self._read_acks(call))
            try:
                await self._send(call, at, reader)
            finally:
                await end(reader)
        finally:
            call.cancel()

    async def _probe(self, call: "Stream") -> int:
        """Find where the peer's log equals ours; returns the offset to send from.

        The probe carries the end of what we assigned, written here yet or not: the peer truncates
        above it, and may have acked all of it in this term already.
        """
        copy = self._copy
        assigned = self._machine.assigned
        request = self._message()
        request.probe, request.end, request.chain = True, assigned.end, assigned.chain
        try:
            async with asyncio.timeout(self._node.config.follower_timeout_s):
                await call.write(request)
                answer = await call.read()
        except TimeoutError:
            raise UnavailableError(f"{self._member.instance} did not answer a probe") from None
        if not isinstance(answer, node_pb2.ReplicateAck):
            raise UnavailableError(f"{self._member.instance} closed the stream")
        if answer.HasField("error"):
            raise error_of(answer.error)
        own = self._machine.end  # it grew since the probe was sent, and a pulling peer with it
        end = Position(answer.end, answer.chain)
        mark = Position(answer.high_watermark, answer.high_watermark_chain)
        for candidate in (end, mark):
            if candidate.end <= own.end and copy.log.position_at(candidate.end) == candidate:
                copy.report(
                    PeerMatched(
                        self._member.replica_id,
                        answer.epoch,
                        candidate,
                        answer.sent_s,
                        answer.incarnation,
                    )
                )
                return candidate.end
        if mark.end > max(own.end, self._machine.assigned.end):
            self._ahead(answer.epoch, mark.end)
            raise UnavailableError(f"{self._member.instance} is ahead, at {mark.end}")
        if mark.end < copy.log.base().end:
            raise _TrimmedError(
                f"{self._member.instance} is committed to {mark.end}, which was trimmed here"
            )
        raise DivergedError(
            f"{self._member.instance} differs from us below its high watermark {mark.end}"
        )

    async def _send(self, call: "Stream", at: int, reader: "asyncio.Task[None]") -> None:
        copy = self._copy
        self._sent_end = at
        self._in_flight.clear()
        told_mark, told_s = -1, self._node.now_s()
        interval_s = self._node.config.heartbeat_interval_s
        while not reader.done():
            room = REPLICATION_WINDOW_BYTES_MAX - sum(size for _, size in self._in_flight)
            batches = (
                fitting(self._batches_from(self._sent_end, min(room, MESSAGE_BYTES)))
                if room > 0
                else []
            )
            left_s = told_s + interval_s - self._node.now_s()
            if not batches and told_mark == copy.high_watermark and left_s > 0:
                await copy.wait_change(left_s)
                continue
            request = self._message()
            request.batches.extend(batch_message(b) for b in batches)
            if batches:
                self._sent_end = batches[-1].end
                self._in_flight.append((self._sent_end, sum(len(b.data) for b in batches)))
            told_mark, told_s = request.high_watermark, self._node.now_s()
            await call.write(request)
        await reader

    def _message(self) -> node_pb2.ReplicateRequest:
        copy = self._copy
        return node_pb2.ReplicateRequest(
            shard=copy.shard,
            replica_id=self._member.replica_id,
            epoch=copy.epoch,
            primary=self._node.instance,
            high_watermark=copy.high_watermark,
            sent_s=self._node.now_s(),
            sealed=is_sealed(copy.record),
            settled=self._machine.settled(),
        )

    async def _read_acks(self, call: "Stream") -> None:
        async with called():
            while isinstance(answer := await call.read(), node_pb2.ReplicateAck):
                if answer.HasField("error"):
                    raise error_of(answer.error)
                self._in_flight = [(e, s) for e, s in self._in_flight if e > answer.end]
                end = Position(answer.end, answer.chain)
                acked = PeerAcked(self._member.replica_id, answer.epoch, end, answer.sent_s)
                self._copy.report(acked)
        raise UnavailableError(f"{self._member.instance} closed the stream")
