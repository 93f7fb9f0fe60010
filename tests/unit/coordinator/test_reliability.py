"""Failures of instances: what counts, what counts once, what fades, what is kept."""

from pathlib import Path

import pytest

from coordinator.statistics.reliability import Reliability
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics

DAY_US = 86_400_000_000


def status(started_us: int = 1, *, unclean: bool = False, **faults: int) -> DataStoreStatus:
    return DataStoreStatus(
        "a", 0.0, Capacity(), started_us=started_us, unclean_start=unclean, faults=faults
    )


def slow(p99_ms: float) -> list[ShardStatistics]:
    counts = {OpType.APPEND: 50}
    return [
        ShardStatistics("x/0", "a", 1, 1.0, counts, query_count=50, bytes_in=0, bytes_out=0,
                        mean_ms=1.0, p50_ms=1.0, p99_ms=p99_ms)
    ]  # fmt: skip


def test_each_kill_counts_and_a_clean_restart_does_not() -> None:
    found = Reliability()
    for n in range(4):
        found.take("a", [], status(1 + n, unclean=n in (1, 2)), float(n), n * 1_000_000)
        found.take("b", [], status(1 + n), float(n), n * 1_000_000)
    assert found.kinds("a") == {"unclean start": 2}
    assert found.failures_per_day("a", 4_000_000) == pytest.approx(2 * 0.693, rel=0.01)
    assert found.failures_per_day("b", 4_000_000) == 0.0
    assert found.failures_per_day("a", DAY_US) == pytest.approx(0.693, rel=0.01)


def test_an_episode_counts_once_by_its_heaviest_kind() -> None:
    found = Reliability()
    for n in range(1, 30):
        found.take("a", [], status(unavailable=n), float(n), n * 1_000_000)
    one = found.failures_per_day("a", 30_000_000)
    assert one == pytest.approx(0.25 * 0.693, rel=0.01)
    found.take("a", [], status(unavailable=29, storage=1), 30.0, 30_000_000)
    assert found.failures_per_day("a", 30_000_000) == pytest.approx(0.693, rel=0.01)
    found.take("a", [], status(unavailable=29, storage=1), 31.0, 31_000_000)  # nothing new
    assert found.kinds("a") == {"failed writes": 1, "disk errors": 1}
    found.take("a", [], status(unavailable=29, storage=1, overloaded=9), 32.0, 99_000_000)
    assert found.kinds("a") == {"failed writes": 1, "disk errors": 1}


def test_a_silence_counts_unless_the_coordinator_was_deaf() -> None:
    found = Reliability()
    for now in range(60):
        found.take("b", [], status(), float(now), now * 1_000_000)
        if not 10 <= now < 40:
            found.take("a", [], status(), float(now), now * 1_000_000)
    assert found.kinds("a") == {"silence": 1}
    for now in (1_000, 1_001):  # both come again after a gap of the coordinator's own
        for name in ("a", "b"):
            found.take(name, [], status(), float(now), now * 1_000_000)
    assert found.kinds("a") == {"silence": 1}
    assert found.kinds("b") == {}


def test_an_outlier_of_latency_is_far_from_the_others() -> None:
    found = Reliability()
    for name, p99_ms in (("b", 5.0), ("c", 6.0), ("a", 100.0)):
        found.take(name, slow(p99_ms), status(), 0.0, 0)
    assert found.kinds("a") == {}
    found.take("a", slow(400.0), status(), 1.0, 1)
    assert (found.kinds("a"), found.kinds("b")) == ({"slow": 1}, {})


def test_what_was_learned_outlives_a_restart(tmp_path: Path) -> None:
    before = Reliability()
    before.keep(tmp_path / "reliability.json")
    before.take("a", [], status(7, unclean=True), 0.0, 5)
    after = Reliability()
    after.keep(tmp_path / "reliability.json")
    after.take("a", [], status(7, unclean=True), 0.0, 6)  # the process that is known already
    assert after.kinds("a") == {"unclean start": 1}
    (tmp_path / "reliability.json").write_text("[")
    Reliability().keep(tmp_path / "reliability.json")
