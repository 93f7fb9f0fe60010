"""A machine with one instance on it: the real `Instance` and services over simulated ports."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from logstore.base.env import Env
from logstore.engine.batch import time_at
from logstore.node.config import NodeConfig
from logstore.node.instance.identity import Identity
from logstore.node.instance.instance import Instance
from logstore.node.instance.reporting import Reporter
from logstore.node.rpc.services import interceptors_of, services_of
from logstore.node.usage.process import Usage
from logstore.replication.events import Role
from tests.simulation.disk import SimEngine
from tests.simulation.loop import PROCESS, Process, die
from tests.simulation.metadata import Cluster, SimStore
from tests.simulation.transport import SimTransport
from tests.simulation.world import SLOW_S, SLOW_SHARE, SimClock, World
from tests.support.checkers.history import Departure, Floor, Row

TIMING = {
    "follower_timeout_s": 0.7,
    "hand_over_timeout_s": 1.5,
    "lease_s": 0.7,
    "grace_s": 0.95,
    "heartbeat_interval_s": 0.1,
    "follower_read_stale_s": 0.5,
    "session_wait_s": 0.3,
}
"""Shorter than in a real cluster by about three, so that a run holds more."""
REPORT_S = 0.4
LAG_PROBE_S = 0.25
"""No load here, so nobody needs to know of lag sooner."""


class SimIdentity:
    """The twin of `IdentityFile`: on the machine's disk, synced at every save."""

    def __init__(self, name: str, incarnation: int) -> None:
        self.witness = f"{name}:disk"
        self.boot_id = "boot-0"
        self.kept: Identity | None = Identity(name, boot_id=self.boot_id, incarnation=incarnation)

    def load(self) -> Identity | None:
        return self.kept

    def save(self, identity: Identity) -> None:
        self.kept = identity

    def twin(self, witness: str) -> "SimIdentity":
        """What a copy of the folder knows; its lock file is another."""
        assert self.kept is not None
        twin = SimIdentity(self.kept.instance, self.kept.incarnation)
        twin.kept, twin.boot_id, twin.witness = self.kept, self.boot_id, witness
        return twin

    def belongs_to(self, cluster: str | None) -> None:
        """The file says another cluster, or (None) is lost."""
        assert self.kept is not None
        self.kept = replace(self.kept, cluster=cluster) if cluster is not None else None

    def reboot(self, incarnation: int) -> None:
        """The machine starts again, under an incarnation that the run knows."""
        assert self.kept is not None
        self.boot_id = f"boot-{incarnation}"
        self.witness = f"{self.witness.partition(':')[0]}:disk:{self.boot_id}"
        self.kept = replace(self.kept, boot_id=self.boot_id, incarnation=incarnation)


