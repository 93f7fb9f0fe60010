"""The latency model: what it learns from measurements, what a move gains, how it orders a plan."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from msgspec import UNSET

from sharder.config import PlannerConfig, RiskConfig
from sharder.latency import FITTED_MIN, SHARE_MAX, LatencyModel, calibrated
from sharder.load import LoadTable
from sharder.operators import LatencyGain
from sharder.plan import dump_plan, plan
from sharder.view import ResponseTime, View
from tests.unit.sharder.scenes import scene, shard, with_instance

CAPACITY = {"a": 100.0, "b": 100.0, "c": 100.0, "d": 100.0}


def curve(fixed: float, service: float, shares: Sequence[float]) -> tuple[ResponseTime, ...]:
    return tuple(ResponseTime(s, fixed + service / (1.0 - min(s, SHARE_MAX))) for s in shares)


def hot(config: PlannerConfig | None = None) -> View:
    """`a` and `b` cross, `a` with more certainty; `c` and `d` have room."""
    shards = [
        *(shard(f"log/a{n}", "a", [40.0] * 6) for n in range(3)),
        *(shard(f"log/b{n}", "b", [28.0] * 6, 2.0) for n in range(3)),
    ]
    return scene(shards, CAPACITY, config)


def measured(view: View, **curves: tuple[ResponseTime, ...]) -> View:
    for name, found in curves.items():
        view = with_instance(view, name, response_times=found)
    return view


def test_the_fixed_part_is_told_from_the_service_time() -> None:
    shares = np.linspace(0.1, 0.9, FITTED_MIN).tolist()
    found = calibrated(curve(2.0, 1.5, shares))
    assert found is not None
    assert found == pytest.approx((2.0, 1.5))


@pytest.mark.parametrize("shares", [[0.5], [0.5] * 30, [0.5, 0.9]])
def test_too_little_is_known_for_a_fixed_part(shares: list[float]) -> None:
    assert calibrated(curve(0.0, 3.0, shares)) == pytest.approx((0.0, 3.0))


def test_without_measurements_nothing_is_known_and_load_that_does_not_slow_costs_nothing() -> None:
    assert calibrated(()) is None
    shares = np.linspace(0.1, 0.9, 20).tolist()
    flat = tuple(ResponseTime(s, 4.0) for s in shares)
    assert calibrated(flat) == pytest.approx((4.0, 0.0), abs=1e-9)
    falling = tuple(ResponseTime(s, 9.0 - 5.0 * s) for s in shares)
    found = calibrated(falling)
    assert found is not None
    assert found[1] == 0.0
    assert found[0] > 0


def test_a_move_gains_what_the_model_says() -> None:
    shards = [shard("log/0", "a", [40.0] * 4), shard("log/1", "a", [40.0] * 4)]
    view = measured(scene(shards, {"a": 100.0, "b": 100.0}), a=curve(0.0, 1.0, [0.8]))
    model = LatencyModel.of(LoadTable(view))
    assert model is not None
    found = model.gain(row=0, source=0, target=1, end_s=3600.0)
    # 80 ops/s at 1 / 0.2 ms become twice 40 at 1 / 0.6; b counts as a; 3 of 4 periods of an hour.
    assert (found.before_ms, found.after_ms) == pytest.approx((5.0, 1.0 / 0.6))
    assert found.ops_per_s == pytest.approx(80.0)
    assert found.saved_s == pytest.approx(3 * 3600.0 * 80.0 * (5.0 - 1.0 / 0.6) / 1e3)
    assert "Expected gain 3.33 ms p50 over 80 ops/s (5 to 1.67 ms" in found.sentence()
    late = model.gain(row=0, source=0, target=1, end_s=1e9)  # the last period stands for later
    assert late.gain_ms == pytest.approx(found.gain_ms)
    half = model.gain(row=0, source=0, target=1, end_s=3600.0, part=0.5)
    assert 0 < half.gain_ms < found.gain_ms
    slow = measured(view, b=curve(0.0, 50.0, [0.1]))
    worse = LatencyModel.of(LoadTable(slow))
    assert worse is not None
    assert "Expected loss" in worse.gain(0, 0, 1, 3600.0).sentence()


def test_an_overload_counts_as_the_highest_share_that_has_a_mean() -> None:
    shards = [shard("log/0", "a", [400.0] * 2), shard("log/1", "a", [400.0] * 2)]
    view = measured(scene(shards, {"a": 100.0, "b": 1000.0}), a=curve(0.0, 1.0, [0.5]))
    model = LatencyModel.of(LoadTable(view))
    assert model is not None
    assert model.gain(0, 0, 1, 0.0).before_ms == pytest.approx(1.0 / (1.0 - SHARE_MAX))


def test_the_waiting_that_is_saved_orders_a_plan() -> None:
    by_risk = [op.source for op in plan(hot()).operators]
    assert (by_risk[0], by_risk[-1]) == ("a", "b")
    slow_b = {"a": curve(0.0, 0.001, [0.5]), "b": curve(0.0, 400.0, [0.5])}
    view = measured(hot(), **slow_b)
    found = plan(view).operators
    assert found[0].source == "b"
    weight = RiskConfig().latency_weight
    worths = [op.worth(weight) for op in found]
    assert worths == sorted(worths, reverse=True)
    assert all(isinstance(op.latency, LatencyGain) for op in found)
    assert all("ms p50 over" in op.reason for op in found)
    blind = PlannerConfig(risk=RiskConfig(latency_weight=0.0))
    assert [op.source for op in plan(measured(hot(blind), **slow_b)).operators] == by_risk


def test_a_plan_without_response_times_has_no_word_of_them() -> None:
    made = plan(hot())
    assert made.operators
    assert all(op.latency is UNSET for op in made.operators)
    assert b"latency" not in dump_plan(made)
    assert b"p50" not in dump_plan(made)
    other = replace(hot(), config=PlannerConfig(risk=RiskConfig(latency_weight=50.0)))
    assert dump_plan(plan(other)) == dump_plan(made)
