"""B9 on the whole append path: CPU of an instance a record, with its agent on and off, in pairs.

Two clusters run side by side and differ in one setting (`NodeConfig.profile`). The same batches go
to one, then to the other, in turns that swap from pair to pair. The CPU is that of the instances'
processes, by the scheduler's own account (nanoseconds), from one turn of a cluster to its next, so
that it includes later work (index, compaction, reports). There are two figures: of all threads, and
of the threads of the event loops alone. The agent works only in those; index and
compaction take a second at a time in other threads and hide a difference of three per cent. So
the share is the agent's cost in the loops divided by the cost of all threads.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.series import FloatArray
from coordinator.local.cluster import COORDINATOR, ClusterOptions, LocalCluster, running
from logstore import connect

BATCH = 4_096
IN_FLIGHT = 8
INSTANCES = 2
VALUE_BYTES = 88
BATCHES_KEPT = 16
"""Different batches, sent again and again."""
T95 = 2.07
"""Student's t for 24 pairs or so, two-sided 95 %."""


@dataclass(slots=True)
class PathSide:
    """One cluster and what was measured of it."""

    cluster: LocalCluster
    log: Any
    read_ns: tuple[int, int] = (0, 0)
    cpu_ns: list[float] = field(default_factory=list)
    loop_ns: list[float] = field(default_factory=list)
    """The event loops' part."""
    records_per_s: list[float] = field(default_factory=list)

    def pids(self) -> list[int]:
        return [pid for name, pid in self.cluster.pids.items() if name != COORDINATOR]


async def append_path(pairs: int, records: int) -> dict[str, float]:
    """CPU a record in ns and records/s, on and off; what the agent adds, with its 95 % interval."""
    batches = _batches()
    rounds = max(1, records // BATCH)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        async with (
            running(_options(data / "on", profile=True)) as on,
            running(_options(data / "off", profile=False)) as off,
            connect(on.address) as db_on,
            connect(off.address) as db_off,
        ):
            sides = [
                PathSide(cluster, await db.create_log("bench", shards=INSTANCES))
                for cluster, db in ((on, db_on), (off, db_off))
            ]
            for side in sides:  # caches, memtables and code paths warm up
                await _send(side, batches, rounds)
                side.read_ns = cpu_ns(side.pids())
            for pair in range(pairs + 1):
                for side in sides if pair % 2 else sides[::-1]:
                    now_ns = cpu_ns(side.pids())
                    if pair:  # of the turn before, with what came after it
                        spent = [now - was for now, was in zip(now_ns, side.read_ns, strict=True)]
                        side.cpu_ns.append(spent[0] / (rounds * BATCH))
                        side.loop_ns.append(spent[1] / (rounds * BATCH))
                    side.read_ns = now_ns
                    if pair < pairs:
                        side.records_per_s.append(await _send(side, batches, rounds))
    return _told(*sides)


def cpu_ns(pids: Iterable[int]) -> tuple[int, int]:
    """CPU time of all threads of these processes, and of their first threads alone."""
    total = loops = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            spent = int((task / "schedstat").read_text().split()[0])
            total += spent
            loops += spent if task.name == str(pid) else 0
    return total, loops


def _told(on: PathSide, off: PathSide) -> dict[str, float]:
    base = float(np.median(off.cpu_ns))
    rate = np.array(on.records_per_s) / np.array(off.records_per_s)
    return {
        "pairs": len(on.cpu_ns),
        "off_ns_per_record": base,
        "on_ns_per_record": float(np.median(on.cpu_ns)),
        "off_loop_ns_per_record": float(np.median(off.loop_ns)),
        "on_loop_ns_per_record": float(np.median(on.loop_ns)),
        **_share("agent_share", on.loop_ns, off.loop_ns, base),
        **_share("agent_share_all_threads", on.cpu_ns, off.cpu_ns, base),
        "on_records_per_s": float(np.median(on.records_per_s)),
        "off_records_per_s": float(np.median(off.records_per_s)),
        "throughput_on_by_off_median": float(np.median(rate)),
        **_interval("throughput_on_by_off", rate),
    }


def _share(name: str, on: list[float], off: list[float], base: float) -> dict[str, float]:
    """The relative cost of `on` over `base`: mean with its t interval, median with the sign
    test's."""
    gain = (np.array(on) - np.array(off)) / base
    half = T95 * float(np.std(gain, ddof=1)) / len(gain) ** 0.5
    return {
        name: float(np.mean(gain)),
        f"{name}_low": float(np.mean(gain)) - half,
        f"{name}_high": float(np.mean(gain)) + half,
        f"{name}_median": float(np.median(gain)),
        **_interval(f"{name}_median", gain),
    }


def _interval(name: str, values: FloatArray) -> dict[str, float]:
    """Order statistics that contain the median with 95 % (sign test): a disturbed turn counts
    as one vote, however long it took."""
    ordered = np.sort(values)
    out = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    return {f"{name}_low": float(ordered[out]), f"{name}_high": float(ordered[-1 - out])}


def _options(data: Path, *, profile: bool) -> ClusterOptions:
    return ClusterOptions(
        data=data, instances=INSTANCES, autopilot="off", node_settings={"profile": profile}
    )


def _batches() -> list[tuple[list[bytes], list[bytes]]]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(BATCHES_KEPT):
        keys = [bytes(k) for k in rng.integers(0, 256, (BATCH, 12), dtype=np.uint8)]
        found.append((keys, [rng.bytes(VALUE_BYTES) for _ in range(BATCH)]))
    return found


async def _send(
    side: PathSide, batches: list[tuple[list[bytes], list[bytes]]], rounds: int
) -> float:
    """Records/s of so many batches, IN_FLIGHT at once."""
    waiting = iter(range(rounds))

    async def sender() -> None:
        for i in waiting:
            keys, values = batches[i % BATCHES_KEPT]
            await side.log.append_many(keys, values)

    start = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
    return rounds * BATCH / (time.perf_counter() - start)
