"""Restart of an instance with data (B12): from starting the process to the first acked append.

A real instance and coordinator run; the data is appended through the client, then the instance
is killed with -9 (nothing is flushed or checkpointed) and its process is started again. The
figures: `ready` (listening), `append` (first acked append), `read` (first record of the log's end).
"""

import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.history import append_line, machine
from coordinator.local.cluster import local_cluster
from logstore.client.client import Client, connect

RECORD_BYTES = 2_000
ROWS = 1_000
IN_FLIGHT = 4
LIMIT_S = 5.0
"""The budget: serving again with 10 GB."""


def command(
    gb: Annotated[float, typer.Option(help="Data on the instance, in 10^9 bytes.")] = 2.0,
    shards: Annotated[int, typer.Option(help="Shards that hold it.")] = 8,
    data: Annotated[Path | None, typer.Option(help="Folder; default: a temporary one.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    history: Annotated[bool, typer.Option(help="Add the run to bench/history.jsonl.")] = True,
) -> None:
    """Kill an instance that holds much data and time until it serves again.

    Example: python -m bench restart --gb 10 --json
    """
    folder = Path(tempfile.mkdtemp(prefix="logstore-restart-", dir=data))
    try:
        figures = asyncio.run(_measure(folder, gb, shards))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {"figures": figures, "machine": machine(), "limit_s": LIMIT_S}
    if history:
        append_line("restart", result)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for name, value in figures.items():
        typer.echo(f"{name:>24} {value}")


async def _measure(folder: Path, gb: float, shards: int) -> dict[str, Any]:
    async with local_cluster(1, data=folder) as cluster, connect(cluster.addresses) as db:
        log = await db.create_log("restart", shards=shards)
        records = await _fill(db, gb)
        stored = _size(folder / "instance-1")
        wal = _size(folder / "instance-1" / "wal")
        started_s = time.perf_counter()
        cluster.kill("instance-1")
        await cluster._instances["instance-1"].wait_ready(120.0)
        ready_s = time.perf_counter() - started_s
        await log.append(b"after", b"the restart")
        append_s = time.perf_counter() - started_s
        found = [record async for record in log.read(key=b"after")]
        read_s = time.perf_counter() - started_s
        if len(found) != 1:
            raise typer.BadParameter(f"{len(found)} records of the key that was appended once")
    return {
        "records": records,
        "stored_gb": round(stored / 1e9, 3),
        "wal_mb": round(wal / 1e6, 1),
        "shards": shards,
        "ready_s": round(ready_s, 3),
        "append_s": round(append_s, 3),
        "read_s": round(read_s, 3),
    }


async def _fill(db: Client, gb: float) -> int:
    """Append random values in batches of ROWS; returns how many records."""
    log = await db.log("restart")
    total = int(gb * 1e9 / RECORD_BYTES)
    size = RECORD_BYTES - 16
    waiting: set[asyncio.Task[Any]] = set()
    for _ in range(0, total, ROWS):
        keys = [os.urandom(16) for _ in range(ROWS)]
        blob = os.urandom(ROWS * size)
        values = [blob[at : at + size] for at in range(0, len(blob), size)]
        waiting.add(asyncio.create_task(log.append_many(keys, values)))
        if len(waiting) >= IN_FLIGHT:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*waiting)
    return -(-total // ROWS) * ROWS


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
