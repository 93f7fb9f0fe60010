"""`python -m bench profiler`: what the profiler costs, and how exact its figures are (B9, B10)."""

import asyncio
import gc
import json
import time
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from bench.profiler_path import append_path
from bench.series import read_columns
from profiler import AccessHeatmap, Agent, CoAccess, HeavyHitters, OpType
from profiler.anomaly import AnomalyBook
from profiler.forecast import ForecastBook, Forecaster
from profiler.forecast.bank import default_models
from profiler.forecast.history import History
from profiler.forecast.slow import with_slow_models

BATCH = 1_000
RANGES = 256
VALUE_BYTES = 88
T95 = 2.09
"""Student's t for 20 pairs or so, two-sided 95 %."""


def batch_of(records: int) -> tuple[pa.Array, pa.Array]:
    rng = np.random.default_rng(5)
    keys = pa.array([b"key-%09d" % k for k in rng.integers(0, 10**9, records)], pa.binary())
    return keys, pa.array([rng.bytes(VALUE_BYTES) for _ in range(records)], pa.binary())


def agent_cost(pairs: int, batches: int = 200) -> dict[str, float]:
    """CPU of an append's encoding with and without the agent's `record`, in alternating pairs.

    The work beside it is the cheapest part of an append (building and reading one Arrow batch of
    1,000 records); the share of the whole append path is therefore lower.
    """
    keys, values = batch_of(BATCH)
    agent = Agent("bench", 300_000_000, np.random.default_rng(1), keys_per_batch=16)
    shards = [f"orders/{i}" for i in range(64)]

    def encode() -> None:
        batch = pa.record_batch([keys, values], names=["key", "value"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        pa.ipc.open_stream(sink.getvalue()).read_all()

    def run(on: bool) -> float:
        start = time.process_time()
        for i in range(batches):
            encode()
            if on:
                shard, now_us = shards[i % 64], i * 1_000
                agent.record(shard, OpType.APPEND, BATCH, BATCH * 101, 0.002, now_us, None, keys)
        return 1e9 * (time.process_time() - start) / (batches * BATCH)

    run(True)
    off, gain = [], []
    for pair in range(pairs):
        both = [run(on) for on in ((True, False) if pair % 2 else (False, True))]
        on_ns, off_ns = both if pair % 2 else both[::-1]
        off.append(off_ns)
        gain.append(on_ns - off_ns)
    start = time.process_time()
    for i in range(20_000):
        shard, now_us = shards[i % 64], i * 1_000
        agent.record(shard, OpType.APPEND, BATCH, BATCH * 101, 0.002, now_us, None, keys)
    alone = 1e9 * (time.process_time() - start) / (20_000 * BATCH)
    half = T95 * float(np.std(gain, ddof=1)) / len(gain) ** 0.5
    return {
        "pairs": pairs,
        "encode_ns_per_record": float(np.mean(off)),
        "agent_ns_per_record": float(np.mean(gain)),
        "agent_ns_per_record_low": float(np.mean(gain)) - half,
        "agent_ns_per_record_high": float(np.mean(gain)) + half,
        "agent_alone_ns_per_record": alone,
        "share_of_encoding": float(np.mean(gain) / np.mean(off)),
    }


def memory(distinct: int, batch: int = 1_000_000) -> dict[str, float]:
    """Bytes of Python and numpy that agent, heatmap and heavy hitters hold after so many keys.

    Each batch has only new keys. The agent gets all of them; the heatmap its samples.
    """
    gc.collect()
    tracemalloc.start()
    agent = Agent("bench", 1_000_000, np.random.default_rng(1), keys_per_batch=16)
    heatmap, heavy = AccessHeatmap(), HeavyHitters()
    scratch = np.empty(min(batch, distinct), dtype=np.uint64)
    start = time.perf_counter()
    for done in range(0, distinct, len(scratch)):
        scratch[:] = np.arange(done, done + len(scratch), dtype=np.uint64)
        heavy.add(scratch * np.uint64(0x9E3779B97F4A7C15))
        slot = done // len(scratch)
        keys: Any = _Keys(done, len(scratch))
        agent.record("s/0", OpType.APPEND, len(scratch), 0, 0.001, slot * 1_000_000, None, keys)
        for statistics in agent.drain(slot):
            heatmap.add_samples(statistics.sampled_keys, slot)
    spent = time.perf_counter() - start
    held = tracemalloc.get_traced_memory()[0] - scratch.nbytes
    tracemalloc.stop()
    return {"held_mb": held / 1e6, "seconds": spent}


class _Keys:
    """Keys by position, made when looked at: 100 M of them need no memory."""

    def __init__(self, first: int, count: int) -> None:
        self._first, self._count = first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> bytes:
        return b"key-%012d" % (self._first + i)


def picture(path: Path) -> dict[str, float]:
    """Heatmap and heavy hitters on block accesses, against exact counts."""
    columns = read_columns(path)
    blocks = [b"%012d" % int(text) for text in columns["lbn"]]
    at_s = np.array(columns["time"], dtype=np.int64)
    slots = ((at_s - at_s.min()) // 60).tolist()
    heatmap, heavy = AccessHeatmap(half_life_slots=1e9), HeavyHitters(1024)
    start = time.perf_counter()
    for first in range(0, len(blocks), 512):
        part = blocks[first : first + 512]
        heatmap.add(part, None, slots[first])
        hashes = np.array([int(block) for block in part], dtype=np.uint64)
        heavy.add(hashes, name=lambda i, part=part: part[i])  # type: ignore[misc]
    spent = time.perf_counter() - start
    places = np.array([int(block) for block in blocks])
    # Ranges of equal width, independent of the heatmap's own boundaries.
    width = int(places.max() - places.min()) // RANGES + 1
    exact = np.bincount((places - places.min()) // width, minlength=RANGES)
    edges = [b"%012d" % (int(places.min()) + i * width) for i in range(RANGES + 1)]
    estimated = np.array([heatmap.recent_load(a, b) for a, b in pairwise(edges)])
    top = np.argsort(-exact)[:100]
    top = top[exact[top] > 0]
    true = [key for key, _ in Counter(blocks).most_common(100)]
    found = {key for key, _ in heavy.top(100)}
    least = Counter(blocks)[true[-1]]
    counts = Counter(blocks)
    return {
        "ranges_compared": len(top),
        "rank_correlation_top_100": _ranks_agree(exact[top], estimated[top]),
        "median_error_top_100": float(np.median(np.abs(estimated[top] / exact[top] - 1.0))),
        "heavy_hitters_recall_100": len(found & set(true)) / 100,
        "heavy_hitters_as_heavy": sum(counts[key] >= least for key in found) / len(found),
        "us_per_access": 1e6 * spent / len(blocks),
    }


def _ranks_agree(a: Any, b: Any) -> float:
    """Spearman's rank correlation with mean ranks for ties."""

    def ranks(values: Any) -> Any:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        return (last - (counts - 1) / 2.0)[inverse]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def forecasts(shards: int, periods: int = 20, *, slow: bool = False) -> dict[str, float]:
    """B10: one period of so many shards, learned and forecast at 4 horizons by the ensemble; with
    `slow` river's learners take turns among them.

    The history is filled to its depth (two weeks of 5-minute slots) before it is measured.
    """
    rng = np.random.default_rng(1)
    kept: list[History] = []

    def models(history: History, seasons: tuple[int, ...], steps: Any) -> list[Forecaster]:
        kept.append(history)
        return (with_slow_models if slow else default_models)(history, seasons, steps)

    book = ForecastBook((288, 2016), horizons=(1, 3, 6, 12), models=models, anomalies=AnomalyBook())
    size, names = rng.uniform(10, 1000, shards), [f"s{i}" for i in range(shards)]

    def period(t: int) -> float:
        wave = size * (1.0 + 0.5 * np.sin(2 * np.pi * t / 288)) + rng.normal(0, 3, shards)
        values = dict(zip(names, np.maximum(wave, 0).tolist(), strict=True))
        start = time.process_time()
        book.learn_many(t, values)
        book.said(names)
        return time.process_time() - start

    period(0)
    depth, rows = kept[0].depth, np.arange(shards)
    wave = 1.0 + 0.5 * np.sin(2 * np.pi * np.arange(1 - depth, 1) / 288)
    for some in np.array_split(rows, 20):
        kept[0].preload(some, size[some, None] * wave)
    for t in range(1, 30):
        period(t)
    taken = [period(30 + t) for t in range(periods)]
    return {"shards": shards, "cpu_s_median": float(np.median(taken)), "cpu_s_worst": max(taken)}


def together(path: Path) -> list[dict[str, Any]]:
    """The pairs that CoAccess finds in mooncake: blocks of 500 hash ids that requests share."""
    import gzip

    pairs = CoAccess(0)
    with gzip.open(path, "rt") as lines:
        for line in lines:
            request = json.loads(line)
            groups = {int(block) // 500 for block in request["hash_ids"]}
            if len(groups) <= 32:
                pairs.learn("", groups, int(request["timestamp"]) * 1_000)
    return [{"groups": [i, j], "requests": n} for i, j, n in pairs.top(10)]


def command(
    traces: Annotated[Path, typer.Option(help="folder of the traces")] = Path("../shared/traces"),
    pairs: Annotated[int, typer.Option(help="pairs with and without the agent", min=20)] = 24,
    keys_max: Annotated[int, typer.Option(help="most distinct keys")] = 100_000_000,
    shards: Annotated[int, typer.Option(help="shards to forecast")] = 10_000,
    records: Annotated[int, typer.Option(help="appended a turn on the whole path")] = 400_000,
    path_only: Annotated[bool, typer.Option(help="only the whole append path (B9)")] = False,
) -> None:
    """Cost of the agent, memory by distinct keys, exactness of the figures, time of forecasts."""
    found: dict[str, Any] = {"append_path": asyncio.run(append_path(pairs, records))}
    if path_only:
        typer.echo(json.dumps(found, indent=1))
        return
    found["agent"] = agent_cost(pairs)
    found["memory"] = {
        str(n): memory(n) for n in (1_000_000, 10_000_000, 100_000_000) if n <= keys_max
    }
    blocks = traces / "cloudphysics_io" / "cloudPhysicsIO.csv.gz"
    if blocks.is_file():
        found["cloudphysics_io"] = picture(blocks)
    requests = traces / "mooncake" / "conversation_trace.jsonl.gz"
    if requests.is_file():
        found["mooncake"] = together(requests)
    found["forecasts"] = forecasts(shards)
    found["forecasts_with_slow"] = forecasts(shards, slow=True)
    typer.echo(json.dumps(found, indent=1))
