"""Intake and view: slots are learned in order, history is not load, units are right."""

from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from coordinator.migration.history import move_history
from coordinator.migration.records import (
    HashResult,
    MigrationRecord,
    Phase,
    State,
)
from coordinator.planning.views import make_view
from coordinator.statistics.intake import SILENT_SLOTS_MAX
from coordinator.statistics.reports import decode_statistics, decode_status
from logstore.base.types import ShardStatus
from logstore.meta.records import CapacityRecord, InstanceRecord, Member, ShardRecord
from sharder.config import PlannerConfig
from sharder.keys import KeyRange
from tests.support.statistics import intake, statistic, status


def test_a_slot_is_learned_once_all_who_tell_of_the_log_have_told_it() -> None:
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", s, 10) for s in range(5)], status("a"), 0.0, 0)
    book.take("b", 1, [statistic("x/1", "b", s, 20) for s in range(3)], status("b"), 0.0, 0)
    assert book.learn(0.1) == 3
    assert book.book.last_slot("x/0") == book.book.last_slot("x/1") == 2
    assert book.learn(2.9) == 0
    assert book.learn(3.0) == 2
    assert book.book.last_slot("x/0") == 4


def test_one_slot_told_by_two_instances_is_added_up() -> None:
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", 7, 10)], None, 0.0, 0)
    book.take("b", 1, [statistic("x/0", "b", 7, 5)], None, 0.0, 0)
    book.learn(0.0)
    load = book.load("x/0")
    assert load is not None
    assert (load.slot, load.ops, load.bytes_moved) == (7, 15.0, 1500.0)
    assert book.book.state("x/0")["values"][-1] == 15.0


def test_slots_that_come_in_disorder_are_learned_in_order() -> None:
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", s, s + 1) for s in (3, 1, 2, 0)], None, 0.0, 0)
    assert book.learn(0.0, slots_max=2) == 2
    assert book.learn(0.0) == 2
    assert book.book.state("x/0")["values"][-4:] == [1.0, 2.0, 3.0, 4.0]
    book.take("a", 1, [statistic("x/0", "a", 2, 100)], None, 0.0, 0)
    assert book.learn(9.0) == 0


def test_alive_is_who_was_heard_from() -> None:
    book = intake()
    assert not book.alive("a", 0.0)
    book.take("a", 1, [], status("a"), 10.0, 0)
    assert book.alive("a", 13.0)
    assert not book.alive("a", 13.1)


def test_a_deleted_log_is_forgotten() -> None:
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", 1, 5), statistic("y/0", "a", 1, 5)], None, 0.0, 0)
    book.learn(0.0)
    book.forget_log("x")
    assert set(book.history()) == {"y/0"}
    assert book.load("x/0") is None
    assert book.forecasts(["x/0"], 3, 0.0, 1.0) == {}
    assert book.newest_slots(["x"]) == {}


def test_the_time_of_a_silent_log_goes_on() -> None:
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", s, 60) for s in range(100)], status("a"), 50.0, 0)
    while book.learn(50.0):
        pass

    def first_slot(now_s: float) -> int:
        return book.forecasts(["x/0"], 3, now_s, 2.0)["x/0"].made_at_slot + 1

    assert first_slot(50.0) == 100
    assert first_slot(57.9) == 103
    assert first_slot(1_000_000.0) == 100 + SILENT_SLOTS_MAX


def test_reports_cross_the_wire() -> None:
    import msgspec

    sent = [statistic("x/0", "a", 1, 5)]
    assert decode_statistics(msgspec.json.encode(sent)) == (sent, [])
    got = decode_status(msgspec.json.encode(status("a")))
    assert got.capacity.ops_per_s == 100.0
    assert got.capacity.bytes_per_s == float("inf")


def shard(number: int, home: str) -> ShardRecord:
    member = Member(home, 1, number + 1)
    return ShardRecord(f"x/{number}", "x", KeyRange(), ShardStatus.OPEN, 1, 1, member, (member,))


def migration(state: State, size: int = 4_000_000) -> MigrationRecord:
    return MigrationRecord(
        "m1",
        "x",
        "x/0",
        Member("a", 1, 1),
        "b",
        1_000_000,
        state=state,
        phases=(Phase(State.PLANNED, 1_000_000), Phase(State.SOAKING, 15_000_000)),
        bytes=size,
        copy_mb_per_s=40.0,
        blackout_ms=8.0,
        hash=HashResult(1, "", "", True),
    )


@pytest.mark.parametrize("active", [False, True])
def test_the_view_is_in_wall_seconds(tmp_path: Path, active: bool) -> None:
    config = CoordinatorConfig(
        data=tmp_path,
        slot_s=3600,
        planning_period_s=1,
        wall_s_per_slot=2,
        horizon_slots=3,
        outlook_slots=3,
    )
    book = intake()
    book.take("a", 1, [statistic("x/0", "a", s, 60) for s in range(100)], status("a"), 0.0, 0)
    while book.learn(0.0):
        pass
    moves = [migration(State.RAMPING if active else State.COMPLETED)]
    view = make_view(
        now_s=100.0,
        mono_s=0.0,
        config=config,
        planner=PlannerConfig(),
        shards=[shard(0, "a"), shard(1, "b")],
        instances=[
            InstanceRecord("a", "h:1", 1, capacity=CapacityRecord(ops_per_s=80.0)),
            InstanceRecord("b", "h:2", 1),
        ],
        alive={"a": True, "b": False},
        intake=book,
        sizes={"x/0": 123},
        migrations=moves,
    )
    first, second = view.shards
    assert (view.period_s, view.slot) == (2.0, 99)
    assert (first.ops_per_s, first.bytes_per_s, first.bytes) == (30.0, 3000.0, 123)
    assert first.forecast is not None
    assert len(first.forecast.mean) == 3
    assert first.forecast.mean[0] == pytest.approx(30.0, rel=0.05)
    assert second.forecast is None
    assert [i.alive for i in view.instances] == [True, False]
    assert view.instances[0].ops_per_s == 30.0
    assert first.migrating is active
    assert len(view.in_flight) == active
    assert (first.last_moved_s, first.last_moved_from) == (15.0, "a")


def test_the_planner_learns_from_past_moves() -> None:
    assert move_history([]).moves == 0
    seen = move_history([migration(State.COMPLETED), migration(State.RAMPING)])
    assert (seen.moves, seen.copy_mb_per_s, seen.blackout_ms) == (1, 40.0, 8.0)
    assert seen.fixed_s == pytest.approx(14.0 - 0.1)
