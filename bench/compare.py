"""`python -m bench compare`: this store, the peers and the machine's limits, in turns, in one run.

Every system is started first and loaded in turns, the order rotated each round, so that noise of
the machine affects all; systems that are not being loaded are idle. Before the first counted
round each has a warm-up run, which also finds how many records fill the time of a measurement.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer

from bench import history
from bench.figures import RULES, FigureRow, Figures, budget_rows, rows_json
from bench.peers import Peer, PeerError, check_same, limits
from bench.peers.echo import EchoServer, stream_mb_per_s, unary_per_s
from bench.peers.kafka_java import KafkaJava
from bench.peers.kafka_python import AioKafka, ConfluentKafka
from bench.peers.nats import NatsJetStream
from bench.peers.ours import Ours, OursCluster, available
from bench.peers.redis import RedisStreams
from bench.services import ServiceError
from bench.workload import RecordSet, make_records
from logstore.base.errors import LogstoreError

RECORD_BYTES = 100
WARM_UP_RECORDS = 2_000
WARM_UPS_MAX = 4
"""Warm-up runs; the first one is not used alone, as it opens connections and creates files."""


@dataclass(frozen=True, slots=True)
class CompareScale:
    """Lengths and repetitions. Times in seconds."""

    name: str
    rounds: int
    measure_s: float
    records_max: int
    indexed_records: int
    key_reads: int


QUICK = CompareScale("quick", 5, 0.8, 1_500_000, 300_000, 200)
FULL = CompareScale("full", 7, 4.0, 4_000_000, 10_000_000, 2_000)


# A system may fail under load: the table shows it, and the other systems go on.
FAILURES = (PeerError, ServiceError, LogstoreError, OSError, TimeoutError)


@dataclass(slots=True)
class Comparison:
    """The state of one run: the figures and the peers that are up."""

    mode: CompareScale
    seed: int
    figures: Figures
    records: RecordSet
    say: Callable[[str], None]

    def part(self, count: int) -> RecordSet:
        return self.records.part(0, min(count, self.records.count))


async def _count_for(peer: Peer, bench: Comparison) -> int:
    """Warm the peer up and find how many records fill a measurement."""
    if isinstance(peer, KafkaJava):
        await peer.append(bench.records)  # for the broker's sake
        return bench.mode.records_max  # the tool's own warm-up is longer than a short run
    count = WARM_UP_RECORDS
    for _ in range(WARM_UPS_MAX):
        done = await peer.append(bench.part(count))
        enough = done.seconds > bench.mode.measure_s / 3 and count > WARM_UP_RECORDS
        count = int(done.records_per_s * bench.mode.measure_s)
        count = min(max(count, 2 * WARM_UP_RECORDS), bench.mode.records_max)
        if enough:
            break
    return count


async def _count_into(counts: dict[str, int], peer: Peer, bench: Comparison) -> None:
    counts[peer.name] = await _count_for(peer, bench)


async def _measure_peer(peer: Peer, count: int, bench: Comparison) -> None:
    part = bench.part(count)
    appended = await peer.append(part)
    bench.figures.add(f"append/{peer.name}", appended.records_per_s, "records/s")
    read = await peer.consume(part)
    check_same(peer.name, part, read)
    bench.figures.add(f"consume/{peer.name}", read.records_per_s, "records/s")
    if isinstance(peer, Ours):
        scanned = await peer.scan_arrow(part)
        check_same(peer.name, part, scanned)
        bench.figures.add(f"scan/{peer.name}", scanned.mb_per_s, "MB/s")


async def _measure_limits(bench: Comparison, echo: str) -> None:
    add, seconds = bench.figures.add, bench.mode.measure_s / 2
    add("limit/memcpy", await asyncio.to_thread(limits.memcpy_mb_per_s), "MB/s")
    add("limit/loopback", await asyncio.to_thread(limits.loopback_mb_per_s), "MB/s")
    for name, sync in (("limit/file-write", False), ("limit/group-commit", True)):
        rate = await asyncio.to_thread(limits.file_mb_per_s, seconds=seconds, sync=sync)
        add(name, rate * 1e6 / RECORD_BYTES, "records/s")
    rocks = await asyncio.to_thread(limits.rocksdb_mb_per_s, records=500_000)
    if rocks is None:
        bench.figures.cannot("limit/rocksdb", "db_bench cannot be had here")
    else:
        add("limit/rocksdb", rocks * 1e6 / RECORD_BYTES, "records/s")
    for concurrency in (1, 64):
        rate = await unary_per_s(
            echo, concurrency=concurrency, payload=bytes(RECORD_BYTES), seconds=seconds
        )
        add(f"unary/echo-{concurrency}", rate, "calls/s")
    count = 1_000 if bench.mode is QUICK else 5_000
    add("limit/grpc-stream", await stream_mb_per_s(echo, message_bytes=65_536, count=count), "MB/s")


async def _rounds(
    bench: Comparison, steps: list[tuple[str, Callable[[], Awaitable[None]]]]
) -> None:
    """All steps each round, the order rotated. A failed step is reported and not tried again."""
    failed: set[str] = set()
    for number in range(bench.mode.rounds):
        at = number % len(steps)
        for name, step in steps[at:] + steps[:at]:
            if name in failed:
                continue
            bench.say(f"round {number + 1}/{bench.mode.rounds}: {name}")
            try:
                await step()
            except FAILURES as error:
                failed.add(name)
                bench.say(f"{name} failed: {error}")
                bench.figures.cannot(f"append/{name}", f"failed: {error}")


async def _attempt(bench: Comparison, figure: str, work: Awaitable[None]) -> None:
    """Run one part; if it fails, its figure is missing for that reason."""
    try:
        await work
    except FAILURES as error:
        bench.say(f"{figure} failed: {error}")
        bench.figures.cannot(figure, f"failed: {error}")


async def _latency(bench: Comparison, kafka: KafkaJava, ours: Ours | None) -> None:
    """p99 at half of the highest rate of Kafka's own tool."""
    best = bench.figures.median(f"append/{kafka.name}")
    if best is None:
        return
    rate = best / 2
    count = min(int(rate * max(bench.mode.measure_s, 2.0)), bench.mode.records_max)
    for _ in range(bench.mode.rounds):
        theirs = await kafka.append_at(count, RECORD_BYTES, rate)
        bench.figures.add("p99/kafka", theirs.latency_ms["p99"], "ms")
        if ours is not None:
            mine = await ours.open_loop(bench.part(count), rate_per_s=rate)
            if mine.failed:
                raise PeerError(f"{mine.failed} of {mine.sent} appends failed at {rate:.0f}/s")
            bench.figures.add("p99/ours", mine.percentile_ms(99), "ms")


