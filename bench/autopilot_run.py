"""One run of `bench autopilot`: a cluster, its load, its rule for moves, and the measurements."""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.autopilot_model import compare
from bench.workload import generate, keys, rates
from bench.workload.accesses import READ
from coordinator.answers.base import decode
from coordinator.answers.plans import PlanAnswer
from coordinator.local.cluster import ClusterOptions, LocalCluster, running
from coordinator.local.demo.drive import Driver
from coordinator.local.demo.run import START_US, cluster_options
from coordinator.local.demo.scene import INSTANCES, Replay, choose_scene, make_replay
from coordinator.local.demo.watch import Watch
from coordinator.local.flights import flight_events
from coordinator.migration.answers import Migration, MigrationRows
from coordinator.migration.records import END_STATES, State
from logstore.base.background import alongside
from logstore.base.env import Env
from logstore.base.errors import LogstoreError, UnavailableError
from logstore.client.client import Client, Log, connect
from logstore.meta.records import CapacityRecord
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as rpc
from logstore.proto.status import called
from sharder.config import PlanMode
from sharder.operators import Operator
from sharder.plan import plan
from sharder.view import View, load_view

MODES = ("on", "off", "reactive")
LOG = "load"
LOOK_S = 0.5
BULK_ROWS = 16_384
LEARN_TIMEOUT_S = 300.0
CROWD_KEYS = 1_000
CROWD_S = 120.0
CROWD_BASE_PER_S = 100.0
CROWD_FACTOR = 5.0
CROWD_SHARE = 0.33
"""Operations/s of the crowd on one key: 165 at its height, 0.6 of an instance."""
CROWD_OPS_PER_S = 270.0
HISTORY_DAYS = 42
_WORKED = {State.SOAKING, *END_STATES}
"""States after which a move costs nothing more."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A load and the cluster that it runs on. `events`: the table that `replay` points into;
    `history`: the events before it (event times, learned first)."""

    replay: Replay
    events: pa.Table
    history: pa.Table | None
    cuts: tuple[bytes, ...]
    homes: tuple[int, ...]
    ops_per_s: float
    bytes_per_s: float
    options: ClusterOptions
    event_time: bool

    @property
    def seconds(self) -> float:
        return float(self.replay.at_s[-1])


def flights_setup(seed: int, days: int) -> Setup:
    """The demo's load: one instance's daily peak is above its capacity, one move cures it."""
    generator = np.random.default_rng(seed)
    events = flight_events(range(1, 13 if days > 30 else 12))
    times = events["event_time_us"].to_numpy()
    first = int(np.searchsorted(times, START_US))
    begin = int(np.searchsorted(times, START_US - HISTORY_DAYS * 86_400_000_000))
    scene = choose_scene(events.slice(0, first), START_US, generator)
    replay = make_replay(events.slice(first), START_US, days, generator)
    return Setup(
        replay=replay,
        events=events.slice(first, int(replay.row.max()) + 1),
        history=events.slice(begin, first - begin),
        cuts=scene.cuts,
        homes=scene.homes,
        ops_per_s=scene.ops_per_s,
        bytes_per_s=scene.bytes_per_s,
        options=cluster_options(Path(), "bench", seed, autopilot=True),
        event_time=True,
    )


