"""coordinator.v1.Catalog and logstore.v1.RouteService over the metadata store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from coordinator.answers.base import encode, fields_of
from coordinator.answers.catalog import CellRow, DeletedLog, InstanceRow
from coordinator.catalog.catalog import Catalog, parse_log_options
from coordinator.catalog.copies import CopiesAdmin
from coordinator.catalog.copies_service import CopiesService
from coordinator.catalog.listing import Described
from coordinator.catalog.retiring import Retiring
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.presence import Presence
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError, RefusedError, UnknownLogError
from logstore.base.limits import LOG_NAME_CHARS_MAX
from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    INSTANCES,
    MAPPING_SUFFIX,
    LogOptions,
    mapping_log,
    shard_prefix,
)
from logstore.meta.routes import read_routes
from logstore.meta.table import wait_for_change
from logstore.meta.tombstones import KEEP_DELETED_LOG_S
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.v1 import common_pb2, log_pb2
from logstore.proto.v1.log_pb2_grpc import RouteServiceServicer
from sharder.keys import Partitioner

ROUTES_WAIT_S = 1.0
HEARD_LOOK_S = 0.1
"""Time between two checks whether enough instances have reported for a new log."""


class CatalogService(CopiesService):
    """Logs and instances. The statistics drop a deleted log, too."""

    def __init__(
        self,
        catalog: Catalog,
        intake: StatisticsIntake,
        env: Env,
        alive_s: float,
        replicas: int = 1,
        presence: Presence | None = None,
        *,
        copies: CopiesAdmin,
        retiring: Retiring,
        cells: Callable[[], Awaitable[list[CellRow]]],
    ) -> None:
        """`replicas`: default of new logs. `presence`: of the instances named as primaries.
        `cells`: the cells as they are now."""
        super().__init__(copies, retiring)
        self._presence = presence
        self._replicas = replicas
        self._catalog = catalog
        self._intake = intake
        self._env = env
        self._alive_s = alive_s
        self._cells = cells
        self._started_s = env.clock.monotonic_s()

    @unary
    async def ListCells(self, request: pb.ListCellsRequest, context: Context) -> pb.JsonResponse:
        return answered(await self._cells())

    def _alive(self, instance: str) -> bool:
        """By reports; after its start a coordinator gives all instances time to report."""
        now_s = self._env.clock.monotonic_s()
        if not self._intake.heard(instance) and now_s - self._started_s <= self._alive_s:
            return True
        return self._intake.alive(instance, now_s)

    async def _heard_enough(self, homes: Sequence[str], replicas: int) -> None:
        """Give instances time to report: a coordinator that hears too few may just have been cut
        off."""
        wanted = min(len(homes), replicas)
        deadline_s = self._env.clock.monotonic_s() + self._alive_s
        while sum(map(self._alive, homes)) < wanted:
            if self._env.clock.monotonic_s() >= deadline_s:
                return
            await asyncio.sleep(HEARD_LOOK_S)

    @unary
    async def CreateLog(self, request: pb.CreateLogRequest, context: Context) -> pb.LogInfo:
        if request.name.endswith(MAPPING_SUFFIX):
            raise InvalidArgumentError(
                f"log name is {request.name[:200]!r}, the ending {MAPPING_SUFFIX!r} is for what"
                " remembers the keys of balanced logs"
            )
        instances = await self._catalog.instances()
        draining = await self._catalog.draining()
        for name in request.instances:
            if name in draining:
                raise RefusedError(f"instance {name} is being drained, it takes no new shards")
        if self._presence is not None:
            known = {i.instance for i in instances}
            named = {n: "named as a primary" for n in request.instances if n in known}
            await self._presence.require(f"creating log {request.name}", named)
        options = parse_log_options(request.options_json, self._replicas)
        homes = [i.instance for i in instances if i.instance not in draining]
        await self._heard_enough(homes, options.replicas)
        alive = {i.instance: i.instance in homes and self._alive(i.instance) for i in instances}
        shards = request.shards
        if options.partitioner is Partitioner.BALANCED:
            _check_mapping_name(request.name)
            if not shards and not request.split_keys:
                shards = sum(alive.values())  # keys can only be placed where there is a shard
        described = await self._catalog.create(
            request.name, options, shards, list(request.split_keys), list(request.instances), alive
        )
        return _info(described)

    @unary
    async def DeleteLog(
        self, request: pb.DeleteLogRequest, context: Context
    ) -> pb.DeleteLogResponse:
        base = request.name.removesuffix(MAPPING_SUFFIX)
        keep_s = 0.0 if request.now else KEEP_DELETED_LOG_S
        if base != request.name and await self._options(base) is not None:
            raise RefusedError(f"log {request.name} remembers the keys of {base}: delete that one")
        options = await self._options(request.name)
        told = await self._delete(request.name, keep_s, dry_run=request.dry_run)
        if options is not None and options.partitioner is Partitioner.BALANCED:
            mapping = mapping_log(request.name)
            if await self._options(mapping) is not None and not request.dry_run:
                await self._delete(mapping, keep_s)
        return pb.DeleteLogResponse(json=encode(told))

    async def _delete(self, name: str, keep_s: float, *, dry_run: bool = False) -> DeletedLog:
        """What a deletion removes, and until when it can be undone; sizes None if unknown."""
        await self._catalog.describe(name)
        records, size_bytes = await self.copies.sizes(name)
        told = await self._catalog.delete(name, keep_s, dry_run=dry_run)
        if not dry_run:
            self._intake.forget_log(name)
        until_us = self._env.clock.wall_us() + round(keep_s * 1e6)
        return DeletedLog(
            log=told.log,
            shards=told.shards,
            copies=told.copies,
            keep_s=told.keep_s,
            records=records,
            size_bytes=size_bytes,
            keep_until_us=until_us,
        )

    async def _options(self, name: str) -> LogOptions | None:
        try:
            return (await self._catalog.describe(name)).log.options
        except UnknownLogError:
            return None

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
        told, now_us = self._intake.reliability, self._env.clock.wall_us()
        found = []
        for record in await self._catalog.instances():
            status = statuses.get(record.instance)
            row = InstanceRow(
                **fields_of(record),
                alive=self._alive(record.instance),
                draining=record.instance in draining,
                load=status.load if status is not None else None,
                failures_per_day=told.failures_per_day(record.instance, now_us),
                failures=told.kinds(record.instance),
                bound_by=status.bound_by if status is not None else None,
            )
            found.append(encode(row))
        return pb.ListInstancesResponse(instances_json=found)


def _check_mapping_name(log: str) -> None:
    """The name of the mapping log must be valid, too."""
    if len(mapping_log(log)) > LOG_NAME_CHARS_MAX:
        raise InvalidArgumentError(
            f"log name has {len(log)} characters, that of a balanced log has at most"
            f" {LOG_NAME_CHARS_MAX - len(MAPPING_SUFFIX)}"
        )


class CoordinatorRouteService(RouteServiceServicer):
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
        await wait_for_change(self._store, prefixes, revision, ROUTES_WAIT_S)
        return await read_routes(self._store, request.log)


def _info(described: Described) -> pb.LogInfo:
    return pb.LogInfo(
        name=described.log.name,
        options_json=encode(described.log.options),
        map_version=described.map_version,
        shards_json=[encode(shard) for shard in described.shards],
    )
