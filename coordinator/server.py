"""The coordinator as a server: metadata, catalog, statistics, plans, migrations."""

import functools
import socket
from dataclasses import replace

import structlog
from grpc.aio import Server
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.announcements import Announced
from coordinator.catalog import Catalog
from coordinator.catalog_service import RouteService
from coordinator.cell_pulse import Pulse
from coordinator.cell_work import CellWork, Parts, ReadOnlyStore
from coordinator.cells import LOG_WIDE
from coordinator.config import CoordinatorConfig
from coordinator.forwarding import CellRouter
from coordinator.leading import Leading, agree_on_cells
from coordinator.learning import LEARNED_FILE, Learner
from coordinator.loop import PlanningLoop
from coordinator.metadata_service import MetadataService
from coordinator.metrics import CoordinatorCollector, Fetched
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Ledger
from coordinator.migration.nodes import GrpcNodes
from coordinator.statistics import StatisticsIntake
from coordinator.statistics_service import StatisticsService
from coordinator.statistics_state import ceilings
from logstore.base.address import Address
from logstore.base.env import Env
from logstore.base.errors import AddressInUseError, WrongClusterError
from logstore.base.observe import Endpoint
from logstore.base.steady_clock import SteadyClock
from logstore.base.tls import TlsOptions
from logstore.meta.generations import check_expected, ensure_generation, open_generation
from logstore.meta.port import MetadataStore
from logstore.meta.records import LOGS, decode_log
from logstore.meta.rocks import RocksMetadataStore
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1 import coordinator_pb2, placement_pb2, placement_pb2_grpc
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as rpc
from logstore.proto.handshake import Doorkeeper
from logstore.proto.v1.log_pb2_grpc import add_RouteServiceServicer_to_server

STOP_GRACE_S = 1.0
_log = structlog.get_logger(__name__)


