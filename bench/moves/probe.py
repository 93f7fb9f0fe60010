"""The client of a moved shard, in a process of its own: 1,000 appends/s and key reads, open loop.

`python -m bench.moves.probe {ours|kafka} ADDRESS NAME OUT`: prints `going` with its first ack, runs
until its standard input closes, and leaves its samples in OUT (numpy). Times are
CLOCK_MONOTONIC, which all processes of a machine share.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bench.services.paths import project_root
from logstore.base import collector

APPENDS_PER_S = 1_000
READS_PER_S = 20
VALUE_BYTES = 100
IN_FLIGHT_MAX = 8_192
TICK_S = 0.001
STOP_S = 30.0

Floats = npt.NDArray[np.float64]
Call = Callable[[int], Awaitable[object]]


class Samples:
    """Per call: when it should have started, and when it was answered (NaN: it failed)."""

    def __init__(self) -> None:
        self.intended, self.answered = array("d"), array("d")

    def done(self, intended_s: float, answered_s: float) -> None:
        self.intended.append(intended_s)
        self.answered.append(answered_s)


async def steady(call: Call, per_s: float, stop: asyncio.Event, samples: Samples) -> list[str]:
    """Start calls on schedule until `stop`; returns the first few failures."""
    tasks: set[asyncio.Task[None]] = set()
    failures: list[str] = []
    begin = time.monotonic()
    number = 0

    async def one(number: int, intended_s: float) -> None:
        try:
            await call(number)
        except Exception as e:
            failures.append(f"{type(e).__name__}: {e}")
            samples.done(intended_s, float("nan"))
        else:
            samples.done(intended_s, time.monotonic())

    while not stop.is_set():
        due = int((time.monotonic() - begin) * per_s)
        while number <= due and len(tasks) < IN_FLIGHT_MAX:
            task = asyncio.create_task(one(number, begin + number / per_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(TICK_S)
    if tasks:
        await asyncio.gather(*tasks)
    return failures[:20]


@contextlib.asynccontextmanager
async def _ours(address: str, name: str) -> Any:
    import logstore

    async with logstore.connect(address, timeout_s=STOP_S) as db:
        log, value = await db.log(name), bytes(VALUE_BYTES)

        async def append(number: int) -> None:
            await log.append(b"probe-%d" % (number % 1_000), value)

        async def read(number: int) -> None:
            key = b"fill-%d" % (number % 1_000)
            if not [r async for r in log.read(key=key)]:
                raise ValueError(f"no record of key {key!r}")

        yield append, read


@contextlib.asynccontextmanager
async def _kafka(address: str, name: str) -> Any:
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(
        bootstrap_servers=address, acks="all", enable_idempotence=True, linger_ms=0
    )
    await producer.start()
    try:

        async def append(number: int) -> None:
            await producer.send_and_wait(name, bytes(VALUE_BYTES), partition=0)

        yield append, None
    finally:
        await producer.stop()


async def _main(kind: str, address: str, name: str, out: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stop.set())
    appends, reads = Samples(), Samples()
    made = {"ours": _ours, "kafka": _kafka}[kind]
    async with made(address, name) as (append, read):
        await append(0)
        collector.settle()  # its own pauses would count as the server's
        print("going", flush=True)
        work = [steady(append, APPENDS_PER_S, stop, appends)]
        if read is not None:
            work.append(steady(read, READS_PER_S, stop, reads))
        failures = [text for found in await asyncio.gather(*work) for text in found]
    np.savez(
        out, appends=[appends.intended, appends.answered], reads=[reads.intended, reads.answered],
        failures=np.array(failures),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """The client's figures of calls that should have started within a time."""

    calls: int
    failed: int
    p99_ms: float
    longest_gap_ms: float


@dataclass(frozen=True, slots=True)
class ProbeSamples:
    """A probe's samples: intended and answered times, in s of CLOCK_MONOTONIC."""

    appends: Floats
    reads: Floats
    failures: list[str]

    def window(self, start_s: float, stop_s: float, what: str = "appends") -> Window:
        intended, answered = getattr(self, what)
        inside = (intended >= start_s) & (intended < stop_s)
        took = (answered - intended)[inside]
        good = took[~np.isnan(took)]
        acked = np.sort(answered[(answered >= start_s) & (answered < stop_s)])
        gaps = np.diff(np.concatenate(([start_s], acked, [stop_s])))
        return Window(
            calls=int(inside.sum()),
            failed=int(np.isnan(took).sum()),
            p99_ms=float(np.percentile(good, 99)) * 1e3 if len(good) else float("nan"),
            longest_gap_ms=float(gaps.max()) * 1e3,
        )


class Probe:
    """The process, from its first ack to its samples."""

    def __init__(self, kind: str, address: str, name: str, out: Path) -> None:
        self._out = out
        command = [sys.executable, "-m", "bench.moves.probe", kind, address, name, str(out)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=project_root(), text=True
        )

    async def __aenter__(self) -> Self:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if line.strip() != "going":
            raise RuntimeError(f"the probe did not start, it said {line!r}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        await asyncio.to_thread(self._process.communicate)

    async def stop(self) -> ProbeSamples:
        await asyncio.to_thread(self._process.communicate, None, 2 * STOP_S)
        with np.load(self._out) as found:
            return ProbeSamples(
                found["appends"], found["reads"], [str(f) for f in found["failures"]]
            )


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
