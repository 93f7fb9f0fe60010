"""The pace of copies: up while appends do not feel it, down at once when they do."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from logstore.feed.aimd import DECREASE, INCREASE_BYTES_PER_S, REST_S, STEP_S, Aimd, Guard
from logstore.node.config import NodeConfig
from logstore.node.copying import NOW_S, CopyPace, LiveLatency

MB = 1e6


def aimd(before_ms: float | None = 10.0) -> Aimd:
    made = Aimd(2 * MB, 200 * MB, Guard(1.2, 2.0))
    made.begin(before_ms, 0.0)
    return made


def test_it_rises_by_steps_while_the_p99_holds_and_falls_by_a_factor() -> None:
    pace = aimd()
    start = pace.rate
    assert pace.step(11.9, STEP_S) == start + INCREASE_BYTES_PER_S
    assert pace.step(11.9, STEP_S * 1.5) == start + INCREASE_BYTES_PER_S, "not before its time"
    high = pace.step(11.9, 2 * STEP_S)
    assert pace.step(12.1, 3 * STEP_S) == pytest.approx(high * DECREASE)
    assert pace.step(99.0, 4 * STEP_S) == pytest.approx(high * DECREASE), "it rests after a fall"
    assert pace.step(99.0, 3 * STEP_S + REST_S) == pytest.approx(high * DECREASE**2)
    assert pace.breaches == 2


def test_it_keeps_within_its_bounds() -> None:
    pace = aimd()
    for i in range(1, 200):
        pace.step(100.0, i * REST_S)
    assert pace.rate == 2 * MB
    for i in range(1, 200):
        pace.step(1.0, 1_000 + i * STEP_S)
    assert pace.rate == 200 * MB
    pace.bound(50 * MB)
    assert pace.step(1.0, 5_000.0) == 50 * MB


def test_without_traffic_nothing_holds_it_and_traffic_that_comes_does() -> None:
    pace = aimd(None)
    assert pace.rate == 200 * MB
    assert pace.step(None, 1.0) == 200 * MB
    assert pace.step(5.0, 2.0) < 200 * MB, "appends came: slow, and hold what they have now"
    assert pace.before_ms == 5.0
    low = pace.rate
    assert pace.step(5.5, 3.0) > low
    assert pace.step(7.0, 4.0) < low + INCREASE_BYTES_PER_S


def test_a_small_p99_is_never_a_breach() -> None:
    pace = aimd(0.5)
    before = pace.rate
    assert pace.step(1.9, STEP_S) > before


def test_it_finds_the_rate_that_the_machine_can_bear() -> None:
    """A plant whose p99 rises above the guard from 60 MB/s on: the rate stays around it."""
    pace, rng = aimd(10.0), np.random.default_rng(1)
    found = []
    for i in range(2_000):
        over = max(0.0, pace.rate / MB - 60)
        pace.step(10.0 + 0.5 * over + rng.normal(0, 0.3), i * STEP_S)
        found.append(pace.rate / MB)
    assert 35 < np.mean(found[200:]) < 75
    assert max(found[200:]) < 90


def test_live_p99_is_of_the_last_moments_and_adds_the_wait_of_the_loop() -> None:
    live = LiveLatency()
    assert live.p99_ms(0.0, NOW_S) is None
    for i in range(1_000):
        live.acked(i * 0.001, 0.004)
    assert live.p99_ms(1.0, NOW_S) == pytest.approx(4.0)
    for i in range(100):
        live.lagged(1.0 + i * 0.001, 0.002)
    assert live.p99_ms(1.1, NOW_S) == pytest.approx(6.0)
    assert live.p99_ms(10.0, NOW_S) is None, "old samples are no traffic"


def pace_of(folder: Path, copies: int, **settings: object) -> tuple[CopyPace, list[float]]:
    config = NodeConfig(instance="i", data=folder, metadata=["127.0.0.1:1"], **settings)  # type: ignore[arg-type]
    now = [100.0]
    return CopyPace(config, lambda: now[0], lambda: copies), now


async def test_the_clusters_bound_is_shared_by_its_copies(tmp_path: Path) -> None:
    pace, now = pace_of(tmp_path, 4, copy_bytes_per_s_cluster=40 * MB)
    with pace.copying():
        assert pace.aimd.rate == 10 * MB, "one of four"
        with pace.copying():
            now[0] += 1.0
            await pace.spend(0)
            assert pace.aimd.rate_max == 20 * MB, "two of four"


async def test_copies_of_an_instance_share_its_bound(tmp_path: Path) -> None:
    pace, _ = pace_of(tmp_path, 1, copy_bytes_per_s=100 * MB)
    with pace.copying(), pace.copying():
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(pace.spend(4_000_000) for _ in range(2)))
        assert loop.time() - began >= 0.07, "8 MB at 100 MB/s"
