"""Where no operations/s are stated, shards go by what their operations cost in CPU."""

from dataclasses import replace

import pytest

from sharder.load import CPU, LoadTable
from sharder.plan import explain, plan
from sharder.view import InstanceView, View
from tests.unit.sharder.scenes import scene, shard


def unstated(view: View, **cores: float) -> View:
    """`view` with no capacity but these cores."""
    instances = []
    for instance in view.instances:
        mine = [s for s in view.shards if s.instance == instance.id]
        used = sum(s.ops_per_s * s.cpu_s_per_op for s in mine)
        instances.append(
            InstanceView(
                instance.id,
                ops_per_s=instance.ops_per_s,
                capacity_cpu=cores[instance.id],
                cpu=used,
            )
        )
    return replace(view, instances=tuple(instances))


SHARDS = [
    shard("scan", "a", [100.0] * 4, cpu_s_per_op=5e-3),
    shard("small", "a", [1_000.0] * 4, cpu_s_per_op=4e-4),
    shard("cheap", "b", [2_000.0] * 4, cpu_s_per_op=5e-5),
]


def test_a_hot_instance_is_relieved_by_cost_and_not_by_operations() -> None:
    view = unstated(scene(SHARDS, {"a": 1.0, "b": 1.0}), a=1.0, b=1.0)
    made = plan(view)
    (crossing,) = made.crossings
    assert (crossing.instance, crossing.forecast.unit) == ("a", "cores")
    assert crossing.forecast.mean == pytest.approx(0.9)
    (move,) = made.operators
    assert (move.source, move.target) == ("a", "b")
    assert "up to 0.9 cores" in move.reason


def test_where_all_share_one_capacity_no_move_is_planned_and_the_reason_is_told() -> None:
    view = unstated(scene(SHARDS, {"a": 1.0, "b": 1.0}), a=1.0, b=0.15)
    made = plan(view)
    assert made.crossings
    assert not made.operators
    assert "small stays on a: no other instance would stay under" in "".join(explain(made))


def test_stated_capacities_leave_the_table_as_it_was() -> None:
    stated = scene(SHARDS, {"a": 2_000.0, "b": 3_000.0})
    table = LoadTable(stated)
    assert table.capacity.shape[1] == CPU  # operations and bytes
    free = [replace(s, cpu_s_per_op=0.0) for s in stated.shards]
    assert plan(replace(stated, shards=tuple(free))) == plan(stated)


def test_the_reported_load_counts_where_moves_change_it() -> None:
    view = unstated(scene(SHARDS, {"a": 1.0, "b": 1.0}), a=2.0, b=2.0)
    told = [replace(i, load=0.95, bound_by=by) for i, by in
            zip(view.instances, ("CPU", "memory"), strict=True)]  # fmt: skip
    used = LoadTable(replace(view, instances=tuple(told))).used
    assert used.tolist() == [0.95, pytest.approx(0.05)]


def test_a_bad_cost_is_named() -> None:
    view = unstated(scene(SHARDS, {"a": 1.0, "b": 1.0}), a=1.0, b=1.0)
    bad = replace(view.shards[0], cpu_s_per_op=float("nan"))
    with pytest.raises(ValueError, match="shard scan: cpu_s_per_op is nan"):
        LoadTable(replace(view, shards=(bad, *view.shards[1:])))
