"""One seed from start to verdict: setup, safety phase under faults, heal, liveness, checks."""

import asyncio
import contextlib
import functools
import gc
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from logstore.base.errors import LogstoreError
from logstore.base.types import Durability
from logstore.meta.records import TOMBSTONES, LogOptions, process_key
from sharder.keys import Partitioner, routing_key
from tests.simulation.client import LOG, Caller, Pool, SimClient
from tests.simulation.coordinator import (
    PLANNED_OPS_PER_S,
    SimCoordinator,
    coordinator_address,
    create_log,
    settings,
)
from tests.simulation.faults import FAULTS_MIN
from tests.simulation.final import FinalReader, append_targets
from tests.simulation.judge import judge, note_divergence
from tests.simulation.limits import lowered
from tests.simulation.loop import DeadlockError
from tests.simulation.metadata import Cluster
from tests.simulation.mistakes import Mistakes
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.observer import Observer
from tests.simulation.operator import Operator
from tests.simulation.resender import Resender
from tests.simulation.strikes import Strikes
from tests.simulation.style import Style, draw
from tests.simulation.world import World
from tests.support.checkers.history import Outcome, Violation

CLIENTS = 3
COORDINATORS = 2
SETUP_S = 30.0
SAFETY_S = 300.0
LIVENESS_S = 90.0
LOOK_S = 0.05
MISTAKE_CHANCE = 0.3
"""Runs in which an operator makes a mistake (`mistakes`)."""
PHOTO_S = (0.0, 6.0)
"""When, after the faults began, an operator copies store and disks."""
PLANS_CHANCE = 0.1
"""Runs in which the planner moves and splits shards by itself."""
DRAIN_CHANCE = 0.25
"""Runs in which an operator drains an instance."""
TRIM_CHANCE = 0.25
"""Runs in which shards are trimmed."""
SPLITS_CHANCE = 0.4
"""Runs whose shards are split and merged."""


@dataclass(slots=True)
class Result:
    """What one seed showed."""

    seed: int
    mutation: int
    violations: list[Violation]
    coverage: list[tuple[str, str, int]]
    triples: list[tuple[str, str, str, int]]
    trace: str
    operations: int
    faults: int
    acked: int
    unknown: int
    moves: dict[str, int]
    reshapes: dict[str, int]
    virtual_s: float
    steps: int
    story: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations


def split_keys(partitioner: Partitioner) -> dict[bytes, bytes]:
    """Routing key -> the record's key at which shards are split: between the clients' keys, and at
    some of them."""
    keys: tuple[bytes, ...] = (b"a-1", b"a-1-2", b"m", b"shared-1", b"z-0-1", b"z-2")
    return {routing_key(partitioner, key): key for key in keys}


