"""Mistakes of people with folders, stores and names, made once in a run, after its faults healed.

Nothing that was acked may go, whatever was put where (I13): while the wrong thing is in place no
copy is retired or deleted and nobody begins with it, and with the right one back the cluster goes
on as before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from logstore.base.errors import AlreadyRunningError, LeaseLostError, WrongClusterError
from logstore.engine.port import CopyFacts
from logstore.meta.leases import LeaseTable
from logstore.meta.memory import Tables
from logstore.meta.port import Delete, Put
from logstore.meta.records import (
    GENERATION,
    SHARDS,
    ShardRecord,
    decode_instance,
    decode_shard,
    instance_key,
    process_key,
)
from tests.simulation.coordinator import SimCoordinator
from tests.simulation.disk import SimEngine
from tests.simulation.metadata import Cluster, generation_puts
from tests.simulation.node import SimIdentity, SimNode
from tests.simulation.world import World

WRONG_S = 15.0
"""How long the wrong thing is in place: longer than a registration's lease, twice."""
RESTART_S = 3.0
"""In which an instance that starts has its name and its copies again."""
PATIENCE_S = 30.0
STEP_S = 0.5
LEASE_LEFT_S = 2.0
"""Who renews its lease in time always has so much left of it."""
OVERTAKEN_BY = 50
"""Revisions by which a store that was rolled back is ahead in the end."""

