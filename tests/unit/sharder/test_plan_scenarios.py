"""Seeded scenarios on three instances with hourly periods, planned at midnight."""

from dataclasses import replace

import numpy as np
import pytest

from sharder.config import PlanMode, PlannerConfig
from sharder.plan import dump_plan, explain, load_plan, plan
from sharder.reasons import Reason
from sharder.view import InFlight, InstanceView, MoveHistory, ShardView, View, dump_view, load_view
from tests.unit.sharder.scenes import (
    HOUR_S,
    MB,
    carried_out,
    diurnal,
    scene,
    shard,
    with_instance,
)

CAPACITY = {"a": 100.0, "b": 100.0, "c": 100.0}
MOVES = MoveHistory(copy_mb_per_s=20.0, fixed_s=30.0, blackout_ms=20.0, moves=5)


def rush_hour(config: PlannerConfig | None = None) -> View:
    """Instance a carries two evening shards; only around 17:00 are they too much for it."""
    shards = [
        shard("log/0", "a", diurnal(50, 5, 17), 4.0, size=600 * MB),
        shard("log/1", "a", diurnal(45, 5, 17), 4.0, size=200 * MB),
        shard("log/2", "a", [2.0] * 24, 0.2, size=50 * MB),
        shard("log/3", "b", diurnal(60, 10, 17), 4.0, size=400 * MB),
        shard("log/4", "c", diurnal(40, 10, 5), 4.0, size=400 * MB),
    ]
    return scene(shards, CAPACITY, config, moves=MOVES)


def test_peak_of_tomorrow_is_met_by_a_move_before_it() -> None:
    view = rush_hour(PlannerConfig(trough_gain=None))
    result = plan(view)
    assert [op.shard for op in result.operators] == ["log/1"]  # cures, with the fewest bytes
    op = result.operators[0]
    assert (op.source, op.target, op.strategy) == ("a", "c", "shadow")  # b peaks at 17:00 too
    assert op.trigger == "forecast"
    crossing_s = result.crossings[0].crossing_s
    assert 12 * HOUR_S < crossing_s <= 17 * HOUR_S
    move_s = 30.0 + 200 / 20
    assert op.expected_duration_s == pytest.approx(move_s)
    assert op.start_s == pytest.approx(crossing_s - move_s - HOUR_S)
    assert op.start_s + op.expected_duration_s < op.deadline_s == crossing_s
    assert op.forecast.mean == pytest.approx(50 + 45 + 2)
    assert op.forecast.lower < op.forecast.mean < op.forecast.upper
    assert op.forecast.horizon_s == 17 * HOUR_S
    assert op.risk > 0
    assert op.expected_gain > 0
    assert not op.due
    assert result.startable() == ()


def test_after_the_plan_nothing_more_is_planned() -> None:
    view = rush_hour()
    after = carried_out(view, plan(view))
    again = plan(after)
    assert again.operators == ()
    assert again.crossings == ()
    later = plan(replace(after, now_s=12 * 3600.0))  # past every cooldown: still nothing
    assert later.operators == ()


def test_the_move_becomes_due_in_the_period_in_which_it_must_start() -> None:
    view = rush_hour()
    start_s = plan(view).operators[0].start_s
    for hour in range(1, 24):
        left = [
            replace(
                s,
                forecast=None
                if s.forecast is None
                else replace(
                    s.forecast,
                    mean=s.forecast.mean[hour:],
                    lower80=s.forecast.lower80[hour:],
                    upper80=s.forecast.upper80[hour:],
                ),
            )
            for s in view.shards
        ]
        now = replace(view, now_s=hour * HOUR_S, shards=tuple(left))
        op = plan(now).operators[0]
        if op.due:
            assert hour * HOUR_S <= op.start_s < (hour + 1) * HOUR_S
            assert op.start_s == pytest.approx(start_s)
            assert plan(now).startable() == (op,)
            return
    pytest.fail("the move never became due")


def test_a_trough_before_the_latest_safe_time_is_taken_but_not_hours_ahead() -> None:
    latest_s = plan(rush_hour(PlannerConfig(trough_gain=None))).operators[0].start_s
    for lead in (0, 2, 4):
        config = PlannerConfig(trough_gain=0.1, trough_lead_periods=lead)
        start_s = plan(rush_hour(config)).operators[0].start_s
        assert start_s <= latest_s
        assert latest_s - start_s < (lead + 1) * HOUR_S
        assert (start_s < latest_s) == (lead > 0)  # the load rises until 17:00


