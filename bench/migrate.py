"""`python -m bench migrate`: what a move costs its callers, beside Kafka's own reassignment.

A shard is filled, 20 MB/s of appends and their reads go to shards beside it, and a client in a
process of its own sends the moved shard 1,000 appends/s and key reads, open loop. Each strategy is
run with each feed. `blackout` is the longest gap without an ack during a move; the longest gap in a
still time of the same length class is told beside it, because a busy machine makes gaps, too.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench import history
from bench.compare import FAILURES, print_table
from bench.figures import Figures, Row, Rule, budget_rows, rows_json
from bench.moves.kafka import reassignments
from bench.moves.ours import Move, Moving, moves_under_load
from bench.moves.probe import Seen
from bench.peers import limits
from bench.services.kafka import KafkaCluster
from bench.services.runs import shared_run
from coordinator.local.cluster import Cluster, local_cluster
from coordinator.migration.table import STRATEGIES

FEEDS = ("direct", "kafka")
NO_FEED = ("switch",)
"""Strategies that copy nothing."""
INSTANCES = 3


@dataclass(frozen=True, slots=True)
class Mode:
    """How much and how often. `still_s`: before and after each move."""

    name: str
    megabytes: int
    mb_per_s: float
    moves: int
    idle_moves: int
    still_s: float


QUICK = Mode("quick", 60, 20.0, 3, 2, 1.5)
FULL = Mode("full", 300, 20.0, 5, 3, 5.0)


@dataclass(slots=True)
class Bench:
    mode: Mode
    figures: Figures
    folder: Path
    say: Callable[[str], None]


def file_copy_mb_per_s(folder: Path, megabytes: int) -> float:
    """A plain copy of a file in the page cache to a new one, not synced; so is ours."""
    source, target = folder / "copy-from", folder / "copy-to"
    source.write_bytes(np.random.default_rng(1).bytes(megabytes * 1_000_000))
    begin = time.perf_counter()
    shutil.copyfile(source, target)
    seconds = time.perf_counter() - begin
    source.unlink()
    target.unlink()
    return megabytes / seconds


def _limits(bench: Bench) -> None:
    copied = file_copy_mb_per_s(bench.folder, bench.mode.megabytes)
    bench.figures.add("limit/file-copy", copied, "MB/s")
    bench.figures.add("limit/loopback", limits.loopback_mb_per_s(), "MB/s")


async def _idle(bench: Bench, moving: Moving, feed: str) -> None:
    """Copies with nobody about, each beside the machine's limits."""
    for _ in range(bench.mode.idle_moves):
        await asyncio.to_thread(_limits, bench)
        done = await moving.move("shadow", feed)
        rate = done.record["copy_mb_per_s"]
        bench.figures.add(f"copy-idle/{feed}", float(rate or 0.0), "MB/s")
        bench.say(f"idle, {feed}: {rate:.0f} MB/s")


def _record(bench: Bench, name: str, moves: list[Move], seen: Seen, edges: list[float]) -> None:
    """The figures of one strategy and feed: one value a move."""
    add = bench.figures.add
    for number, move in enumerate(moves):
        during = seen.window(move.start_s, move.stop_s)
        before = seen.window(edges[number], move.start_s)
        after = seen.window(move.stop_s, edges[number + 1])
        reads = [seen.window(*times, "reads") for times in (
            (edges[number], move.start_s), (move.start_s, move.stop_s),
            (move.stop_s, edges[number + 1]))]  # fmt: skip
        add(f"blackout/{name}", during.longest_gap_ms, "ms")
        add(f"gap-before/{name}", before.longest_gap_ms, "ms")
        add(f"append-p99-before/{name}", before.p99_ms, "ms")
        add(f"append-p99-during/{name}", during.p99_ms, "ms")
        add(f"append-p99-after/{name}", after.p99_ms, "ms")
        for when, window in zip(("before", "during", "after"), reads, strict=True):
            add(f"read-p99-{when}/{name}", window.p99_ms, "ms")
        held = move.record["blackout_ms"]
        if held is not None:
            add(f"held/{name}", float(held), "ms")
        rate = move.record["copy_mb_per_s"]
        if rate and not name.startswith(NO_FEED):
            add(f"copy-under-load/{name}", float(rate), "MB/s")
        if not name.startswith(NO_FEED):
            add(f"hash-equal/{name}", float(move.record["hash_equal"] is True), "of 1")
        add(f"move/{name}", move.seconds, "s")
    failed = np.isnan(seen.appends[1]).sum() + np.isnan(seen.reads[1]).sum()
    add(f"failed/{name}", float(failed), "calls")
    add(f"blackout-max/{name}", max(bench.figures.values[f"blackout/{name}"]), "ms")
    for text in seen.failures:
        bench.say(f"{name}: {text}")


async def _strategy(bench: Bench, cluster: Cluster, db: Any, strategy: str, feed: str) -> None:
    name = strategy if strategy in NO_FEED else f"{strategy}/{feed}"
    moving = Moving(cluster, db, f"moved-{strategy}-{feed}")
    try:
        await moving.create(bench.mode.megabytes, replicas=3 if strategy in NO_FEED else 1)
        moves, seen, edges = await moves_under_load(
            moving, db, cluster.addresses, bench.folder, strategy=strategy, feed=feed,
            count=bench.mode.moves, mb_per_s=bench.mode.mb_per_s, still_s=bench.mode.still_s,
            say=bench.say,
        )  # fmt: skip
        _record(bench, name, moves, seen, edges)
    except FAILURES as error:
        bench.say(f"{name} failed: {error}")
        bench.figures.cannot(f"blackout/{name}", f"failed: {error}")
    await db.delete_log(moving.name)


