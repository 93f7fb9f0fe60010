"""Calls of the migration driver to instances: only `Status` and `VerifyChain`."""

from typing import TYPE_CHECKING, Protocol

from coordinator.migration.difference import RangeDigest
from coordinator.migration.facts import CopyReport
from coordinator.migration.windows import SideWindow
from logstore.base.errors import UnavailableError
from logstore.meta.port import MetadataStore
from logstore.meta.records import Member
from logstore.meta.tables import instance_table
from logstore.proto.handshake import MemberChannel
from logstore.proto.status import called
from logstore.proto.transport import Transport
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub

if TYPE_CHECKING:
    from logstore.proto.v1.node_pb2_grpc import NodeAdminAsyncStub

STATUS_TIMEOUT_S = 1.0
DIGESTS_TIMEOUT_S = 600.0
COPIES_TIMEOUT_S = 10.0


class Nodes(Protocol):
    """Errors: `UnavailableError` when the instance cannot be reached; else the instance's error."""

    async def copies(self, instance: str, shard: str, recent_s: float = 0.0) -> list[CopyReport]:
        """The copies of `shard` that the instance holds; with their calls of about the last
        `recent_s`, if that is above 0."""
        ...

    async def chain(
        self, member: Member, shard: str, stop: int, *, recompute: bool, timeout_s: float
    ) -> bytes:
        """The chain at `stop`: recomputed from the copy's disk, or as it is stored."""
        ...

    async def digests(
        self, member: Member, shard: str, start: int, stop: int, ranges: int
    ) -> list[RangeDigest]:
        """Of the copy's stored batches that start in [start, stop)."""
        ...

    async def base(self, member: Member, shard: str) -> int:
        """The offset from which on the copy holds records."""
        ...


class GrpcNodes:
    """Talks to the addresses that the instances registered."""

    def __init__(self, store: MetadataStore, transport: Transport) -> None:
        self._store = store
        self._transport = transport
        self.cluster = ""
        """This cluster's id, which every call says."""

    async def copies(self, instance: str, shard: str, recent_s: float = 0.0) -> list[CopyReport]:
        stub = await self._stub(instance)
        request = node_pb2.StatusRequest(shard=shard, recent_s=recent_s)
        async with called():
            answer = await stub.Status(request, timeout=STATUS_TIMEOUT_S)
        return [_copy(status) for status in answer.replicas if status.shard == shard]

    async def sizes(self, instance: str) -> dict[str, int]:
        """Shard -> bytes of the copies that the instance leads."""
        stub = await self._stub(instance)
        async with called():
            answer = await stub.Status(node_pb2.StatusRequest(), timeout=STATUS_TIMEOUT_S)
        return {s.shard: s.bytes_stored for s in answer.replicas if s.role == "primary"}

    async def held(self, instance: str, log: str) -> node_pb2.CopiesResponse:
        """Every copy on the instance's disk, of one log or (empty) of all."""
        stub = await self._stub(instance)
        async with called():
            return await stub.Copies(node_pb2.CopiesRequest(log=log), timeout=COPIES_TIMEOUT_S)
        raise AssertionError("called() ends the call")

    async def chain(
        self, member: Member, shard: str, stop: int, *, recompute: bool, timeout_s: float
    ) -> bytes:
        stub = await self._stub(member.instance)
        request = node_pb2.VerifyChainRequest(
            shard=shard, replica_id=member.replica_id, stop_offset=stop, recompute=recompute
        )
        async with called():
            answer = await stub.VerifyChain(request, timeout=timeout_s)
        if answer.end != stop:
            raise UnavailableError(f"{member.instance} verified up to {answer.end}, not {stop}")
        return bytes(answer.chain)

    async def digests(
        self, member: Member, shard: str, start: int, stop: int, ranges: int
    ) -> list[RangeDigest]:
        stub = await self._stub(member.instance)
        return await ask_digests(stub, member.replica_id, shard, start, stop, ranges)

    async def base(self, member: Member, shard: str) -> int:
        stub = await self._stub(member.instance)
        async with called():
            answer = await stub.Status(
                node_pb2.StatusRequest(shard=shard), timeout=STATUS_TIMEOUT_S
            )
        return max((s.base for s in answer.replicas if s.shard == shard), default=0)

    async def _stub(self, instance: str) -> "NodeAdminAsyncStub":
        found = await instance_table(self._store).get(instance)
        if found is None:
            raise UnavailableError(f"instance {instance} is not registered")
        channel = self._transport.channel(found.address)
        return NodeAdminStub(MemberChannel(channel, self.cluster, instance))


async def ask_digests(
    stub: "NodeAdminAsyncStub", replica_id: int, shard: str, start: int, stop: int, ranges: int
) -> list[RangeDigest]:
    """The digests in one copy's answer."""
    request = node_pb2.RangeDigestsRequest(
        shard=shard, replica_id=replica_id, start_offset=start, stop_offset=stop, ranges=ranges
    )
    async with called():
        answer = await stub.RangeDigests(request, timeout=DIGESTS_TIMEOUT_S)
    return [
        RangeDigest(r.start_offset, r.end_offset, r.start_byte, r.end_byte, r.batches, r.digest)
        for r in answer.ranges
    ]


def _copy(status: node_pb2.ReplicaStatus) -> CopyReport:
    return CopyReport(
        replica_id=status.replica_id,
        role=status.role,
        end=status.end,
        chain=status.chain,
        high_watermark=status.high_watermark,
        learner_phase=status.learner_phase,
        bytes_stored=status.bytes_stored,
        bytes_copied=status.bytes_copied,
        copy_seconds=status.copy_seconds,
        blackout_ms=status.blackout_ms,
        error=status.error,
        feed_down_s=status.feed_down_s,
        feed_error=status.feed_error,
        records_per_s=status.records_per_s,
        recent=_window(status.recent) if status.HasField("recent") else None,
    )


def _window(recent: node_pb2.RecentOperations) -> SideWindow:
    return SideWindow(
        recent.over_s,
        dict(recent.reads),
        dict(recent.appends),
        dict(recent.failed),
        recent.queue_bytes,
    )
