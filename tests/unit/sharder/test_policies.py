"""What each policy proposes; the reasons that they give are provoked here too (17 to 27)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sharder.config import PlannerConfig
from sharder.operators import Operator, Refusal
from sharder.plan import dump_plan, plan
from sharder.reasons import Reason
from sharder.view import InFlight, MoveHistory, View, dump_view, load_view
from tests.unit.sharder.scenes import MB, carried_out, scene, shard, with_instance

ABLE = ("move", "switch", "split", "merge", "replicate")
TWO = {"a": 100.0, "b": 100.0}
THREE = {**TWO, "c": 100.0}
DAY_S = 86_400.0


def able(**changes: object) -> PlannerConfig:
    return replace(PlannerConfig(executable=ABLE), **changes)  # type: ignore[arg-type]


def one(view: View, kind: str) -> Operator:
    """The plan's only operator; carrying it out leaves nothing of its kind to do."""
    made = plan(view).operators
    assert [op.kind for op in made] == [kind], made
    assert plan(carried_out(view, plan(view))).operators == ()
    assert dump_plan(plan(load_view(dump_view(view)))) == dump_plan(plan(view))
    return made[0]


def refusal(view: View, reason: Reason, shard_id: str | None) -> Refusal:
    found = [r for r in plan(view).refused if (r.reason, r.shard) == (reason, shard_id)]
    assert len(found) == 1, plan(view).refused
    assert found[0].sentence().startswith(f"[{reason.value}] ")
    assert found[0].instance in found[0].sentence()
    return found[0]


def none_planned(view: View) -> None:
    assert plan(view).operators == ()


# ---- switch ------------------------------------------------------------------------------------


def in_sync_elsewhere(held: Sequence[str], config: PlannerConfig | None = None) -> View:
    shards = [
        shard("log/0", "a", [50.0] * 6, size=10_000 * MB, in_sync=tuple(held)),
        shard("log/1", "a", [45.0] * 6, size=10 * MB),
    ]
    return scene(shards, THREE, config or able())


def test_a_primary_switches_to_a_copy_in_sync_before_anything_is_moved() -> None:
    op = one(in_sync_elsewhere(["c"]), "switch")
    assert (op.shard, op.source, op.target, op.bytes) == ("log/0", "a", "c", 0)
    assert op.expected_gain > 0
    assert op.expected_duration_s == MoveHistory().fixed_s
    assert "copies nothing" in op.reason


def test_where_switches_are_not_carried_out_the_shard_moves() -> None:
    view = in_sync_elsewhere(["c"], able(executable=("move",)))
    made = plan(view).startable()
    assert [(op.kind, op.shard) for op in made] == [("move", "log/1")]


def test_a_switch_in_flight_counts_at_its_target_and_stores_nothing_there() -> None:
    view = in_sync_elsewhere(["c"])
    flying = InFlight("s1", "switch", "log/0", "a", "c", expected_end_s=60.0)
    view = replace(view, in_flight=(flying,))
    none_planned(view)  # a is cured by it
    small = with_instance(view, "c", capacity_stored_bytes=1000 * MB)
    assert Reason.STORAGE_FULL not in {r.reason for r in plan(small).refused}


def test_19_no_switch() -> None:
    view = in_sync_elsewhere(["c"])
    busy = replace(view, shards=(*view.shards, shard("log/2", "c", [60.0] * 6)))
    assert refusal(busy, Reason.NO_SWITCH, "log/0").value == 1.0
    assert [op.kind for op in plan(busy).operators] == ["move"]


def test_a_move_keeps_copies_on_other_instances_and_in_other_zones() -> None:
    shards = [
        shard("log/0", "a", [50.0] * 6, in_sync=("b",)),
        shard("log/1", "a", [45.0] * 6, migration_weight=0.0),
    ]
    view = scene(shards, {**THREE, "d": 100.0}, able(executable=("move",)))
    for name, zone in (("a", "z1"), ("b", "z2"), ("c", "z2"), ("d", "z3")):
        view = with_instance(view, name, zone=zone)
    assert one(view, "move").target == "d"
    alone = replace(view, instances=tuple(i for i in view.instances if i.id in "abc"))
    none_planned(alone)
    assert refusal(alone, Reason.NO_TARGET, "log/0").instance == "a"


