"""Mistakes of people with folders, stores and names, made once in a run, after its faults healed.

Nothing that was acked may go, whatever was put where (I13): while the wrong thing is in place no
copy is retired or deleted and nobody begins with it, and with the right one back the cluster goes
on as before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from logstore.base.errors import AlreadyRunningError, WrongClusterError
from logstore.meta.leases import LeaseTable
from logstore.meta.memory import Tables
from logstore.meta.port import Put
from logstore.meta.records import SHARDS, decode_shard
from tests.simulation.coordinator import SimCoordinator
from tests.simulation.disk import SimEngine
from tests.simulation.metadata import Cluster, generation_puts
from tests.simulation.node import SimIdentity, SimNode
from tests.simulation.world import World

WRONG_S = 15.0
"""How long the wrong thing is in place: longer than a registration's lease, twice."""
OVERTAKEN_BY = 50
"""Revisions by which a store that was rolled back is ahead in the end."""

Run = Callable[[float], None]


@dataclass(slots=True)
class _Photo:
    """What an operator copied at some moment of the run."""

    tables: Tables
    disks: dict[str, tuple[SimEngine, SimIdentity]]


@dataclass(slots=True)
class Mistakes:
    """One of `KINDS`. `run(seconds)` lets the cluster live on."""

    world: World
    cluster: Cluster
    nodes: list[SimNode]
    coordinators: list[SimCoordinator]
    run: Run
    _photo: _Photo | None = None

    def photograph(self) -> None:
        """Copy store and disks, as they lie there now."""
        if self._photo is None:
            disks = {n.name: (n.engine.twin(), n.identity.twin("photo")) for n in self.nodes}
            self._photo = _Photo(_copy_of(self.cluster), disks)
            self.world.tell("an operator copies store and disks")

    def make(self) -> None:
        """Make one of them; returns with everything where it belongs."""
        if self._photo is None:
            self.photograph()
        kind = self.world.rng.choice(sorted(KINDS))
        self.world.tell(f"MISTAKE {kind}")
        self.world.cover("mistake", kind)
        KINDS[kind](self)

    # ---- the store ---------------------------------------------------------------------------

    def _store(self, tables: Tables, *, running: bool) -> None:
        """Put another store in the place of ours for a while."""
        before, leases = self.cluster.tables, self.cluster.leases
        departures = len(self.world.history.departures)
        if not running:
            self._all_down()
        self._swap_store(tables, LeaseTable(), foreign=True)
        if not running:
            self._all_up()
        self.run(WRONG_S)
        for node in self.nodes:
            self._check_foreign(node, running=running)
        self._check_departures(departures, "of a store that is not ours")
        if not running:
            self._all_down()
        self._swap_store(before, leases, foreign=False)
        self._all_up()

    def _swap_store(self, tables: Tables, leases: LeaseTable, *, foreign: bool) -> None:
        """A store is put in place while no coordinator runs on it."""
        for coordinator in self.coordinators:
            coordinator.kill()
        for node in self.nodes:
            self.cluster.break_watches(node.name)
        self.cluster.swap(tables, leases, foreign=foreign)
        for coordinator in self.coordinators:
            coordinator.start()

    def _check_foreign(self, node: SimNode, *, running: bool) -> None:
        instance = node.instance
        if instance is None:
            return
        if running:
            if not instance.claim.estranged:
                self._wrong(f"{node.name} follows a store that is not ours")
        elif not isinstance(instance.refused, WrongClusterError):
            self._wrong(f"{node.name} begins with a store that is not ours")

    def _emptied(self, *, running: bool) -> None:
        self._store(Tables(), running=running)

    def _rolled_back(self, *, running: bool, overtaken: bool = False) -> None:
        assert self._photo is not None
        tables = self._photo.tables
        if tables.revision >= self.cluster.tables.revision:
            return
        if overtaken:  # nobody writes to a store before a coordinator began with it
            tables.apply(tables.changes(generation_puts("0000000000000fff", "opened")))
        while overtaken and tables.revision < self.cluster.tables.revision + OVERTAKEN_BY:
            tables.apply(tables.changes([Put("/settings/other", b"%d" % tables.revision)]))
        self._store(tables, running=running)

    def _of_another_cluster(self) -> None:
        """A store with the same logs, shards and replica ids, of another cluster."""
        tables = _copy_of(self.cluster)
        for key in [k for k in tables.items if k.startswith(("/generations/", "/ids/"))]:
            if key != "/ids/replica":
                del tables.items[key]
                tables.keys.remove(key)
        self._store(tables, running=False)

    # ---- the disks ---------------------------------------------------------------------------

    def _disks_swapped(self) -> None:
        a, b = self.world.rng.sample(self.nodes, 2)
        departures = len(self.world.history.departures)
        self._exchange(a, b)
        self.run(WRONG_S / 3)
        for node in (a, b):
            if node.instance is not None:
                self._wrong(f"{node.name} begins with another instance's disk")
        self._check_departures(departures, "on another instance's disk")
        self._exchange(a, b)

    def _exchange(self, a: SimNode, b: SimNode) -> None:
        for node in (a, b):
            node.kill()
        a.engine, b.engine = b.engine, a.engine
        a.identity, b.identity = b.identity, a.identity
        for node in (a, b):
            node.adopt_disk()
            node.start()

    def _disk_rolled_back(self) -> None:
        """Yesterday's copy of a disk is put back for good: it is old, and found to be so."""
        assert self._photo is not None
        node = self.world.rng.choice(self.nodes)
        engine, identity = self._photo.disks[node.name]
        if not self._only_copies(node) <= {m.replica_id for m in engine.replicas()}:
            return  # what is on no disk at all stays out of service, by right
        node.kill()
        node.engine, node.identity = engine, identity
        node.tainted |= {m.replica_id for m in node.engine.replicas()}
        node.adopt_disk()
        node.start()

    def _only_copies(self, node: SimNode) -> set[int]:
        """Replica ids of the copies on the node that are the only one in sync of their shard."""
        records = (decode_shard(i.value) for i in self.cluster.tables.range(SHARDS).items)
        alone = [r.in_sync[0] for r in records if len(r.in_sync) == 1]
        return {member.replica_id for member in alone if member.instance == node.name}

    # ---- the names ---------------------------------------------------------------------------

    def _name_doubled(self, *, twin: bool) -> None:
        """A second process under a living instance's name, on an empty disk or on a copy."""
        node = self.world.rng.choice(self.nodes)
        number = int(node.name.removeprefix("n"))
        other = SimNode(self.world, self.cluster, number, address=f"10.0.1.{number}:7400")
        if twin:
            other.engine, other.identity = node.engine.twin(), node.identity.twin("copy")
        else:
            other.identity.kept, other.identity.witness = None, "an empty disk"
        other.adopt_disk()
        departures = len(self.world.history.departures)
        other.start()
        self.run(WRONG_S)
        refused = other.instance.refused if other.instance is not None else None
        if not isinstance(refused, AlreadyRunningError):
            self._wrong(f"a second {node.name} was not refused, but {refused!r}")
        if node.instance is None or node.instance.claim.taken.is_set():
            self._wrong(f"{node.name} lost its name to a second one")
        self._check_departures(departures, "by a second process")
        other.kill()

    # ---- common ------------------------------------------------------------------------------

    def _all_down(self) -> None:
        for party in (*self.nodes, *self.coordinators):
            party.kill()

    def _all_up(self) -> None:
        for party in (*self.nodes, *self.coordinators):
            party.start()

    def _check_departures(self, before: int, where: str) -> None:
        for left in self.world.history.departures[before:]:
            self._wrong(f"copy {left.replica_id} at {left.instance} was {left.what} {where}")

    def _wrong(self, text: str) -> None:
        self.world.violate("I13", text)


def _copy_of(cluster: Cluster) -> Tables:
    """The same keys and revisions, without the history, and without what ends with a lease."""
    items = [i for i in cluster.tables.items.values() if not cluster.leases.lease_of(i.key)]
    return Tables(items, cluster.tables.revision)


KINDS: dict[str, Callable[[Any], None]] = {
    "metadata emptied": lambda m: m._emptied(running=False),
    "metadata emptied under running instances": lambda m: m._emptied(running=True),
    "metadata rolled back": lambda m: m._rolled_back(running=False),
    "metadata rolled back under running instances": lambda m: m._rolled_back(running=True),
    "metadata rolled back and overtaken": lambda m: m._rolled_back(running=False, overtaken=True),
    "metadata of another cluster": lambda m: m._of_another_cluster(),
    "disks swapped": lambda m: m._disks_swapped(),
    "disk rolled back": lambda m: m._disk_rolled_back(),
    "name doubled": lambda m: m._name_doubled(twin=False),
    "disk copied": lambda m: m._name_doubled(twin=True),
}
