"""NodeAdmin: the coordinator's calls. It changes no configuration; intents are in metadata."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc.aio

from logstore.base.errors import (
    CorruptStorageError,
    FencedError,
    InvalidArgumentError,
    OutOfRangeError,
    StorageError,
    UnknownShardError,
)
from logstore.base.types import Position
from logstore.engine.port import ReplicaMeta
from logstore.engine.shard_log import ShardLog
from logstore.node.instance.replica import Replica
from logstore.node.integrity.digests import RANGES_MAX, range_digests
from logstore.node.resources.copy import DamageFound
from logstore.proto.status import served
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminServicer
from logstore.replication.events import Role

if TYPE_CHECKING:
    from logstore.node.instance.instance import Instance

    Context = grpc.aio.ServicerContext[Any, Any]


class NodeAdmin(NodeAdminServicer):
    """Status of copies, verification, trim."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._node = instance.node

    async def Status(
        self, request: node_pb2.StatusRequest, context: "Context"
    ) -> node_pb2.StatusResponse:
        async with served(context):
            if request.shard:
                replicas = [self._instance.replica(request.shard)]
            else:
                replicas = list(self._instance.replicas.values())
            return node_pb2.StatusResponse(
                instance=self._node.instance,
                incarnation=self._node.incarnation,
                replicas=[self._status(r, request.recent_s) for r in replicas],
            )
        raise AssertionError("served() ends the call")

    def _status(self, replica: Replica, recent_s: float) -> node_pb2.ReplicaStatus:
        log = replica.log
        status = node_pb2.ReplicaStatus(
            shard=replica.shard,
            replica_id=log.id,
            role=replica.role.value,
            epoch=replica.epoch,
            serving=replica.serving(),
            high_watermark=replica.high_watermark,
            blackout_ms=replica.append_gate.blackout_ms,
            error=replica.copy.error or replica.copy.damage,
            damage=replica.copy.damage,
            scrub_result=replica.integrity.scrub_result,
            scrub_age_s=-1.0,
        )
        if replica.integrity.scrubbed_s is not None:
            status.scrub_age_s = self._node.now_s() - replica.integrity.scrubbed_s
        vote = replica.integrity.vote()
        status.vouches, status.readable = vote.vouches, vote.readable
        status.last_epoch = vote.last_epoch
        if replica.exists:
            end = log.end()
            status.end, status.chain = end.end, end.chain
            status.base = log.base().end
            status.bytes_stored = log.bytes_stored()
            status.index_backlog = log.index_backlog()
        if replica.publishing.publisher is not None:
            status.published_end = replica.publishing.publisher.end
        learner = replica.catch_up.newest
        if learner is not None and replica.role is Role.LEARNER:
            status.learner_phase = learner.phase
            status.snapshot_end = learner.snapshot_end
            status.bytes_copied = learner.bytes_copied
            status.copy_seconds = learner.copy_seconds
            status.source_high_watermark = learner.source_high_watermark
            status.feed = learner.feed
            status.feed_down_s = learner.feed_down_s
            status.feed_error = learner.feed_error
            status.records_per_s = learner.records_per_s
        if recent_s > 0:
            recent = self._node.recent.of(replica.shard, recent_s, self._node.now_s())
            recent.queue_bytes = replica.append_gate.waiting_bytes
            status.recent.CopyFrom(recent)
        return status

    async def Copies(
        self, request: node_pb2.CopiesRequest, context: "Context"
    ) -> node_pb2.CopiesResponse:
        async with served(context):
            claim = self._instance.claim
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._node.readers, self._copies)
            return node_pb2.CopiesResponse(
                instance=self._node.instance,
                cluster=claim.cluster,
                estranged=claim.estranged,
                copies=[c for c in found if not request.log or _log_of(c.shard) == request.log],
            )
        raise AssertionError("served() ends the call")

    def _copies(self) -> list[node_pb2.CopyInfo]:
        """Every copy on the disk, in the order of replica ids."""
        engine = self._node.engine
        orphans = {m.replica_id for m in self._instance.orphans()}
        found = []
        for meta in engine.replicas():
            info = self._info(meta, "orphan" if meta.replica_id in orphans else "member")
            with contextlib.suppress(StorageError, UnknownShardError):  # retired meanwhile
                log = ShardLog(engine, meta.replica_id)
                info.end, info.bytes = log.end().end, log.bytes_stored()
                last = log.read_last()
                info.last_epoch = last.epoch if last is not None else 0
            found.append(info)
        for copy in engine.retired():
            info = self._info(copy.meta, "retired")
            info.end, info.bytes = copy.end.end, copy.bytes_stored
            info.cause, info.retired_us = copy.retired.cause, copy.retired.retired_us
            info.keep_until_us = copy.retired.keep_until_us
            found.append(info)
        return sorted(found, key=lambda info: info.replica_id)

    def _info(self, meta: ReplicaMeta, state: str) -> node_pb2.CopyInfo:
        info = node_pb2.CopyInfo(
            replica_id=meta.replica_id, shard=meta.shard, state=state, base=meta.base.end
        )
        facts = self._node.engine.facts(meta.replica_id)
        if facts is not None:
            info.cluster, info.generation = facts.cluster, facts.generation
            info.revision = facts.revision
            info.shard_record, info.log_record = facts.shard_record, facts.log_record
        return info

    async def VerifyChain(
        self, request: node_pb2.VerifyChainRequest, context: "Context"
    ) -> node_pb2.VerifyChainResponse:
        async with served(context):
            replica = self._instance.replica(request.shard)
            log = replica.log
            if request.replica_id not in (0, log.id):
                raise FencedError(f"copy {request.replica_id} of {request.shard} is not here")
            base = log.base()
            stop = request.stop_offset
            if not base.end <= stop <= log.end().end:
                raise OutOfRangeError(
                    f"stop_offset is {stop}, the copy holds {base.end}..{log.end().end}"
                )
            at: Position | None
            try:
                if request.recompute:
                    loop = asyncio.get_running_loop()
                    at = await loop.run_in_executor(self._node.readers, log.verify, base, stop)
                else:
                    at = log.position_at(stop)
            except CorruptStorageError as e:
                replica.report(DamageFound(e.message, e.offset))
                raise
            if at is None:
                raise InvalidArgumentError(f"stop_offset is {stop}, no batch ends there")
            return node_pb2.VerifyChainResponse(
                base=base.end, base_chain=base.chain, end=at.end, chain=at.chain
            )
        raise AssertionError("served() ends the call")

    async def RangeDigests(
        self, request: node_pb2.RangeDigestsRequest, context: "Context"
    ) -> node_pb2.RangeDigestsResponse:
        async with served(context):
            replica = self._instance.replica(request.shard)
            log = replica.log
            if request.replica_id != log.id:
                raise FencedError(f"copy {request.replica_id} of {request.shard} is not here")
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(
                    self._node.readers,
                    range_digests,
                    log.read,
                    request.start_offset,
                    min(request.stop_offset, log.end().end),
                    max(1, min(request.ranges, RANGES_MAX)),
                )
            except CorruptStorageError as e:
                replica.report(DamageFound(e.message, e.offset))
                raise
            return node_pb2.RangeDigestsResponse(ranges=found)
        raise AssertionError("served() ends the call")

    async def Trim(
        self, request: node_pb2.TrimRequest, context: "Context"
    ) -> node_pb2.TrimResponse:
        async with served(context):
            replica = self._instance.replica(request.shard)
            if request.offset > replica.high_watermark:
                raise OutOfRangeError(
                    f"offset is {request.offset}, shard {request.shard} is committed to "
                    f"{replica.high_watermark}"
                )
            base = replica.log.trim(request.offset)
            return node_pb2.TrimResponse(base=base.end)
        raise AssertionError("served() ends the call")


def _log_of(shard: str) -> str:
    return shard.rpartition("/")[0]
