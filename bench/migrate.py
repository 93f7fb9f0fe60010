"""`python -m bench migrate`: what a move costs clients, compared with Kafka's reassignment.

A shard is filled, 20 MB/s of appends and their reads go to other shards, and a client in a
process of its own sends the moved shard 1,000 appends/s and key reads, open loop. Each strategy
runs with each feed. `blackout` is the longest gap without an ack during a move; the longest gap in
the still time before it is reported too, because a busy machine also causes gaps.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench import history
from bench.compare import FAILURES, print_table
from bench.figures import FigureRow, Figures, rows_json
from bench.moves import table
from bench.moves.kafka import reassignments
from bench.moves.ours import Moving, moves_under_load
from bench.peers import limits
from bench.services.base import ServiceError
from bench.services.kafka import KafkaCluster
from bench.services.runs import shared_run
from coordinator.local.cluster import LocalCluster, local_cluster

INSTANCES = 3
KAFKA_HEAP_MB = 256


@dataclass(frozen=True, slots=True)
class MigrateScale:
    """Sizes and repetitions. `still_s`: before and after each move."""

    name: str
    megabytes: int
    mb_per_s: float
    moves: int
    idle_moves: int
    still_s: float
    throttle_mb: int
    throttle_moves: int
    part_s_max: float
    """No further move of a part begins after this time, except for the least number."""


QUICK = MigrateScale("quick", 60, 20.0, 3, 2, 1.5, 200, 1, 60.0)
FULL = MigrateScale("full", 300, 20.0, 5, 2, 2.0, 2_000, 1, 240.0)


@dataclass(slots=True)
class MoveMeasurement:
    mode: MigrateScale
    figures: Figures
    folder: Path
    say: Callable[[str], None]
    out: Path | None = None
    replicas: int = 1

    def keep(self) -> None:
        """The figures so far, in the form that `--merge` takes."""
        if self.out is not None:
            found = {"figures": self.figures.as_json(), "notes": self.figures.missing}
            self.out.write_text(json.dumps(found))


def all_parts() -> list[str]:
    """The parts of a run. `throttle` runs only on request."""
    return [table.IDLE, *table.strategy_parts(), table.PEER]


def file_copy_mb_per_s(folder: Path, megabytes: int) -> float:
    """A plain copy of a file in the page cache to a new one, not synced, like the store's."""
    source, target = folder / "copy-from", folder / "copy-to"
    source.write_bytes(np.random.default_rng(1).bytes(megabytes * 1_000_000))
    begin = time.perf_counter()
    shutil.copyfile(source, target)
    seconds = time.perf_counter() - begin
    source.unlink()
    target.unlink()
    return megabytes / seconds


def _limits(bench: MoveMeasurement) -> None:
    copied = file_copy_mb_per_s(bench.folder, bench.mode.megabytes)
    bench.figures.add("limit/file-copy", copied, "MB/s")
    bench.figures.add("limit/loopback", limits.loopback_mb_per_s(), "MB/s")


async def _idle(bench: MoveMeasurement, cluster: LocalCluster, db: Any) -> None:
    """Copies without other load, each next to the machine's limits."""
    for feed in table.FEEDS:
        moving = Moving(cluster, db, f"idle-{feed}")
        await moving.create(bench.mode.megabytes)
        for _ in range(bench.mode.idle_moves):
            await asyncio.to_thread(_limits, bench)
            rate = (await moving.move("shadow", feed)).record.copy_mb_per_s
            bench.figures.add(f"copy-idle/{feed}", rate or 0.0, "MB/s")
            bench.say(f"idle, {feed}: {rate or 0.0:.0f} MB/s")
        await db.delete_log(moving.name)


async def _strategy(
    bench: MoveMeasurement,
    cluster: LocalCluster,
    db: Any,
    name: str,
    of: str,
    megabytes: int,
    count: int,
) -> None:
    """Moves of the strategy and feed `of`, under the name `name`. With replicas appends wait for a
    follower before the move, too; a single copy has the best figures before, and the shadow slows
    it most."""
    if bench.replicas > 1 and of not in table.NO_FEED:
        name = f"{name}/{bench.replicas}-replicas"
    strategy, _, feed = of.partition("/")
    moving = Moving(cluster, db, name.replace("/", "-"))
    await moving.create(megabytes, replicas=INSTANCES if of in table.NO_FEED else bench.replicas)
    moves, seen, edges, reached = await moves_under_load(
        moving, db, cluster.addresses, bench.folder, strategy=strategy, feed=feed or "direct",
        count=count, mb_per_s=bench.mode.mb_per_s, still_s=bench.mode.still_s,
        part_s_max=bench.mode.part_s_max, say=bench.say,
    )  # fmt: skip
    table.add_calls(bench.figures, name, seen)
    bench.figures.add(f"load-appends/{name}", reached.append_mb_per_s, "MB/s")
    bench.figures.add(f"load-reads/{name}", reached.read_mb_per_s, "MB/s")
    for text in seen.failures[:3]:
        bench.say(f"{name}: {text}")
    for number, move in enumerate(moves):
        times = [edges[number][0], move.start_s, move.stop_s, edges[number][1]]
        table.add_windows(bench.figures, name, seen, times)
        table.add_record(bench.figures, name, move.record)
    await db.delete_log(moving.name)


