"""The work of the leader of one cell: planning, migrations, splits, merges and repair of its
shards, and calls about them.

Cell "0" also creates and deletes logs, and merges shards of two cells (design note 0004). Every
write goes through the given store: with etcd a `FencedStore` of this cell's leadership.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.catalog.catalog import Catalog
from coordinator.catalog.copies import CopiesAdmin
from coordinator.catalog.retiring import Retiring
from coordinator.catalog.service import CatalogService
from coordinator.cells.assignment import LOG_WIDE, cell_of, cell_of_all
from coordinator.cells.listing import list_cells
from coordinator.config import CoordinatorConfig
from coordinator.keys.service import PlacementService
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.feed_topics import FeedSweeper, feed_prefix
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.reshape_driver import ReshapeDriver
from coordinator.migration.resume import resume_migrations, resume_reshapes
from coordinator.migration.service import MigrationsService
from coordinator.planning.announcements import AnnouncementsService
from coordinator.planning.loop import PlanningLoop
from coordinator.planning.service import PlansService
from coordinator.replicas.drain import DrainMoves, Drains
from coordinator.replicas.drain_service import DrainsService
from coordinator.replicas.repair import RepairLoop
from coordinator.statistics.liveness import Liveness
from coordinator.statistics.model_trainer import ModelTrainer
from coordinator.statistics.presence import Presence
from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import FencedError
from logstore.base.tls import TlsOptions
from logstore.feed.open import open_broker
from logstore.meta.generations import open_generation
from logstore.meta.port import (
    Compare,
    MetadataStore,
    Operation,
    TxnResult,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts that all cells of one process share."""

    config: CoordinatorConfig
    env: Env
    learner: ModelTrainer
    nodes: GrpcNodes
    pulse: Liveness
    cluster: str
    """Its id, for tombstones."""
    drain_back_off_s: float
    """A shard is left alone so long after a drain's move of it was rolled back."""


class Cell:
    """The work of one cell over one store: `start`, then `close`. `services`: by short name."""

    def __init__(self, cell: str, store: MetadataStore, parts: Parts) -> None:
        config, env, count = parts.config, parts.env, parts.config.cells
        self.cell = cell
        self._store = store
        intake = parts.learner.intake
        self._owns: Callable[[str], bool] = lambda shard: cell_of(shard, count) == cell
        self.catalog = Catalog(store, env, parts.cluster, has_broker=config.kafka is not None)
        self.driver = MigrationDriver(store, parts.nodes, env, self._owns, cluster=parts.cluster)
        self.reshapes = ReshapeDriver(
            store,
            parts.nodes,
            env,
            lambda shards: cell_of_all(shards, count) == cell,
            cluster=parts.cluster,
        )
        self.loop = PlanningLoop(
            config, env, store, parts.learner, self.driver, parts.nodes, self.reshapes
        )
        options = self.loop.move_options
        moves = DrainMoves(self.driver, env, options, config.moves_max, parts.drain_back_off_s)
        self.repair = RepairLoop(
            store, self.catalog, parts.pulse.silent_s, config.lost_after_s, self._owns, moves
        )
        tls = TlsOptions(config.tls_ca, config.tls_cert, config.tls_key) if config.tls_ca else None
        self.placement = PlacementService(
            store, env, self.catalog, self.loop, intake, tls, config.planning_period_s
        )
        presence = Presence(intake, parts.nodes, env)
        self.services: dict[str, object] = {
            "Announcements": AnnouncementsService(store, intake.slot_s),
            "Catalog": CatalogService(
                self.catalog,
                intake,
                env,
                config.alive_s,
                config.replicas,
                presence,
                copies=CopiesAdmin(store, self.catalog, parts.nodes),
                retiring=Retiring(store, self.catalog),
                cells=functools.partial(list_cells, store, count),
            ),
            "Drains": DrainsService(Drains(store, env), parts.pulse, parts.nodes, intake, presence),
            "Migrations": MigrationsService(
                store,
                self.driver,
                parts.nodes,
                self.loop.move_options,
                self.reshapes,
                presence,
                intake.heatmap_copy,
            ),
            "Placement": self.placement,
            "Plans": PlansService(self.loop),
        }
        self._tasks = Background(f"cell {cell}")
        self._config, self._env = config, env
        self._sweeper: FeedSweeper | None = None

    async def start(self) -> None:
        """Resume unfinished work."""
        if self.cell == LOG_WIDE:
            if self._config.metadata is not None:
                await open_generation(self._store, self._env, self._config.advertise or "")
            await self.catalog.tidy()
        await self._start_feeds()
        await self.driver.start()
        self.repair.start()
        await self.reshapes.start()
        await self.loop.start()
        self._tasks.start(resume_migrations(self._store, self.driver))
        self._tasks.start(resume_reshapes(self._store, self.reshapes))

    @property
    def broker_up(self) -> bool | None:
        """Whether the feeds' broker answered last; None: none is configured, or it was not
        asked."""
        return None if self._sweeper is None else self._sweeper.broker_up

    async def _start_feeds(self) -> None:
        """Before any move is resumed: its next attempt needs a name for its topic."""
        broker = open_broker(self._config.kafka)
        if broker is None:
            return
        driver, store = self.driver, self._store
        driver.feed_prefix = await feed_prefix(store, self._env)
        interval_s = self._config.feed_sweep_s
        self._sweeper = FeedSweeper(
            store, broker, driver.feed_prefix, driver.feed_ended, interval_s
        )
        self._sweeper.start()

    async def close(self) -> None:
        """Stop; what is unfinished stays where it is, for the next leader."""
        await self._tasks.stop()
        await self.placement.close()
        await self.loop.close()
        await self.reshapes.close()
        await self.repair.close()
        await self.driver.close()
        if self._sweeper is not None:
            await self._sweeper.close()


class ReadOnlyStore:
    """The store of a coordinator outside of any cell: it reads, and writes nothing (I9)."""

    def __init__(self, store: MetadataStore) -> None:
        self.get, self.range, self.watch = store.get, store.range, store.watch
        self.lease_grant, self.lease_keep_alive = store.lease_grant, store.lease_keep_alive
        self.lease_revoke = store.lease_revoke

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        raise FencedError("this coordinator does not lead that cell; nothing was written")

    async def close(self) -> None:
        """The store is its owner's."""
