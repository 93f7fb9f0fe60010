"""Coordinators as processes: the composition that ships, behind the simulated network."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from coordinator.cells.assignment import cell_names
from coordinator.cells.cell import Cell
from coordinator.config import CoordinatorConfig
from coordinator.core import CoordinatorCore, steady
from coordinator.migration.records import MoveOptions
from logstore.base.errors import LogstoreError
from logstore.base.types import START, ShardStatus
from logstore.engine.port import ReplicaMeta
from logstore.meta.port import Compare, Put
from logstore.meta.records import (
    REPLICA_COUNTER,
    LogOptions,
    LogRecord,
    Member,
    ShardRecord,
    cell_leader_key,
    decode_leader,
    encode,
    log_key,
)
from logstore.meta.shard_writes import ShardWrite, compares_of, new_shard, operations_of
from sharder.keys import KeyRange
from tests.simulation.loop import Process, die
from tests.simulation.metadata import Cluster, SimStore
from tests.simulation.node import REPORT_S, SimNode
from tests.simulation.transport import SimTransport
from tests.simulation.world import World

DRAIN_BACK_OFF_S = 6.0
"""A run waits for it within the bound of its liveness."""
ALIVE_S = 1.0
"""Who reported so recently counts as alive."""
LEADER_TTL_S = 1.0
LOST_AFTER_S = 8.0
"""A learner whose instance is unheard for so long is replaced."""
RESTART_S = 0.3
"""After so long a coordinator that could not start is started again."""
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


def coordinator_address(number: int) -> str:
    return f"10.1.0.{number + 1}:7400"


PLANS: dict[str, Any] = {
    "planning_period_s": 1.0,
    "horizon_slots": 3,
    "outlook_slots": 3,
    "threshold": 0.05,
    "hysteresis": 0.0,
    "cooldown_s": 1.0,
    "flip_back_s": 2.0,
    "margin_periods": 0.0,
}
"""A planner that finds something to do in the seconds of a run."""
PLANNED_OPS_PER_S = 400.0
"""What an instance takes where plans are made; it carries more than the threshold's share."""


def settings(cells: int, *, plans: bool) -> CoordinatorConfig:
    """Of every coordinator of a run; what is not named has its default, of 300 s for a period.

    `plans`: the planner moves and splits shards by itself.
    """
    return CoordinatorConfig(
        **(PLANS if plans else {}),
        data=Path(),
        metadata="etcd://store:1",
        cells=cells,
        report_interval_s=REPORT_S,
        alive_s=ALIVE_S,
        lost_after_s=LOST_AFTER_S,
        move=msgspec.to_builtins(MOVE),
    )


class Standing(StrEnum):
    """How a coordinator stands to its cells, seen from outside."""

    STARTING = "starting"
    BY = "standing by"
    TAKING = "taking over"
    """Elected, and not at work yet."""
    LEADING = "leading"
    FOLLOWED = "followed unawares"
    """At work for a cell, while the store names another leader of it, or none."""


class SimCoordinator:
    """One process, which its supervisor starts again when it cannot start."""

    def __init__(
        self, world: World, cluster: Cluster, number: int, config: CoordinatorConfig
    ) -> None:
        self.world = world
        self.name = f"coordinator-{number}"
        self.address = coordinator_address(number)
        self._cluster, self._config = cluster, config
        self.process = Process(self.name, alive=False)
        self.core: CoordinatorCore | None = None
        """What runs, from when it has begun."""
        self.on_start: Callable[[SimCoordinator], None] = lambda coordinator: None

    def start(self) -> None:
        if not self.process.alive:
            self.process = Process(self.name)
            self.world.tell(f"{self.name} starts")
            self.world.loop.spawn_in(self.process, self._run(self.process), self.name)
            self.on_start(self)

    def kill(self) -> None:
        if self.process.alive:
            die(self.process)
            self.core = None
            self._cluster.network.died(self.process)

    async def _run(self, process: Process) -> None:
        env, store = steady(self.world.env()), SimStore(self._cluster)
        transport = SimTransport(self._cluster.network)
        core = CoordinatorCore(
            self._config,
            env,
            store,
            transport,
            leader_ttl_s=LEADER_TTL_S,
            drain_back_off_s=DRAIN_BACK_OFF_S,
        )
        try:
            await core.begin()
            services, network = core.services(), self._cluster.network
            network.serve(self.address, process, services, core.interceptors)
            await core.restore()
            await core.start(self.address)
        except LogstoreError as e:
            self.world.tell(f"{self.name} cannot start: {e.message}")
            self.kill()
            self.world.after(RESTART_S, self._restart, process)
            return
        self.core = core

    def _restart(self, process: Process) -> None:
        if self.process is process:
            self.start()

    @property
    def led(self) -> dict[str, Cell]:
        """The cells that it leads, as far as it knows."""
        return self.core.led if self.core is not None and self.process.alive else {}

    def standing(self) -> Standing:
        cells = cell_names(self._config.cells)
        if self.core is None:
            return Standing.STARTING
        if any(not self.is_elected(cell) for cell in self.led):
            return Standing.FOLLOWED
        if any(self.is_elected(cell) for cell in cells if cell not in self.led):
            return Standing.TAKING
        return Standing.LEADING if self.led else Standing.BY

    def is_elected(self, cell: str) -> bool:
        """Whether the store says that it leads the cell."""
        found = self._cluster.tables.items.get(cell_leader_key(cell))
        return found is not None and decode_leader(found.value).address == self.address


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
