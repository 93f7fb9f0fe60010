"""coordinator.v1.Accesses: the accesses that instances sampled, asked for and passed on."""

from collections.abc import AsyncIterator, Callable

from coordinator.rpc_errors import Context
from logstore.base.errors import InvalidArgumentError, LogstoreError, UnknownLogError
from logstore.meta.port import MetadataStore
from logstore.meta.records import InstanceRecord
from logstore.meta.tables import instance_table, log_table
from logstore.proto.coordinator_v1.accesses_pb2_grpc import AccessesServicer
from logstore.proto.handshake import MemberChannel
from logstore.proto.status import called, served
from logstore.proto.transport import Transport
from logstore.proto.v1 import accesses_pb2
from logstore.proto.v1.accesses_pb2_grpc import AccessServiceStub
from sharder.keys import TOKEN_BYTES, Partitioner

ANSWER_S = 10.0
"""An instance that takes longer counts as silent."""


class Instances:
    """Asks registered instances for their samples. `cluster`: this cluster's id."""

    def __init__(
        self, store: MetadataStore, transport: Transport, cluster: Callable[[], str]
    ) -> None:
        self._store, self._transport, self._cluster = store, transport, cluster

    async def all(self) -> list[InstanceRecord]:
        return await instance_table(self._store).all()

    async def parts(
        self, of: InstanceRecord, request: accesses_pb2.AccessesRequest
    ) -> AsyncIterator[accesses_pb2.AccessesPart]:
        """One instance's parts, oldest first, the last one without accesses."""
        channel = MemberChannel(self._transport.channel(of.address), self._cluster(), of.instance)
        async with called():
            async for part in AccessServiceStub(channel).Read(request, timeout=ANSWER_S):
                yield part


class AccessesService(AccessesServicer):
    """Reads all instances, one after the other."""

    def __init__(self, store: MetadataStore, instances: Instances) -> None:
        self._store, self._instances = store, instances

    async def Read(
        self, request: accesses_pb2.AccessesRequest, context: Context
    ) -> AsyncIterator[accesses_pb2.AccessesPart]:
        async with served(context):
            asked = await self._asked(request)
            for instance in await self._instances.all():
                try:
                    async for part in self._instances.parts(instance, asked):
                        yield part
                except LogstoreError as e:
                    yield accesses_pb2.AccessesPart(instance=instance.instance, error=e.message)

    async def _asked(self, request: accesses_pb2.AccessesRequest) -> accesses_pb2.AccessesRequest:
        """The request as instances take it: with the bytes that the log puts before keys."""
        if not request.log:
            raise InvalidArgumentError("log is empty, it must name a log")
        found = await log_table(self._store).get(request.log)
        if found is None:
            raise UnknownLogError(f"log {request.log!r} does not exist")
        asked = accesses_pb2.AccessesRequest()
        asked.CopyFrom(request)
        balanced = found.options.partitioner is Partitioner.BALANCED
        asked.token_bytes = TOKEN_BYTES if balanced else 0
        return asked
