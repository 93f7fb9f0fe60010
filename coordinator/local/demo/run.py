"""`logstore demo`: the whole path over real processes, and a report of it."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from rich.console import Console

from coordinator.local.cluster import ClusterOptions, LocalCluster, running
from coordinator.local.demo.drive import Counts, Driver, append_history
from coordinator.local.demo.first_primaries import lead_at
from coordinator.local.demo.live import LiveView
from coordinator.local.demo.report import Outcome, Throttle, build, summary
from coordinator.local.demo.scene import (
    HYSTERESIS,
    INSTANCES,
    SLOT_S,
    THRESHOLD,
    WALL_S_PER_SLOT,
    Replay,
    Scene,
    choose_scene,
    make_replay,
)
from coordinator.local.demo.watch import Watch
from coordinator.local.flights import flight_events
from coordinator.local.journal import Journal
from logstore.base.background import alongside
from logstore.base.env import Env
from logstore.base.errors import UnavailableError
from logstore.client.client import Client, Log, connect
from logstore.meta.records import CapacityRecord
from logstore.proto.channel import open_channel

LOG = "flights"
START_US = 1_380_600_000_000_000
"""2013-10-01 00:00 in New York, in microseconds since 1970 UTC."""
LEARN_TIMEOUT_S = 300.0
SETTLE_TIMEOUT_S = 30.0
LAG_SLOTS = 3
MOVE = {"shadow_s": 0.5, "ramp_step": 0.04, "ramp_interval_s": 0.1, "soak_s": 5.0}
BURST_S = 0.25
"""An instance may save up a quarter of an event hour's capacity, not a whole one."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    seed: int = 1
    autopilot: bool = True
    report: Path = Path("demo-report.json")
    data: Path | None = None
    days: int = 6
    as_json: bool = False
    metadata: str | None = None
    """An etcd URL; each run keeps its metadata below a namespace of its own."""
    replicas: int = 1


@dataclass(slots=True)
class DemoSide:
    """One of the two clusters: with the autopilot, and without."""

    name: str
    cluster: LocalCluster
    client: Client
    log: Log
    journal: Journal
    counts: Counts = field(default_factory=Counts)
    throttle: Throttle = field(default_factory=Throttle)


@dataclass(slots=True)
class Clockwork:
    """Seconds that the demo's parts took."""

    env: Env
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Any:
        began = self.env.clock.monotonic_s()
        yield
        self.seconds[name] = self.env.clock.monotonic_s() - began


def cluster_options(data: Path, name: str, seed: int, autopilot: bool) -> ClusterOptions:
    """Both clusters are equal except for the autopilot."""
    return ClusterOptions(
        data=data / name,
        instances=INSTANCES,
        coordinator_settings={
            "planning_period_s": WALL_S_PER_SLOT,
            "report_interval_s": 0.5,
            "slot_s": SLOT_S,
            "wall_s_per_slot": WALL_S_PER_SLOT,
            "seasons_slots": "[24, 168]",
            "horizon_slots": 24,
            "history_slots": 24,
            "threshold": THRESHOLD,
            "hysteresis": HYSTERESIS,
            "cooldown_s": 48 * WALL_S_PER_SLOT,
            "flip_back_s": 96 * WALL_S_PER_SLOT,
            "margin_periods": 5,
            "moves_max": 1,
            "seed": seed,
            "autopilot": "forecast-only" if autopilot else "off",
            "move": msgspec.json.encode(MOVE).decode(),
        },
        node_settings={"report_interval_s": 0.5, "burst_s": BURST_S},
    )


async def run_demo(options: DemoOptions) -> int:
    """0: the checks hold, 1: one does not. Writes the report in any case that gets so far."""
    console = Console(stderr=options.as_json, highlight=False)
    console.soft_wrap = not console.is_terminal
    with contextlib.ExitStack() as stack:
        data = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory("-logstore")))
        outcome = await _play(options, data, console)
    report = build(outcome)
    options.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    if options.as_json:
        print(msgspec.json.encode(report).decode(), flush=True)
    for line in summary(report):
        console.print(line)
    console.print(f"report: {options.report}")
    return 0 if all(report["checks"].values()) else 1