Run = Callable[[float], None]
Nodes = frozenset[str]


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
    only: str = ""
    """Only kinds whose name has this in it."""
    _photo: _Photo | None = None
    _ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Shard -> (end, possible losses recorded) before disks were rolled back."""
    _whole: set[str] = field(default_factory=set)
    """Shards of which another in-sync member kept its disk: they lose nothing."""

    def photograph(self) -> None:
        """Copy store and disks, as they lie there now."""
        if self._photo is None:
            disks = {n.name: (n.engine.twin(), n.identity.twin("photo")) for n in self.nodes}
            self._photo = _Photo(_copy_of(self.cluster), disks)
            self.world.tell("an operator copies store and disks")

    def make(self) -> None:
        """Make one of them that can be made; returns with everything where it belongs."""
        if self._photo is None:
            self.photograph()
        if not self._all_follow():
            self.world.violate("liveness", f"{PATIENCE_S:g} s after the heal not all follow")
            return
        kinds = sorted(kind for kind in KINDS if self.only in kind)
        for kind in self.world.rng.sample(kinds, len(kinds)):
            self.world.tell(f"MISTAKE {kind}")
            if KINDS[kind](self):
                self.world.cover(kind, PLACE)
                return
            self.world.tell("nothing to be done wrong")

    def _all_follow(self) -> bool:
        """Wait until every instance holds its name and knows the newest metadata: what it does
        late, after a call that the faults delayed, is not done by whoever errs."""
        for _ in range(round(PATIENCE_S / STEP_S)):
            if all(map(self._follows, self.nodes)):
                return True
            self.run(STEP_S)
        return False

    def _follows(self, node: SimNode) -> bool:
        lease = self.cluster.leases.lease_of(process_key(node.name))
        try:
            self.cluster.leases.check_alive(lease, self.world.now_s + LEASE_LEFT_S)
        except LeaseLostError:
            return False
        newest = max((i.revision for i in self.cluster.tables.range(SHARDS).items), default=0)
        return node.instance is not None and node.instance.metadata_view.revision >= newest

    def judge(self) -> None:
        """Once all is settled again: the losses of old disks are recorded."""
        for record in self._records():
            end, answer = self._ends.get(record.shard, (0, 0))
            now = self._end(record)
            if now < end and record.shard in self._whole:
                self._wrong(f"{record.shard} ended at {end}, ends at {now}: a member had all of it")
            elif now < end and len(record.possible_loss) <= answer:
                self._wrong(f"{record.shard} ended at {end}, ends at {now}, and nobody says so")

    # ---- the store ---------------------------------------------------------------------------

    def _store(self, tables: Tables, *, running: bool, since: int | None = None) -> bool:
        """Put another store in the place of ours for a while.

        `since`: the revision that an older copy of ours is of. Who remembers nothing that came
        after it cannot know it for old, and accepts ours by hand later.
        """
        before, leases = self.cluster.tables, self.cluster.leases
        departures = len(self.world.history.departures)
        if not running:
            self._all_down()
        unaware = frozenset(
            n.name for n in self.nodes if since is not None and _remembers(n) <= since
        )
        self._swap_store(tables, LeaseTable(), foreign=True)
        if not running:
            self._all_up()
        self.run(WRONG_S)
        for node in self.nodes:
            if node.name not in unaware:
                self._check_foreign(node, running=running)
        self._check_departures(departures, "of a store that is not ours", unaware)
        if not running:
            self._all_down()
        self._swap_store(before, leases, foreign=False)
        for node in self.nodes:
            if node.instance is not None and node.instance.registration.refused is not None:
                node.kill()  # it was about to claim its name, and ended
            if node.name in unaware:
                self.world.tell(f"{node.name} must accept the store by hand")
                node.kill()
                node.tainted |= {m.replica_id for m in node.engine.replicas()}
                node.accepts = before.items[GENERATION].value.decode()
        self._all_up()
        return True

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
        refused = isinstance(instance.registration.refused, WrongClusterError)
        if running:
            if not instance.claim.estranged and not refused:
                self._wrong(f"{node.name} follows a store that is not ours")
        elif not refused:
            self._wrong(f"{node.name} begins with a store that is not ours")

    def _emptied(self, *, running: bool) -> bool:
        return self._store(Tables(), running=running)

    def _rolled_back(self, *, running: bool, overtaken: bool = False) -> bool:
        assert self._photo is not None
        tables = _twin_of(self._photo.tables)
        since = tables.revision
        if since >= self.cluster.tables.revision:
            return False
        if overtaken:  # no write to a store before a coordinator began with it
            tables.apply(tables.changes(generation_puts("0000000000000fff", "opened")))
        while overtaken and tables.revision < self.cluster.tables.revision + OVERTAKEN_BY:
            tables.apply(tables.changes([Put("/settings/other", b"%d" % tables.revision)]))
        return self._store(tables, running=running, since=since)

    def _of_another_cluster(self) -> bool:
        """A store with the same logs, shards and replica ids, of another cluster."""
        tables = _copy_of(self.cluster)
        for key in [k for k in tables.items if k.startswith(("/generations/", "/ids/"))]:
            if key != "/ids/replica":
                del tables.items[key]
                tables.keys.remove(key)
        return self._store(tables, running=False)

    def _record_deleted(self) -> bool:
        """A person deletes a shard's record with a tool of the store, and puts it back."""
        key = self.world.rng.choice([k for k in self.cluster.tables.keys if k.startswith(SHARDS)])
        value = self.cluster.tables.items[key].value
        departures = len(self.world.history.departures)
        self.cluster.by_hand([Delete(key)])
        self.run(WRONG_S / 3)
        self._check_departures(departures, "because its record is gone")
        self.cluster.by_hand([Put(key, value)])
        return True

    # ---- the disks ---------------------------------------------------------------------------

    def _disks_swapped(self) -> bool:
        a, b = self.world.rng.sample(self.nodes, 2)
        departures = len(self.world.history.departures)
        self._exchange(a, b)
        self.run(WRONG_S / 3)
        for node in (a, b):
            if node.instance is not None:
                self._wrong(f"{node.name} begins with another instance's disk")
        self._check_departures(departures, "on another instance's disk")
        self._exchange(a, b)
        return True

    def _exchange(self, a: SimNode, b: SimNode) -> None:
        for node in (a, b):
            node.kill()
        a.engine, b.engine = b.engine, a.engine
        a.identity, b.identity = b.identity, a.identity
        for node in (a, b):
            node.adopt_disk()
            node.start()

    def _disk_of_another_cluster(self) -> bool:
        """The data of an instance of the same name comes from another cluster; who it belongs to
        is written beside the data, or, with that file lost, with each copy only."""
        node = self.world.rng.choice([n for n in self.nodes if n.engine.replicas()])
        engine, identity = node.engine, node.identity
        node.kill()
        node.engine, node.identity = engine.twin(), identity.twin(identity.witness)
        for meta in node.engine.replicas():
            facts = node.engine.facts(meta.replica_id) or CopyFacts("", "", 0, b"", b"")
            node.engine.set_facts(meta.replica_id, replace(facts, cluster="other"))
        node.identity.belongs_to("other" if self.world.rng.random() < 0.5 else None)
        departures = len(self.world.history.departures)
        node.adopt_disk()
        node.start()
        self.run(WRONG_S / 3)
        self._check_foreign(node, running=False)
        self._check_departures(departures, "on another cluster's disk")
        node.kill()
        node.engine, node.identity = engine, identity
        node.start()
        return True

    def _disk_rolled_back(self) -> bool:
        """Yesterday's copy of a disk is put back for good: it is old, and found to be so."""
        leading = {r.primary.instance for r in self._records()}
        node = self.world.rng.choice([n for n in self.nodes if n.name in leading])
        if not self._has_its_copies(node, only=True):
            return False  # what is on no disk at all stays out of service, by right
        if self._has_the_number(node) and self._only_copies(node):
            return False  # nothing anywhere shows that it is old (design note 0008, limits)
        self._remember_ends()
        for record in self._records():
            if any(m.instance != node.name for m in record.in_sync):
                self._whole.add(record.shard)
        self._put_back(node)
        return True

    def _all_disks_rolled_back(self) -> bool:
        """Yesterday's copies of all disks, with today's store; every instance started since."""
        if not all(self._has_its_copies(node, only=False) for node in self.nodes):
            return False
        self._all_down()
        self._all_up()
        self.run(RESTART_S)
        self._remember_ends()
        for node in self.nodes:
            self._put_back(node)
        return True

    def _put_back(self, node: SimNode) -> None:
        assert self._photo is not None
        machine = node.identity
        node.kill()
        node.engine, node.identity = self._photo.disks[node.name]
        # The files are put back into the folder that is there, on the machine that runs.
        node.identity.witness, node.identity.boot_id = machine.witness, machine.boot_id
        node.tainted |= {m.replica_id for m in node.engine.replicas()}
        node.tainted |= {  # also those that came to this disk later
            m.replica_id for r in self._records() for m in r.members() if m.instance == node.name
        }
        node.adopt_disk()
        node.start()

    def _remember_ends(self) -> None:
        self._ends = {r.shard: (self._end(r), len(r.possible_loss)) for r in self._records()}

    def _end(self, record: ShardRecord) -> int:
        node = next(n for n in self.nodes if n.name == record.primary.instance)
        replica_id = record.primary.replica_id
        return node.engine.end(replica_id).end if node.engine.meta(replica_id) else 0

    def _has_its_copies(self, node: SimNode, *, only: bool) -> bool:
        """Whether the old disk has the node's in-sync copies (`only`: those that are the only one
        of their shard), and of a shard that was sealed since all of it."""
        assert self._photo is not None
        engine, _ = self._photo.disks[node.name]
        for record in self._records():
            member = record.member_on(node.name)
            if member not in record.in_sync or (only and len(record.in_sync) > 1):
                continue
            if engine.meta(member.replica_id) is None:
                return False
            if engine.end(member.replica_id).end < (record.sealed_end or 0):
                return False
        return True

    def _has_the_number(self, node: SimNode) -> bool:
        """Whether the old disk was copied from the process that is registered now."""
        assert self._photo is not None
        kept = self._photo.disks[node.name][1].kept
        found = self.cluster.tables.items.get(instance_key(node.name))
        return (
            kept is not None
            and found is not None
            and kept.knows(decode_instance(found.value).process)
        )

    def _only_copies(self, node: SimNode) -> bool:
        """Whether the node has a copy that is the only one in sync of its shard."""
        alone = [r.in_sync[0] for r in self._records() if len(r.in_sync) == 1]
        return any(member.instance == node.name for member in alone)

    def _records(self) -> list[ShardRecord]:
        return [decode_shard(i.value) for i in self.cluster.tables.range(SHARDS).items]

    # ---- the names ---------------------------------------------------------------------------

    def _second(self, node: SimNode, *, twin: bool) -> SimNode:
        """Another machine for the name of `node`, with an empty disk or a copy of its disk."""
        number = int(node.name.removeprefix("n"))
        address = f"10.0.1.{number}:7400"
        other = SimNode(self.world, self.cluster, number, node.coordinators, address=address)
        if twin:
            other.engine, other.identity = node.engine.twin(), node.identity.twin("copy")
        else:
            other.identity.kept, other.identity.witness = None, "an empty disk"
        other.adopt_disk()
        return other

    def _name_doubled(self, *, twin: bool) -> bool:
        """A second process under a living instance's name, on an empty disk or on a copy."""
        node = self.world.rng.choice(self.nodes)
        other = self._second(node, twin=twin)
        departures = len(self.world.history.departures)
        other.start()
        self.run(WRONG_S)
        refused = other.instance.registration.refused if other.instance is not None else None
        if not isinstance(refused, AlreadyRunningError):
            self._wrong(f"a second {node.name} was not refused, but {refused!r}")
        if node.instance is None or node.instance.claim.taken.is_set():
            self._wrong(f"{node.name} lost its name to a second one")
        self._check_departures(departures, "by a second process")
        other.kill()
        return True

    def _name_taken_over(self) -> bool:
        """A machine stands still for longer than its lease, a copy of its disk is started
        elsewhere, and then the first one goes on."""
        node = self.world.rng.choice(self.nodes)
        node.freeze(WRONG_S)
        self.run(WRONG_S / 3)
        other = self._second(node, twin=True)
        other.start()
        self.run(WRONG_S)
        if node.instance is None or not node.instance.claim.taken.is_set():
            self._wrong(f"{node.name} goes on, though another process has its name")
        if other.instance is None or other.instance.claim.taken.is_set():
            self._wrong(f"the second {node.name} lost the name that it had taken")
        other.kill()
        node.kill()
        node.engine, node.identity = other.engine, other.identity
        node.adopt_disk()
        node.start()
        return True

    # ---- common ------------------------------------------------------------------------------

    def _parties(self) -> list[SimNode | SimCoordinator]:
        return [*self.nodes, *self.coordinators]

    def _all_down(self) -> None:
        for party in self._parties():
            party.kill()

    def _all_up(self) -> None:
        for party in self._parties():
            party.start()

    def _check_departures(self, before: int, where: str, besides: Nodes = frozenset()) -> None:
        """None since; those of the instances `besides` are no part of the history."""
        departures = self.world.history.departures
        for left in departures[before:]:
            if left.instance not in besides:
                self._wrong(f"copy {left.replica_id} at {left.instance} was {left.what} {where}")
        departures[before:] = [d for d in departures[before:] if d.instance not in besides]

    def _wrong(self, text: str) -> None:
        self.world.violate("I13", text)