async def _measure_single(bench: Comparison, ours: Ours) -> None:
    seconds = bench.mode.measure_s / 2
    for concurrency in (1, 64):
        rate = await ours.unary_per_s(concurrency=concurrency, seconds=seconds)
        bench.figures.add(f"unary/ours-{concurrency}", rate, "calls/s")
        rate = await ours.rpc_per_s(concurrency=concurrency, seconds=seconds)
        bench.figures.add(f"rpc/ours-{concurrency}", rate, "calls/s")


async def _ours_keys(bench: Comparison, indexed: Ours) -> None:
    wanted = bench.mode.indexed_records
    records = make_records(wanted, record_bytes=RECORD_BYTES, seed=bench.seed + 1)
    await indexed.append(records)
    bench.figures.add("index-backlog/ours", await indexed.index_backlog_s(), "s")
    bench.figures.cannot("index-backlog/ours", f"after {wanted:,} records at full speed")
    for number in range(bench.mode.rounds):
        took = await indexed.read_keys_ms(records, reads=bench.mode.key_reads, seed=number)
        bench.figures.add("read-key-p99/ours", float(np.percentile(took, 99)), "ms")
    bench.figures.cannot("read-key-p99/ours", f"with {wanted:,} records in the shard")


async def _three(bench: Comparison, with_ours: bool) -> None:
    """Three brokers and three instances, measured alone: they fill the machine."""
    async with contextlib.AsyncExitStack() as stack:
        peers: list[Peer] = [await stack.enter_async_context(KafkaJava(3))]
        if with_ours:
            options = {"replicas": 3, "min_in_sync": 2, "key_index": False}
            peers.append(
                await stack.enter_async_context(Ours(name="ours-3", options=options, instances=3))
            )
        counts: dict[str, int] = {}
        for peer in peers:
            await _attempt(bench, f"append/{peer.name}", _count_into(counts, peer, bench))

        async def step(peer: Peer) -> None:
            done = await peer.append(bench.part(counts[peer.name]))
            bench.figures.add(f"append/{peer.name}", done.records_per_s, "records/s")

        ready = [peer for peer in peers if peer.name in counts]
        await _rounds(bench, [(peer.name, _bind(step, peer)) for peer in ready])