async def _ours(bench: MoveMeasurement, parts: list[str]) -> None:
    import logstore

    async with (
        KafkaCluster(1, heap_mb=KAFKA_HEAP_MB) as kafka,
        local_cluster(
            INSTANCES, data=bench.folder / "cluster", kafka=kafka.address, autopilot="off"
        ) as cluster,
        logstore.connect(cluster.addresses, timeout_s=60) as db,
    ):
        mode = bench.mode
        for name in parts:
            try:
                if name == table.IDLE:
                    await _idle(bench, cluster, db)
                elif name == table.THROTTLE:
                    size, count = mode.throttle_mb, mode.throttle_moves
                    await _strategy(bench, cluster, db, name, "shadow/direct", size, count)
                else:
                    await _strategy(bench, cluster, db, name, name, mode.megabytes, mode.moves)
            except FAILURES as error:
                bench.say(f"{name} failed: {error}")
                bench.figures.cannot(f"blackout/{name}", f"failed: {error}")
            bench.keep()


async def _kafka(bench: MoveMeasurement) -> None:
    mode, name = bench.mode, table.PEER
    moves, seen, edges, reached = await reassignments(
        bench.folder, megabytes=mode.megabytes, count=mode.moves, mb_per_s=mode.mb_per_s,
        still_s=mode.still_s, say=bench.say,
    )  # fmt: skip
    table.add_calls(bench.figures, name, seen)
    bench.figures.add(f"load-appends/{name}", reached.append_mb_per_s, "MB/s")
    bench.figures.add(f"load-reads/{name}", reached.read_mb_per_s, "MB/s")
    for number, (begin, end) in enumerate(moves):
        table.add_windows(
            bench.figures, name, seen, [edges[number][0], begin, end, edges[number][1]]
        )
        bench.figures.add(f"copy-under-load/{name}", mode.megabytes / (end - begin), "MB/s")
    bench.figures.cannot(f"blackout/{name}", "Kafka gives no proof of equality")


async def run_migrate(
    mode: MigrateScale,
    say: Callable[[str], None],
    parts: list[str],
    merge: list[Path],
    out: Path | None = None,
    replicas: int = 1,
) -> dict[str, Any]:
    """The whole run, or `parts` of it; what `--json` prints."""
    machine = history.machine()
    folder = shared_run().folder / "migrate"
    folder.mkdir()
    bench = MoveMeasurement(mode, Figures(), folder, say, out, replicas)
    for path in merge:
        table.merge(bench.figures, path)
    begin = time.monotonic()
    ours = [part for part in parts if part != table.PEER]
    if ours:
        await _ours(bench, ours)
    if table.PEER in parts:
        try:
            await _kafka(bench)
        except FAILURES as error:
            say(f"{table.PEER} failed: {error}")
            bench.figures.cannot(f"blackout/{table.PEER}", f"failed: {error}")
    rows = table.budget(bench.figures)
    bench.keep()
    return {
        "mode": mode.name,
        "parts": parts,
        "merged": [str(path) for path in merge],
        "seconds": round(time.monotonic() - begin, 1),
        "megabytes": mode.megabytes,
        "load_mb_per_s": mode.mb_per_s,
        "moves": mode.moves,
        "replicas": replicas,
        "machine": machine,
        "figures": bench.figures.as_json(),
        "notes": bench.figures.missing,
        "budgets": rows_json(rows),
    }


def _checked(given: list[str], merged: bool) -> list[str]:
    known = [*all_parts(), table.THROTTLE]
    for part in given:
        if part not in known:
            raise ServiceError(f"part is {part!r}, it must be one of {', '.join(known)}")
    return given or ([] if merged else all_parts())


def command(
    quick: Annotated[bool, typer.Option("--quick", help="60 MB, three moves each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    keep: Annotated[bool, typer.Option(help="Add a line to bench/history.jsonl.")] = True,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only this part, e.g. idle, shadow/kafka, throttle. Repeatable."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(help="Add an earlier run's --json; alone it only prints. Repeatable."),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, max=INSTANCES - 1, help="Of the moved shard, before and after.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Keep the figures here after each part, for --merge.")
    ] = None,
) -> None:
    """Moves under load, and Kafka's own. Example: python -m bench migrate --quick --json"""
    mode = QUICK if quick else FULL
    try:
        parts = _checked(part or [], bool(merge))
        say = lambda line: typer.echo(line, err=True)  # noqa: E731
        result = asyncio.run(run_migrate(mode, say, parts, merge or [], out, replicas))
    except ServiceError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from None
    if keep and parts:
        history.append_line("migrate", result)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_table([FigureRow(**row) for row in result["budgets"]], result)
