"""What the planner's view learns of keys, copies and round trips; a split is proposed from it."""

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from coordinator.migration.records import MigrationRecord, Phase, State
from coordinator.planning.views import (
    WEIGHT_HALF_LIFE_S,
    WEIGHT_MIN,
    PastForecast,
    make_view,
    migration_weights,
    with_expected,
)
from coordinator.statistics.intake import StatisticsIntake
from logstore.base.types import ShardStatus
from logstore.meta.records import CapacityRecord, InstanceRecord, Member, ShardRecord
from profiler.types import Capacity, DataStoreStatus, OpType, ShardStatistics
from sharder.config import PlannerConfig
from sharder.keys import KeyRange
from sharder.plan import dump_plan, explain, plan
from sharder.view import View, dump_view, load_view

KEYS = tuple((b"k%02d" % n, 40.0 if n == 30 else 1.0) for n in range(60))


def moved(number: int, state: State, at_s: float, **more: object) -> MigrationRecord:
    phase = Phase(state, round(at_s * 1e6))
    return MigrationRecord(
        f"m{number}", "x", f"x/{number}", Member("a", 1, 1), "b", 0, state=state, phases=(phase,),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_migration_weight_follows_how_moves_turned_out() -> None:
    past = [
        moved(0, State.COMPLETED, 50.0, blackout_ms=20.0),
        moved(1, State.ROLLED_BACK, 60.0, cause="lag"),
        moved(2, State.ROLLED_BACK, 70.0, request="rollback"),  # a person wanted it
        moved(3, State.COMPLETED, 80.0, blackout_ms=20.0),
        moved(4, State.COMPLETED, 90.0, blackout_ms=500.0),
        moved(1, State.ROLLED_BACK, 100.0, cause="lag"),
        moved(5, State.RAMPING, 100.0),
    ]
    found = migration_weights(past, 100.0)
    assert found == pytest.approx(
        {"x/0": 1.1, "x/1": 0.25, "x/2": 1.0, "x/3": 1.1, "x/4": 0.75}, rel=1e-3
    )
    later = migration_weights(past, 100.0 + WEIGHT_HALF_LIFE_S)
    assert later["x/1"] == pytest.approx(0.5, rel=1e-3)
    worst = [moved(1, State.ROLLED_BACK, 60.0 + n, cause="lag") for n in range(30)]
    assert migration_weights(worst, 100.0)["x/1"] == WEIGHT_MIN


def statistic(
    number: int, instance: str, slot: int, keys: tuple[tuple[bytes, float], ...]
) -> object:
    count = round(sum(weight for _, weight in keys))
    return ShardStatistics(
        f"x/{number}", instance, slot, 1.0, {OpType.APPEND: count}, count, 100 * count, 0,
        1.0, 1.0, 2.0, sampled_keys=keys,
    )  # fmt: skip


def record(number: int, home: str, range_: KeyRange, *others: str) -> ShardRecord:
    primary = Member(home, 1, number + 1)
    copies = (primary, *(Member(name, 1, 100 + n) for n, name in enumerate(others)))
    return ShardRecord(f"x/{number}", "x", range_, ShardStatus.OPEN, 1, 1, primary, copies)


@pytest.fixture
def seen(tmp_path: Path) -> View:
    return make_seen(tmp_path)


def make_seen(tmp_path: Path) -> View:
    """x/0 has 99 ops/s of a's 100, two fifths of them on one key; b has 20 of 100."""
    intake = StatisticsIntake(1.0, settle_s=0.0)
    for slot in range(30):
        low = [statistic(0, "a", slot, KEYS), statistic(1, "b", slot, ((b"q", 20.0),))]
        intake.take("a", 1, low, None, 0.0, 0)  # type: ignore[arg-type]
        while intake.learn(10.0):
            pass
    for name, trips in (("a", {"b": 4.0}), ("b", {"a": 2.0}), ("c", {"a": 6.0, "b": 8.0})):
        status = DataStoreStatus(name, 0.1, Capacity(ops_per_s=100.0), round_trip_ms=trips)
        intake.take(name, 1, [], status, 10.0, 0)
    room = CapacityRecord(ops_per_s=100.0)
    return make_view(
        now_s=100.0,
        mono_s=10.0,
        config=CoordinatorConfig(data=tmp_path, slot_s=1, planning_period_s=1, horizon_slots=6),
        planner=PlannerConfig(),
        shards=[record(0, "a", KeyRange(b"", b"m"), "b"), record(1, "b", KeyRange(b"m"))],
        instances=[InstanceRecord(n, f"{n}:1", 1, capacity=room) for n in ("a", "b")],
        alive={"a": True, "b": True},
        intake=intake,
        sizes={"x/0": 1_000_000, "x/1": 1_000},
        migrations=[],
    )


def test_the_view_knows_keys_to_split_at_copies_and_round_trips(seen: View) -> None:
    hot, small = seen.shards
    assert (hot.start, hot.end, hot.in_sync) == (b"", b"m", ("b",))
    below = {cut.key: cut.below for cut in hot.cuts}
    # Both sides of the hot key; the remembered neighbours' weights are estimates.
    assert below[b"k31"] - below[b"k3"] == pytest.approx(40 / 99, abs=0.06)
    assert [cut.below for cut in hot.cuts] == sorted(cut.below for cut in hot.cuts)
    assert all(b"" < cut.key < b"m" for cut in hot.cuts)
    assert small.cuts == ()
    assert [i.round_trip_ms for i in seen.instances] == [4.0, 6.0]


def test_a_split_is_proposed_and_a_stored_view_replays_it_to_the_same_plan(seen: View) -> None:
    made = plan(seen)
    assert [(op.kind, op.shard) for op in made.operators] == [("split", "x/0")]
    assert made.operators[0].key in {cut.key for cut in seen.shards[0].cuts}
    assert made.startable() == ()  # advice, until splits are among `planner.executable`
    again = plan(load_view(dump_view(seen)))
    assert dump_plan(again) == dump_plan(made)
    assert explain(again) == explain(made)


def test_a_follower_in_sync_becomes_the_primary_where_that_cures(seen: View) -> None:
    roomy = replace(seen, instances=(
        seen.instances[0], replace(seen.instances[1], capacity_ops_per_s=400.0)
    ))  # fmt: skip
    made = plan(roomy)
    assert [(op.kind, op.strategy, op.target) for op in made.startable()] == [
        ("switch", "switch", "b")
    ]


def test_a_view_knows_what_was_forecast_for_the_slot_it_shows(seen: View) -> None:
    assert with_expected(seen, None) is seen
    before_all = PastForecast.of(seen)
    assert with_expected(seen, before_all) is seen  # of the same slot
    for later in (1, 6):
        now = with_expected(replace(seen, slot=seen.slot + later), before_all)
        for shard, before in zip(now.shards, seen.shards, strict=True):
            assert before.forecast is not None
            assert shard.expected_ops_per_s == before.forecast.mean[later - 1]
    beyond = with_expected(replace(seen, slot=seen.slot + 7), before_all)  # 6 slots were forecast
    assert [s.expected_ops_per_s for s in beyond.shards] == [None, None]


def test_forecasts_reach_a_day_or_96_slots_and_only_the_horizon_of_very_many_shards(
    tmp_path: Path, seen: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead(slot_s: float, **more: int) -> int:
        return CoordinatorConfig(data=tmp_path, slot_s=slot_s, **more).slots_ahead  # type: ignore[arg-type]

    assert [ahead(3600.0), ahead(900.0), ahead(300.0), ahead(86_400.0)] == [24, 96, 96, 12]
    assert [ahead(3600.0, outlook_slots=1), ahead(3600.0, outlook_slots=40)] == [12, 40]
    forecast = seen.shards[0].forecast
    assert forecast is not None
    assert len(forecast.mean) == 96
    monkeypatch.setattr("coordinator.planning.views.OUTLOOK_SHARDS_MAX", 1)
    few = make_seen(tmp_path).shards[0].forecast
    assert few is not None
    assert len(few.mean) == 6
