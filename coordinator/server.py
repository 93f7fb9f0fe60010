"""The coordinator as a server: metadata, catalog, statistics, plans, migrations."""

import socket
from collections.abc import Sequence

import structlog
from grpc.aio import Server
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.catalog import Catalog
from coordinator.catalog_service import CatalogService, RouteService
from coordinator.config import CoordinatorConfig
from coordinator.loop import PlanningLoop
from coordinator.metadata_service import MetadataService
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.service import MigrationsService
from coordinator.repair import RepairLoop
from coordinator.statistics import StatisticsIntake
from coordinator.statistics_service import PlansService, StatisticsService
from logstore.base.env import Env
from logstore.base.errors import AddressInUseError
from logstore.base.tls import TlsOptions
from logstore.meta.port import MetadataStore
from logstore.meta.rocks import RocksMetadataStore
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import (
    add_CatalogServicer_to_server,
    add_MetadataServicer_to_server,
    add_MigrationsServicer_to_server,
    add_PlansServicer_to_server,
    add_StatisticsServicer_to_server,
)
from logstore.proto.v1.log_pb2_grpc import add_RouteServiceServicer_to_server

STOP_GRACE_S = 1.0
_log = structlog.get_logger(__name__)


class CoordinatorServer:
    """One coordinator over one data directory. Use as: `start`, wait, `stop`.

    Errors of the constructor and of `start`: `DirectoryInUseError`, `AddressInUseError`,
    `CorruptStorageError`, `ConfigError`.
    """

    def __init__(
        self, config: CoordinatorConfig, env: Env, *, store: MetadataStore | None = None
    ) -> None:
        """`store`: what a leader may write to; by default one embedded in `config.data`."""
        self.config, self._env = config, env
        self._tls = (
            TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
        )
        self.store = store or RocksMetadataStore(config.data, env=env)
        self.intake = StatisticsIntake(
            config.event_slot_s,
            settle_s=3 * config.report_interval_s,
            silence_s=config.silence_s,
            seasons_slots=config.seasons_slots,
            history_slots=config.history_slots,
            heatmap_buckets=config.heatmap_buckets,
        )
        self.catalog = Catalog(self.store, env)
        self.nodes = GrpcNodes(self.store, self._tls)
        self.driver = MigrationDriver(self.store, self.nodes, env, self.intake.figures)
        self.repair = RepairLoop(self.store, self.catalog, self._silent_s, config.lost_after_s)
        self.loop = PlanningLoop(config, env, self.store, self.intake, self.driver, self.nodes)
        self._server: Server = make_server()
        self._health = health.aio.HealthServicer()
        self.address = ""
        self._started_s = env.clock.monotonic_s()

    async def start(self) -> str:
        """Listen, go on with unfinished migrations, begin to plan; returns the address."""
        server = self._server
        try:
            _probe(self.config.host, self.config.port)
            port = listen(server, f"{self.config.host}:{self.config.port}", self._tls)
        except BaseException:
            await self.store.close()
            raise
        add_MetadataServicer_to_server(MetadataService(self.store), server)
        add_CatalogServicer_to_server(
            CatalogService(self.catalog, self.intake, self._env, self.config.silence_s), server
        )
        add_RouteServiceServicer_to_server(RouteService(self.store), server)
        add_StatisticsServicer_to_server(
            StatisticsService(self.config, self._env, self.store, self.intake), server
        )
        add_PlansServicer_to_server(PlansService(self.loop), server)
        add_MigrationsServicer_to_server(
            MigrationsService(self.store, self.driver, self.nodes, self.loop.move_options), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [s.full_name for s in coordinator_pb2.DESCRIPTOR.services_by_name.values()]
        reflection.enable_server_reflection(
            [*names, "logstore.v1.RouteService", health.SERVICE_NAME, reflection.SERVICE_NAME],
            server,
        )
        await self.catalog.tidy()
        await server.start()
        await self.driver.start()
        self.repair.start()
        self.loop.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.address = f"{self.config.host}:{port}"
        _log.info("coordinator serves", address=self.address)
        return self.address

    def _silent_s(self, instances: Sequence[str]) -> dict[str, float]:
        """Who was never heard counts from our start: a restart is no reason to copy anything."""
        now_s = self._env.clock.monotonic_s()
        never_s = now_s - self._started_s
        told = {i: self.intake.silent_s(i, now_s) for i in instances}
        return {i: max(never_s, 1e-9) if s is None else s for i, s in told.items()}

    async def stop(self) -> None:
        """Stop gracefully; migrations go on with the next start."""
        await self._health.enter_graceful_shutdown()
        await self.loop.close()
        await self.repair.close()
        await self.driver.close()
        await self._server.stop(STOP_GRACE_S)
        await self.nodes.close()
        await self.store.close()


def _probe(host: str, port: int) -> None:
    """Find a taken port before gRPC does, which would write its own lines about it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as e:
        raise AddressInUseError(f"cannot listen on {host}:{port}: {e.strerror}") from e