# ---- move cold ---------------------------------------------------------------------------------


def full(config: PlannerConfig | None = None, cold: float = 1.0) -> View:
    """a stores 950 MB of 1 GB, mostly in a rarely used shard; c is nearer than b."""
    shards = [
        shard("log/0", "a", [30.0] * 6, size=550 * MB),
        shard("log/1", "a", [cold] * 6, size=400 * MB),
    ]
    view = scene(shards, THREE, config or able())
    view = with_instance(view, "a", capacity_stored_bytes=1000 * MB)
    view = with_instance(view, "b", capacity_stored_bytes=1000 * MB, round_trip_ms=9.0)
    return with_instance(view, "c", capacity_stored_bytes=1000 * MB, round_trip_ms=1.0)


def test_a_full_instance_sheds_what_is_rarely_used_to_the_nearest() -> None:
    op = one(full(), "move")
    assert (op.shard, op.target) == ("log/1", "c")
    assert "rarely used" in op.reason
    assert op.expected_gain > 0


def test_17_storage_full_and_18_not_cold() -> None:
    busy = full(cold=5.0)
    none_planned(busy)
    assert refusal(busy, Reason.STORAGE_FULL, None).value == 0.95
    assert refusal(busy, Reason.NOT_COLD, "log/1").limit == 0.02
    nowhere = full()
    for name in "bc":
        nowhere = with_instance(nowhere, name, capacity_stored_bytes=300 * MB)
    none_planned(nowhere)
    assert refusal(nowhere, Reason.STORAGE_FULL, None)
    assert refusal(nowhere, Reason.NO_TARGET, "log/1")


def test_a_busy_instance_is_relieved_of_cold_shards_when_hot_ones_cannot_go() -> None:
    shards = [shard("log/h", "a", [76.0] * 6, 1.0, migration_weight=0.0)]
    shards += [shard(f"log/{n}", "a", [1.5] * 6, 0.1, size=n + 1) for n in range(6)]
    shards += [shard("log/x", "b", [60.0] * 6)]
    view = scene(shards, TWO, able(policies=("move_cold",), operators_per_instance_max=9))
    made = plan(view).operators
    assert made
    assert all(op.source == "a" and op.target == "b" for op in made)
    assert all("rarely used" in op.reason for op in made)
    assert plan(carried_out(view, plan(view))).operators == ()


# ---- drain -------------------------------------------------------------------------------------


def draining(config: PlannerConfig | None = None) -> View:
    shards = [
        shard("log/0", "a", [20.0] * 6, migration_weight=0.0),
        shard("log/1", "a", [10.0] * 6, in_sync=("c",), last_moved_s=-1.0),
        shard("log/2", "b", [10.0] * 6),
    ]
    return with_instance(scene(shards, THREE, config or able()), "a", draining=True)


def test_all_leaves_a_draining_instance_pinned_or_not_and_nothing_comes() -> None:
    made = plan(draining()).operators
    assert {(op.kind, op.shard, op.source) for op in made} == {
        ("move", "log/0", "a"),
        ("switch", "log/1", "a"),
    }
    assert all(op.target != "a" for op in made)
    after = carried_out(draining(), plan(draining()))
    none_planned(after)
    assert refusal(after, Reason.DRAINED, None).instance == "a"
    hot = scene([shard("log/0", "b", [50.0] * 6), shard("log/1", "b", [45.0] * 6)], TWO)
    none_planned(with_instance(hot, "a", draining=True))


def test_a_drain_that_has_no_room_says_so() -> None:
    view = draining(able(policies=("drain",)))
    for name in "bc":
        view = with_instance(view, name, capacity_ops_per_s=12.0)
    assert refusal(view, Reason.NO_TARGET, "log/0").instance == "a"
    waits = draining(able(operators_in_flight_max=1))
    assert len(plan(waits).startable()) == 1
    assert Reason.TOO_MANY_OPERATORS in {r.reason for r in plan(waits).refused}


# ---- spread ------------------------------------------------------------------------------------