class Simulation:
    """A cluster drawn from the seed."""

    def __init__(
        self,
        seed: int,
        operations: int,
        *,
        mutation: int = 0,
        always_splits: bool = False,
        mistakes: str | None = None,
        aim: str | None = None,
    ) -> None:
        world = self.world = World(seed, mutation)
        rng = world.rng
        style = draw(world.dice("style"), world.callers, world.dice("later aims"), aim)
        needs = style.needs
        splits = rng.random() < SPLITS_CHANCE or always_splits or style.splits
        self.cluster = Cluster(world, Network(world))
        replicas = rng.choices((1, 2, 3), (1, 2, 7))[0]
        replicas = needs.replicas or replicas
        cells = rng.choice((1, 1, 2))
        shards = max(cells, rng.choice((1, 1, 2)))  # the first two are in two cells
        self.options = LogOptions(
            partitioner=rng.choice((Partitioner.RANGE, Partitioner.HASH)),
            replicas=replicas,
            min_in_sync=rng.randint(1, min(2, replicas)),
            durability=rng.choice((Durability.OS, Durability.OS, Durability.FSYNC)),
            key_index=False,
        )
        if needs.min_in_sync is not None:
            self.options = replace(self.options, min_in_sync=needs.min_in_sync)
        if needs.synced:
            self.options = replace(self.options, durability=Durability.FSYNC)
        doors = [coordinator_address(i) for i in range(COORDINATORS)]
        plans = rng.random() < PLANS_CHANCE
        self.nodes = [
            SimNode(world, self.cluster, i + 1, doors,
                    ops_per_s_max=PLANNED_OPS_PER_S if plans else None)
            for i in range(replicas + 1)
        ]  # fmt: skip
        for node in self.nodes:
            node.synced = self.options.durability is Durability.FSYNC
        self.observer = Observer(world, self.cluster, self.nodes)
        config = settings(cells, plans=plans)
        self.coordinators = [
            SimCoordinator(world, self.cluster, i, config) for i in range(COORDINATORS)
        ]
        operator = Operator(world, self.cluster.network, doors)
        homes = [rng.sample(self.nodes, replicas) for _ in range(shards)]
        cuts = [b"m" if self.options.partitioner is Partitioner.RANGE else b"\x80" + bytes(7)]
        self.errs = rng.random() < MISTAKE_CHANCE or mistakes is not None
        self.cluster.found()
        create_log(self.cluster, LOG, self.options, homes, cuts[: shards - 1])
        addresses = [node.address for node in self.nodes]
        self.pool = Pool(operations)
        self.clients = self._clients(style, addresses)
        self.faults = Strikes(
            world, self.cluster, self.nodes, self.coordinators, self.observer, self.clients, style,
            operator, cells,
        )  # fmt: skip
        self.faults.upkeep.plans = plans
        self.faults.upkeep.drains = rng.random() < DRAIN_CHANCE
        self.faults.upkeep.trims = rng.random() < TRIM_CHANCE
        if splits:
            self.faults.split_keys = split_keys(self.options.partitioner)
        self.final = FinalReader(world, self.cluster.network, addresses)
        self.mistakes = Mistakes(
            world, self.cluster, self.nodes, self.coordinators, self._live_on, mistakes or ""
        )

    def _clients(self, style: Style, addresses: list[str]) -> list[Caller]:
        world, network, mix = self.world, self.cluster.network, style.mix
        clients: list[Caller] = []
        for i in range(CLIENTS):
            keys = [f"{first}-{i}-{k}".encode() for k in range(3) for first in "az"]
            clients.append(SimClient(world, i, network, addresses, keys, self.pool, mix))
        for i in range(mix.resenders):
            excused = self.observer.excused
            clients.append(Resender(world, i, network, addresses, self.pool, excused))
        return clients

    def run(self) -> None:
        world, clients = self.world, self.clients
        world.tell(f"seed {world.seed}: {self.options}, {self.faults.cells} cells")
        world.tell(f"{self.faults.style}")
        for node in self.nodes:
            node.start()
        for candidate in self.coordinators:
            candidate.start()
        if not self._until(self._formed, SETUP_S):
            world.violate("liveness", f"the replicas did not form: {self._unfinished()}")
            return
        for client in clients:
            client.start()
        self.faults.begin()
        if self.errs:
            world.after(world.rng.uniform(*PHOTO_S), self.mistakes.photograph)
        self._until(lambda: self.pool.left <= 0 and world.faults >= FAULTS_MIN, SAFETY_S)
        if world.violations:
            return  # the story ends where it went wrong
        self.faults.heal()
        self._settle("the heal")
        if self.errs and not world.violations:
            self.mistakes.make()
            self._settle("a mistake")
            self.mistakes.judge()
        if world.violations:
            return
        self.final.start(append_targets(self.observer, self.clients, self.options.partitioner))
        if not self._until(lambda: self.final.rows is not None or bool(self.final.error), 30.0):
            world.violate("liveness", "the log cannot be read")
        if self.final.error:
            world.violate("liveness", f"the log cannot be read: {self.final.error}")
        self._check()

    def _settle(self, after: str) -> None:
        """Everything is whole again within a bound, or liveness is violated."""
        world = self.world
        if not self._until(self._settled, LIVENESS_S):
            world.violate("liveness", f"{LIVENESS_S:g} s after {after}: {self._unfinished()}")
        for node in self.nodes:
            if node.instance is not None and node.instance.node.broken is not None:
                world.violate("liveness", f"{node.name} is broken: {node.instance.node.broken}")

    def _live_on(self, seconds: float) -> None:
        self._until(lambda: False, seconds)

    def _check(self) -> None:
        found = judge(
            self.world.history,
            self.final.rows or [],
            self.observer.copies(),
            self.observer.excused(),
            names=frozenset(node.name for node in self.nodes),
            cells=self.faults.cells,
            errs=self.errs,
        )
        for violation in found:
            text = f"(at {violation.at_s:.3f} s) {violation.text}"
            self.world.violate(violation.invariant, text)

    # ---- waiting ---------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Run until `done`, or until so much virtual time has gone."""
        world, loop = self.world, self.world.loop
        end_s = world.now_s + limit_s

        def look() -> None:
            if done() or world.now_s >= end_s or world.violations:
                loop.stop()
            else:
                world.after(LOOK_S, look)

        world.after(LOOK_S, look)
        loop.run_forever()
        return done() or bool(world.violations)

    def _formed(self) -> bool:
        return all(
            len(known.record.in_sync) == self.options.replicas and known.record.epoch > 1
            for known in self.observer.shards.values()
        )

    def _settled(self) -> bool:
        return not self._unfinished()

    def _unfinished(self) -> list[str]:
        """What has not ended yet, in words."""
        found = [f"{c.name} waits for its calls" for c in self.clients if not c.done]
        found += [f"the operator waits for {o}" for o in +self.faults.operator.waits_for]
        found += [f"{m.id} is {m.state}" for m in self.observer.migrations.values() if m.active]
        found += [f"{r.id} is {r.state}" for r in self.observer.reshapes.values() if r.active]
        for known in self.observer.shards.values():
            record = known.record
            if len(record.in_sync) != self.options.replicas or record.learners:
                found.append(f"{record.shard} has {record.in_sync} and learners {record.learners}")
                continue
            ends = {m.instance: self._place(m.instance, record.shard) for m in record.in_sync}
            if len(set(ends.values())) != 1 or None in ends.values():
                found.append(f"{record.shard} ends differ: {ends}")
        found += [
            f"{node.name} has not its name"
            for node in self.nodes
            if process_key(node.name) not in self.cluster.tables.items
        ]
        for drained in self.faults.upkeep.drained():
            left = [s for s, k in self.observer.shards.items() if k.record.member_on(drained)]
            found += [f"{drained} is not drained of {shard}" for shard in left]
        found += [
            f"{item.key} is not obeyed yet" for item in self.cluster.tables.range(TOMBSTONES).items
        ]
        found += [
            f"{node.name} has not heard that {shard} left"  # it serves reads for a while (P8)
            for node in self.nodes
            for shard in (node.instance.replicas if node.instance is not None else ())
            if self.observer.shards[shard].record.member_on(node.name) is None
        ]
        return found

    def _place(self, name: str, shard: str) -> tuple[int, int] | None:
        """(log end, high watermark) of a serving copy, equal when all is committed."""
        node = next(n for n in self.nodes if n.name == name)
        replica = node.instance.replicas.get(shard) if node.instance is not None else None
        if replica is None or not replica.exists or not replica.serving():
            return None
        end = node.engine.end(replica.member.replica_id).end
        return (end, replica.high_watermark) if end == replica.high_watermark else None

    # ---- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel every task, also of killed processes; what cannot run any more is dropped."""
        loop = self.world.loop
        loop.over = True
        loop.set_exception_handler(lambda *_: None)
        left = [task for task in loop.tasks if not task.done()]
        for task in left:
            task.cancel()
        with contextlib.suppress(DeadlockError):
            for _ in range(50):
                loop.steps = 0
                loop.call_soon(loop.stop)
                loop.run_forever()
        for task in left:
            if not task.done():  # its wake-up died with its process
                _end(task.get_coro())
        loop.tasks.clear()
        loop.close()


