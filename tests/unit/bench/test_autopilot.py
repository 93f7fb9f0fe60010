"""What `bench autopilot` plays and how it judges, without a cluster."""

from bisect import bisect_right

import numpy as np
import pytest

from bench.autopilot_model import compare
from bench.autopilot_run import CROWD_S, RefusalCounts, _figures, crowd_setup
from bench.planning import make_view
from coordinator.local.demo.drive import Driver
from coordinator.local.demo.scene import Replay
from coordinator.migration.records import MigrationRecord, Phase, State
from coordinator.migration.service import told as migration_told
from logstore.meta.records import Member
from sharder.plan import plan


def test_the_crowd_is_too_much_for_one_instance_but_not_for_all() -> None:
    setup = crowd_setup(1)
    assert np.array_equal(crowd_setup(1).replay.at_s, setup.replay.at_s)
    names = setup.events["key"].to_pylist()
    home = np.array([setup.homes[bisect_right(setup.cuts, key)] for key in names])
    second = setup.replay.at_s.astype(int)
    loads = np.zeros((int(CROWD_S), 3))
    np.add.at(loads, (second, home[setup.replay.row]), 1.0)
    smooth = np.stack([np.convolve(loads[:, k], np.ones(5) / 5, "valid") for k in range(3)])
    assert sorted(smooth.max(axis=1) > setup.ops_per_s) == [False, False, True]
    assert loads.sum(axis=1).max() < 0.8 * 3 * setup.ops_per_s
    assert loads[: int(0.3 * CROWD_S)].max() < 0.4 * setup.ops_per_s


def test_the_model_is_held_against_what_was_measured() -> None:
    rng = np.random.default_rng(3)
    at_s = np.sort(rng.uniform(0.0, 60.0, 6_000))
    instance = (rng.random(6_000) < 0.7).astype(np.int64)  # 70 and 30 of 100 a second
    latency = rng.exponential(5.0, 6_000)
    found = compare(at_s, latency, instance, capacity=100.0, slo_ms=250.0)
    assert found["over_slo_measured"] == 0
    assert found["predicted_to_measured_p95_when_quiet"] == pytest.approx(1.0, abs=0.2)
    assert found["service_ms"] == pytest.approx(5.0 * 0.7, rel=0.3)
    late = np.where(instance == 1, 2_000.0, latency)
    over = compare(at_s, late, instance, capacity=40.0, slo_ms=250.0)
    assert over["over_slo_both"] >= 55
    assert over["over_slo_measured"] == 60


def test_seconds_over_the_slo_are_put_down_to_their_cause() -> None:
    at_s = np.arange(0.0, 10.0, 0.01)
    driver = Driver.__new__(Driver)
    driver.replay = Replay(at_s, np.arange(1000), np.zeros(1000, dtype=bool), 0, 10)
    driver.latency_ms = np.full(1000, 1.0)
    for second in (2, 5, 8):
        driver.latency_ms[100 * second : 100 * second + 5] = 900.0
    driver.latency_ms[250] = np.nan  # never answered
    driver.counts = type("Counts", (), {"errors": 1})()
    seen = RefusalCounts([0.0, 2.0, 2.5, 3.0, 9.9], [0, 0, 7, 7, 7])
    record = MigrationRecord(
        id="m1", log="load", shard="load/1", source=Member("a", 1, 1), target_instance="b",
        created_us=4_500_000, state=State.COMPLETED, trigger="forecast", blackout_ms=3.0,
        phases=(Phase(State.SOAKING, 5_500_000),),
    )  # fmt: skip
    found = _figures(driver, seen, [migration_told(record, None, 6_000_000, 10.0)], 0, 250.0)
    figures = found.as_json()
    seconds = [figures[key] for key in ("slo_seconds", "by_overload", "by_move", "by_machine")]
    assert seconds == [3, 1, 1, 1]
    assert (figures["throttled"], figures["errors"], figures["moves"]) == (7, 1, 1)


def test_the_view_of_the_plan_benchmark_has_what_it_says() -> None:
    view = make_view(1_000, 10, 0.3, 1)
    made = plan(view)
    assert len(view.shards) == 1_000
    assert len(made.crossings) == 3
    assert {op.kind for op in made.operators} <= {"move", "switch", "split", "replicate", "merge"}
