"""Placement before the write: shares, sizes and schemas, correction, lost instances."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharder.key_table import hashes_of
from sharder.keys import KeyRange, ranges_from_cuts
from sharder.placement import (
    Estimate,
    Headroom,
    Placement,
    PlacementConfig,
    Preference,
    Slot,
    headrooms,
    takes_keys,
    token_of,
    virtual_key,
)
from tests.unit.sharder.scenes import MB, scene, shard, with_instance

TWENTY = {f"i{n:02}": 1_000.0 * (1 + n % 5) for n in range(20)}


def placement(
    rooms: dict[str, Headroom], randomness: float = 0.5, per_instance: int = 1, **more: object
) -> Placement:
    slots = [Slot(f"log/{name}-{k}", name) for name in sorted(rooms) for k in range(per_instance)]
    config = PlacementConfig(randomness=randomness, seed=7)
    return Placement(slots, rooms, config, **more)  # type: ignore[arg-type]


def counts(made: Placement, drawn: np.ndarray) -> dict[str, int]:
    names = np.array([s.instance for s in made.slots])[drawn]
    return {n: int((names == n).sum()) for n in made.instances}


@pytest.mark.parametrize("randomness", [0.5, 1.0])
def test_a_million_keys_in_batches_come_within_5_percent_of_the_target_shares(
    randomness: float,
) -> None:
    rooms = {n: Headroom(ops_per_s=1e4 * room) for n, room in TWENTY.items()}
    made = placement(rooms, randomness)
    target = made.shares()
    total = dict.fromkeys(TWENTY, 0)
    for batch in range(100 if randomness == 0.5 else 20):
        keys = [b"%d" % k for k in range(batch * 10_000, (batch + 1) * 10_000)]
        for name, n in counts(made, made.draw(keys)).items():
            total[name] += n
    drawn = sum(total.values())
    worst = max(abs(total[n] / drawn / target[n] - 1.0) for n in TWENTY)
    assert worst <= 0.05
    if randomness == 0.5:
        assert drawn == 1_000_000
        assert worst <= 0.005  # choosing the emptier of two evens out the draw


def test_size_alone_changes_a_placement() -> None:
    rooms = {
        "small-disk": Headroom(ops_per_s=1e6, bytes_per_s=1e9, stored_bytes=100 * MB),
        "slow-net": Headroom(ops_per_s=1e6, bytes_per_s=0.5 * MB, stored_bytes=1e13),
        "slow-cpu": Headroom(ops_per_s=100.0, bytes_per_s=1e9, stored_bytes=1e13),
    }
    keys = [b"key-%d" % n for n in range(2_000)]
    small, large = placement(rooms, 1.0), placement(rooms, 1.0)
    few = counts(small, small.draw(keys, [10.0] * len(keys)))
    big = counts(large, large.draw(keys, [1.0 * MB] * len(keys)))
    assert few["slow-cpu"] < 10
    assert few["small-disk"] > 100
    assert big == {"small-disk": 0, "slow-net": 0, "slow-cpu": 2_000}


def test_a_schema_says_what_the_size_does_not() -> None:
    rooms = {
        "small-disk": Headroom(ops_per_s=1e4, stored_bytes=100 * MB),
        "large-disk": Headroom(ops_per_s=1e3, stored_bytes=1e13),
    }
    schemas = {"audit": Estimate(record_bytes=1_000.0, records=1e6, ops_per_s=1.0)}
    made = placement(rooms, schemas=schemas)
    assert made.shares(schema="") == pytest.approx({"small-disk": 1 / 2, "large-disk": 1 / 2})
    assert made.shares(schema="audit") == {"small-disk": 0.0, "large-disk": 1.0}
    for _ in range(60):  # it keeps far less than was thought
        made.learn("audit", Estimate(record_bytes=100.0, records=1.0))
    assert made.schemas["audit"].records < 2_000
    assert made.shares(schema="audit")["small-disk"] > 0.3


def test_a_key_draws_the_same_again_and_a_lost_instance_moves_nobody_else() -> None:
    rooms = {n: Headroom(ops_per_s=room) for n, room in TWENTY.items()}
    keys = [b"k%d" % n for n in range(5_000)]
    before = placement(rooms, 1.0)
    first = [before.slots[k].instance for k in before.draw(keys)]
    assert [before.slots[k].instance for k in before.draw(keys)] == first
    before.lose("i04")
    again = [before.slots[k].instance for k in before.draw(keys)]
    assert "i04" not in again
    assert all(a == b for a, b in zip(first, again, strict=True) if a != "i04")
    homes = [b for a, b in zip(first, again, strict=True) if a == "i04"]
    assert len(set(homes)) > 10  # its weight is shared out over the others
    assert before.shares()["i04"] == 0.0


def test_weights_learn_from_what_came() -> None:
    rooms = {n: Headroom(ops_per_s=1000.0) for n in "abcd"}
    made = placement(rooms, 1.0)
    true_rate = {"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0}  # keys of a turn out three times as busy
    for step in range(40):
        keys = [b"%d-%d" % (step, n) for n in range(4_000)]
        got = counts(made, made.draw(keys))
        made.observe(got, {n: got[n] * true_rate[n] for n in got})
    load = {n: got[n] * true_rate[n] for n in got}
    assert max(load.values()) / min(load.values()) < 1.25
    assert made.shares()["a"] < 0.15


def test_full_instances_take_nothing_and_if_all_are_full_the_write_is_still_placed() -> None:
    made = placement({"a": Headroom(ops_per_s=0.0), "b": Headroom(ops_per_s=50.0)})
    assert counts(made, made.draw([b"%d" % n for n in range(100)])) == {"a": 0, "b": 100}
    full = placement({"a": Headroom(ops_per_s=0.1), "b": Headroom(ops_per_s=0.3)})
    assert full.shares() == pytest.approx({"a": 0.25, "b": 0.75})
    unlimited = placement({"a": Headroom(), "b": Headroom()})
    assert unlimited.shares() == {"a": 0.5, "b": 0.5}


def test_headroom_is_what_the_forecast_leaves_in_the_worst_period() -> None:
    view = scene(
        [shard("log/0", "a", [10.0, 60.0, 10.0]), shard("log/1", "b", [20.0] * 3)],
        {"a": 100.0, "b": 100.0, "c": 50.0, "d": 50.0},
    )
    view = with_instance(view, "c", draining=True)
    view = with_instance(view, "d", alive=False)
    view = with_instance(view, "b", capacity_stored_bytes=100 * MB)
    found = headrooms(view)
    assert sorted(found) == ["a", "b"]
    assert found["a"].ops_per_s == pytest.approx(20.0)
    assert found["a"].stored_bytes == math.inf
    assert found["b"].stored_bytes == pytest.approx(70 * MB)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=12), max_size=6, unique=True),
    st.binary(),
    st.integers(0, 2**64 - 1),
)
def test_a_virtual_key_lies_in_the_range_of_its_slot(
    cuts: list[bytes], key: bytes, key_hash: int
) -> None:
    slots = [Slot("log/0", "a", range_) for range_ in ranges_from_cuts(sorted(cuts))]
    for slot in slots:
        if takes_keys(slot):
            assert virtual_key(token_of(slot, key_hash), key) in slot.range
        else:
            with pytest.raises(ValueError, match="no token"):
                token_of(slot, key_hash)
    assert any(takes_keys(slot) for slot in slots)


def test_virtual_keys_are_spread_over_the_range() -> None:
    slot = Slot("log/0", "a", KeyRange(b"\x40", b"\x80"))
    hashes = hashes_of(b"%d" % n for n in range(6_400)).tolist()
    tokens = [virtual_key(token_of(slot, h), b"")[0] for h in hashes]
    found = np.bincount(tokens, minlength=128)[0x40:0x80]
    assert found.min() > 50
    assert found.sum() == 6_400


def test_slots_of_one_instance_share_its_keys() -> None:
    made = placement({"a": Headroom(ops_per_s=9.0), "b": Headroom(ops_per_s=9.0)}, per_instance=4)
    drawn = made.draw([b"%d" % n for n in range(8_000)])
    assert np.bincount(drawn, minlength=8).min() > 850


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlacementConfig(randomness=1.5), r"placement\.randomness is 1\.5"),
        (lambda: Headroom(ops_per_s=math.nan), r"headroom\.ops_per_s is nan"),
        (lambda: Estimate(records=-1.0), r"estimate\.records is -1\.0"),
        (lambda: Placement([], {}), "no slot"),
        (lambda: placement({"a": Headroom()}).draw([b"k"], [1.0, 2.0]), "sizes has 2"),
        (lambda: placement({"a": Headroom()}).draw([b"k"], [math.nan]), "sizes holds a value"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_factors_change_the_shares_and_randomness_is_of_the_draw() -> None:
    slots = [Slot("x/0", "a"), Slot("x/1", "b")]
    room = {"a": Headroom(ops_per_s=1e6), "b": Headroom(ops_per_s=1e6)}
    made = Placement(slots, room)
    assert made.shares(factors={"b": 3.0}) == pytest.approx({"a": 0.25, "b": 0.75})
    assert made.shares(factors={"a": 0.0, "b": 0.0}) == pytest.approx({"a": 0.5, "b": 0.5})
    keys = [b"key-%d" % n for n in range(4_000)]
    drawn = made.draw(keys, wish=Preference(1.0, {"b": 3.0}))
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.03)
    assert set(made.draw(keys, wish=Preference(weights={"a": 0.0})).tolist()) == {1}
    skewed = {"a": Headroom(ops_per_s=1e6), "b": Headroom(ops_per_s=2e6)}
    pure = Placement(slots, skewed).draw(keys, wish=Preference(1.0))
    even = Placement(slots, skewed).draw(keys, wish=Preference(0.0))
    assert (pure != even).any()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"randomness": 1.5}, "randomness is 1.5, it must be within 0..1"),
        ({"weights": {"a": -1.0}}, "weights.a is -1.0, it must be within 0..1e.06"),
        ({"weights": {"a": float("nan")}}, "weights.a is nan"),
    ],
)
def test_a_wish_out_of_bounds_is_named(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preference(**wish)
