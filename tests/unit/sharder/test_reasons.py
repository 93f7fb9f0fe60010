"""One small view for every numbered reason, and the page that lists them."""

import re
from dataclasses import replace
from pathlib import Path

from sharder.config import PlanMode, PlannerConfig, RiskConfig
from sharder.operators import Refusal
from sharder.plan import plan
from sharder.reasons import TEMPLATES, Reason
from sharder.view import InFlight, MoveHistory, ShardView, View
from tests.unit.sharder.scenes import HOUR_S, MB, scene, shard, with_instance

TWO = {"a": 100.0, "b": 100.0}
ROOT = Path(__file__).parents[3]


def hot(config: PlannerConfig | None = None, **first: object) -> View:
    """a is at 95 of 100 with two shards; moving either cures it; b is empty."""
    shards = [
        replace(shard("log/0", "a", [50.0] * 6), **first),  # type: ignore[arg-type]
        shard("log/1", "a", [45.0] * 6, size=100 * MB),
    ]
    return scene(shards, TWO, config)


def refusals(view: View, shard_id: str | None) -> list[Refusal]:
    return [r for r in plan(view).refused if r.shard == shard_id]


def only(view: View, shard_id: str | None, instance: str = "a") -> Refusal:
    found = [r for r in refusals(view, shard_id) if r.instance == instance]
    assert len(found) == 1, found
    assert found[0].sentence().startswith(f"[{found[0].reason.value}] ")
    assert instance in found[0].sentence()
    return found[0]


def test_1_below_threshold() -> None:
    refused = only(scene([shard("log/0", "a", [40.0] * 6)], TWO), None)
    assert refused.reason is Reason.BELOW_THRESHOLD
    assert (round(refused.value, 9), refused.limit) == (0.4, 0.8)


def test_2_already_migrating() -> None:
    view = hot(migrating=True)
    assert only(view, "log/0").reason is Reason.ALREADY_MIGRATING
    assert [op.shard for op in plan(view).operators] == ["log/1"]
    flying = InFlight("m1", "move", "log/0", "a", "b", expected_end_s=9 * HOUR_S)
    assert only(replace(hot(), in_flight=(flying,)), "log/0").reason is Reason.ALREADY_MIGRATING


def test_3_cooldown() -> None:
    refused = only(hot(last_moved_s=-100.0), "log/0")
    assert refused.reason is Reason.COOLDOWN
    assert (refused.value, refused.limit) == (100.0, 900.0)
    assert [op.shard for op in plan(hot(last_moved_s=-901.0)).operators] == ["log/0"]


def test_4_no_target_with_headroom() -> None:
    view = with_instance(hot(), "b", capacity_ops_per_s=40.0)
    assert only(view, "log/0").reason is Reason.NO_TARGET
    assert plan(view).operators == ()
    # The target must have room in every period to come, not just now.
    busy_later = scene([*hot().shards, shard("log/2", "b", [0.0] * 5 + [60.0])], TWO)
    assert only(busy_later, "log/1").reason is Reason.NO_TARGET
    assert plan(busy_later).operators == ()


def test_5_would_not_cure() -> None:
    small = shard("log/2", "a", [4.0] * 6, size=1)
    refused = only(scene([*hot().shards, small], TWO), "log/2")
    assert refused.reason is Reason.WOULD_NOT_CURE
    assert round(refused.value, 6) == round(95 / 80 - 1, 6)


def test_6_not_worth_it() -> None:
    dear = PlannerConfig(risk=RiskConfig(move_cost_fixed=1e6))
    refused = only(hot(dear), "log/0")
    assert refused.reason is Reason.NOT_WORTH_IT
    assert refused.value < refused.limit
    assert plan(hot(dear)).operators == ()


def test_7_too_many_operators() -> None:
    assert only(hot(PlannerConfig(operators_in_flight_max=0)), "log/0").limit == 0.0
    for config in (
        PlannerConfig(operators_in_flight_max=0),
        PlannerConfig(operators_per_instance_max=0),
    ):
        assert only(hot(config), "log/0").reason is Reason.TOO_MANY_OPERATORS
        assert plan(hot(config)).operators == ()
    # The limit holds for the target as well.
    flying = InFlight("m1", "move", "log/7", "c", "b", expected_end_s=HOUR_S)
    shards = [*hot().shards, shard("log/7", "c", [1.0] * 6, migrating=True)]
    config = PlannerConfig(operators_per_instance_max=1)
    full = replace(scene(shards, {**TWO, "c": 10.0}, config), in_flight=(flying,))
    assert only(full, "log/0").reason is Reason.TOO_MANY_OPERATORS


