"""What an operator does beside moves, and the faults that meet it: drains of instances, trims of
shards; and faults of coordinators by how they stand to their cells."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logstore.meta.records import AUTOPILOT, DRAINS, ShardRecord
from logstore.replication.events import Role
from tests.simulation.coordinator import SimCoordinator, Standing
from tests.simulation.node import SimNode
from tests.support.checkers.history import Floor

if TYPE_CHECKING:
    from tests.simulation.faults import Faults

DRAIN_FAULTS = ("coordinator killed", "coordinator paused", "drained instance killed")
DRAIN_STEPS = ("drain copying", "drain switching", "drain removing", "drain moving")
SHORT_STEPS = ("drain switching", "drain removing")
SHORT_STEP_CHANCE, SHORT_STEP_S = 0.6, 0.0005
"""That a step of milliseconds is met by a fault, at once or so soon after."""
CELL_PLACES = tuple(f"cell: {standing.value}" for standing in Standing)

AGAIN_S = 2.0
CELL_GAP_S = 2.5
CELL_FAULT_CHANCE = 0.15
"""That a change of a cell's leader is met by a fault."""
START_FAULT_CHANCE, START_S = 0.3, 0.003
"""That a coordinator's start is met by a fault, and in which time."""
DRAIN_GAP_S = 1.2
"""Between two tries of an operator to drain an instance, as long as none is."""
DRAIN_FAULT_CHANCE = 0.2
TRIM = "trim"
TRIM_PLACES = ("trim: primary", "trim: follower", "trim: learner", "trim: in a move",
               "trim: of a sealed shard")  # fmt: skip
TRIM_GAP_S = 0.6
TRIM_ALL_CHANCE = 0.6
"""That all copies of a shard are trimmed, not one."""
CANCEL_CHANCE = 0.25
CANCEL_S = (0.3, 3.0)


def drain_step(record: ShardRecord, drained: str) -> str | None:
    """Where the drain of an instance is with one shard that has a copy there."""
    if record.member_on(drained) is None:
        return None
    if record.migration is not None:
        return "drain moving"
    if record.remove:
        return "drain removing"
    if record.hand_over is not None and record.primary.instance == drained:
        return "drain switching"
    if record.learners:
        return "drain copying"
    return None