def crowded_zone() -> View:
    view = scene([shard("log/0", "a", [10.0] * 6, in_sync=("b",))], THREE, able())
    for name, zone in (("a", "z1"), ("b", "z1"), ("c", "z2")):
        view = with_instance(view, name, zone=zone)
    return view


def test_a_second_copy_in_a_zone_goes_to_another_zone() -> None:
    op = one(crowded_zone(), "replicate")
    assert (op.shard, op.source, op.target) == ("log/0", "b", "c")
    spread = with_instance(crowded_zone(), "b", zone="z3")
    none_planned(spread)


def test_a_zone_with_a_dead_copy_is_taken() -> None:
    three = {**THREE, "d": THREE["c"]}
    view = scene([shard("log/0", "a", [10.0] * 6, in_sync=("b", "d"))], three, able())
    for name, zone in (("a", "z1"), ("b", "z1"), ("c", "z2"), ("d", "z2")):
        view = with_instance(view, name, zone=zone)
    dead = with_instance(view, "d", alive=False)
    none_planned(dead)
    assert refusal(dead, Reason.NO_ZONE, "log/0").instance == "b"


def test_20_no_zone() -> None:
    small = with_instance(crowded_zone(), "c", capacity_stored_bytes=MB)
    none_planned(small)
    assert refusal(small, Reason.NO_ZONE, "log/0").instance == "b"


# ---- tier --------------------------------------------------------------------------------------


def tiers(load: float = 30.0, config: PlannerConfig | None = None) -> View:
    view = scene([shard("log/0", "a", [load] * 6)], THREE, config or able())
    return with_instance(view, "b", tier="fast")


def test_hot_shards_go_to_the_faster_tier_if_that_pays() -> None:
    op = one(tiers(), "move")
    assert (op.shard, op.target) == ("log/0", "b")
    assert op.expected_gain == pytest.approx(0.3 * 1e-3 * DAY_S)
    none_planned(tiers(load=0.5))
    none_planned(with_instance(tiers(), "b", tier="standard"))


def test_hot_shards_leave_an_instance_that_fails_often() -> None:
    view = with_instance(tiers(), "b", tier="standard")
    flaky = with_instance(view, "a", failures_per_day=4.0)
    assert one(flaky, "move").target in {"b", "c"}
    assert "(standard, 4.00)" in one(flaky, "move").reason
    rare = with_instance(view, "a", failures_per_day=0.1)
    none_planned(rare)
    assert plan(with_instance(tiers(), "b", failures_per_day=100.0)).operators == ()


def test_25_no_better_tier() -> None:
    small = with_instance(tiers(), "b", capacity_ops_per_s=20.0)
    none_planned(small)
    assert refusal(small, Reason.NO_BETTER_TIER, "log/0").instance == "a"


# ---- co-locate ---------------------------------------------------------------------------------


def together(load: float = 20.0, correlation: float = 0.9) -> View:
    shards = [
        shard("log/0", "a", [load] * 6, related={"log/1": correlation, "log/9": 1.0}),
        shard("log/1", "b", [load] * 6, size=MB),
    ]
    return scene(shards, THREE, able())


def test_shards_used_together_come_together_the_cheaper_one_moves() -> None:
    op = one(together(), "move")
    assert (op.shard, op.source, op.target) == ("log/1", "b", "a")
    assert "used together" in op.reason
    none_planned(together(correlation=0.5))
    none_planned(together(load=0.2))


def test_26_peaks_coincide() -> None:
    heavy = together(load=45.0)
    none_planned(heavy)
    assert refusal(heavy, Reason.PEAKS_COINCIDE, "log/1").other == "log/0"


def test_co_location_never_lowers_the_tier() -> None:
    view = with_instance(together(), "b", tier="fast")
    made = plan(replace(view, config=able(policies=("co_locate",)))).operators
    assert [(op.shard, op.target) for op in made] == [("log/0", "b")]


# ---- merge -------------------------------------------------------------------------------------