def _copy_of(cluster: Cluster) -> Tables:
    """The same keys and revisions, without the history, and without what ends with a lease."""
    items = [i for i in cluster.tables.items.values() if not cluster.leases.lease_of(i.key)]
    return Tables(items, cluster.tables.revision)


def _twin_of(tables: Tables) -> Tables:
    return Tables(list(tables.items.values()), tables.revision)


def _remembers(node: SimNode) -> int:
    """The newest revision that the node's disk, or the process that runs on it, acted on."""
    kept = node.identity.kept
    facts = [node.engine.facts(m.replica_id) for m in node.engine.replicas()]
    marks = [f.revision for f in facts if f is not None]
    if node.instance is not None:
        marks.append(node.instance.metadata_view.revision)
    return max([kept.revision if kept is not None else 0, *marks])


PLACE = "by an operator"
KINDS: dict[str, Callable[[Any], bool]] = {
    "metadata emptied": lambda m: m._emptied(running=False),
    "metadata emptied under running instances": lambda m: m._emptied(running=True),
    "metadata rolled back": lambda m: m._rolled_back(running=False),
    "metadata rolled back under running instances": lambda m: m._rolled_back(running=True),
    "metadata rolled back and overtaken": lambda m: m._rolled_back(running=False, overtaken=True),
    "metadata of another cluster": lambda m: m._of_another_cluster(),
    "shard record deleted": lambda m: m._record_deleted(),
    "disks swapped": lambda m: m._disks_swapped(),
    "disk of another cluster": lambda m: m._disk_of_another_cluster(),
    "disk rolled back": lambda m: m._disk_rolled_back(),
    "all disks put back": lambda m: m._all_disks_rolled_back(),
    "name doubled": lambda m: m._name_doubled(twin=False),
    "disk copied": lambda m: m._name_doubled(twin=True),
    "name taken over": lambda m: m._name_taken_over(),
}