def test_constant_load_below_the_threshold_moves_nothing() -> None:
    view = scene([shard(f"log/{i}", "a", [15.0] * 24, 0.5) for i in range(5)], CAPACITY)
    result = plan(view)
    assert result.operators == ()
    assert [r.reason for r in result.refused] == [Reason.BELOW_THRESHOLD] * 3


def test_random_walk_that_does_not_reach_capacity_moves_nothing() -> None:
    rng = np.random.default_rng(17)
    walk = np.clip(np.cumsum(rng.normal(0, 2.0, 48)) + 40, 20, 55)
    half = 2.0 * np.sqrt(np.arange(1, 25))  # a random walk's interval grows with the root of time
    view = scene([shard("log/0", "a", [float(walk[-1])] * 24, half.tolist())], CAPACITY)
    assert float(walk[-1]) + half[-1] < 80
    assert plan(view).operators == ()
    narrow = with_instance(view, "a", capacity_ops_per_s=(float(walk[-1]) + half[-1]) / 0.8 * 0.9)
    assert plan(narrow).operators != ()  # the same walk against less capacity does


def test_an_instance_over_its_threshold_now_is_relieved_now() -> None:
    view = scene(
        [shard("log/0", "a", [45.0] * 6, 3.0), shard("log/1", "a", [44.0] * 6, 3.0)], CAPACITY
    )
    op = plan(view).operators[0]
    assert op.trigger == "reactive"
    assert op.start_s == view.now_s
    assert op.due
    assert "over its threshold now" in op.reason


def test_many_small_moves_cure_what_no_single_one_does() -> None:
    shards = [shard(f"log/{i:02}", "a", [9.0] * 6) for i in range(11)]  # 99 of 80
    view = scene(shards, CAPACITY)
    result = plan(view)
    assert len(result.operators) == 3
    assert plan(carried_out(view, result)).crossings == ()


def test_bytes_per_s_count_as_load_too() -> None:
    view = rush_hour()
    wide = with_instance(view, "a", capacity_ops_per_s=None, capacity_bytes_per_s=100 * 100.0)
    result = plan(wide)
    assert [op.shard for op in result.operators] == ["log/1"]
    assert result.operators[0].forecast.unit == "bytes/s"
    unlimited = with_instance(view, "a", capacity_ops_per_s=None)
    assert plan(unlimited).operators == ()


def test_a_full_disk_is_no_target() -> None:
    view = rush_hour()
    assert plan(view).operators[0].target == "c"
    full = with_instance(view, "c", capacity_stored_bytes=500 * MB, stored_bytes=400 * MB)
    assert "c" not in {op.target for op in plan(full).operators}


def test_nearer_instance_wins_among_equals() -> None:
    shards = [shard("log/0", "a", [45.0] * 6), shard("log/1", "a", [44.0] * 6)]
    view = scene(shards, CAPACITY)
    for near, far in (("b", "c"), ("c", "b")):
        apart = with_instance(with_instance(view, far, round_trip_ms=9.0), near, round_trip_ms=1.0)
        assert plan(apart).operators[0].target == near


def test_in_flight_move_counts_at_its_target() -> None:
    shards = [
        shard("log/0", "a", [45.0] * 6),
        shard("log/1", "a", [44.0] * 6),
        shard("log/2", "b", [40.0] * 6, migrating=True),
    ]
    view = scene(shards, {"a": 100.0, "b": 120.0, "c": 100.0})
    assert plan(view).operators[0].target == "c"
    moving = replace(
        view, in_flight=(InFlight("m1", "move", "log/2", "b", "c", expected_end_s=100.0),)
    )
    assert plan(moving).operators[0].target == "b"  # c is going to hold log/2


def test_dry_run_shows_but_does_not_start() -> None:
    active = plan(scene([shard("log/0", "a", [90.0] * 6), *_pair()], CAPACITY))
    dry = plan(
        scene(
            [shard("log/0", "a", [90.0] * 6), *_pair()],
            CAPACITY,
            PlannerConfig(mode=PlanMode.DRY_RUN),
        )
    )
    assert dry.operators == active.operators != ()
    assert dry.startable() == ()
    assert active.startable() == active.operators


def _pair() -> list[ShardView]:
    return [shard("log/8", "b", [42.0] * 6), shard("log/9", "b", [43.0] * 6)]


