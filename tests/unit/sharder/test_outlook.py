"""Forecasts behind the horizon decide between moves that cure; they never ask for a move."""

from dataclasses import replace

import numpy as np
import pytest

from sharder.config import PlannerConfig, RiskConfig
from sharder.draft import Draft
from sharder.load import LoadTable
from sharder.plan import dump_plan, plan
from sharder.risk import overload_periods
from sharder.view import InFlight, ShardView, View, dump_view, load_view
from tests.unit.sharder.scenes import carried_out, scene, shard

MORNING, DAY = 6, 24
THREE = {"a": 100.0, "b": 100.0, "c": 100.0}


def config(**changes: object) -> PlannerConfig:
    values = {"horizon_periods": MORNING, **changes}
    return replace(PlannerConfig(), **values)  # type: ignore[arg-type]


def day(morning: float, evening: float) -> list[float]:
    """Load of 24 h; the planner's horizon ends with the morning."""
    return [morning] * MORNING + [evening] * (DAY - MORNING)


def hot_in_the_morning(more: list[ShardView]) -> View:
    """`a` is over its limit all morning; either of its small shards cures it."""
    mine = [
        shard("log/0", "a", day(60, 40)),
        shard("log/1", "a", day(15, 10)),
        shard("log/2", "a", day(16, 30)),
    ]
    return scene([*mine, *more], THREE, config(hysteresis=0.0))


def without_outlook(view: View) -> View:
    """The same view with forecasts that end at the horizon."""

    def cut(s: ShardView) -> ShardView:
        f = s.forecast
        assert f is not None
        return replace(s, forecast=replace(
            f, mean=f.mean[:MORNING], lower80=f.lower80[:MORNING], upper80=f.upper80[:MORNING]
        ))  # fmt: skip

    return replace(view, shards=tuple(cut(s) for s in view.shards))


def moves(view: View) -> list[tuple[str, str]]:
    return [(op.shard, op.target) for op in plan(view).operators]


def test_the_target_has_room_in_the_evening_too() -> None:
    full_later = [shard("log/8", "b", day(20, 75)), shard("log/9", "c", day(40, 40))]
    view = hot_in_the_morning(full_later)
    assert moves(without_outlook(view)) == [("log/1", "b")]  # most room in the morning
    assert {target for _, target in moves(view)} == {"c"}


def test_the_shard_that_would_be_too_much_in_the_evening_goes() -> None:
    rest = [shard("log/8", "b", day(40, 20)), shard("log/9", "c", day(40, 20))]
    view = hot_in_the_morning(rest)  # in the evening a has 80 of 80: without log/2 50
    assert [s for s, _ in moves(without_outlook(view))] == ["log/1"]
    assert [s for s, _ in moves(view)] == ["log/2"]
    (move,) = plan(view).operators
    assert "In the 24 periods that are forecast the two instances are expected" in move.reason
    assert move.reason.endswith(" s less in all.")
    (near,) = plan(without_outlook(view)).operators
    assert near.reason.endswith("overloaded instance-seconds.")
    assert plan(carried_out(view, plan(view))).operators == ()
    assert dump_plan(plan(load_view(dump_view(view)))) == dump_plan(plan(view))


def test_an_evening_alone_starts_no_move() -> None:
    view = scene(
        [shard("log/0", "a", day(40, 95)), shard("log/1", "b", day(5, 5))], THREE, config()
    )
    made = plan(view)
    assert made.operators == ()
    assert made.crossings == ()
    assert made.horizon_s == MORNING * view.period_s


def test_sums_follow_what_is_in_flight_and_what_is_accepted() -> None:
    view = hot_in_the_morning([shard("log/8", "b", day(20, 75))])
    flying = InFlight("m1", "move", "log/1", "a", "c", expected_end_s=60.0)
    there = replace(view, shards=tuple(
        replace(s, instance="c") if s.id == "log/1" else s for s in view.shards
    ))  # fmt: skip
    rows = np.array([0])

    def chosen(seen: View) -> list[float]:
        outlook = Draft(seen, LoadTable(seen)).outlook
        assert outlook is not None
        return [float(outlook.burden(rows, np.array([k]))[0, 0]) for k in range(3)]

    assert chosen(replace(view, in_flight=(flying,))) == pytest.approx(chosen(there))
    draft = Draft(view, LoadTable(view))
    assert draft.outlook is not None
    draft.outlook.shift(1, 0, 2)
    after = [float(draft.outlook.burden(rows, np.array([k]))[0, 0]) for k in range(3)]
    assert after == pytest.approx(chosen(there))


def test_relief_is_what_the_shard_burdened() -> None:
    view = hot_in_the_morning([shard("log/8", "b", day(20, 75))])
    draft = Draft(view, LoadTable(view))
    outlook = draft.outlook
    assert outlook is not None
    spared = float(outlook.relief(0, np.array([0]))[0])
    outlook.shift(0, 0, 2)
    assert spared == pytest.approx(float(outlook.burden(np.array([0]), np.array([0]))[0, 0]))
    assert spared > 0


def test_where_forecasts_end_at_the_horizon_there_is_no_outlook() -> None:
    view = without_outlook(hot_in_the_morning([]))
    assert Draft(view, LoadTable(view)).outlook is None


def test_expected_overload_by_hand() -> None:
    """Two periods at the limit count a half each; bytes without a limit never count."""
    loads = np.zeros((3, 2, 2))
    loads[0, 0] = 80.0
    found = overload_periods(loads, np.array([80.0, np.inf]), 0.08, RiskConfig())
    assert float(found) == pytest.approx(1.0, abs=1e-6)
    loads[0, 0] = 40.0
    assert float(overload_periods(loads, np.array([80.0, np.inf]), 0.08, RiskConfig())) < 1e-6
    loads[0, 1] = 1e9  # bytes/s of any number
    assert float(overload_periods(loads, np.array([80.0, np.inf]), 0.08, RiskConfig())) < 1e-6


def test_the_error_of_the_outlook_is_bounded() -> None:
    with pytest.raises(ValueError, match=r"planner\.outlook_error is 0.* 1e-06\.\.1 of the limit"):
        PlannerConfig(outlook_error=0.0)
