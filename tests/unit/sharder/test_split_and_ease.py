"""Splits at learned keys, and easing what nothing cures."""

from dataclasses import replace

import pytest

from sharder.config import PlannerConfig
from sharder.plan import Plan, plan
from sharder.reasons import Reason
from sharder.view import SplitPoint, View, dump_view, load_view
from tests.unit.sharder.scenes import scene, shard

TWO = {"a": 100.0, "b": 100.0}


def cuts(*below: float) -> tuple[SplitPoint, ...]:
    return tuple(SplitPoint(f"k{n}".encode(), share) for n, share in enumerate(below))


def big(
    learned: tuple[SplitPoint, ...], load: float = 95.0, config: PlannerConfig | None = None
) -> View:
    """a is over its limit with one shard that fits nowhere as a whole; b has 40 of 100."""
    shards = [
        shard("log/0", "a", [load] * 6, cuts=learned),
        shard("log/1", "b", [40.0] * 6),
    ]
    return scene(shards, TWO, config)


def only(made: Plan) -> tuple[str, bytes | None, str]:
    assert len(made.operators) == 1
    op = made.operators[0]
    return op.kind, op.key, op.target


def test_a_shard_too_big_to_move_is_split_at_the_key_nearest_to_half_that_cures() -> None:
    made = plan(big(cuts(0.1, 0.3, 0.45, 0.9)))
    # k2 would leave 43 to move: too much for b (75). k1's 28.5 fits and cures; 0.1 does not cure.
    assert only(made) == ("split", b"k1", "b")
    assert made.operators[0].expected_gain > 0
    assert "learned key" in made.operators[0].reason


def test_kinds_that_the_coordinator_cannot_carry_out_are_advice_only() -> None:
    made = plan(big(cuts(0.3)))
    assert made.operators[0].due
    assert not made.operators[0].executable
    assert made.startable() == ()
    able = PlannerConfig(executable=("move", "split"))
    assert (
        plan(big(cuts(0.3), config=able)).startable() == plan(big(cuts(0.3), config=able)).operators
    )
    unable = PlannerConfig(executable=())
    movable = scene([shard("log/0", "a", [50.0] * 6), shard("log/1", "a", [45.0] * 6)], TWO, unable)
    assert plan(movable).operators
    assert plan(movable).startable() == ()


def test_a_hot_key_is_cut_off_at_its_side() -> None:
    made = plan(big(cuts(0.2, 0.95)))  # the stretch k0..k1 has three quarters of the load
    assert only(made)[:2] == ("split", b"k0")
    assert "cuts off a hot key" in made.operators[0].reason


def test_a_shard_too_much_for_any_instance_is_halved_in_place() -> None:
    made = plan(big(cuts(0.4, 0.6), load=400.0))
    assert only(made) == ("split", b"k0", "a")
    assert "too much for any instance" in made.operators[0].reason


def test_16_no_part() -> None:
    config = PlannerConfig(policies=("move_hot", "split"))
    made = plan(big(cuts(0.01, 0.99), config=config))
    assert [r.reason for r in made.refused if r.shard == "log/0"] == [Reason.NO_PART]
    assert made.operators == ()


def test_without_learned_keys_nothing_is_split() -> None:
    made = plan(big(()))
    assert made.operators == ()
    assert [r.reason for r in made.refused if r.shard == "log/0"] == [Reason.NO_TARGET]


def test_cuts_survive_storing_the_view() -> None:
    view = big(cuts(0.3, 0.6))
    assert load_view(dump_view(view)) == view
    assert plan(load_view(dump_view(view))) == plan(view)


def crowded(config: PlannerConfig | None = None) -> View:
    """No instance has room for a shard of a under its limit, but b is far better off than a."""
    shards = [shard(f"log/{n}", "a", [30.0] * 6, 4.0) for n in range(4)]
    shards += [shard("log/8", "b", [50.0] * 6, 4.0)]
    return scene(shards, TWO, config)


def test_what_nothing_cures_is_eased_when_that_pays() -> None:
    strict = plan(crowded(PlannerConfig(policies=("move_hot", "split"))))
    assert strict.operators == ()
    assert Reason.NO_TARGET in {r.reason for r in strict.refused}
    shards = [shard(f"log/{n}", "a", [23.0] * 6, 6.0) for n in range(4)]
    near = scene([*shards, shard("log/8", "b", [60.0] * 6, 6.0)], TWO)
    assert plan(replace(near, config=PlannerConfig(policies=("move_hot",)))).operators == ()
    eased = plan(near).operators
    assert [(op.kind, op.source, op.target) for op in eased] == [("move", "a", "b")]
    assert eased[0].expected_gain > 0
    assert "no instance has room enough" in eased[0].reason


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"planner\.policies names 'dance'"):
        plan(replace(crowded(), config=PlannerConfig(policies=("dance",))))
