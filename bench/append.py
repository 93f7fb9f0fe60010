"""`python -m bench append`: how many records one instance takes through the public client.

Keys and values are distinct and made before the clock starts; encoding, routing and the client's
own work are inside the timing. `many`: `append_many` of `--batch` rows as lists of bytes. `one`:
single `append` calls. Both with `--in-flight` calls at a time. Latency is per call.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from hdrh.histogram import HdrHistogram

import logstore
from bench.workload.records import RecordSet, make_records

LATENCY_US_MAX = 600_000_000
SHARDS = 1


@dataclass(frozen=True, slots=True)
class AppendRun:
    """One measurement. Sizes in bytes, times in ms; `records_per_s` counts acked records."""

    mode: str
    key_index: bool
    records: int
    record_bytes: int
    rows_per_call: int
    calls_in_flight: int
    seconds: float
    records_per_s: float
    mb_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


async def closed_loop(
    calls: int, in_flight: int, call: Callable[[int], Awaitable[int]]
) -> tuple[float, int, HdrHistogram]:
    """Calls 0..calls-1, `in_flight` at a time: (seconds, records acked, latencies in µs)."""
    latencies_s: list[float] = []
    numbers = iter(range(calls))
    acked = 0

    async def worker() -> None:
        nonlocal acked
        for number in numbers:
            started = time.perf_counter()
            count = await call(number)  # before +=, which would read the sum too early
            acked += count
            latencies_s.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(min(in_flight, calls))))
    seconds = time.perf_counter() - started
    histogram = HdrHistogram(1, LATENCY_US_MAX, 3)  # filled after the clock stopped: 4 µs a value
    for latency_s in latencies_s:
        histogram.record_value(max(1, round(latency_s * 1e6)))
    return seconds, acked, histogram


async def measure(
    db: logstore.Client, records: RecordSet, *, mode: str, batch: int, in_flight: int, index: bool
) -> AppendRun:
    """Create a log, append everything, check the count, delete the log."""
    name = f"bench-{mode}-{'index' if index else 'plain'}-{time.time_ns()}"
    log = await db.create_log(name, shards=SHARDS, key_index=index)
    keys, values = records.key_list(), records.value_list()
    rows = batch if mode == "many" else 1

    async def many(number: int) -> int:
        start = number * rows
        acks = await log.append_many(keys[start : start + rows], values[start : start + rows])
        return sum(ack.count for ack in acks)

    async def one(number: int) -> int:
        return (await log.append(keys[number], values[number])).count

    await log.append(b"warm", b"up")
    calls = -(-records.count // rows)
    seconds, acked, histogram = await closed_loop(calls, in_flight, many if mode == "many" else one)
    if acked != records.count:
        raise RuntimeError(f"{acked} records were acked, {records.count} were sent")
    await db.delete_log(name)
    p50, p99, p999, top = (histogram.get_value_at_percentile(p) for p in (50, 99, 99.9, 100))
    return AppendRun(
        mode=mode,
        key_index=index,
        records=acked,
        record_bytes=records.record_bytes,
        rows_per_call=rows,
        calls_in_flight=in_flight,
        seconds=round(seconds, 3),
        records_per_s=round(acked / seconds),
        mb_per_s=round(acked * records.record_bytes / seconds / 1e6, 1),
        p50_ms=p50 / 1e3,
        p99_ms=p99 / 1e3,
        p999_ms=p999 / 1e3,
        max_ms=top / 1e3,
    )


@contextlib.asynccontextmanager
async def _target(address: str | None) -> AsyncIterator[str]:
    """The given cluster, or a fresh one of one instance in a temporary folder."""
    if address is not None:
        yield address
        return
    from coordinator.local.cluster import local_cluster

    with tempfile.TemporaryDirectory(prefix="logstore-bench-") as folder:
        async with local_cluster(1, data=Path(folder), autopilot="off") as cluster:
            yield cluster.address


async def run(
    address: str | None,
    *,
    records: int,
    size: int,
    modes: list[str],
    batch: int,
    in_flight: int | None,
    indexes: list[bool],
    seed: int,
) -> list[AppendRun]:
    """All requested runs, one after the other on one cluster."""
    data = make_records(records, record_bytes=size, seed=seed)
    runs: list[AppendRun] = []
    async with _target(address) as where, logstore.connect(where, client_group="bench") as db:
        for mode in modes:
            some = data if mode == "many" else data.part(0, min(records, 200_000))
            flying = in_flight or (16 if mode == "many" else 1_000)
            runs += [
                await measure(db, some, mode=mode, batch=batch, in_flight=flying, index=index)
                for index in indexes
            ]
    return runs


def append(
    records: Annotated[
        int, typer.Option(min=1, help="Records (mode one: at most 200,000).")
    ] = 1_000_000,
    size: Annotated[int, typer.Option(min=24, help="Bytes of key and value together.")] = 100,
    mode: Annotated[str, typer.Option(help="many, one or both.")] = "both",
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Rows per append_many.")] = 1_000,
    in_flight: Annotated[
        int | None, typer.Option(min=1, help="Calls at a time; default 16 (many), 1000 (one).")
    ] = None,
    index: Annotated[
        bool | None, typer.Option("--index/--no-index", help="Key index; default: both.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running cluster; default: start one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of keys and values.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
) -> None:
    """Append rate and latency of one instance. Example: python -m bench append --records 1000000"""
    if mode not in ("many", "one", "both"):
        raise typer.BadParameter(f"mode is {mode!r}, expected many, one or both")
    modes = ["many", "one"] if mode == "both" else [mode]
    runs = uvloop.run(
        run(
            address,
            records=records,
            size=size,
            modes=modes,
            batch=batch,
            in_flight=in_flight,
            indexes=[False, True] if index is None else [index],
            seed=seed,
        )
    )
    for found in runs:
        typer.echo(json.dumps(asdict(found)) if as_json else _line(found))


def _line(found: AppendRun) -> str:
    return (
        f"{found.mode:4} index {'on ' if found.key_index else 'off'} "
        f"{found.records:>9,} x {found.record_bytes} B, {found.rows_per_call:>5,} a call, "
        f"{found.calls_in_flight:>4} in flight: {found.records_per_s:>9,} records/s "
        f"{found.mb_per_s:>6} MB/s; call p50 {found.p50_ms:.2f} p99 {found.p99_ms:.2f} "
        f"p99.9 {found.p999_ms:.2f} max {found.max_ms:.2f} ms"
    )


command = append
