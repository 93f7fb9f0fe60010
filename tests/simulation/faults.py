"""What is done to a run: which faults there are, on whom, when, and how each is undone.

Every fault is counted with the role of the copy it hit, or with the state of the migration that was
under way. `POSSIBLE` lists every such pair; a long run must have met each. A fault on an instance
is also counted with both, the role and the state that its shard's move or reshape is in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coordinator.cells.assignment import LOG_WIDE, cell_of
from coordinator.migration.records import MigrationRecord, State
from coordinator.migration.reshape import ReshapeRecord, ReshapeState
from logstore.base.types import ShardStatus
from logstore.replication.events import Role
from tests.simulation.aims import FIRED
from tests.simulation.client import Caller
from tests.simulation.coordinator import SimCoordinator
from tests.simulation.later_aims import ALL_AIMS
from tests.simulation.metadata import STORE, Cluster
from tests.simulation.mistakes import KINDS, PLACE
from tests.simulation.node import SimNode
from tests.simulation.observer import Observer
from tests.simulation.operator import NAME, Operator
from tests.simulation.style import FAULT_S, NODE_FAULTS, Style
from tests.simulation.upkeep import (
    CELL_PLACES,
    DRAIN_FAULTS,
    DRAIN_STEPS,
    TRIM,
    TRIM_PLACES,
    Upkeep,
)
from tests.simulation.world import World

ROLES = (Role.PRIMARY, Role.FOLLOWER, Role.LEARNER)
COORDINATOR_FAULTS = (
    "coordinator killed", "coordinator paused", "coordinator isolated",
    "coordinator's store reply lost", "coordinator's store request late",
)  # fmt: skip
MOVE_FAULTS = ("source killed", "target killed")
STATES = tuple(s for s in State if s not in (State.COMPLETED, State.ROLLED_BACK, State.ABORTED))
RESHAPE_FAULTS = ("coordinator killed", "parent's primary killed")
RESHAPE_STATES = (ReshapeState.PLANNED, ReshapeState.SEALING)
POSSIBLE = frozenset(
    {(fault, role.value) for fault in NODE_FAULTS for role in ROLES}
    | {(fault, state.value) for fault in COORDINATOR_FAULTS + MOVE_FAULTS for state in STATES}
    | {(fault, f"reshape {state.value}") for fault in RESHAPE_FAULTS for state in RESHAPE_STATES}
    | {(kind, PLACE) for kind in KINDS}
    | {(f"aim: {aim}", FIRED) for aim in ALL_AIMS}
    | {(fault, place) for fault in COORDINATOR_FAULTS for place in CELL_PLACES}
    | {(fault, step) for fault in DRAIN_FAULTS for step in DRAIN_STEPS}
    | {(TRIM, place) for place in TRIM_PLACES}
)

IDLE = "none"
"""State of a shard that is in no move, split or merge."""
POSSIBLE_TRIPLES = frozenset(
    (fault, state, role.value)
    for fault in NODE_FAULTS
    for state in (IDLE, *(s.value for s in STATES), *(f"reshape {s.value}" for s in RESHAPE_STATES))
    for role in ROLES
)

FAULTS_MIN = 5
TIRED_S, TIRED_GAPS = 10.0, 2
"""After so long faults become rarer, and no aim strikes any more."""
SWITCH_CHANCE = 0.2
COPYING = ("shadow", "shadow", "log-shipping", "copy-on-write")
RESHAPE_GAP_S = 1.0
OPEN_SHARDS_MAX = 3
RESHAPE_OVER_MOVE = 1.8
"""How much more often a process dies at a state of a reshape, which has fewer states."""
CLIENT_DOWN_S = (0.0, 0.5)
CUT_OFF_S = (1.0, 4.0)
"""Long enough for a follower to take over meanwhile."""


@dataclass(slots=True)
class Faults:
    """Injects until `heal`; each fault registers how it is undone."""

    world: World
    cluster: Cluster
    nodes: list[SimNode]
    coordinators: list[SimCoordinator]
    observer: Observer
    clients: Sequence[Caller]
    style: Style
    operator: Operator
    cells: int = 1
    on: bool = False
    split_keys: dict[bytes, bytes] = field(default_factory=dict)
    """Where shards may be split, routing key -> record's key; none: this run has no splits and
    merges."""
    upkeep: Upkeep = field(init=False)
    _undo: dict[int, tuple[str, Callable[[], None]]] = field(default_factory=dict)
    _numbers: int = 0
    _began_s: float = 0.0

    def __post_init__(self) -> None:
        self.upkeep = Upkeep(self, COORDINATOR_FAULTS)

    def begin(self) -> None:
        self.on, rng = True, self.world.chaos
        self._began_s = self.world.now_s
        self.upkeep.begin()
        self.observer.on_migration = self._migration_moved
        self._again(self._inject, self.style.gap_s)
        self._again(self._move, self.style.move_gap_s)
        if self.style.mix.restart_s:
            self._again(lambda: self.end_client(rng.choice(self.clients)), self.style.mix.restart_s)
        if self.split_keys:
            self.observer.on_reshape = self._reshape_moved
            self._again(self._reshape, RESHAPE_GAP_S / (2 if self.style.splits else 1))

    def heal(self) -> None:
        """Undo everything; what is down starts again."""
        self.on = False
        self.world.tell("---- heal")
        for number in list(self._undo):
            self._end(number)
        for node in self.nodes:
            node.start()
        for coordinator in self.coordinators:
            coordinator.start()
        self._resume_paused()
        self.upkeep.end()

    def _resume_paused(self) -> None:
        """The person who paused a move goes on until it is resumed."""
        for move in self.observer.migrations.values():
            if move.active and move.paused:
                self.operator.control(move.id, "resume")
        self.world.after(2.0, self._resume_paused)

    def leader_of(self, shard: str) -> SimCoordinator:
        """The coordinator that leads the shard's cell, else the first."""
        return self.leader(cell_of(shard, self.cells))

    @property
    def is_full(self) -> bool:
        """Whether as many faults last as may."""
        return len(self._undo) >= self.style.open_max

    def leader(self, cell: str = LOG_WIDE) -> SimCoordinator:
        """The coordinator that leads the cell, else the first."""
        leading = [c for c in self.coordinators if cell in c.led]
        return leading[-1] if leading else self.coordinators[0]

    # ---- when ------------------------------------------------------------------------------------

    @property
    def tired(self) -> bool:
        """The clients had a hard time for long enough: they must come to an end."""
        return self.world.now_s - self._began_s > TIRED_S

    def _again(self, work: Callable[[], None], gap_s: float) -> None:
        def run() -> None:
            if self.on:
                work()
                self._again(work, gap_s)

        mean_s = gap_s * TIRED_GAPS if self.tired else gap_s
        self.world.after(self.world.chaos.expovariate(1 / mean_s), run)

    def _inject(self) -> None:
        rng = self.world.chaos
        if self.is_full:
            return
        role = rng.choices(ROLES, (5, 4, 4))[0]
        shard = rng.choice(list(self.observer.shards))
        if role is Role.LEARNER and all(n.role(shard) is not role for n in self.nodes):
            if "kill" in self.style.faults:
                self._drop_to_learner(shard)
                return
            role = Role.FOLLOWER
        found = [n for n in self.nodes if n.role(shard) is role]
        if found:
            self._on_node(rng.choice(self.style.faults), rng.choice(found), role, shard)

    def _drop_to_learner(self, shard: str) -> None:
        """No learner is there to be hit: kill a follower for longer than it may be silent."""
        found = [n for n in self.nodes if n.role(shard) is Role.FOLLOWER]
        if found:
            node = self.world.chaos.choice(found)
            self._on_node("kill", node, Role.FOLLOWER, shard)

    def _move(self) -> None:
        rng = self.world.chaos
        running = [m for m in self.observer.migrations.values() if m.active]
        if running and rng.random() < 0.3:
            move = rng.choice(running)
            action = "resume" if move.paused else rng.choice(("rollback", "abort", "pause"))
            self.operator.control(move.id, action)
            if action == "pause":
                self._for("pause of a move", lambda: self.operator.control(move.id, "resume"))
            return
        shard = rng.choice(list(self.observer.shards))
        record = self.observer.shards[shard].record
        if record.migration is not None:
            return
        homes = {m.instance for m in record.members()}
        shun = self.upkeep.drained() if rng.random() < 0.8 else []
        free = [n.name for n in self.nodes if n.name not in (*homes, *shun)]
        followers = [m.instance for m in record.in_sync if m != record.primary]
        if followers and rng.random() < SWITCH_CHANCE:
            self.operator.move(shard, rng.choice(followers), "switch")
        elif free:
            self.operator.move(shard, rng.choice(free), rng.choice(COPYING))

    def _migration_moved(self, record: MigrationRecord) -> None:
        """A migration entered a state: now and then a process dies just then, or soon after."""
        rng = self.world.chaos
        if self.on and record.active and rng.random() < self.style.state_chance:
            delay_s = rng.choice((0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.3)))
            self.world.after(delay_s, self._on_move, record.id)

    def _on_move(self, migration: str) -> None:
        record = self.observer.migrations[migration]
        if not self.on or not record.active:
            return
        rng = self.world.chaos
        fault = rng.choice(COORDINATOR_FAULTS + MOVE_FAULTS)
        if fault in MOVE_FAULTS:
            name = record.source.instance if fault == "source killed" else record.target_instance
            node = self.node(name)
            if not node.process.alive:
                return
            self._note(fault, record.state.value, name)
            self._down(node, node.kill)
        elif (leader := self.leader_of(record.shard)).process.alive:
            self._note(fault, record.state.value, leader.name)
            self._on_coordinator(fault, leader)

    def _reshape(self) -> None:
        """Split a shard, or merge two neighbours, one reshape at a time."""
        if any(r.active for r in self.observer.reshapes.values()):
            return
        rng = self.world.chaos
        records = [known.record for known in self.observer.shards.values()]
        found = sorted(
            (r for r in records if r.status is ShardStatus.OPEN), key=lambda r: r.range.start
        )
        if len(found) >= OPEN_SHARDS_MAX or (len(found) > 1 and rng.random() < 0.4):
            first = rng.randrange(len(found) - 1)
            self.operator.reshape([r.shard for r in found[first : first + 2]], None)
        elif found:
            parent, at = rng.choice(found), rng.choice(list(self.split_keys))
            low, high = parent.range.start, parent.range.end
            if low < at and (high is None or at < high):
                self.operator.reshape([parent.shard], self.split_keys[at])

    def _reshape_moved(self, record: ReshapeRecord) -> None:
        """A reshape entered a state: now and then a process dies just then, or soon after."""
        rng = self.world.chaos
        chance = self.style.state_chance * RESHAPE_OVER_MOVE
        if self.on and record.active and rng.random() < chance:
            self.world.after(rng.choice((0.0, rng.uniform(0.0, 0.02))), self._on_reshape, record.id)

    def _on_reshape(self, reshape: str) -> None:
        record = self.observer.reshapes[reshape]
        if not self.on or not record.active:
            return
        where = f"reshape {record.state.value}"
        if self.world.chaos.random() < 0.5:
            leader = self.leader()
            if leader.process.alive:
                self._note("coordinator killed", where, leader.name)
                self._on_coordinator("coordinator killed", leader)
            return
        parent = self.observer.shards[self.world.chaos.choice(record.parents)].record
        node = self.node(parent.primary.instance)
        if node.process.alive:
            self._note("parent's primary killed", where, node.name)
            self._down(node, node.kill)

    def _note(self, fault: str, where: str, who: str, shard: str | None = None) -> None:
        self.world.faults += 1
        self.world.cover(fault, where)
        if shard is not None:
            self.world.triples[fault, self._state_of(shard), where] += 1
        self.world.tell(f"FAULT {fault} on {who} ({where})")

    def _state_of(self, shard: str) -> str:
        """Of the move, or else of the split or merge, that the shard is in."""
        known = self.observer.shards[shard].record
        move = self.observer.migrations.get(known.migration or "")
        if move is not None and move.active:
            return move.state.value
        for reshape in self.observer.reshapes.values():
            if reshape.active and shard in reshape.parents:
                return f"reshape {reshape.state.value}"
        return IDLE

    # ---- undoing ---------------------------------------------------------------------------------

    def _for(self, name: str, undo: Callable[[], None], seconds: float | None = None) -> None:
        """The fault lasts a while."""
        self._numbers += 1
        self._undo[self._numbers] = (name, undo)
        most_s = self.style.lasts_s
        lasts_s = self.world.chaos.uniform(FAULT_S[0], most_s) if seconds is None else seconds
        self.world.after(lasts_s, self._end, self._numbers)

    def _end(self, number: int) -> None:
        found = self._undo.pop(number, None)
        if found is not None:
            self.world.tell(f"over: {found[0]}")
            found[1]()

    def node(self, name: str) -> SimNode:
        return next(n for n in self.nodes if n.name == name)

    # ---- what ------------------------------------------------------------------------------------

    def _down(self, node: SimNode, how: Callable[[], object]) -> None:
        if node.instance is not None and node.instance.node.broken is not None:
            self.world.violate("liveness", f"{node.name} is broken: {node.instance.node.broken}")
        how()
        self._for(
            f"{node.name} is down", node.start, self.world.chaos.choice((0.05, 0.5, 2.0, 4.0))
        )

    def end_client(self, client: Caller) -> None:
        """A client's process ends with its calls under way; another one goes on in its place."""
        if client.process.alive and not client.done:
            self.world.tell(f"{client.name} ends suddenly")
            client.kill()
            self._for(
                f"{client.name} is gone", client.start, self.world.chaos.uniform(*CLIENT_DOWN_S)
            )

    def _may_lose_power(self, node: SimNode) -> bool:
        """With `os` durability only while another in-sync copy surely has everything."""
        if node.synced:
            return True
        for known in self.observer.shards.values():
            members = known.record.in_sync
            if all(m.instance != node.name for m in members):
                continue
            others = [m for m in members if m.instance != node.name]
            if not others or any(m.replica_id in self.node(m.instance).tainted for m in others):
                return False
        return True

    def _on_node(self, fault: str, node: SimNode, role: Role, shard: str) -> None:
        if fault in ("power loss", "torn write"):
            if not self._may_lose_power(node):
                return
            torn = node.engine.unsynced() > 0
            if fault == "torn write" and not torn:
                return
            self._note(fault, role.value, node.name, shard)
            self._down(node, lambda: node.lose_power(torn=fault == "torn write"))
            return
        self._note(fault, role.value, node.name, shard)
        self._node_fault(fault, node)

    def _node_fault(self, fault: str, node: SimNode) -> None:  # noqa: C901
        rng, name, network = self.world.chaos, node.name, self.cluster.network
        match fault:
            case "kill":
                self._down(node, node.kill)
            case "pause":
                node.freeze(rng.choice((0.1, 0.6, 1.2, 2.5)))
            case "slow disk":
                self._set(fault, node, "slow_disk")
            case "disk full":
                node.engine.full = True
                self._for(f"disk of {name} is full", lambda: setattr(node.engine, "full", False))
            case "clock jump":
                node.clock.jump(rng.uniform(-30.0, 30.0))
            case "clock drift":
                node.clock.drift(rng.choice((0.95, rng.uniform(0.95, 1.05), 1.05)))
            case "packet loss":
                self._chance(fault, network.lossy, name, 0.03)
            case "delay":
                self._chance(fault, network.slow, name, rng.choice((0.05, 0.3)))
            case "repeat":
                network.repeating[name] = 0.7
                for call in list(network.calls.values()):
                    if name in (call.up.sender, call.up.receiver) and rng.random() < 0.7:
                        call.lose("reset, to be repeated")
                self._for(f"repeat at {name}", lambda: drop(network.repeating, name))
            case "store reply lost":
                self._chance(fault, self.cluster.lost_replies, name, 0.6)
            case "store request late":
                self._chance(fault, self.cluster.late_requests, name, 0.6)
            case "watch broken":
                self.cluster.break_watches(name)
            case "watch compacted":
                self.cluster.break_watches(name)
                self.world.after(0.05, self.cluster.compact)
            case _:
                self._cut(fault, node)

    def _cut(self, fault: str, node: SimNode) -> None:
        name = node.name
        others = [n.name for n in self.nodes if n is not node]
        everyone = [
            *others,
            STORE,
            *(c.name for c in self.coordinators),
            *(client.name for client in self.clients),
            NAME,
        ]
        match fault:
            case "isolate":
                pairs = [(name, o) for o in everyone] + [(o, name) for o in everyone]
            case "cut off":  # only clients reach it
                apart = [*others, STORE, *(c.name for c in self.coordinators)]
                pairs = [(name, o) for o in apart] + [(o, name) for o in apart]
            case "partition":
                other = self.world.chaos.choice(others)
                pairs = [(name, other), (other, name)]
            case "one way out":
                pairs = [(name, o) for o in others]
            case "one way in":
                pairs = [(o, name) for o in others]
            case "store unreachable":
                pairs = [(name, STORE), (STORE, name)]
            case _:
                raise AssertionError(fault)
        lasts_s = self.world.chaos.uniform(*CUT_OFF_S) if fault == "cut off" else None
        self._block(f"{fault} at {name}", pairs, lasts_s)

    def _block(self, what: str, pairs: list[tuple[str, str]], seconds: float | None = None) -> None:
        network = self.cluster.network
        ours = [pair for pair in pairs if pair not in network.blocked]
        for pair in ours:
            network.block(*pair)

        def undo() -> None:
            for pair in ours:
                network.unblock(*pair)

        self._for(what, undo, seconds)

    def _set(self, what: str, node: SimNode, field_name: str) -> None:
        setattr(node, field_name, True)
        self._for(f"{what} at {node.name}", lambda: setattr(node, field_name, False))

    def _chance(self, what: str, where: dict[str, float], name: str, value: float) -> None:
        where[name] = value
        self._for(f"{what} at {name}", lambda: drop(where, name))

    def _on_coordinator(self, fault: str, coordinator: SimCoordinator) -> None:
        rng, name = self.world.chaos, coordinator.name
        match fault:
            case "coordinator killed":
                coordinator.kill()
                self._for("no coordinator", coordinator.start, rng.choice((0.05, 0.3, 1.5)))
            case "coordinator paused":
                self.world.loop.freeze(coordinator.process, rng.choice((0.3, 1.0, 3.0)))
            case "coordinator isolated":
                others = [c.name for c in self.coordinators if c is not coordinator]
                names = [*(n.name for n in self.nodes), *others, STORE, NAME]
                self._block(fault, [(name, o) for o in names] + [(o, name) for o in names])
            case "coordinator's store reply lost":
                self._chance(fault, self.cluster.lost_replies, name, 0.6)
            case "coordinator's store request late":
                self._chance(fault, self.cluster.late_requests, name, 0.6)


def drop(where: dict[str, float], name: str) -> None:
    where.pop(name, None)