async def _play(options: DemoOptions, data: Path, console: Console) -> Outcome:
    env = Env()
    clockwork = Clockwork(env)
    generator = np.random.default_rng(options.seed)
    with clockwork.timed("read_flights"):
        events = await asyncio.to_thread(flight_events, range(1, 13 if options.days > 30 else 12))
        first = int(np.searchsorted(events["event_time_us"].to_numpy(), START_US))
        history, later = events.slice(0, first), events.slice(first)
    scene = choose_scene(history, START_US, generator)
    replay = make_replay(later, START_US, options.days, generator)
    console.print(
        f"{len(history):,} flights of January to September, {len(replay.at_s):,} operations to "
        f"replay; {INSTANCES} instances with {scene.ops_per_s:g} ops/s each, "
        f"instance-{scene.hot + 1} peaks at {scene.hot_peak:.0f} ops/s a day"
    )
    names = ["autopilot", "plain"] if options.autopilot else ["plain"]
    async with contextlib.AsyncExitStack() as stack:
        with clockwork.timed("start_clusters"):
            sides = await asyncio.gather(
                *(stack.enter_async_context(_side(options, data, name, scene)) for name in names)
            )
        await _teach(sides, history, scene, clockwork, console)
        with clockwork.timed("replay"):
            outcome = await _replay(options, sides, scene, replay, later, console, env)
        with clockwork.timed("check"):
            outcome.verdict = await _check(sides[0])
    outcome.seconds = clockwork.seconds
    return outcome


@contextlib.asynccontextmanager
async def _side(
    options: DemoOptions, data: Path, name: str, scene: Scene
) -> AsyncIterator[DemoSide]:
    settings = cluster_options(data, name, options.seed, name == "autopilot")
    if options.metadata is not None:
        url = f"{options.metadata.rstrip('/')}/demo-{Env().new_id():x}/{name}"
        settings = replace(settings, metadata=url)
    settings = replace(settings, replicas=options.replicas)
    async with running(settings) as cluster, connect(cluster.addresses, client_group=name) as db:
        log = await db.create_log(
            LOG,
            split_keys=scene.cuts,
            instances=_homes(scene),
            event_time=True,
        )
        with Journal(data / f"{name}.journal.jsonl", LOG) as journal:
            yield DemoSide(name, cluster, db, log, journal)


async def _teach(
    sides: list[DemoSide], history: pa.Table, scene: Scene, clockwork: Clockwork, console: Console
) -> None:
    """History in bulk while no capacity is stated, then a restart of the instances with theirs."""
    with clockwork.timed("append_history"):
        await asyncio.gather(*(append_history(s.log, history, s.journal, s.counts) for s in sides))
    took = clockwork.seconds["append_history"]
    console.print(
        f"appended {len(history):,} records to each of {len(sides)} clusters in {took:.1f} s, "
        "capacity not stated yet; the profiler learns from them"
    )
    with clockwork.timed("learn"):
        await asyncio.gather(*(_learned(s) for s in sides))
    capacity = CapacityRecord(ops_per_s=scene.ops_per_s, bytes_per_s=scene.bytes_per_s)
    with clockwork.timed("state_capacity"):
        await asyncio.gather(*(s.cluster.state_capacities([capacity] * INSTANCES) for s in sides))
        await asyncio.gather(*(lead_at(s.cluster, LOG, _homes(scene)) for s in sides))
    console.print(
        f"learned {24 * 273:,} hours in {clockwork.seconds['learn']:.1f} s more; instances "
        f"restarted with their capacity of {scene.ops_per_s:g} ops/s, {scene.bytes_per_s:g} bytes/s"
    )


def _homes(scene: Scene) -> list[str]:
    """The primary of each shard when the replay begins."""
    return [f"instance-{home + 1}" for home in scene.homes]


