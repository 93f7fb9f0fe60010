"""coordinator.v1.Drains: begin, cancel and list drains."""

import asyncio

from coordinator.migration.nodes import GrpcNodes
from coordinator.replicas.drain import Drains, only_copies
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.liveness import Liveness
from coordinator.statistics.presence import Presence
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import DrainsServicer


class DrainsService(DrainsServicer):
    """The calls of `Drains`; asks the instances for the sizes of their shards."""

    def __init__(
        self,
        drains: Drains,
        pulse: Liveness,
        nodes: GrpcNodes,
        intake: StatisticsIntake,
        presence: Presence,
    ) -> None:
        self._presence = presence
        self._drains, self._pulse, self._nodes, self._intake = drains, pulse, nodes, intake

    @unary
    async def Begin(self, request: pb.DrainRequest, context: Context) -> pb.JsonResponse:
        shards = await self._drains.shards()
        primaries = sorted({s.primary.instance for s in shards})
        instances = sorted({request.instance, *(await self._drains.instances())})
        if request.instance in await self._drains.instances():
            stuck = only_copies(request.instance, shards)
            if stuck:
                role = f"the only copy in sync of {len(stuck)} shards, {stuck[0]} first"
                await self._presence.require(
                    f"the drain of {request.instance}", {request.instance: role}
                )
        progress = await self._drains.begin(
            request.instance,
            self._pulse.silent_s(instances),
            await self._sizes(primaries),
            self._intake.statuses(),
            dry_run=request.dry_run,
        )
        return answered(progress)

    @unary
    async def Cancel(self, request: pb.DrainRequest, context: Context) -> pb.JsonResponse:
        return answered(await self._drains.cancel(request.instance))

    @unary
    async def List(self, request: pb.ListDrainsRequest, context: Context) -> pb.JsonResponse:
        return answered(await self._drains.all())

    async def _sizes(self, primaries: list[str]) -> dict[str, int]:
        """Shard -> bytes; shards of instances that do not answer are missing."""
        answers = await asyncio.gather(
            *(self._nodes.sizes(name) for name in primaries), return_exceptions=True
        )
        return {
            shard: size
            for answer in answers
            if isinstance(answer, dict)
            for shard, size in answer.items()
        }