class CoordinatorServer:
    """One coordinator. Use as: `start`, wait, `stop`.

    With the embedded store it leads the one cell itself. With etcd it leads its share of the cells
    (`leading`), and passes calls about the others on to their leaders (`forwarding`).
    Errors of the constructor and of `start`: `DirectoryInUseError`, `AddressInUseError`,
    `CorruptStorageError`, `ConfigError`.
    """

    def __init__(self, config: CoordinatorConfig, env: Env) -> None:
        # A glitch of the wall clock must not end cool-downs, nor stamp moves for years to come.
        env = replace(env, clock=SteadyClock(env.clock.wall_us, env.clock.monotonic_s))
        self.config, self._env = config, env
        self._tls = (
            TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
        )
        self.store: MetadataStore
        if config.metadata is None:
            if config.cluster and not RocksMetadataStore.is_in(config.data):
                raise WrongClusterError(
                    f"{config.data} holds no metadata, cluster {config.cluster} is expected: put "
                    "its folder back, or rebuild it with `logstore recover`"
                )
            self.store = RocksMetadataStore(config.data, env=env)
        else:
            self.store = config.open_metadata([config.metadata], self._tls)
        self.intake = StatisticsIntake(
            config.event_slot_s,
            settle_s=3 * config.report_interval_s,
            silence_s=config.silence_s,
            seasons_slots=config.seasons_slots,
            history_slots=config.history_slots,
            heatmap_buckets=config.heatmap_buckets,
        )
        self.learner = Learner(self.intake, env, config.data / LEARNED_FILE)
        self.announced = Announced(self.store, self.learner)
        self.nodes = GrpcNodes(self.store, self._tls)
        self.work: CellWork
        """Of the cell that an embedded store has, else one that only reads; made by `start`."""
        self._leading: Leading | None = None
        self._router: CellRouter | None = None
        self._led: dict[str, CellWork] = {}
        if config.metadata is not None:
            self._router = CellRouter(self.store, self._led, config.cells, self._tls)
        doorkeeper = Doorkeeper(lambda: (self.nodes.cluster, ""))
        routers = [] if self._router is None else [self._router]
        self._server: Server = make_server([doorkeeper, *routers])
        self._health = health.aio.HealthServicer()
        self._fetched = Fetched(
            Ledger(self.store, env), functools.partial(self.learner.call, self.intake.score)
        )
        self._endpoint = Endpoint([self._collector()], self._not_ready)
        self.address = ""
        self.metrics_address = ""

    @property
    def catalog(self) -> Catalog:
        return self.work.catalog

    @property
    def driver(self) -> MigrationDriver:
        return self.work.driver

    @property
    def loop(self) -> PlanningLoop:
        return self.work.loop

    async def start(self) -> str:
        """Listen, go on with unfinished migrations, begin to plan; returns the address.

        Also `WrongClusterError` when the store is another cluster's than the settings say.
        """
        try:
            _probe(self.config.host, self.config.port)
            await self._begin()
            if self.config.metadata is not None:
                await agree_on_cells(self.store, self.config.cells)
            door = str(Address(self.config.host, self.config.port))
            port = listen(self._server, door, self._tls)
        except BaseException:
            await self.store.close()
            raise
        self._add_services()
        await self._restore()
        await self._server.start()
        self.address = str(Address(self.config.host, port))
        if self.config.metrics_listen:
            self.metrics_address = self._endpoint.start(self.config.metrics_listen)
            self._fetched.start()
        self.learner.start()
        await self.announced.start()
        if self._router is None:
            await self.work.start()
        else:
            reached = self.config.advertise or self.address
            self._leading = Leading(
                self.store, self._env, reached, self.config.cells, self._make, self._led
            )
            self._leading.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("coordinator serves", address=self.address)
        return self.address

    async def _begin(self) -> None:
        """Begin a generation of the embedded store; with etcd the leader does, but for the first
        one. Then make what works on it."""
        config, store = self.config, self.store
        by = config.advertise or f"{config.host}:{config.port}"
        await check_expected(store, config.cluster)
        if config.metadata is None:
            lineage = await open_generation(store, self._env, by)
        else:
            lineage = await ensure_generation(store, self._env, by)
            store = ReadOnlyStore(store)
        pulse = Pulse(self.intake, self._env)
        self._parts = Parts(
            config, self._env, self.learner, self.nodes, pulse, cluster=lineage.cluster
        )
        self.nodes.cluster = lineage.cluster
        self.work = CellWork(LOG_WIDE, store, self._parts)

    async def _restore(self) -> None:
        """What was learned before the last stop, of logs that are still there."""
        logs = [decode_log(item.value) for item in (await self.store.range(LOGS)).items]
        newest = ceilings(logs, self._env.clock.wall_us(), self.intake.slot_s)
        await self.learner.restore([log.name for log in logs], newest)

    def _cells_led(self) -> dict[str, CellWork]:
        return {LOG_WIDE: self.work} if self._router is None else self._led

    def _planning(self) -> PlanningLoop:
        """The loop that plans over all shards, if it runs here."""
        return self._cells_led().get(LOG_WIDE, self.work).loop

    def _collector(self) -> CoordinatorCollector:
        return CoordinatorCollector(
            self._fetched,
            lambda: self._planning().counts,
            self.intake,
            self._env.clock.monotonic_s,
            lambda: sorted(self._cells_led()),
            lambda: self._cells_led().get(LOG_WIDE, self.work).broker_up,
            self._env.clock.wall_us,
        )

    def _not_ready(self) -> str | None:
        return None if self._fetched.fresh else "the metadata has not been read yet"

    def _make(self, cell: str, store: MetadataStore) -> CellWork:
        return CellWork(cell, store, self._parts)

    def _add_services(self) -> None:
        server, services = self._server, self.work.services
        rpc.add_MetadataServicer_to_server(MetadataService(self.store), server)
        for name, service in services.items():
            home = placement_pb2_grpc if name == "Placement" else rpc
            getattr(home, f"add_{name}Servicer_to_server")(service, server)
        add_RouteServiceServicer_to_server(RouteService(self.store), server)
        rpc.add_StatisticsServicer_to_server(
            StatisticsService(self.config, self._env, self.store, self.learner), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        files = (coordinator_pb2.DESCRIPTOR, placement_pb2.DESCRIPTOR)
        names = [s.full_name for file in files for s in file.services_by_name.values()]
        reflection.enable_server_reflection(
            [*names, "logstore.v1.RouteService", health.SERVICE_NAME, reflection.SERVICE_NAME],
            server,
        )

    async def stop(self) -> None:
        """Stop gracefully; migrations go on with the next start, or at the next leader."""
        await self._health.enter_graceful_shutdown()
        await self._endpoint.stop()
        await self._fetched.close()
        if self._leading is not None:
            await self._leading.close()
        await self.work.close()
        await self.announced.close()
        await self.learner.close()
        await self._server.stop(STOP_GRACE_S)
        if self._router is not None:
            await self._router.close()
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
        raise AddressInUseError(f"cannot listen on {Address(host, port)}: {e.strerror}") from e
