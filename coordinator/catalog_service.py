"""coordinator.v1.Catalog and logstore.v1.RouteService over the metadata store."""

import asyncio

import msgspec

from coordinator.catalog import Catalog, Described, parse_log_options
from coordinator.edge import Context, unary
from coordinator.statistics import StatisticsIntake
from logstore.base.env import Env
from logstore.base.errors import RefusedError
from logstore.meta.port import MetadataStore
from logstore.meta.records import INSTANCES, encode, shard_prefix
from logstore.meta.routes import read_routes
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogServicer
from logstore.proto.v1 import common_pb2, log_pb2
from logstore.proto.v1.log_pb2_grpc import RouteServiceServicer

ROUTES_WAIT_S = 1.0


class CatalogService(CatalogServicer):
    """Logs and instances. A log that is gone is forgotten by the statistics too."""

    def __init__(
        self,
        catalog: Catalog,
        intake: StatisticsIntake,
        env: Env,
        silence_s: float,
        replicas: int = 1,
    ) -> None:
        """`replicas`: of logs that do not say how many."""
        self._replicas = replicas
        self._catalog = catalog
        self._intake = intake
        self._env = env
        self._silence_s = silence_s
        self._started_s = env.clock.monotonic_s()

    def _alive(self, instance: str) -> bool:
        """As reports say; a coordinator that has just started gives everyone time to report."""
        now_s = self._env.clock.monotonic_s()
        if not self._intake.heard(instance) and now_s - self._started_s <= self._silence_s:
            return True
        return self._intake.alive(instance, now_s)

    @unary
    async def CreateLog(self, request: pb.CreateLogRequest, context: Context) -> pb.LogInfo:
        instances = await self._catalog.instances()
        draining = await self._catalog.draining()
        for name in request.instances:
            if name in draining:
                raise RefusedError(f"instance {name} is being drained, it takes no new shards")
        described = await self._catalog.create(
            request.name,
            parse_log_options(request.options_json, self._replicas),
            request.shards,
            list(request.split_keys),
            list(request.instances),
            {i.instance: self._alive(i.instance) and i.instance not in draining for i in instances},
        )
        return _info(described)

    @unary
    async def DeleteLog(
        self, request: pb.DeleteLogRequest, context: Context
    ) -> pb.DeleteLogResponse:
        await self._catalog.delete(request.name)
        self._intake.forget_log(request.name)
        return pb.DeleteLogResponse()

    @unary
    async def ListLogs(self, request: pb.ListLogsRequest, context: Context) -> pb.ListLogsResponse:
        return pb.ListLogsResponse(logs=[_info(d) for d in await self._catalog.list()])

    @unary
    async def DescribeLog(self, request: pb.DescribeLogRequest, context: Context) -> pb.LogInfo:
        return _info(await self._catalog.describe(request.name))

    @unary
    async def ListInstances(
        self, request: pb.ListInstancesRequest, context: Context
    ) -> pb.ListInstancesResponse:
        statuses = self._intake.statuses()
        draining = await self._catalog.draining()
        found = []
        for record in await self._catalog.instances():
            status = statuses.get(record.instance)
            told = {
                **msgspec.to_builtins(record),
                "alive": self._alive(record.instance),
                "draining": record.instance in draining,
                "load": status.load if status is not None else None,
            }
            found.append(msgspec.json.encode(told))
        return pb.ListInstancesResponse(instances_json=found)


class RouteService(RouteServiceServicer):
    """Routes straight from the store, for clients that know only the coordinator."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    @unary
    async def Routes(
        self, request: log_pb2.RoutesRequest, context: Context
    ) -> common_pb2.LogRoutes:
        found = await read_routes(self._store, request.log)
        if found.map_version > request.newer_than:
            return found
        revision = (await self._store.range(shard_prefix(request.log))).revision
        prefixes = (shard_prefix(request.log), INSTANCES)
        waiting = [asyncio.ensure_future(_changed(self._store, p, revision)) for p in prefixes]
        try:
            await asyncio.wait(waiting, timeout=ROUTES_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return await read_routes(self._store, request.log)


async def _changed(store: MetadataStore, prefix: str, revision: int) -> None:
    async for _ in store.watch(prefix, revision):
        return


def _info(described: Described) -> pb.LogInfo:
    return pb.LogInfo(
        name=described.log.name,
        options_json=encode(described.log.options),
        map_version=described.map_version,
        shards_json=[encode(shard) for shard in described.shards],
    )
