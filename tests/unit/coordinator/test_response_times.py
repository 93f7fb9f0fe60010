"""What the planner's latency model is calibrated by: one measurement an instance and slot."""

from dataclasses import replace

from coordinator.planning.response_times import SLOTS_MAX, ResponseTimes, p50_of
from coordinator.statistics.intake import StatisticsIntake
from sharder.view import View
from tests.support.statistics import statistic
from tests.unit.sharder.scenes import scene, shard, with_instance


def view_of(slot: int, p50_ms: float | None) -> View:
    shards = [
        shard("x/0", "a", [30.0], p50_ms=p50_ms),
        shard("x/1", "a", [10.0], p50_ms=None if p50_ms is None else 5 * p50_ms),
        shard("x/2", "b", [0.0], p50_ms=None),
    ]
    return replace(scene(shards, {"a": 100.0, "b": 100.0}), slot=slot)


def measured(view: View, name: str) -> list[tuple[float, float]]:
    """Shares and p50s, without the last digits of floats."""
    (found,) = [i for i in view.instances if i.id == name]
    return [(round(m.share, 9), round(m.p50_ms, 9)) for m in found.response_times]


def test_each_slot_is_one_measurement_by_the_operations_of_all_shards() -> None:
    kept = ResponseTimes()
    assert measured(kept.seen(view_of(1, None)), "a") == []
    assert measured(kept.seen(view_of(2, 3.0)), "a") == [(0.4, 6.0)]
    assert measured(kept.seen(view_of(2, 1.0)), "a") == [(0.4, 2.0)]
    found = kept.seen(view_of(3, 2.0))
    assert [p50 for _, p50 in measured(found, "a")] == [2.0, 4.0]
    assert measured(found, "b") == []
    assert len(measured(kept.seen(view_of(4, None)), "a")) == 2


def test_only_the_last_slots_of_instances_that_are_there_are_kept() -> None:
    kept = ResponseTimes()
    for slot in range(SLOTS_MAX + 5):
        found = kept.seen(view_of(slot, float(slot + 1)))
    assert len(measured(found, "a")) == SLOTS_MAX
    assert measured(found, "a")[0][1] == 12.0  # of slot 5
    gone = scene([shard("x/2", "b", [0.0])], {"b": 100.0})
    kept.seen(gone)
    assert measured(kept.seen(view_of(99, None)), "a") == []


def test_without_a_limit_no_share_is_used() -> None:
    view = with_instance(view_of(1, 2.0), "a", capacity_ops_per_s=None)
    assert measured(ResponseTimes().seen(view), "a") == [(0.0, 4.0)]


def test_the_p50_of_a_shard_is_that_of_its_last_slot_on_all_instances() -> None:
    intake = StatisticsIntake(60.0)
    for name, slot, ops, p50_ms in (("a", 1, 10, 9.0), ("a", 2, 10, 1.0), ("b", 2, 30, 5.0)):
        row = replace(statistic("x/0", name, slot, ops), p50_ms=p50_ms)
        intake.take(name, 1, [row], None, 0, 0)
    assert p50_of(intake.newest("x/0")) == 4.0
    assert p50_of(intake.newest("x/1")) is None
