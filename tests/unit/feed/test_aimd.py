"""The pace of copies: up while appends do not feel it, down at once when they do."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from logstore.feed.aimd import (
    CREDIT_STEPS,
    DEBT_STEPS,
    DECREASE,
    INCREASE_BYTES_PER_S,
    REST_S,
    STEP_S,
    Aimd,
    Felt,
    Guard,
)
from logstore.node.config import NodeConfig
from logstore.node.resources.copy_pace import NOW_S, CopyPace, LiveLatency

MB = 1e6


def aimd(before_ms: float | None = 10.0) -> Aimd:
    made = Aimd(2 * MB, 200 * MB, Guard(1.2, 2.0))
    made.begin(before_ms, 0.0)
    return made


CALLS = 1_000
"""In each step; ten of them may be slow."""


def felt(slow: int, p99_ms: float = 10.0) -> Felt:
    return Felt(p99_ms, CALLS, slow)


def test_it_rises_while_the_allowance_is_kept_and_falls_once_it_is_overdrawn() -> None:
    pace = aimd()
    start = pace.rate
    assert pace.limit_ms == 12.0
    assert pace.step(felt(10), STEP_S) == start + INCREASE_BYTES_PER_S
    assert pace.step(felt(0), STEP_S * 1.5) == start + INCREASE_BYTES_PER_S, "not before its time"
    high = pace.step(felt(0), 2 * STEP_S)
    assert pace.step(felt(10 + 10 * CREDIT_STEPS), 3 * STEP_S) == high, "paid from what was kept"
    assert pace.step(felt(11), 4 * STEP_S) == pytest.approx(high * DECREASE)
    assert pace.since_s == 4 * STEP_S + REST_S / 2
    assert pace.step(felt(99), 5 * STEP_S) == pytest.approx(high * DECREASE), "it rests after it"
    assert pace.step(felt(99), 4 * STEP_S + REST_S) == pytest.approx(high * DECREASE**2)
    assert pace.breaches == 2
    low, at_s = pace.rate, 4 * STEP_S + 2 * REST_S
    assert pace.step(felt(0), at_s) == low, "what was overdrawn is earned back first"
    for _ in range(DEBT_STEPS + 1):
        at_s += STEP_S
        pace.step(felt(0), at_s)
    assert pace.rate > low


def test_it_keeps_within_its_bounds() -> None:
    pace = aimd()
    for i in range(1, 200):
        pace.step(felt(100), i * REST_S)
    assert pace.rate == 2 * MB
    for i in range(1, 200):
        pace.step(felt(0), 1_000 + i * STEP_S)
    assert pace.rate == 200 * MB
    pace.bound(50 * MB)
    assert pace.step(felt(0), 5_000.0) == 50 * MB


def test_without_traffic_nothing_holds_it_and_traffic_that_comes_does() -> None:
    pace = aimd(None)
    assert pace.rate == 200 * MB
    assert pace.step(None, 1.0) == 200 * MB
    assert pace.step(felt(0, 5.0), 2.0) < 200 * MB, "appends came: slow, and hold what they have"
    assert pace.before_ms == 5.0
    low = pace.rate
    assert pace.step(felt(0), 3.0) > low


def test_load_that_the_copy_did_not_bring_becomes_what_is_held() -> None:
    pace = aimd(10.0)
    for i in range(1, 60):  # the p99 is 30 ms from now on, at whatever rate
        slow = 5 if pace.limit_ms > 30 else 400
        pace.step(felt(slow, 30.0), i * REST_S)
    assert pace.before_ms == 30.0
    assert pace.rate > 100 * MB


def test_a_small_p99_is_never_a_breach() -> None:
    assert aimd(0.5).limit_ms == 2.0


def test_it_finds_the_rate_that_the_machine_can_bear() -> None:
    """A plant that makes more appends slow from 60 MB/s on: the rate stays around it, and over
    the whole time no more than one in a hundred is slow."""
    pace, rng = aimd(10.0), np.random.default_rng(1)
    found, slow, calls = [], 0, 0
    for i in range(1, 4_000):
        share = 0.006 + max(0.0, pace.rate / MB - 60) * 0.002
        now_slow = int(rng.binomial(CALLS, share))
        pace.step(felt(now_slow), i * STEP_S)
        found.append(pace.rate / MB)
        slow, calls = slow + now_slow, calls + CALLS
    assert 35 < np.mean(found[200:]) < 70
    assert max(found[200:]) < 110
    assert slow / calls < 0.015


def test_noise_without_a_cause_does_not_stop_a_copy() -> None:
    """Slow appends come in bursts, as many as there were before the copy."""
    pace, rng = aimd(10.0), np.random.default_rng(2)
    for i in range(1, 400):
        pace.step(felt(60 if rng.random() < 0.1 else 2), i * STEP_S)
    assert pace.rate > 100 * MB


def test_live_p99_is_of_the_last_moments_and_adds_the_wait_of_the_loop() -> None:
    live = LiveLatency()
    assert live.p99_ms(0.0, NOW_S) is None
    for i in range(1_000):
        live.acked(i * 0.001, [i * 0.001 - 0.004])
    assert live.p99_ms(1.0, NOW_S) == pytest.approx(4.0)
    live.lagged(0.002)
    for i in range(100):
        live.acked(1.0 + i * 0.001, [1.0 + i * 0.001 - 0.004])
    assert live.p99_ms(1.1, NOW_S) == pytest.approx(6.0)
    felt = live.felt(1.1, 0.9995, 5.0)
    assert felt is not None
    assert felt == Felt(felt.p99_ms, 100, 100)
    assert felt.p99_ms == pytest.approx(6.0)
    assert live.p99_ms(10.0, NOW_S) is None, "old samples are no traffic"
    assert live.felt(10.0, 9.0, 5.0) is None


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
