"""The one load of an instance: its use of each resource as a share of its capacity. No I/O.

What is stated counts as stated; the other limits are estimated from what the system shows.
"""

import math
from dataclasses import dataclass, replace

from logstore.node.config import NodeConfig
from logstore.node.usage.process import Usage
from profiler.capacity import CapacityEstimate, Mean, Observation
from profiler.costs import Work
from profiler.types import Capacity, Resource

SEEN_SHARE = 0.02
"""A disk that is busy for less of the time shows no capacity."""
TELLING_SHARE = 0.2
"""From this share of disk or network on, the bytes/s that clients may move are estimated."""
BYTES_SMOOTH_S = 20.0
SPAN_S_MIN = 0.05
"""The system counts CPU in ticks of 0.01 s: a shorter span teaches nothing."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Since the start: operations by kind, all operations with the part of those for primaries
    elsewhere, and all bytes that were moved."""

    work: Work
    operations: float
    data_bytes: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One span of time. `estimated`: the fields of `capacity` that are not stated."""

    capacity: Capacity
    estimated: tuple[str, ...]
    loads: dict[Resource, float]
    costs: dict[str, float]
    idle_cpu_share: float
    ops_per_s: float
    bytes_per_s: float
    cpu_share: float
    io_bytes_per_s: float


class InstanceLoad:
    """Of one process. Each call of `measure` is about the time since the one before."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._before: tuple[Counted, Usage] | None = None
        self._estimate: CapacityEstimate | None = None
        self._bytes = Mean(BYTES_SMOOTH_S)

    def measure(
        self, counted: Counted, used: Usage, stored_bytes: int, elapsed_s: float, lag_s: float
    ) -> Measured:
        """`lag_s`: of the event loop, on the mean."""
        done, was = self._before or (counted, used)
        if self._estimate is None:
            cores = min([float(used.cpus), *(group.cores for group in used.groups)])
            self._estimate = CapacityEstimate(used.slowness, cores)
        if elapsed_s < SPAN_S_MIN:
            counted, used = done, was
        self._before = counted, used
        ops = (counted.operations - done.operations) / elapsed_s
        size = (counted.data_bytes - done.data_bytes) / elapsed_s
        io = (used.io_bytes - was.io_bytes) / elapsed_s
        cpu = (used.cpu_s - was.cpu_s) / elapsed_s
        if was is not used:
            work = counted.work.since(done.work)
            self._estimate.observe(_observed(work, used, was, elapsed_s, lag_s))
        capacity, estimated = self._capacity(used, was, stored_bytes, elapsed_s, io)
        loads = self._loads(capacity, ops, size, io, used.memory_bytes, stored_bytes)
        if "bytes_per_s" in estimated:
            told = max(loads[Resource.IO], loads[Resource.NETWORK])
            if told >= TELLING_SHARE and size > 0:
                limit = self._bytes.add(size / told, elapsed_s)
                capacity = replace(capacity, bytes_per_s=max(limit, size))
        return Measured(
            capacity, estimated, loads, self._estimate.model.costs(),
            self._estimate.model.base_share, ops, size, cpu, io,
        )  # fmt: skip

    def _capacity(
        self, used: Usage, was: Usage, stored_bytes: int, elapsed_s: float, io: float
    ) -> tuple[Capacity, tuple[str, ...]]:
        config, estimate = self._config, self._estimate
        assert estimate is not None
        stated = {
            "ops_per_s": config.ops_per_s_max,
            "bytes_per_s": config.bytes_per_s_max,
            "stored_bytes": config.stored_bytes_max,
        }
        cores = estimate.limit if config.ops_per_s_max is not None else estimate.cores
        found = {
            "ops_per_s": estimate.ops_per_s,
            "bytes_per_s": None,
            "cpu_share": cores,
            "stored_bytes": _more(stored_bytes, used.disk_free_bytes),
            "memory_bytes": _more(used.memory_bytes, used.memory_free_bytes),
            "io_bytes_per_s": _disk_capacity(used, was, elapsed_s, io),
            "network_bytes_per_s": used.network_bytes_per_s,
        }
        limits = {name: stated.get(name) or guess or math.inf for name, guess in found.items()}
        return Capacity(**limits), tuple(name for name in found if stated.get(name) is None)

    def _loads(
        self, capacity: Capacity, ops: float, size: float, io: float, memory: int, stored: int
    ) -> dict[Resource, float]:
        """Operations and bytes count where they are stated; else what they use counts."""
        assert self._estimate is not None
        loads = {
            Resource.CPU: self._estimate.used / capacity.cpu_share,
            Resource.MEMORY: memory / capacity.memory_bytes,
            Resource.IO: io / capacity.io_bytes_per_s,
            Resource.NETWORK: size / capacity.network_bytes_per_s,
            Resource.SPACE: stored / capacity.stored_bytes,
        }
        if self._config.ops_per_s_max is not None:
            loads[Resource.OPERATIONS] = ops / self._config.ops_per_s_max
        if self._config.bytes_per_s_max is not None:
            loads[Resource.BYTES] = size / self._config.bytes_per_s_max
        return loads


def _observed(work: Work, used: Usage, was: Usage, elapsed_s: float, lag_s: float) -> Observation:
    cpu_s = used.cpu_s - was.cpu_s
    cores, throttled, share = float(used.cpus), False, cpu_s / elapsed_s
    free: list[float] = []
    fair: list[float] = []
    if used.idle_s is not None and was.idle_s is not None:
        free.append((used.idle_s - was.idle_s) / elapsed_s)
        fair.append(_fair(cores, cores - free[0] - share))
    before = {group.path: group for group in was.groups}
    for group in used.groups:
        cores = min(cores, group.cores)
        then = before.get(group.path)
        if then is None:
            continue
        throttled |= group.throttled_s > then.throttled_s
        if group.used_s is not None and then.used_s is not None:
            others = max((group.used_s - then.used_s) / elapsed_s - share, 0.0)
            free.append(group.cores - others - share)
            fair.append(_fair(group.cores, others))
    loop_s = None
    if used.loop_cpu_s is not None and was.loop_cpu_s is not None:
        loop_s = used.loop_cpu_s - was.loop_cpu_s
    return Observation(
        elapsed_s=elapsed_s,
        work=work,
        cpu_s=cpu_s,
        loop_cpu_s=loop_s,
        cores=cores,
        cores_free=max(0.0, min(free, default=math.inf)),
        cores_fair=min(fair, default=0.0),
        lag_s=lag_s,
        throttled=throttled,
    )


def _fair(cores: float, others: float) -> float:
    """Cores for one more thread beside those who use `others` of them."""
    return cores / (max(others, 0.0) + 1.0)


def _disk_capacity(used: Usage, was: Usage, elapsed_s: float, io: float) -> float | None:
    """Our bytes/s and what is left of the disk's time at the rate that it shows."""
    if used.disk is None or was.disk is None or io <= 0:
        return None
    share = min((used.disk.busy_s - was.disk.busy_s) / elapsed_s, 1.0)
    if share < SEEN_SHARE:
        return None
    moved = max((used.disk.moved_bytes - was.disk.moved_bytes) / elapsed_s, io)
    return io + moved * (1.0 - share) / share


def _more(used: float, free: float | None) -> float | None:
    return None if free is None else max(used + free, 1.0)