def _bind(step: Callable[[Peer], Awaitable[None]], peer: Peer) -> Callable[[], Awaitable[None]]:
    return lambda: step(peer)


async def _single(bench: Comparison, why_not_ours: str | None) -> list[Peer]:
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        kafka = await enter(KafkaJava(1))
        peers: list[Peer] = [
            kafka,
            await enter(ConfluentKafka(address=kafka.address)),
            await enter(AioKafka(address=kafka.address)),
        ]
        peers += [await enter(NatsJetStream(sync_always=sync)) for sync in (False, True)]
        peers += [await enter(RedisStreams(appendfsync=how)) for how in ("everysec", "always")]
        echo = await enter(EchoServer())
        ours: list[Ours] = []
        if why_not_ours is None:
            cluster = await enter(OursCluster(1))
            for name, options in (
                ("ours", {"key_index": False}),
                ("ours-indexed", {"key_index": True}),
                ("ours-fsync", {"key_index": False, "durability": "fsync"}),
            ):
                ours.append(await enter(Ours(name=name, options=options, cluster=cluster)))
        peers += ours
        counts: dict[str, int] = {}
        for peer in peers:
            bench.say(f"warming up {peer.name}")
            await _attempt(bench, f"append/{peer.name}", _count_into(counts, peer, bench))

        async def step(peer: Peer) -> None:
            await _measure_peer(peer, counts[peer.name], bench)

        steps = [(peer.name, _bind(step, peer)) for peer in peers if peer.name in counts]
        steps.append(("limits", lambda: _measure_limits(bench, echo.address)))
        if ours:
            steps.append(("single appends", lambda: _measure_single(bench, ours[0])))
        await _rounds(bench, steps)
        bench.say("latency at half of Kafka's rate")
        await _attempt(bench, "p99/ours", _latency(bench, kafka, ours[0] if ours else None))
        if ours:
            bench.say("reads by key")
            await _attempt(bench, "read-key-p99/ours", _ours_keys(bench, ours[1]))
        return peers


async def run_compare(mode: CompareScale, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole comparison; what `--json` prints."""
    machine = history.machine()
    records = make_records(mode.records_max, record_bytes=RECORD_BYTES, seed=seed)
    bench = Comparison(mode, seed, Figures(), records, say)
    reason = await asyncio.to_thread(available)
    if reason is not None:
        say(f"ours cannot be started: {reason}")
        for name in {rule.name for rule in RULES}:
            bench.figures.cannot(name, reason.splitlines()[0])
    peers = await _single(bench, reason)
    await _attempt(bench, "append/ours-3", _three(bench, reason is None))
    rows = budget_rows(bench.figures)
    return {
        "mode": mode.name,
        "rounds": mode.rounds,
        "seed": seed,
        "record_bytes": RECORD_BYTES,
        "machine": machine,
        "figures": bench.figures.as_json(),
        "notes": bench.figures.missing,
        "budgets": rows_json(rows),
        "peers": {
            peer.name: {
                "durability": peer.durability,
                "processes": peer.processes,
                "settings": [[s.name, s.value, s.why] for s in peer.settings],
            }
            for peer in peers
        },
    }


def print_table(rows: list[FigureRow], result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    figures = Table("figure", "median", "unit", title="Figures")
    for name, entry in sorted(result["figures"].items()):
        figures.add_row(name, f"{entry['median']:,.4g}", entry["unit"])
    budgets = Table("id", "what", "budget", "figure", "ratio", "verdict", "note", title="Budgets")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        budgets.add_row(
            row.budget, row.what, row.required, row.figure, ratio, row.verdict, row.note
        )
    console.print(figures)
    console.print(budgets)


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Five short rounds, minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    seed: Annotated[int, typer.Option(help="Of the records.")] = 1,
    keep: Annotated[bool, typer.Option(help="Add a line to bench/history.jsonl.")] = True,
) -> None:
    """Ours, peers and limits in turns. Example: python -m bench compare --quick --json"""
    mode = QUICK if quick else FULL
    result = asyncio.run(run_compare(mode, seed, lambda line: typer.echo(line, err=True)))
    if keep:
        history.append_line("compare", result)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_table([FigureRow(**row) for row in result["budgets"]], result)
