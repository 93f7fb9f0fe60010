"""One load: the largest used share of what an instance has, stated or estimated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from logstore.base.errors import StorageFullError
from logstore.node.config import NodeConfig
from logstore.node.intake.admission import Admission
from logstore.node.statistics.instance_load import Counted, InstanceLoad, Measured
from logstore.node.usage.control_group import CpuGroup
from logstore.node.usage.machine import Disk
from logstore.node.usage.process import Usage
from profiler.costs import Work
from profiler.types import Resource

EMPTY = Usage(0.0, 0.0, 100 << 20, 2, loop_cpu_s=0.0, idle_s=0.0, memory_free_bytes=900 << 20,
              disk_free_bytes=9e9)  # fmt: skip


def loaded(per_second: Usage, seconds: int = 60, stored: int = 1_000, **settings: Any) -> Measured:
    """Each second 500 appends in 500 requests, 50 kB, and this much use."""
    config = NodeConfig(instance="a", data=Path("/x"), metadata=["127.0.0.1:1"], **settings)
    load, found = InstanceLoad(config), None
    for n in range(seconds + 1):
        done = Work(append=500.0 * n, append_batch=500.0 * n)
        used = replace(
            per_second,
            cpu_s=per_second.cpu_s * n,
            io_bytes=per_second.io_bytes * n,
            loop_cpu_s=(per_second.loop_cpu_s or 0.0) * n,
            idle_s=None if per_second.idle_s is None else per_second.idle_s * n,
            groups=tuple(replace(g, used_s=(g.used_s or 0.0) * n) for g in per_second.groups),
            disk=per_second.disk and Disk(per_second.disk.busy_s * n,
                                          per_second.disk.moved_bytes * n),
        )  # fmt: skip
        found = load.measure(Counted(done, 500.0 * n, 5e4 * n), used, stored, 1.0, 0.001)
    assert found is not None
    return found


def bound_by(found: Measured) -> Resource:
    return max(found.loads, key=lambda resource: found.loads[resource])


def test_nothing_stated_the_cpu_binds_and_operations_follow() -> None:
    found = loaded(replace(EMPTY, cpu_s=0.25, loop_cpu_s=0.25, idle_s=1.5))
    assert bound_by(found) is Resource.CPU
    assert found.loads[Resource.CPU] == pytest.approx(0.25, abs=0.03)
    assert found.capacity.ops_per_s == pytest.approx(2_000, rel=0.2)
    assert "ops_per_s" in found.estimated
    assert Resource.OPERATIONS not in found.loads


def test_a_quota_is_found_and_obeyed() -> None:
    quota = CpuGroup("g", 0.5, 0.25, 0.0)
    found = loaded(replace(EMPTY, cpu_s=0.25, loop_cpu_s=0.25, idle_s=1.5, groups=(quota,)))
    assert found.loads[Resource.CPU] == pytest.approx(0.5, abs=0.05)
    assert found.capacity.ops_per_s == pytest.approx(1_000, rel=0.2)


def test_two_in_one_quota_share_what_is_left_of_it() -> None:
    shared = CpuGroup("g", 0.5, 0.45, 0.0)  # the other one uses 0.2
    found = loaded(replace(EMPTY, cpu_s=0.25, loop_cpu_s=0.25, idle_s=1.5, groups=(shared,)))
    assert found.capacity.cpu_share == pytest.approx(0.3, abs=0.03)


def test_what_is_stated_wins() -> None:
    used = replace(EMPTY, cpu_s=0.25, loop_cpu_s=0.25, idle_s=1.5)
    found = loaded(used, ops_per_s_max=550.0, bytes_per_s_max=1e6)
    assert bound_by(found) is Resource.OPERATIONS
    assert found.loads[Resource.OPERATIONS] == pytest.approx(500 / 550)
    assert found.capacity.ops_per_s == 550.0
    assert "ops_per_s" not in found.estimated


def test_memory_space_and_a_slow_disk_bind_in_their_turn() -> None:
    used = replace(EMPTY, cpu_s=0.1, loop_cpu_s=0.1, idle_s=1.5)
    tight = loaded(replace(used, memory_free_bytes=20 << 20))
    assert bound_by(tight) is Resource.MEMORY
    full = loaded(used, stored=950, stored_bytes_max=1_000)
    assert bound_by(full) is Resource.SPACE
    assert full.loads[Resource.SPACE] == 0.95
    slow = loaded(replace(used, io_bytes=1e6, disk=Disk(0.8, 1e6)))
    assert bound_by(slow) is Resource.IO
    assert slow.loads[Resource.IO] == pytest.approx(0.8)
    assert slow.capacity.bytes_per_s == pytest.approx(5e4 / 0.8, rel=0.05)


def test_no_more_is_stored_than_is_stated() -> None:
    admission = Admission(None, None, stored_bytes_max=1_000, stored_bytes=900)
    admission.store(100)
    with pytest.raises(
        StorageFullError, match=r"stored_bytes is 1000.* 1001.*stored_bytes_max is 1000"
    ):
        admission.store(1)
    admission.stored_bytes = 500  # trimmed, or moved away
    admission.store(500)