@dataclass(slots=True)
class Upkeep:
    """Works as long as `faults.on`; injects through `faults`."""

    faults: "Faults"
    cell_faults: tuple[str, ...]
    drains: bool = False
    """An operator drains an instance in this run."""
    trims: bool = False
    """Shards are trimmed in this run."""
    plans: bool = False
    """The planner moves and splits shards by itself in this run."""
    _cancelled: bool = False

    def begin(self) -> None:
        faults, observer = self.faults, self.faults.observer
        observer.on_cell = self._cell_changed
        faults._again(self._on_cell, CELL_GAP_S)
        for coordinator in faults.coordinators:
            coordinator.on_start = self._started
        if self.drains:
            observer.on_shard = self._shard_changed
            faults._again(self._drain, DRAIN_GAP_S)
        if self.trims:
            faults._again(self._trim, TRIM_GAP_S)

    def end(self) -> None:
        """Plans come to their end, so that the run does; asked until it is so."""
        found = self.faults.cluster.tables.items.get(AUTOPILOT)
        if self.plans and (found is None or found.value != b"off"):
            self.faults.operator.autopilot("off")
            self.faults.world.after(AGAIN_S, self.end)

    # ---- coordinators ------------------------------------------------------------------------

    def _cell_changed(self) -> None:
        rng = self.faults.world.chaos
        if self.faults.on and rng.random() < CELL_FAULT_CHANCE:
            delay_s = rng.choice((0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.3)))
            self.faults.world.after(delay_s, self._on_cell)

    def _on_cell(self) -> None:
        """A fault on a coordinator; on one whose leadership is changing, if there is any."""
        faults, rng = self.faults, self.faults.world.chaos
        if not faults.on or faults.is_full:
            return
        alive = [c for c in faults.coordinators if c.process.alive]
        rare = [c for c in alive if c.standing() in (Standing.TAKING, Standing.FOLLOWED)]
        found: list[SimCoordinator] = rare or alive
        if found:
            coordinator, fault = rng.choice(found), rng.choice(self.cell_faults)
            faults._note(fault, f"cell: {coordinator.standing().value}", coordinator.name)
            faults._on_coordinator(fault, coordinator)

    def _started(self, coordinator: SimCoordinator) -> None:
        world = self.faults.world
        if world.chaos.random() < START_FAULT_CHANCE:
            world.after(world.chaos.uniform(0.0, START_S), self._on_start, coordinator)

    def _on_start(self, coordinator: SimCoordinator) -> None:
        faults = self.faults
        if faults.on and coordinator.process.alive and not faults.is_full:
            fault = faults.world.chaos.choice(self.cell_faults)
            faults._note(fault, f"cell: {coordinator.standing().value}", coordinator.name)
            faults._on_coordinator(fault, coordinator)

    # ---- drains ------------------------------------------------------------------------------

    def drained(self) -> list[str]:
        """The instances that must be empty, as the store says."""
        items = self.faults.cluster.tables.range(DRAINS).items
        return [item.key.removeprefix(DRAINS) for item in items]

    def _drain(self) -> None:
        faults, rng = self.faults, self.faults.world.chaos
        if self.drained() or self._cancelled:
            return
        node = rng.choice(faults.nodes)
        faults.operator.drain(node.name)
        if rng.random() < CANCEL_CHANCE:
            faults.world.after(rng.uniform(*CANCEL_S), self._cancel, node.name)

    def _cancel(self, instance: str) -> None:
        if self.faults.on and instance in self.drained():
            self._cancelled = True
            self.faults.operator.drain(instance, cancel=True)

    def _shard_changed(self, record: ShardRecord) -> None:
        rng, drained = self.faults.world.chaos, self.drained()
        if not self.faults.on or not drained:
            return
        if drain_step(record, drained[0]) in SHORT_STEPS:
            if rng.random() < SHORT_STEP_CHANCE:
                self.faults.world.after(
                    rng.choice((0.0, SHORT_STEP_S)), self._on_drain, record.shard
                )
        elif rng.random() < DRAIN_FAULT_CHANCE:
            delay_s = rng.choice((0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.3)))
            self.faults.world.after(delay_s, self._on_drain, record.shard)

    def _on_drain(self, shard: str) -> None:
        faults, rng = self.faults, self.faults.world.chaos
        drained = self.drained()
        if not faults.on or faults.is_full or not drained:
            return
        record = faults.observer.shards[shard].record
        step = drain_step(record, drained[0])
        if step is None:
            return
        fault = rng.choice(DRAIN_FAULTS)
        if fault == "drained instance killed":
            node: SimNode = faults.node(drained[0])
            if node.process.alive:
                faults._note(fault, step, node.name)
                faults._down(node, node.kill)
            return
        leader = faults.leader_of(shard)
        if leader.process.alive:
            faults._note(fault, step, leader.name)
            faults._on_coordinator(fault, leader)

    # ---- trims -------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Trim one copy of a shard, or all, somewhere below what is committed."""
        faults, rng = self.faults, self.faults.world.chaos
        shard = rng.choice(list(faults.observer.shards))
        record = faults.observer.shards[shard].record
        nodes = [faults.node(m.instance) for m in record.members()]
        offset = rng.randint(0, faults.observer.shards[shard].acked.end)
        for node in nodes if rng.random() < TRIM_ALL_CHANCE else [rng.choice(nodes)]:
            role = node.role(shard)
            if offset and role is not None:
                self._cover_trim(role, record)
                faults.operator.trim(node.address, shard, offset, lambda: self._trimmed(shard))

    def trim_members(self, shard: str, offset: int) -> None:
        """Trim every copy that counts below an offset."""
        for member in self.faults.observer.shards[shard].record.in_sync:
            address = self.faults.node(member.instance).address
            self.faults.operator.trim(address, shard, offset, lambda: self._trimmed(shard))

    def _cover_trim(self, role: Role, record: ShardRecord) -> None:
        world = self.faults.world
        world.cover(TRIM, f"trim: {role.value}")
        if record.migration is not None:
            world.cover(TRIM, "trim: in a move")
        if record.sealed_end is not None:
            world.cover(TRIM, "trim: of a sealed shard")

    def _trimmed(self, shard: str) -> None:
        """Note below what no copy has records any more; a copy that is on its way may have."""
        faults, world = self.faults, self.faults.world
        if faults.observer.shards[shard].record.learners:
            return
        metas = [m for n in faults.nodes for m in n.engine.replicas()]
        metas += [r.meta for n in faults.nodes for r in n.engine.retired()]
        base = min((m.base.end for m in metas if m.shard == shard), default=0)
        if base:
            world.history.floors.append(Floor(world.now_s, shard, base))