async def _ours(bench: Bench) -> None:
    import logstore

    async with (
        KafkaCluster(1, heap_mb=256) as kafka,
        local_cluster(
            INSTANCES, data=bench.folder / "cluster", kafka=kafka.address, autopilot="off"
        ) as cluster,
        logstore.connect(cluster.addresses, timeout_s=60) as db,
    ):
        for feed in FEEDS:
            moving = Moving(cluster, db, f"idle-{feed}")
            await moving.create(bench.mode.megabytes)
            await _idle(bench, moving, feed)
            await db.delete_log(moving.name)
        for strategy in STRATEGIES:
            for feed in FEEDS[: 1 if strategy in NO_FEED else 2]:
                await _strategy(bench, cluster, db, strategy, feed)


async def _kafka(bench: Bench) -> None:
    mode = bench.mode
    moves, seen = await reassignments(
        bench.folder, megabytes=mode.megabytes, count=mode.moves, still_s=mode.still_s,
        say=bench.say,
    )  # fmt: skip
    name, start_s = "kafka-reassignment", moves[0][0] - 2 * mode.still_s
    for begin, end in moves:
        during, before = seen.window(begin, end), seen.window(start_s, begin)
        bench.figures.add(f"blackout/{name}", during.longest_gap_ms, "ms")
        bench.figures.add(f"gap-before/{name}", before.longest_gap_ms, "ms")
        bench.figures.add(f"append-p99-before/{name}", before.p99_ms, "ms")
        bench.figures.add(f"append-p99-during/{name}", during.p99_ms, "ms")
        bench.figures.add(f"move/{name}", end - begin, "s")
        bench.figures.add(f"copy-under-load/{name}", mode.megabytes / (end - begin), "MB/s")
        start_s = end
    bench.figures.add(f"failed/{name}", float(np.isnan(seen.appends[1]).sum()), "calls")
    bench.figures.add(f"blackout-max/{name}", max(bench.figures.values[f"blackout/{name}"]), "ms")
    bench.figures.cannot(f"blackout/{name}", "no load beside it, and no proof of equality")


def rules(names: list[str]) -> tuple[Rule, ...]:
    """Budget B8 for every strategy and feed that ran."""
    found: list[Rule] = []
    for name in names:
        found += [
            Rule("B8", f"blackout p50, {name}", f"blackout/{name}", None, False, 50,
                 "seen by the client, with what the machine itself makes"),
            Rule("B8", f"blackout max, {name}", f"blackout-max/{name}", None, False, 50),
            Rule("B8", f"append p99 during, {name}", f"append-p99-during/{name}",
                 f"append-p99-before/{name}", False, 1.2),
            Rule("B8", f"failed calls, {name}", f"failed/{name}", None, False, 0),
        ]  # fmt: skip
        if name not in NO_FEED and not name.startswith("kafka-"):
            found += [
                Rule("B8", f"copy under load, {name}", f"copy-under-load/{name}", None, True, 20),
                Rule("B8", f"chains equal, {name}", f"hash-equal/{name}", None, True, 1),
            ]
    for feed in FEEDS:
        found.append(Rule("B8", f"idle copy vs a file copy, {feed}", f"copy-idle/{feed}",
                          "limit/file-copy", True, 0.6))  # fmt: skip
    return tuple(found)


def names_of() -> list[str]:
    return [s if s in NO_FEED else f"{s}/{feed}"
            for s in STRATEGIES for feed in FEEDS[: 1 if s in NO_FEED else 2]]  # fmt: skip


async def run_migrate(mode: Mode, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole run; what `--json` prints."""
    machine = history.machine()
    folder = shared_run().folder / "migrate"
    folder.mkdir()
    bench = Bench(mode, Figures(), folder, say)
    for name, part in (("ours", _ours), ("kafka-reassignment", _kafka)):
        try:
            await part(bench)
        except FAILURES as error:
            say(f"{name} failed: {error}")
            bench.figures.cannot(f"blackout/{name}", f"failed: {error}")
    rows = budget_rows(bench.figures, rules(names_of()))
    theirs = budget_rows(bench.figures, rules(["kafka-reassignment"])[:4])
    peer = [replace(row, budget="peer") for row in theirs]
    return {
        "mode": mode.name,
        "megabytes": mode.megabytes,
        "load_mb_per_s": mode.mb_per_s,
        "moves": mode.moves,
        "machine": machine,
        "figures": bench.figures.as_json(),
        "notes": bench.figures.missing,
        "budgets": rows_json([*rows, *peer]),
    }


def command(
    quick: Annotated[bool, typer.Option("--quick", help="60 MB, three moves each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    keep: Annotated[bool, typer.Option(help="Add a line to bench/history.jsonl.")] = True,
) -> None:
    """Moves under load, and Kafka's own. Example: python -m bench migrate --quick --json"""
    mode = QUICK if quick else FULL
    result = asyncio.run(run_migrate(mode, lambda line: typer.echo(line, err=True)))
    if keep:
        history.append_line("migrate", result)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_table([Row(**row) for row in result["budgets"]], result)