def neighbours(load: float = 1.0, **second: object) -> View:
    keys = [b"", b"b", b"c", b"d", b"e"]
    shards = [
        shard(f"log/{n}", "b" if n > 1 else "a", [load if n < 2 else 30.0] * 6, start=keys[n],
              end=[*keys[1:], None][n])
        for n in range(5)
    ]  # fmt: skip
    shards[1] = replace(shards[1], **second)  # type: ignore[arg-type]
    return scene(shards, {"a": 100.0, "b": 300.0}, able(policies=("merge",)))


def test_rarely_used_neighbours_are_joined() -> None:
    op = one(neighbours(), "merge")
    assert (op.shard, op.partner, op.source, op.target) == ("log/0", "log/1", "a", "a")
    assert op.bytes == 0


def test_21_neighbour_apart() -> None:
    view = neighbours(instance="b", in_sync=("a",))  # a move would leave the copies apart
    none_planned(view)
    found = refusal(view, Reason.NEIGHBOUR_APART, "log/1")
    assert (found.instance, found.other) == ("b", "log/0")


def test_neighbours_apart_come_together_before_they_are_joined() -> None:
    view = neighbours(instance="b", bytes=1)
    (op,) = plan(view).operators
    assert (op.kind, op.shard, op.source, op.target) == ("move", "log/1", "b", "a")
    one(carried_out(view, plan(view)), "merge")
    held = neighbours(instance="b", in_sync=("a",), bytes=1)
    both = replace(held, shards=(replace(held.shards[0], in_sync=("b",)), *held.shards[1:]))
    (op,) = plan(both).operators
    assert (op.kind, op.shard, op.source, op.target) == ("switch", "log/1", "b", "a")
    assert op.bytes == 0


def test_neighbours_are_joined_only_when_they_were_cold_for_long() -> None:
    none_planned(neighbours(peak_ops_per_s=6.0))
    one(neighbours(peak_ops_per_s=3.0), "merge")


def test_a_log_keeps_the_shards_that_it_was_created_with() -> None:
    def created_with(count: int) -> View:
        view = neighbours()
        return replace(view, shards=tuple(replace(s, log_shards_min=count) for s in view.shards))

    none_planned(created_with(5))
    one(created_with(4), "merge")


def test_without_a_known_capacity_only_idle_neighbours_are_joined() -> None:
    def unlimited(load: float) -> View:
        return with_instance(neighbours(load=load), "a", capacity_ops_per_s=None)

    one(unlimited(0.5), "merge")
    none_planned(unlimited(1.5))


def test_22_too_big_together() -> None:
    busy = neighbours(load=3.0)
    none_planned(busy)
    assert refusal(busy, Reason.TOO_BIG_TOGETHER, "log/0").value == 0.06
    large = neighbours(bytes=2 << 30)
    assert refusal(large, Reason.TOO_BIG_TOGETHER, "log/0").other == "log/1"


def test_23_too_young() -> None:
    view = neighbours(opened_s=-100.0)
    none_planned(view)
    assert refusal(view, Reason.TOO_YOUNG, "log/0").value == 100.0
    one(neighbours(opened_s=-DAY_S - 1), "merge")


def test_24_few_shards() -> None:
    view = neighbours()
    four = replace(view, shards=view.shards[:4])
    none_planned(four)
    assert refusal(four, Reason.FEW_SHARDS, "log/0").limit == 4.0


def test_shards_of_unknown_range_and_of_other_logs_are_not_joined() -> None:
    none_planned(neighbours(start=None))
    none_planned(neighbours(log="other"))


def test_a_far_target_is_taken_for_much_more_room_only_and_costs_time() -> None:
    """Two targets with the same room within a step of headroom, one behind a slow line."""
    trips = {"b": (40_000.0, 90_000.0), "c": (300.0, 400.0)}
    loads = [[70.0] * 6, [25.0] * 6]
    shards = [shard(f"log/{n}", "a", load) for n, load in enumerate(loads)]
    view = scene(shards, {"a": 100.0, "b": 100.0, "c": 100.0}, able(policies=("move_hot",)))
    here = with_instance(view, "a", round_trips_us=trips)
    moved = one(here, "move")
    assert moved.target == "c"
    only_far = with_instance(here, "c", alive=False)
    longer = one(only_far, "move")
    assert longer.target == "b"
    assert longer.expected_duration_s - moved.expected_duration_s == pytest.approx(20 * 0.0896)
