"""The coordinator as a server: metadata, catalog, statistics, plans, migrations."""

import asyncio
import functools
import socket

import structlog

from coordinator.catalog.catalog import Catalog
from coordinator.config import CoordinatorConfig
from coordinator.core import CoordinatorCore, steady
from coordinator.metrics import CoordinatorCollector, Fetched
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Ledger
from coordinator.planning.announcements import Announced
from coordinator.planning.loop import PlanningLoop
from coordinator.statistics.access_learner import AccessLearner
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.model_trainer import LEARNED_FILE, ModelTrainer
from logstore.base.address import Address
from logstore.base.env import Env
from logstore.base.errors import AddressInUseError, UnavailableError, WrongClusterError
from logstore.base.observe import Endpoint
from logstore.base.tls import TlsOptions
from logstore.meta.port import MetadataStore
from logstore.meta.rocks import RocksMetadataStore
from logstore.proto.server import GrpcServer
from logstore.proto.transport import GrpcTransport

STOP_GRACE_S = 1.0
STORE_WAIT_S, STORE_RETRY_S = 10.0, 0.5
"""How long a start waits for a metadata store that is away: etcd may be electing or starting."""
_log = structlog.get_logger(__name__)


class CoordinatorServer:
    """One coordinator behind gRPC. Use as: `start`, wait, `stop`.

    Errors of the constructor and of `start`: `DirectoryInUseError`, `AddressInUseError`,
    `CorruptStorageError`, `ConfigError`.
    """

    def __init__(self, config: CoordinatorConfig, env: Env) -> None:
        env = steady(env)
        self.config, self._env = config, env
        self._tls = (
            TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
        )
        self.store = self._open_store()
        self.core = CoordinatorCore(
            config, env, self.store, GrpcTransport(self._tls), learned=config.data / LEARNED_FILE
        )
        self._server = GrpcServer(self.core.interceptors)
        self._access_learner = AccessLearner(self.core.samples, self.core.intake.correlations, env)
        self._fetched = Fetched(
            Ledger(self.store, env), functools.partial(self.learner.call, self.intake.score)
        )
        self._endpoint = Endpoint([self._collector()], self._not_ready)
        self.address = ""
        self.metrics_address = ""

    def _open_store(self) -> MetadataStore:
        config = self.config
        if config.metadata is not None:
            return config.open_metadata([config.metadata], self._tls)
        if config.cluster and not RocksMetadataStore.is_in(config.data):
            raise WrongClusterError(
                f"{config.data} holds no metadata, cluster {config.cluster} is expected: put "
                "its folder back, or rebuild it with `logstore recover`"
            )
        return RocksMetadataStore(config.data, env=self._env)

    @property
    def intake(self) -> StatisticsIntake:
        return self.core.intake

    @property
    def learner(self) -> ModelTrainer:
        return self.core.learner

    @property
    def announced(self) -> Announced:
        return self.core.announced

    @property
    def catalog(self) -> Catalog:
        return self.core.work.catalog

    @property
    def driver(self) -> MigrationDriver:
        return self.core.work.driver

    @property
    def loop(self) -> PlanningLoop:
        return self.core.work.loop

    async def start(self) -> str:
        """Listen, go on with unfinished migrations, begin to plan; returns the address.

        Also `WrongClusterError` when the store is another cluster's than the settings say, and
        `UnavailableError` when it does not answer within STORE_WAIT_S.
        """
        try:
            _probe(self.config.host, self.config.port)
            await self._begin()
            door = str(Address(self.config.host, self.config.port))
            self.address = self._server.listen(door, self._tls)
        except BaseException:
            await self.store.close()
            raise
        await self.core.restore()
        await self._server.start(self.core.services())
        if self.config.metrics_listen:
            self.metrics_address = self._endpoint.start(self.config.metrics_listen)
            self._fetched.start()
        self._access_learner.start()
        await self.core.start(self.config.advertise or self.address)
        await self._server.ready()
        _log.info("coordinator serves", address=self.address)
        return self.address

    async def _begin(self) -> None:
        """Begin a generation of the store, as soon as the store answers."""
        clock = self._env.clock
        until_s = clock.monotonic_s() + STORE_WAIT_S
        while True:
            try:
                return await self.core.begin()
            except UnavailableError as e:
                if clock.monotonic_s() > until_s:
                    raise
                _log.warning("the metadata store is away", error=e.message)
            await asyncio.sleep(STORE_RETRY_S)

    def _collector(self) -> CoordinatorCollector:
        core = self.core
        return CoordinatorCollector(
            self._fetched,
            core.plan_counts,
            core.intake,
            self._env.clock.monotonic_s,
            lambda: sorted(core.led),
            lambda: core.log_wide.broker_up,
            self._env.clock.wall_us,
        )

    def _not_ready(self) -> str | None:
        return None if self._fetched.fresh else "the metadata has not been read yet"

    async def stop(self) -> None:
        """Stop gracefully; migrations go on with the next start, or at the next leader."""
        await self._server.leave()
        await self._endpoint.stop()
        await self._fetched.close()
        await self._access_learner.close()
        await self.core.stop()
        await self._server.stop(STOP_GRACE_S)
        await self.core.close()


def _probe(host: str, port: int) -> None:
    """Find a taken port before gRPC does, which would log lines of its own."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as e:
        raise AddressInUseError(f"cannot listen on {Address(host, port)}: {e.strerror}") from e
