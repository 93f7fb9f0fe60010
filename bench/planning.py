"""Budget B10: one plan of 100,000 shards on 1,000 instances, with all policies; time and memory.

Synthetic, seeded: zipf-like loads, forecasts of 24 periods with intervals, a second copy of each
shard in another zone, learned split keys for the busiest, CROSSING of the instances forecast to
exceed their limit.
"""

import json
import os
import resource
import time
from collections import Counter
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from bench.history import append_line, machine
from sharder.config import PlannerConfig
from sharder.plan import plan
from sharder.view import ForecastView, InstanceView, ShardView, SplitPoint, View

PERIODS = 24
CROSSING = 0.17
CUTS_OF = 256
"""Number of shards with learned split keys, as in a live coordinator's view."""
CAPACITY = 10_000.0
LIMIT_S = 2.0


def make_view(shards: int, instances: int, crossing: float, seed: int) -> View:
    """`crossing`: share of the instances whose load will exceed their limit."""
    rng = np.random.default_rng(seed)
    per = shards // instances
    home = np.repeat(np.arange(instances), per)
    rate = rng.lognormal(0.0, 1.0, (instances, per))
    target = rng.uniform(0.3, 0.6, instances)
    over = rng.permutation(instances) < crossing * instances
    target[over] = rng.uniform(0.8, 0.95, int(over.sum()))
    rate *= (target * CAPACITY / rate.sum(axis=1))[:, None]
    flat = rate.ravel()
    wave = 1.0 + 0.1 * np.sin(np.arange(PERIODS) / PERIODS * 2 * np.pi)
    busiest = set(np.argsort(-flat)[:CUTS_OF].tolist())
    names = [f"i{n:04}" for n in range(instances)]
    made = []
    for n, load in enumerate(flat.tolist()):
        mean = (load * wave).tolist()
        forecast = ForecastView(
            tuple(mean), tuple(m * 0.9 for m in mean), tuple(m * 1.1 for m in mean), "bench"
        )
        cuts = tuple(SplitPoint(b"%04d.%d" % (n % per, k), k / 10) for k in range(1, 10))
        made.append(
            ShardView(
                id=f"log{home[n]:04}/{n % per:03}", log=f"log{home[n]:04}", instance=names[home[n]],
                bytes=50_000_000, ops_per_s=load, bytes_per_s=load * 100.0, forecast=forecast,
                cuts=cuts if n in busiest else (), start=b"%04d" % (n % per),
                end=b"%04d" % (n % per + 1) if n % per + 1 < per else None,
                in_sync=(names[(home[n] + 1 + n % 7) % instances],),
            )
        )  # fmt: skip
    return View(
        now_s=0.0, period_s=300.0, slot=0, shards=tuple(made),
        instances=tuple(
            InstanceView(name, CAPACITY, CAPACITY * 1_000.0, 10**12,
                         ops_per_s=float(rate[n].sum()), bytes_per_s=float(rate[n].sum()) * 100.0,
                         stored_bytes=per * 100_000_000, zone=f"zone-{n % 3}")
            for n, name in enumerate(names)
        ),
        config=PlannerConfig(executable=("move", "switch", "split"), operators_in_flight_max=1_000),
    )  # fmt: skip


def command(
    repeats: Annotated[int, typer.Option(help="Plans of each size; the median counts.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the view.")] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    history: Annotated[bool, typer.Option(help="Add the run to bench/history.jsonl.")] = True,
) -> None:
    """Seconds and memory of one plan at 1,000, 10,000 and 100,000 shards.

    Example: python -m bench plan --json
    """
    rows = [
        _measure(shards, shards // 100, crossing, repeats, seed)
        for shards, crossing in (
            (1_000, CROSSING), (10_000, CROSSING), (100_000, 0.0), (100_000, CROSSING),
        )
    ]  # fmt: skip
    result = {"sizes": rows, "machine": machine(), "limit_s": LIMIT_S}
    if history:
        append_line("plan", result)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for row in rows:
        typer.echo("  ".join(f"{k} {v}" for k, v in row.items()))


def _measure(
    shards: int, instances: int, crossing: float, repeats: int, seed: int
) -> dict[str, Any]:
    view = make_view(shards, instances, crossing, seed)
    process = psutil.Process(os.getpid())
    with_view_mb = process.memory_info().rss / 1e6
    took, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        made = plan(view)
        took.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return {
        "shards": shards,
        "instances": instances,
        "crossings": len(made.crossings),
        "operators": dict(Counter(op.kind for op in made.operators)),
        "refusals": len(made.refused),
        "seconds": round(float(np.median(took)), 3),
        "cpu_seconds": round(float(np.median(cpu)), 3),
        "view_mb": round(with_view_mb),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
