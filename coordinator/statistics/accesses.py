"""coordinator.v1.Accesses: the accesses that instances sampled, asked for and passed on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import numpy as np

from coordinator.answers.statistics import LogCorrelations, PairUsedTogether
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.correlations import RELATED_MIN, Correlations, LogCorrelation
from logstore.base.errors import InvalidArgumentError, LogstoreError, UnknownLogError
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore
from logstore.meta.records import InstanceRecord
from logstore.meta.tables import instance_table, log_table, shard_table
from logstore.proto.coordinator_v1 import accesses_pb2 as pb2
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.coordinator_v1.accesses_pb2_grpc import AccessesServicer
from logstore.proto.handshake import MemberChannel
from logstore.proto.status import called, served
from logstore.proto.transport import Transport
from logstore.proto.v1 import accesses_pb2
from logstore.proto.v1.accesses_pb2_grpc import AccessServiceStub
from profiler.correlation import FloatArray
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
    """Reads all instances, one after the other, and what was learned from them."""

    def __init__(self, store: MetadataStore, instances: Instances, learned: Correlations) -> None:
        self._store, self._instances, self._learned = store, instances, learned

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

    @unary
    async def Correlation(
        self, request: pb2.CorrelationRequest, context: Context
    ) -> coordinator_pb2.JsonResponse:
        if await log_table(self._store).get(request.log) is None:
            raise UnknownLogError(f"log {request.log!r} does not exist")
        shards = await shard_table(self._store).all(f"{request.log}/")
        live = sorted(
            (s for s in shards if s.status is ShardStatus.OPEN), key=lambda s: s.range.start
        )
        found = self._learned.of(request.log) or LogCorrelation([])
        names = [s.shard for s in live if s.shard in found.shards]
        at = [found.shards.index(name) for name in names]
        matrix = found.partial()[np.ix_(at, at)]
        homes = {s.shard: s.primary.instance for s in live}
        answer = answered(
            LogCorrelations(
                shards=names,
                bins=found.matrix.learned_slots,
                matrix=matrix.tolist(),
                pairs=_pairs(names, matrix, homes),
            )
        )
        if request.png:
            answer.png = await asyncio.to_thread(_png, names, matrix, request.log)
        return answer


def _pairs(
    names: Sequence[str], matrix: FloatArray, homes: Mapping[str, str]
) -> list[PairUsedTogether]:
    rows, columns = np.nonzero(np.triu(matrix, 1) >= RELATED_MIN)
    found = [
        PairUsedTogether(
            shard=names[i],
            other=names[j],
            correlation=float(matrix[i, j]),
            instance=homes[names[i]],
            other_instance=homes[names[j]],
        )
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.correlation, pair.shard, pair.other))


def _png(names: Sequence[str], matrix: FloatArray, log: str) -> bytes:
    try:
        from profiler.correlation_png import render_correlation_png

        return render_correlation_png(names, matrix, log)
    except ImportError:
        raise InvalidArgumentError("a PNG needs matplotlib: pip install 'logstore[demo]'") from None