def test_8_not_alive() -> None:
    dead_source = with_instance(hot(), "a", alive=False)
    assert only(dead_source, None).reason is Reason.NOT_ALIVE
    assert plan(dead_source).operators == ()
    dead_target = with_instance(hot(), "b", alive=False)
    assert only(dead_target, None, "b").reason is Reason.NOT_ALIVE
    assert only(dead_target, "log/0").reason is Reason.NO_TARGET


def test_9_not_due_yet() -> None:
    later = scene(
        [shard("log/0", "a", [20.0] * 20 + [50.0]), shard("log/1", "a", [45.0] * 21)], TWO
    )
    operator = plan(later).operators[0]
    refused = only(later, operator.shard)
    assert refused.reason is Reason.NOT_DUE
    assert refused.value == operator.start_s > HOUR_S


def test_10_target_would_flip_back() -> None:
    came_from_b = hot(last_moved_s=-1000.0, last_moved_from="b")
    refused = only(came_from_b, "log/0")
    assert refused.reason is Reason.FLIP_BACK
    assert refused.other == "b"
    third = scene(came_from_b.shards, {**TWO, "c": 100.0})
    assert [(op.shard, op.target) for op in plan(third).operators] == [("log/0", "c")]
    assert plan(hot(last_moved_s=-3601.0, last_moved_from="b")).operators[0].target == "b"


def test_11_not_the_best() -> None:
    refused = only(hot(), "log/1")
    assert refused.reason is Reason.NOT_BEST
    assert refused.other == "log/0"


def test_12_pinned() -> None:
    assert only(hot(migration_weight=0.0), "log/0").reason is Reason.PINNED
    assert [op.shard for op in plan(hot(migration_weight=0.0)).operators] == ["log/1"]


def test_13_passes_by_itself() -> None:
    spike = scene(
        [shard("log/0", "a", [90.0, 20.0, 20.0])], TWO, moves=MoveHistory(fixed_s=2 * HOUR_S)
    )
    assert only(spike, None).reason is Reason.PASSES_BY_ITSELF
    over_now = with_instance(scene([shard("log/0", "a", [20.0] * 3)], TWO), "a", ops_per_s=95.0)
    assert only(over_now, None).reason is Reason.PASSES_BY_ITSELF


def test_14_forecast_only() -> None:
    view = hot(PlannerConfig(mode=PlanMode.FORECAST_ONLY))
    assert only(view, None).reason is Reason.FORECAST_ONLY
    assert len(plan(view).crossings) == 1


def test_15_search_limit() -> None:
    # Room on b and c is in different periods, so only a search finds that there is no target.
    shards = [shard(f"log/{i}", "a", [30.0] * 6) for i in range(3)] + [
        shard("log/8", "b", [60.0] * 3 + [0.0] * 3),
        shard("log/9", "c", [0.0] * 3 + [60.0] * 3),
    ]
    view = scene(shards, {**TWO, "c": 100.0}, PlannerConfig(target_searches_max=1))
    assert only(view, "log/0").reason is Reason.NO_TARGET
    assert only(view, "log/1").reason is Reason.SEARCH_LIMIT
    patient = replace(view, config=PlannerConfig())
    assert only(patient, "log/1").reason is Reason.NO_TARGET


def test_every_reason_has_a_template_and_a_line_in_the_docs() -> None:
    assert set(TEMPLATES) == set(Reason)
    text = (ROOT / "docs" / "reference" / "reasons.md").read_text()
    listed = {int(n): name for n, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M)}
    assert listed == {r.value: r.name.lower() for r in Reason}


def test_shards_are_refused_at_most_once() -> None:
    shards: list[ShardView] = [shard(f"log/{i}", "a", [9.0] * 6) for i in range(12)]
    result = plan(scene(shards, {**TWO, "c": 20.0}))
    keys = [(r.instance, r.shard) for r in result.refused]
    assert len(keys) == len(set(keys))
    assert {r.shard for r in result.refused if r.instance == "a"} | {
        op.shard for op in result.operators
    } >= {s.id for s in shards}
