"""An instance as a server: services, registration, reports; start and graceful stop."""

import asyncio
from dataclasses import dataclass

import structlog

from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.base.observe import Endpoint
from logstore.base.tls import TlsOptions
from logstore.engine.port import Engine
from logstore.engine.rocks import RocksEngine
from logstore.feed.open import open_broker
from logstore.feed.port import Broker
from logstore.meta.port import MetadataStore
from logstore.node.config import NodeConfig
from logstore.node.instance.claim import check_directory
from logstore.node.instance.graceful_stop import hand_over_all
from logstore.node.instance.identity import IdentityFile
from logstore.node.instance.instance import Instance
from logstore.node.instance.reporting import Reporter
from logstore.node.instance.running_mark import RunningMark
from logstore.node.metrics import NodeCollector
from logstore.node.rpc.services import interceptors_of, services_of
from logstore.proto.server import GrpcServer
from logstore.proto.status import called
from logstore.proto.transport import GrpcTransport
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceStub

_log = structlog.get_logger(__name__)

STOP_GRACE_S = 1.0
RESTART_LOOK_S = 1.0
CLAIM_WAIT_S = 20.0
"""A start waits this long for the metadata before it says that it listens."""
STATUS_REFUSED, STATUS_RESTART, STATUS_FENCED = 2, 3, 4
"""Exit statuses: this process may not run the instance; it must be started again to rebuild its
directory; another process runs the instance."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a process must end, and with which status."""

    status: int
    why: str


async def check_before_open(config: NodeConfig, env: Env) -> None:
    """`WrongClusterError` when the data directory is not this instance's or not of this metadata;
    nothing is written to it."""
    tls = TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
    store = config.open_metadata(config.metadata, tls)
    try:
        kept = IdentityFile(config.data)
        await check_directory(store, kept, config.instance, env, config.accept_generation)
    finally:
        await store.close()


class NodeServer:
    """Runs one instance until `stop`. Use as: start, wait, stop."""

    def __init__(
        self,
        config: NodeConfig,
        env: Env,
        *,
        engine: Engine | None = None,
        store: MetadataStore | None = None,
        broker: Broker | None = None,
    ) -> None:
        """By default RocksDB under `config.data` and the coordinators' metadata."""
        self._config = config
        self._env = env
        self._tls = (
            TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
        )
        self._transport = GrpcTransport(self._tls)
        self._mark = RunningMark(config.data)
        self._engine = engine or RocksEngine.open(config.data)
        self._mark.set()
        self._owned_store: MetadataStore | None = None
        if store is None:
            store = self._owned_store = config.open_metadata(
                config.metadata, self._tls, self._transport
            )
        try:
            self.instance = Instance(
                config,
                env,
                self._engine,
                store,
                IdentityFile(config.data),
                self._transport,
                broker or open_broker(config.kafka),
            )
        except BaseException:
            self._engine.close()
            self._mark.clear()
            raise
        self.instance.node.reporter.unclean_start = self._mark.unclean
        self._server = GrpcServer(interceptors_of(self.instance))
        self._tasks = Background("server", self.instance.task_failed)
        self._reporter = Reporter(self.instance, self._transport)
        self._endpoint = Endpoint(
            [NodeCollector(self.instance, config.metrics_shards_max)], self._not_ready
        )
        self.address = ""
        self.metrics_address = ""

    def _not_ready(self) -> str | None:
        instance = self.instance
        if instance.registration.refused is not None:
            return instance.registration.refused.message
        if instance.claim.taken.is_set():
            return "another process runs this instance"
        if instance.claim.estranged:
            return instance.claim.estranged
        if not instance.metadata_view.filled:
            return "the metadata has not been read yet"
        return None

    async def start(self) -> str:
        """Listen and begin to serve; returns the address.

        AddressInUseError, ConfigError; WrongClusterError and AlreadyRunningError when the metadata
        answers within CLAIM_WAIT_S and this process may not run this instance (later: `ended`).
        """
        self.address = self._server.listen(self._config.listen, self._tls)
        instance = self.instance
        if self._config.metrics_listen:
            self.metrics_address = self._endpoint.start(self._config.metrics_listen)
        instance.start()
        await self._server.start(services_of(instance))
        self._tasks.start(instance.registration.run(self._config.advertise or self.address))
        await instance.registration.decided(CLAIM_WAIT_S)
        if instance.registration.refused is not None:
            await self.stop()
            raise instance.registration.refused
        await self._server.ready()
        self._tasks.start(self._reporter.run())
        self._tasks.start(self._ping())
        return self.address

    async def stop(self) -> None:
        """Stop gracefully: others lead our shards (`logstore.node.instance.graceful_stop`), calls
        in progress get a moment, then the engine is closed."""
        await self._server.leave()
        await hand_over_all(self.instance, self._config.stop_hand_over_s)
        ending = Background("the server's end")
        closing = ending.answer(self._endpoint.stop())
        await self._tasks.stop()
        stopping = ending.answer(self._server.stop(STOP_GRACE_S))
        await self.instance.close()
        await asyncio.gather(stopping, closing)
        await self.instance.claim.release()
        if self._owned_store is not None:
            await self._owned_store.close()
        await self._transport.close()
        if self.instance.node.broker is not None:
            await self.instance.node.broker.close()
        self._engine.close()
        self._mark.clear()

    async def ended(self) -> Ending:
        """Wait until this process must end, and say why."""
        while True:
            await asyncio.sleep(RESTART_LOOK_S)
            instance = self.instance
            if instance.registration.refused is not None:
                return Ending(STATUS_REFUSED, instance.registration.refused.message)
            if instance.claim.taken.is_set():
                return Ending(
                    STATUS_FENCED, f"another process runs instance {instance.node.instance} now"
                )
            why = self._wants_restart()
            if why:
                return Ending(STATUS_RESTART, why)

    def _wants_restart(self) -> str:
        """Why only a restart helps; empty: it is not needed.

        That is so when damage stopped every write, or is contained and no damaged copy is still to
        leave: without compactions the directory only grows. An unexpected error that ended one of
        the instance's tasks is the other reason.
        """
        if self.instance.node.broken is not None:
            return f"unexpected error: {self.instance.node.broken}"
        if self.instance.writes_stopped is not None:
            return f"writes are stopped: {self.instance.writes_stopped}"
        engine = self._engine
        contained = isinstance(engine, RocksEngine) and engine.needs_rebuild
        if contained and not self.instance.leaving():
            return "files are damaged, the directory is rebuilt at the next start"
        return ""

    async def _ping(self) -> None:
        """Round-trip times to the peers, for the planner."""
        node = self.instance.node
        while True:
            await asyncio.sleep(max(1.0, self._config.report_interval_s))
            for peer in list(self.instance.metadata_view.instances):
                if peer == node.instance:
                    continue
                started_s = node.now_s()
                try:
                    async with called():
                        stub = PeerServiceStub(node.channel_to(peer))
                        await stub.Ping(node_pb2.PingRequest(instance=node.instance), timeout=1.0)
                    node.reporter.round_trips.add(peer, node.now_s() - started_s)
                except LogstoreError:
                    node.reporter.round_trips.forget(peer)