async def _learned(side: DemoSide) -> None:
    """Wait until the forecasts include the history."""
    last_slot = (START_US - 1) // round(SLOT_S * 1e6)
    watch = Watch(side.cluster.address, LOG)
    try:
        async with asyncio.timeout(LEARN_TIMEOUT_S), open_channel(side.cluster.address) as channel:
            while watch.learned_slot < last_slot - LAG_SLOTS:
                await asyncio.sleep(0.5)
                await watch.look_ahead(channel)
    except TimeoutError:
        raise UnavailableError(
            f"cluster {side.name} has learned up to slot {watch.learned_slot} of {last_slot} after "
            f"{LEARN_TIMEOUT_S:g} s"
        ) from None


async def _replay(
    options: DemoOptions,
    sides: list[DemoSide],
    scene: Scene,
    replay: Replay,
    later: pa.Table,
    console: Console,
    env: Env,
) -> Outcome:
    drivers = [
        Driver(s.log, replay, later.slice(0, int(replay.row.max()) + 1), env, s.journal, s.counts)
        for s in sides
    ]
    main = sides[0]
    watch = Watch(main.cluster.address, LOG)
    view = LiveView(
        console, scene, watch, drivers[0], "forecast-only" if options.autopilot else "off"
    )
    begin_s, begin_us = env.clock.monotonic_s() + 0.2, env.clock.wall_us() + 200_000
    helpers = [
        watch.run(),
        _show(view, drivers[0], main, watch),
        *(_count(s, d) for s, d in zip(sides[1:], drivers[1:], strict=True)),
    ]
    if options.autopilot:
        helpers.append(_switch_on(main, drivers[0], scene, view))
    view.begin()
    async with alongside(*helpers):
        try:
            await asyncio.gather(*(d.play(begin_s, begin_us) for d in drivers))
            await _settled(watch)
        finally:
            view.end()
    for s, d in zip(sides, drivers, strict=True):
        await _read_throttle(s, d)
    return Outcome(
        seed=options.seed,
        scene=scene,
        watch=watch,
        driver=drivers[0],
        acked=main.counts.acked,
        errors=sum(s.counts.errors for s in sides),
        first_error=next((s.counts.first_error for s in sides if s.counts.errors), ""),
        verdict={},
        throttle=main.throttle,
        autopilot=options.autopilot,
        plain_driver=drivers[1] if len(drivers) > 1 else None,
        plain_throttle=sides[1].throttle if len(sides) > 1 else None,
    )


async def _switch_on(main: DemoSide, driver: Driver, scene: Scene, view: LiveView) -> None:
    """On the first day the autopilot only forecasts; it acts from the first quiet hour on."""
    await asyncio.sleep(scene.quiet_hour * WALL_S_PER_SLOT - driver.now_s())
    await main.cluster.set_autopilot("on")
    view.mode = "on"


async def _show(view: LiveView, driver: Driver, main: DemoSide, watch: Watch) -> None:
    while True:
        await asyncio.sleep(0.5)
        main.throttle.add(driver.now_s(), sum(watch.throttled().values()))
        view.tick(driver.now_s())


async def _count(side: DemoSide, driver: Driver) -> None:
    while True:
        await asyncio.sleep(2.0)
        await _read_throttle(side, driver)


async def _read_throttle(side: DemoSide, driver: Driver) -> None:
    watch = Watch(side.cluster.address, LOG)
    async with open_channel(side.cluster.address) as channel:
        await watch.look_at_instances(channel)
    side.throttle.add(driver.now_s(), sum(watch.throttled().values()))


async def _settled(watch: Watch) -> None:
    """The last move may still be soaking when the stream ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await watch.quiet.wait()


async def _check(side: DemoSide) -> dict[str, Any]:
    """The independent checker in a process of its own: journal and public client only."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "coordinator.local.checker",
        "--address",
        side.cluster.addresses,
        "--journal",
        str(side.journal.path),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if not out:
        raise UnavailableError(f"the checker ended with status {process.returncode}")
    found: dict[str, Any] = msgspec.json.decode(out)
    return found
