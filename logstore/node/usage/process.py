"""What this process used since its start, and what the system has left for it."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from logstore.node.usage.control_group import ControlGroups, CpuGroup
from logstore.node.usage.machine import Disk, disk_of, idle_s, network_bytes_per_s

TRIAL_ROUNDS = 20_000
TRIALS = 4
TRIAL_S = 7e-4
"""CPU seconds of the trial on the core that `profiler.costs.EXPECTED_S` is of."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used since its start, and its present resources. None: not known.

    `loop_cpu_s` is what the calling thread used of `cpu_s`. `idle_s` is the time that the `cpus`
    which it may use were idle, all together. `slowness`: CPU seconds of a trial at the first call,
    against the expected ones.
    """

    cpu_s: float
    io_bytes: float
    memory_bytes: int
    cpus: int
    loop_cpu_s: float | None = None
    idle_s: float | None = None
    groups: tuple[CpuGroup, ...] = ()
    memory_free_bytes: float | None = None
    disk_free_bytes: float | None = None
    disk: Disk | None = None
    network_bytes_per_s: float | None = None
    slowness: float = 1.0


class ProcessUsage:
    """Of this process, by the operating system. Call it on the event loop's thread."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process = psutil.Process()
        self._groups = ControlGroups()
        self._network = network_bytes_per_s()
        self._slowness: float | None = None

    def __call__(self) -> Usage:
        if self._slowness is None:
            self._slowness = min(_trial_s() for _ in range(TRIALS)) / TRIAL_S
        cpu, io = self._process.cpu_times(), self._process.io_counters()
        cpus = os.sched_getaffinity(0)
        free = [float(psutil.virtual_memory().available)]
        if (in_group := self._groups.memory_free_bytes()) is not None:
            free.append(in_group)
        return Usage(
            cpu_s=cpu.user + cpu.system,
            io_bytes=float(io.read_bytes + io.write_bytes),
            memory_bytes=self._process.memory_info().rss,
            cpus=len(cpus),
            loop_cpu_s=time.thread_time(),
            idle_s=idle_s(cpus),
            groups=tuple(self._groups.cpu()),
            memory_free_bytes=min(free),
            disk_free_bytes=float(shutil.disk_usage(self._data).free),
            disk=disk_of(self._data),
            network_bytes_per_s=self._network,
            slowness=self._slowness,
        )


def _trial_s() -> float:
    """CPU time of a fixed piece of Python, 1 ms or so: neighbours do not lengthen it."""
    begin_s, total = time.thread_time(), 0
    for i in range(TRIAL_ROUNDS):
        total += i * i % 7
    return time.thread_time() - begin_s
