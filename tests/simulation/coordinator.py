"""Coordinators as processes: the real election, migration driver and repair loop."""

import asyncio
from collections.abc import Mapping, Sequence

from coordinator.catalog import Catalog
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Proposal
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.records import MoveOptions
from coordinator.migration.reshape_driver import ReshapeDriver
from coordinator.migration.take_up import take_up_migrations, take_up_reshapes
from coordinator.repair import RepairLoop
from logstore.base.errors import LogstoreError
from logstore.base.types import START, ShardStatus
from logstore.engine.port import ReplicaMeta
from logstore.meta.election import Election, FencedStore
from logstore.meta.generations import open_generation
from logstore.meta.port import Compare, Put
from logstore.meta.records import (
    REPLICA_COUNTER,
    LogOptions,
    LogRecord,
    Member,
    ShardRecord,
    cell_leader_key,
    encode,
    log_key,
)
from logstore.meta.shard_writes import ShardWrite, compares_of, new_shard, operations_of
from sharder.keys import KeyRange
from tests.simulation.loop import Process, die
from tests.simulation.metadata import Cluster, SimStore
from tests.simulation.node import SimNode
from tests.simulation.world import World

CLUSTER = "simulated"
ALIVE_S = 1.0
"""Who was heard so recently counts as alive."""
LEADER_TTL_S = 1.0
LOST_AFTER_S = 8.0
"""A learner whose instance is unheard for so long is replaced."""
MOVE = MoveOptions(
    shadow_s=0.1,
    soak_s=0.5,
    ramp_step=0.34,
    ramp_interval_s=0.05,
    lag_records_max=50,
    preparing_timeout_s=20.0,
    snapshot_timeout_s=20.0,
    catching_up_timeout_s=20.0,
    verifying_timeout_s=20.0,
    shadowing_timeout_s=20.0,
    ramping_timeout_s=20.0,
    cutover_timeout_s=20.0,
    source_dead_after_s=30.0,
)