def crowd_setup(seed: int) -> Setup:
    """A quiet zipf load to which a crowd comes within 15 s, a third of it for one key."""
    rng = np.random.default_rng(seed)
    at_s = 0.35 * CROWD_S
    curve = rates.flash_crowd(
        CROWD_BASE_PER_S, at_s=at_s, factor=CROWD_FACTOR, rise_s=15.0, decay_s=60.0
    )
    hot = int(rng.integers(CROWD_KEYS))
    sequence = keys.crowd_on(
        keys.zipf(CROWD_KEYS, exponent=0.5, shuffle_seed=seed),
        key=hot, from_s=at_s, until_s=CROWD_S, share=CROWD_SHARE,
    )  # fmt: skip
    made = list(generate(curve, sequence, duration_s=CROWD_S, rng=rng))
    times = np.concatenate([m.time_s for m in made])
    names = np.concatenate([m.key for m in made]).tolist()
    reads = np.concatenate([m.op for m in made]) == READ
    sizes = np.concatenate([m.size for m in made]).tolist()
    events = pa.table(
        {
            "key": pa.array(names, pa.binary()),
            "value": pa.array([bytes(n) for n in sizes], pa.binary()),
            "event_time_us": (times * 1e6).astype(np.int64),
        }
    )
    shards = 9
    cuts = tuple(b"key-%012d" % (n * CROWD_KEYS // shards) for n in range(1, shards))
    base = cluster_options(Path(), "bench", seed, autopilot=True)
    settings = {**base.coordinator_settings, "slot_s": 1.0, "wall_s_per_slot": 1.0,
                "seasons_slots": "[]", "horizon_slots": 20, "cooldown_s": 30.0,
                "flip_back_s": 60.0, "margin_periods": 2, "moves_max": 2}  # fmt: skip
    return Setup(
        replay=Replay(times, np.arange(len(times)), reads, 0, int(CROWD_S)),
        events=events,
        history=None,
        cuts=cuts,
        homes=tuple(n // 3 for n in range(shards)),
        ops_per_s=CROWD_OPS_PER_S,
        bytes_per_s=CROWD_OPS_PER_S * 4_096,
        options=replace(base, coordinator_settings=settings),
        event_time=False,
    )


@dataclass(slots=True)
class RunFigures:
    """Results of one run. Seconds over the SLO by cause; `p99_ms`: of all operations."""

    slo_seconds: int = 0
    overload: int = 0
    move: int = 0
    machine: int = 0
    p99_ms: float = 0.0
    median_ms: float = 0.0
    errors: int = 0
    throttled: int = 0
    moves: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] | None = None
    """The simulator's queueing model compared with this run, in which nothing moved."""

    def as_json(self) -> dict[str, Any]:
        return {
            "slo_seconds": self.slo_seconds,
            "by_overload": self.overload,
            "by_move": self.move,
            "by_machine": self.machine,
            "p50_ms": round(self.median_ms, 2),
            "p99_ms": round(self.p99_ms, 1),
            "errors": self.errors,
            "throttled": self.throttled,
            "moves": len(self.moves),
            "blackout_ms_max": max((m["blackout_ms"] or 0.0 for m in self.moves), default=0.0),
            "each_move": self.moves,
            "model": self.model,
        }


@dataclass(slots=True)
class RefusalCounts:
    """Refusals by all instances so far, by second of the replay."""

    at_s: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def refused_in(self, second: int) -> bool:
        """Within the second or one reading before or after it."""
        inside = [r for t, r in zip(self.at_s, self.refused, strict=True)
                  if second - 2 * LOOK_S <= t <= second + 1 + 2 * LOOK_S]  # fmt: skip
        return len(inside) > 1 and inside[-1] > inside[0]


async def play(setup: Setup, mode: str, slo_ms: float, folder: Path) -> RunFigures:
    """Run the load once. `folder`: of this run."""
    env = Env()
    options = replace(setup.options, data=folder)
    capacity = CapacityRecord(ops_per_s=setup.ops_per_s, bytes_per_s=setup.bytes_per_s)
    async with running(options) as cluster, connect(cluster.addresses) as db:
        log = await _log(db, setup)
        if setup.history is not None:
            await _teach(cluster, log, setup.history)
        await cluster.state_capacities([capacity] * INSTANCES)
        if mode != "on":
            await cluster.set_autopilot("forecast-only" if mode == "reactive" else "off")
        else:
            await cluster.set_autopilot("on")
        driver = Driver(log, setup.replay, setup.events, env, None)
        seen = RefusalCounts()
        begin_s, begin_us = env.clock.monotonic_s() + 0.2, env.clock.wall_us() + 200_000
        helpers = [_look(cluster, driver, seen)]
        if mode == "reactive":
            helpers.append(_react(cluster))
        async with alongside(*helpers):
            await driver.play(begin_s, begin_us)
        found = _figures(driver, seen, await _migrations(cluster), begin_us, slo_ms)
        if not found.moves:
            found.model = _against_model(driver, setup, slo_ms)
        return found


async def _log(db: Client, setup: Setup) -> Log:
    return await db.create_log(
        LOG,
        split_keys=setup.cuts,
        instances=[f"instance-{home + 1}" for home in setup.homes],
        event_time=setup.event_time,
    )


async def _teach(cluster: LocalCluster, log: Log, history: pa.Table) -> None:
    """Append the history while no capacity is stated; wait until the forecasts include it."""
    for at in range(0, len(history), BULK_ROWS):
        part = history.slice(at, BULK_ROWS).combine_chunks()
        await log.append_many(part["key"], part["value"], part["event_time_us"])
    last_slot = (START_US - 1) // 3_600_000_000
    watch = Watch(cluster.address, LOG)
    try:
        async with asyncio.timeout(LEARN_TIMEOUT_S), open_channel(cluster.address) as channel:
            while watch.learned_slot < last_slot - 3:
                await asyncio.sleep(LOOK_S)
                await watch.look_ahead(channel)
    except TimeoutError:
        raise UnavailableError(
            f"the history was learned up to slot {watch.learned_slot} of {last_slot} within"
            f" {LEARN_TIMEOUT_S:g} s"
        ) from None


async def _look(cluster: LocalCluster, driver: Driver, seen: RefusalCounts) -> None:
    watch = Watch(cluster.address, LOG)
    async with open_channel(cluster.address) as channel:
        while True:
            with contextlib.suppress(LogstoreError):
                await watch.look_at_instances(channel)
                seen.at_s.append(driver.now_s())
                seen.refused.append(sum(watch.throttled().values()))
            await asyncio.sleep(LOOK_S)


async def _react(cluster: LocalCluster) -> None:
    """The reactive rule: each second the planner's moves for a view in which the present lasts."""
    async with open_channel(cluster.address) as channel:
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(LogstoreError):
                for operator in _due(await _view(channel)):
                    await _start(channel, operator)


async def _view(channel: Any) -> View:
    async with called():
        answer = await rpc.PlansStub(channel).Plan(pb.PlanRequest(view=True), timeout=10.0)
    return load_view(decode(answer.json, PlanAnswer).view or b"")


def _due(view: View) -> Iterator[Operator]:
    """The moves that are due without any forecast: off instances over their threshold now."""
    config = replace(view.config, mode=PlanMode.ACTIVE, horizon_periods=1, trough_gain=None)
    shards = tuple(replace(s, forecast=None) for s in view.shards)
    hot = {
        i.id for i in view.instances
        if i.capacity_ops_per_s and i.ops_per_s > config.risk.threshold * i.capacity_ops_per_s
    }  # fmt: skip
    # A move now is worth the overload that lasts if nothing is done.
    moves = replace(view.moves, fixed_s=0.0, switch_s=0.0, copy_mb_per_s=1e6)
    made = plan(replace(view, shards=shards, config=config, moves=moves))
    return (op for op in made.startable() if op.source in hot)


async def _start(channel: Any, operator: Operator) -> None:
    async with called():
        if operator.kind == "split":
            request = pb.ReshapeRequest(parents=[operator.shard], key=operator.key)
            await rpc.MigrationsStub(channel).Reshape(request, timeout=10.0)
        else:
            move = pb.MoveRequest(
                shard=operator.shard, target=operator.target, strategy=operator.strategy
            )
            await rpc.MigrationsStub(channel).Move(move, timeout=10.0)


async def _migrations(cluster: LocalCluster) -> tuple[Migration, ...]:
    async with open_channel(cluster.address) as channel, called():
        answer = await rpc.MigrationsStub(channel).List(pb.ListMigrationsRequest(), timeout=10.0)
    return decode(answer.json, MigrationRows).known


def _against_model(driver: Driver, setup: Setup, slo_ms: float) -> dict[str, Any]:
    names = driver.events["key"].to_pylist()
    homes = [setup.homes[bisect_right(setup.cuts, key)] for key in names]
    at = np.array(homes, dtype=np.int64)[driver.replay.row]
    return compare(driver.replay.at_s, driver.latency_ms, at, setup.ops_per_s, slo_ms)


def _figures(
    driver: Driver, seen: RefusalCounts, moves: Sequence[Migration], begin_us: int, slo_ms: float
) -> RunFigures:
    found = RunFigures(errors=driver.counts.errors, throttled=seen.refused[-1] - seen.refused[0])
    latency: npt.NDArray[np.float64] = driver.latency_ms
    answered = latency[~np.isnan(latency)]
    found.median_ms, found.p99_ms = (float(p) for p in np.percentile(answered, (50.0, 99.0)))
    spans = []
    for move in moves:
        ended = [p.at_us for p in move.phases if p.state in _WORKED]
        since = (move.created_us - begin_us) / 1e6
        until = (ended[0] - begin_us) / 1e6 if ended else driver.now_s()
        spans.append((since, until))
        names = ("shard", "source", "target", "strategy", "state", "trigger", "blackout_ms")
        found.moves.append({"at_s": round(since, 1), "took_s": round(until - since, 1),
                            **{name: getattr(move, name) for name in names}})  # fmt: skip
    second = driver.replay.at_s.astype(np.int64)
    for at in range(int(second.max()) + 1):
        here = latency[second == at]
        # An operation without an answer is worse than any bound.
        if not len(here) or np.percentile(np.where(np.isnan(here), np.inf, here), 99) <= slo_ms:
            continue
        found.slo_seconds += 1
        if seen.refused_in(at):
            found.overload += 1
        elif any(since <= at + 1 and at <= until for since, until in spans):
            found.move += 1
        else:
            found.machine += 1
    return found