def test_forecast_only_shows_crossings_without_operators() -> None:
    result = plan(rush_hour(PlannerConfig(mode=PlanMode.FORECAST_ONLY)))
    assert [c.instance for c in result.crossings] == ["a"]
    assert result.crossings[0].probability > 0.5
    assert result.operators == ()
    assert Reason.FORECAST_ONLY in {r.reason for r in result.refused}


def test_stored_view_replays_to_the_same_plan_and_plans_are_stored() -> None:
    view = rush_hour()
    stored = dump_view(view)
    assert load_view(stored) == view
    assert dump_plan(plan(load_view(stored))) == dump_plan(plan(view))
    assert load_plan(dump_plan(plan(view))) == plan(view)
    for bad in (b"{}", b"nonsense"):
        with pytest.raises(ValueError, match="not a stored view"):
            load_view(bad)
        with pytest.raises(ValueError, match="not a stored plan"):
            load_plan(bad)


def test_explain_has_a_sentence_for_everything() -> None:
    result = plan(rush_hour())
    sentences = explain(result)
    assert len(sentences) == len(result.operators) + len(result.refused)
    assert sentences[0].startswith("move log/1: a is forecast to cross it in")
    refused = zip(sentences[len(result.operators) :], result.refused, strict=True)
    assert all(s.startswith(f"[{r.reason.value}] ") for s, r in refused)


def test_empty_views_plan_nothing() -> None:
    assert plan(View(0.0, 60.0, 0, (), ())).refused == ()
    alone = View(0.0, 60.0, 0, (), (InstanceView("a", 10.0),))
    assert [r.reason for r in plan(alone).refused] == [Reason.BELOW_THRESHOLD]


def test_views_that_do_not_fit_together_are_refused() -> None:
    good = rush_hour()
    with pytest.raises(ValueError, match="log/0 is on unknown instance a"):
        replace(good, instances=good.instances[1:])
    with pytest.raises(ValueError, match="shard id twice"):
        replace(good, shards=good.shards * 2)
    with pytest.raises(ValueError, match="period_s is 0"):
        replace(good, period_s=0.0)
    with pytest.raises(ValueError, match="capacity_ops_per_s is -1"):
        with_instance(good, "a", capacity_ops_per_s=-1.0)
    with pytest.raises(ValueError, match="log/9: its forecast is not finite"):
        plan(scene([shard("log/9", "a", [float("nan")] * 3)], CAPACITY))
    with pytest.raises(ValueError, match="log/9: migration_weight is -2"):
        plan(scene([shard("log/9", "a", [1.0], migration_weight=-2.0)], CAPACITY))


@pytest.mark.parametrize(
    ("expected", "moved"), [(90.0, False), (40.0, False), (30.0, True), (None, False)]
)
def test_a_rise_that_no_forecast_had_foreseen_is_reckoned_to_stay(
    expected: float | None, moved: bool
) -> None:
    """The forecast sees it pass before a move could end; one that missed it is not believed."""
    loads = ([50.0, 5.0, 5.0, 5.0], [40.0, 4.0, 4.0, 4.0])
    said = (None, None) if expected is None else (expected * 5 / 9, expected * 4 / 9)
    shards = [
        shard(f"log/{i}", "a", load, expected_ops_per_s=e)
        for i, (load, e) in enumerate(zip(loads, said, strict=True))
    ]
    result = plan(scene(shards, {"a": 100.0, "b": 100.0}, moves=MoveHistory(fixed_s=2 * HOUR_S)))
    assert bool(result.startable()) is moved
    if moved:
        (operator,) = result.operators
        assert (operator.source, operator.target, operator.trigger) == ("a", "b", "reactive")
        assert "model present rate, which no forecast had foreseen" in operator.reason
    else:
        assert next(r.reason for r in result.refused if r.shard is None) is Reason.PASSES_BY_ITSELF


def test_a_surprise_may_be_left_out_of_account_and_has_a_lower_bound() -> None:
    shards = [
        shard("log/0", "a", [50.0, 5.0, 5.0], expected_ops_per_s=1.0),
        shard("log/1", "a", [40.0, 4.0, 4.0], expected_ops_per_s=1.0),
    ]
    config = PlannerConfig(surprise=None)
    view = scene(shards, {"a": 100.0, "b": 100.0}, config, moves=MoveHistory(fixed_s=2 * HOUR_S))
    assert plan(view).operators == ()
    with pytest.raises(ValueError, match=r"surprise is 0.5, it must be within 1..1e\+09 times"):
        PlannerConfig(surprise=0.5)