class SimNode:
    """Survives its processes: the disk, the clock and the incarnation are the machine's."""

    def __init__(
        self,
        world: World,
        cluster: Cluster,
        number: int,
        coordinators: Sequence[str],
        *,
        address: str = "",
        ops_per_s_max: float | None = None,
    ) -> None:
        """`coordinators`: the addresses that it reports to. `ops_per_s_max`: its capacity."""
        self.world = world
        self.name = f"n{number}"
        self.address = address or f"10.0.0.{number}:7400"
        self.incarnation = number * 1_000
        self.identity = SimIdentity(self.name, self.incarnation)
        self.tainted: set[int] = set()
        """Copies (replica ids) that lost power without fsync and have not learned again yet."""
        self.synced = False
        """True when every ack is on the disk: then a power loss takes nothing that was acked."""
        self.accepts: str | None = None
        """A generation that is accepted by hand at the next start."""
        self._cluster = cluster
        self.coordinators = coordinators
        self._env: Env = world.env()
        self.engine = SimEngine(world.rng)
        self.adopt_disk()
        self.slow_disk = False
        self.process = Process(self.name, alive=False)
        self.instance: Instance | None = None
        self._config = NodeConfig.model_construct(
            **{
                **{n: f.default for n, f in NodeConfig.model_fields.items()},
                "instance": self.name,
                "data": Path(),
                "metadata": ["store:1"],
                "coordinators": list(coordinators),
                "report_interval_s": REPORT_S,
                "ops_per_s_max": ops_per_s_max,
                "sample_keys_per_batch": 1,
                **TIMING,
            }
        )

    def adopt_disk(self) -> None:
        """The disk is in this machine now."""
        self.engine.on_write = self._on_write
        self.engine.on_departure = self._departed
        self.engine.on_trim = self._trimmed

    def _departed(self, replica_id: int, what: str) -> None:
        self.world.tell(f"copy {replica_id} at {self.name} is {what}")
        meta = self.engine.meta(replica_id)
        shard, end = (meta.shard, self.engine.end(replica_id).end) if meta is not None else ("", 0)
        self.world.history.departures.append(
            Departure(self.world.now_s, self.name, replica_id, what, shard, end)
        )

    def _trimmed(self, replica_id: int, offset: int) -> None:
        meta, history, base = self.engine.meta(replica_id), self.world.history, 0
        assert meta is not None
        for batch in self.engine.batches(replica_id):
            if batch.end > offset:
                break
            table, base = batch.records(), batch.end
            columns = (table.column(name).to_pylist() for name in ("key", "value"))
            for at, (key, value) in enumerate(zip(*columns, strict=True), batch.base_offset):
                row = Row(meta.shard, at, key, value, time_at(batch, at))
                history.trimmed.setdefault((meta.shard, at), row)
                history.trimmed_s.setdefault(value, self.world.now_s)
        history.trims.append(Floor(self.world.now_s, meta.shard, base))

    @property
    def clock(self) -> SimClock:
        clock = self._env.clock
        assert isinstance(clock, SimClock)
        return clock

    def start(self) -> None:
        """A new process on this machine."""
        if self.process.alive:
            return
        self.process = Process(self.name, slow_disk=lambda: self.slow_disk)
        self.world.tell(f"{self.name} starts, incarnation {self.incarnation}")
        self.world.loop.spawn_in(self.process, self._boot(), f"boot {self.name}")

    async def _boot(self) -> None:
        store = SimStore(self._cluster)
        config = self._config.model_copy(update={"accept_generation": self.accepts})
        transport = SimTransport(self._cluster.network)
        instance = Instance(
            config,
            self._env,
            self.engine,
            store,
            self.identity,
            transport,
            lag_probe_s=LAG_PROBE_S,
        )
        instance.copies.free_share = lambda: 1.0
        instance.node.reporter.usage = lambda: Usage(0.0, 0.0, 0, 1)
        self.instance = instance
        self._cluster.network.serve(
            self.address, self.process, services_of(instance), interceptors_of(instance)
        )
        instance.start()
        works = (instance.registration.run(self.address), Reporter(instance, transport).run())
        self._tasks = [asyncio.create_task(work) for work in works]

    def kill(self) -> None:
        """kill -9: what was written stays."""
        if self.process.alive:
            die(self.process)
            self.instance = None
            self._cluster.network.died(self.process)

    def lose_power(self, *, torn: bool) -> int:
        """The machine goes down; the next boot is another incarnation. Returns changes lost."""
        die(self.process)
        self.instance = None
        self._cluster.network.died(self.process, silent=True)
        self.incarnation += 1
        self.identity.reboot(self.incarnation)
        if not self.synced:
            self.tainted |= {m.replica_id for m in self.engine.replicas()}
        return self.engine.lose_power(torn)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.world.loop.freeze(self.process, seconds)

    def is_quick(self) -> bool:
        """Whether it takes what comes to it at once."""
        frozen = self.process.frozen_until_s > self.world.now_s or self.process.backlog
        return self.process.alive and not frozen and not self.slow_disk

    def role(self, shard: str) -> Role | None:
        """The role of its copy, as the instance itself sees it."""
        if self.instance is None or not self.process.alive:
            return None
        replica = self.instance.replicas.get(shard)
        return replica.role if replica is not None else None

    def _on_write(self) -> None:
        rng = self.world.delays
        if self.slow_disk and PROCESS.get() is self.process and rng.random() < SLOW_SHARE:
            self.freeze(rng.random() * SLOW_S)