class SimCoordinator:
    """One candidate: stands by, leads through a fenced store, starts over when it lost the lead."""

    def __init__(
        self, world: World, cluster: Cluster, nodes: Sequence[SimNode], number: int
    ) -> None:
        self.world = world
        self.name = f"coordinator-{number}"
        self._cluster = cluster
        self._nodes = nodes
        self.process = Process(self.name, alive=False)
        self.driver: MigrationDriver | None = None
        """While it leads, as far as it knows."""
        self.reshapes: ReshapeDriver | None = None
        self._heard_s: dict[str, float] = {}

    def start(self) -> None:
        if not self.process.alive:
            self.process = Process(self.name)
            self.world.tell(f"{self.name} starts")
            self.world.loop.spawn_in(self.process, self._run(), self.name)

    def kill(self) -> None:
        if self.process.alive:
            die(self.process)
            self.driver = self.reshapes = None
            self._cluster.network.died(self.process)

    async def _run(self) -> None:
        store, env = SimStore(self._cluster), self.world.env()
        election = Election(store, cell_leader_key("0"), self.name, env, ttl_s=LEADER_TTL_S)
        while True:
            leadership = await election.campaign()
            fenced = FencedStore(store, leadership.fence)
            driver = MigrationDriver(fenced, GrpcNodes(fenced), env, cluster=CLUSTER)
            reshapes = ReshapeDriver(fenced, GrpcNodes(fenced), env, cluster=CLUSTER)
            repair = RepairLoop(fenced, Catalog(fenced, env, CLUSTER), self._silent_s, LOST_AFTER_S)
            tasks: list[asyncio.Task[None]] = []
            try:
                await open_generation(fenced, env, self.name)
                await driver.start()
                await reshapes.start()
                repair.start()
                work = (
                    take_up_migrations(fenced, driver, lambda shard: True),
                    take_up_reshapes(fenced, reshapes),
                )
                tasks += [asyncio.create_task(w, name="take up") for w in work]
                self.driver, self.reshapes = driver, reshapes
                await leadership.lost.wait()
            except LogstoreError as e:
                self.world.tell(f"{self.name} cannot lead: {e.message}")
            self.driver = self.reshapes = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await driver.close()
            await reshapes.close()
            await repair.close()

    def _silent_s(self, instances: Sequence[str]) -> Mapping[str, float]:
        """What statistics reports would tell: who was heard when, over the simulated network."""
        network, now_s = self._cluster.network, self.world.now_s
        for node in self._nodes:
            if node.process.alive and network.reaches(node.name, self.name):
                self._heard_s[node.name] = now_s
        silent = {i: now_s - self._heard_s.get(i, 0.0) for i in instances}
        return {i: s if s > ALIVE_S else 0.0 for i, s in silent.items()}

    def propose(self, shard: str, target: str, strategy: str) -> None:
        """Ask the present leader for a move."""
        if self.driver is not None and self.process.alive:
            proposal = Proposal(shard, target, strategy=strategy, options=MOVE)
            work = self._propose(self.driver, proposal)
            self.world.loop.spawn_in(self.process, work, "propose")

    async def _propose(self, driver: MigrationDriver, proposal: Proposal) -> None:
        try:
            record = await driver.propose(proposal)
            self.world.tell(
                f"{record.id} ({record.strategy}) is proposed: {proposal.shard} to"
                f" {proposal.target}"
            )
        except LogstoreError as e:
            self.world.tell(f"a move to {proposal.target} is refused: {e.message}")

    def reshape(self, parents: Sequence[str], at: bytes | None) -> None:
        """Ask the present leader for a split at a routing key, or for a merge."""
        if self.reshapes is not None and self.process.alive:
            work = self._reshape(self.reshapes, parents, at)
            self.world.loop.spawn_in(self.process, work, "propose reshape")

    async def _reshape(
        self, driver: ReshapeDriver, parents: Sequence[str], at: bytes | None
    ) -> None:
        what = f"a {'merge' if at is None else 'split'} of {' '.join(parents)}"
        try:
            record = await driver.propose(await driver.draft(parents, at))
            self.world.tell(f"{record.id} is proposed: {what} at {at!r}")
        except LogstoreError as e:
            self.world.tell(f"{what} is refused: {e.message}")

    def order(self, migration: str, action: str) -> None:
        if self.driver is not None and self.process.alive:
            self.world.loop.spawn_in(self.process, self._order(migration, action), "order")

    async def _order(self, migration: str, action: str) -> None:
        assert self.driver is not None
        try:
            await self.driver.order(migration, action, "asked for")
            self.world.tell(f"{action} of {migration}")
        except LogstoreError as e:
            self.world.tell(f"{action} of {migration} is refused: {e.message}")


def create_log(
    cluster: Cluster, log: str, options: LogOptions, homes: list[list[SimNode]], cuts: list[bytes]
) -> None:
    """Write a log whose shard i lives on `homes[i]`, its primary first; the others learn."""
    key = REPLICA_COUNTER
    next_id = 1
    bounds: list[bytes | None] = [b"", *cuts, None]
    puts: list[Put] = []
    shards: list[ShardWrite] = []
    for number, nodes in enumerate(homes):
        members = [Member(n.name, n.incarnation, next_id + i) for i, n in enumerate(nodes)]
        next_id += len(members)
        low, high = bounds[number], bounds[number + 1]
        assert low is not None
        record = ShardRecord(
            shard=f"{log}/{number}",
            log=log,
            range=KeyRange(low, high),
            status=ShardStatus.OPEN,
            epoch=1,
            primary_since=1,
            primary=members[0],
            in_sync=(members[0],),
            learners=tuple(members[1:]),
            min_in_sync=options.min_in_sync,
            admit=tuple(m.replica_id for m in members[1:]),
        )
        nodes[0].engine.create_replica(
            ReplicaMeta(members[0].replica_id, record.shard, START), key_index=options.key_index
        )
        shards.append(new_shard(record))
    puts.append(Put(log_key(log), encode(LogRecord(log, options, len(homes), 0))))
    puts.append(Put(key, str(next_id).encode()))
    compares = [*compares_of(shards), *(Compare(put.key, 0) for put in puts)]
    cluster.txn("setup", compares, [*operations_of(shards), *puts])
