"""One coordinator without its sockets: its statistics, its cells, and its services.

`coordinator.server` puts it behind gRPC; the simulator puts it behind a simulated network.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio

from coordinator.catalog.metadata_service import MetadataService
from coordinator.catalog.service import CoordinatorRouteService
from coordinator.cells.assignment import LOG_WIDE
from coordinator.cells.cell import Cell, Parts, ReadOnlyStore
from coordinator.cells.forwarding import CellRouter
from coordinator.cells.leadership import CellLeadership, agree_on_cells
from coordinator.config import CoordinatorConfig
from coordinator.migration.nodes import GrpcNodes
from coordinator.planning.announcements import Announced
from coordinator.planning.notes import PlanCounts
from coordinator.planning.weights import MigrationWeights
from coordinator.replicas.drain import BACK_OFF_S
from coordinator.statistics.accesses import AccessesService, Instances
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.liveness import Liveness
from coordinator.statistics.model_trainer import ModelTrainer
from coordinator.statistics.service import StatisticsService
from coordinator.statistics.state import ceilings
from logstore.base.env import Env
from logstore.base.steady_clock import SteadyClock
from logstore.meta.election import TTL_S
from logstore.meta.generations import check_expected, open_generation
from logstore.meta.port import MetadataStore
from logstore.meta.tables import log_table
from logstore.proto.handshake import Doorkeeper
from logstore.proto.transport import Transport

PACKAGE = "coordinator.v1."
RELIABILITY_FILE = "reliability.json"
ROUTES = "logstore.v1.RouteService"


def steady(env: Env) -> Env:
    """A glitch of the wall clock must not end cool-downs, nor stamp moves for years to come."""
    return replace(env, clock=SteadyClock(env.clock.wall_us, env.clock.monotonic_s))


class CoordinatorCore:
    """Use as: `begin`, serve `services` behind `interceptors`, `start`; then `stop`, `close`.

    With the embedded store it leads the one cell itself. With etcd it leads its share of the cells
    (`leading`), and passes calls about the others on to their leaders (`forwarding`).
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        env: Env,
        store: MetadataStore,
        transport: Transport,
        *,
        learned: Path | None = None,
        leader_ttl_s: float = TTL_S,
        drain_back_off_s: float = BACK_OFF_S,
    ) -> None:
        """`env`: with a `steady` clock. `transport`: closed with this.

        `learned`: where what was learned is saved; None: nowhere. `leader_ttl_s`: how long a dead
        leader of a cell is waited for. `drain_back_off_s`: see `Parts`.
        """
        self.config, self.env, self.store = config, env, store
        self._transport = transport
        self._leader_ttl_s, self._drain_back_off_s = leader_ttl_s, drain_back_off_s
        self.intake = StatisticsIntake(
            config.slot_s,
            settle_s=3 * config.report_interval_s,
            alive_s=config.alive_s,
            seasons_slots=config.seasons_slots,
            history_slots=config.history_slots,
            heatmap_buckets=config.heatmap_buckets,
        )
        if learned is not None:
            self.intake.reliability.keep(learned.with_name(RELIABILITY_FILE))
        self.learner = ModelTrainer(self.intake, env, learned)
        self.announced = Announced(store, self.learner)
        self.nodes = GrpcNodes(store, transport)
        self.samples = Instances(store, transport, lambda: self.nodes.cluster)
        self.work: Cell
        """The cell of an embedded store, else one that only reads; made by `begin`."""
        self._leading: CellLeadership | None = None
        self._router: CellRouter | None = None
        self._led: dict[str, Cell] = {}
        if config.metadata is not None:
            self._router = CellRouter(store, self._led, config.cells, transport)

    @property
    def led(self) -> dict[str, Cell]:
        """Cell -> its work, of the cells led here."""
        return {LOG_WIDE: self.work} if self._router is None else self._led

    @property
    def log_wide(self) -> Cell:
        """The log-wide work, if it is led here; else one that only reads."""
        return self.led.get(LOG_WIDE, self.work)

    def plan_counts(self) -> PlanCounts:
        """What the planning loops of the cells led here counted."""
        return PlanCounts.total(cell.loop.counts for cell in self.led.values())

    @property
    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """The interceptors of every call of `services`, in this order."""
        doorkeeper = Doorkeeper(lambda: (self.nodes.cluster, ""))
        return [doorkeeper] if self._router is None else [doorkeeper, self._router]

    def services(self) -> dict[str, Any]:
        """Full gRPC name -> servicer; after `begin`."""
        weights = MigrationWeights(self.store, self.env)
        statistics = StatisticsService(
            self.config, self.env, self.store, self.learner, weights.acting
        )
        return {
            f"{PACKAGE}Accesses": AccessesService(
                self.store, self.samples, self.intake.correlations
            ),
            f"{PACKAGE}Metadata": MetadataService(self.store),
            **{f"{PACKAGE}{name}": service for name, service in self.work.services.items()},
            ROUTES: CoordinatorRouteService(self.store),
            f"{PACKAGE}Statistics": statistics,
        }

    # ---- life --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin a generation of the store, before any other write: this shows whether the store was
        put back from a copy (design note 0008). Then make the parts that work on it.

        `WrongClusterError`, `ConfigError`."""
        config, store = self.config, self.store
        by = config.advertise or f"{config.host}:{config.port}"
        await check_expected(store, config.cluster)
        lineage = await open_generation(store, self.env, by)
        if config.metadata is not None:
            store = ReadOnlyStore(store)
        pulse = Liveness(self.intake, self.env)
        self._parts = Parts(
            config,
            self.env,
            self.learner,
            self.nodes,
            pulse,
            cluster=lineage.cluster,
            drain_back_off_s=self._drain_back_off_s,
        )
        self.nodes.cluster = lineage.cluster
        self.work = Cell(LOG_WIDE, store, self._parts)
        if config.metadata is not None:
            await agree_on_cells(self.store, config.cells)

    async def restore(self) -> None:
        """What was learned before the last stop, of logs that are still there."""
        logs = await log_table(self.store).all()
        newest = ceilings(logs, self.env.clock.wall_us(), self.intake.slot_s)
        await self.learner.restore([log.name for log in logs], newest)

    async def start(self, address: str) -> None:
        """Learn, and lead: the one cell, or our share. `address`: where others reach us."""
        self.learner.start()
        await self.announced.start()
        if self._router is None:
            await self.work.start()
            return
        self._leading = CellLeadership(
            self.store,
            self.env,
            address,
            self.config.cells,
            self._make,
            self._led,
            ttl_s=self._leader_ttl_s,
        )
        self._leading.start()

    def _make(self, cell: str, store: MetadataStore) -> Cell:
        return Cell(cell, store, self._parts)

    async def stop(self) -> None:
        """Stop leading and learning; the next leader goes on with unfinished work."""
        if self._leading is not None:
            await self._leading.close()
        await self.work.close()
        await self.announced.close()
        await self.learner.close()

    async def close(self) -> None:
        """After the last call was answered: close the transport and the store."""
        await self._transport.close()
        await self.store.close()