def _end(work: Any) -> None:
    """Close a suspended coroutine now: the collector would clear what its `finally` needs first."""
    with contextlib.suppress(BaseException):
        work.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Coroutines of killed processes end without having run to their ends: that is their fate."""
    hook, configured = sys.unraisablehook, structlog.get_config()
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structlog.configure(processors=[_drop])
            yield
    finally:
        structlog.configure(**configured)
        sys.unraisablehook = hook


def _drop(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    raise structlog.DropEvent


@functools.cache
def _freeze_once() -> None:
    """What was imported is no work for the collector."""
    gc.freeze()


def simulate(
    seed: int,
    operations: int = 500,
    *,
    mutation: int = 0,
    always_splits: bool = False,
    mistakes: str | None = None,
    aim: str | None = None,
) -> Result:
    """Run one seed; every violation is in the result.

    `mutation`: run that neighbour of the seed, in which one part of the run is drawn anew;
    `always_splits`: shards are split and merged in this seed, too, if it is not one of those;
    `mistakes`: an operator makes a mistake in it, of a kind with this in its name;
    `aim`: the seed has this aim, whatever else it drew. What it leaves behind is collected, unless
    the collector is off.
    """
    collects = gc.isenabled()
    gc.disable()
    _freeze_once()
    try:
        with _quiet():
            result = _simulate(
                Simulation(
                    seed,
                    operations,
                    mutation=mutation,
                    always_splits=always_splits,
                    mistakes=mistakes,
                    aim=aim,
                )
            )
            if collects:
                gc.collect(0)
            return result
    finally:
        if collects:
            gc.enable()


def _simulate(simulation: Simulation) -> Result:
    world = simulation.world
    style = simulation.faults.style
    with lowered(style.mix.window, style.needs.batches), _told(world):
        try:
            simulation.run()
        except DeadlockError as e:
            world.violate("liveness", str(e))
        finally:
            story, trace = list(world.story), world.trace_hash()
            violations, virtual_s = list(world.violations), world.now_s
            steps = world.loop.steps
            simulation.close()
    appends = world.history.appends
    return Result(
        seed=world.seed,
        mutation=world.mutation,
        violations=violations,
        coverage=[(fault, where, n) for (fault, where), n in world.coverage.items()],
        triples=[(*triple, n) for triple, n in world.triples.items()],
        trace=trace,
        operations=len(appends) + len(world.history.reads) + len(world.history.latest),
        faults=world.faults,
        acked=sum(c.outcome is Outcome.ACKED for c in appends),
        unknown=sum(c.outcome is Outcome.UNKNOWN for c in appends),
        moves=Counter(m.state.value for m in simulation.observer.migrations.values()),
        reshapes=Counter(
            f"{r.kind} {r.state.value}" for r in simulation.observer.reshapes.values()
        ),
        virtual_s=virtual_s,
        steps=steps,
        story=story,
    )


@contextmanager
def _told(world: World) -> Iterator[None]:
    """Log lines go into the story while a seed runs, and an error that nobody foresaw violates."""
    configured = structlog.get_config()

    def capture(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        error = event.pop("exc_info", None)
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, BaseException) and not isinstance(error, LogstoreError):
            where = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
            world.violate("exception", f"{event}: {type(error).__name__} at {at}: {error}")
        text = " ".join(f"{k}={v}" for k, v in event.items() if k != "event")
        note_divergence(world, event, text)
        world.tell(f"{event.get('event')} {text}")
        raise structlog.DropEvent

    def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not world.loop.over and not isinstance(error, LogstoreError):
            world.violate("exception", f"{context.get('message')}: {error!r}")

    structlog.configure(
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=False,
    )
    world.loop.set_exception_handler(failed)
    try:
        yield
    finally:
        structlog.configure(**configured)
