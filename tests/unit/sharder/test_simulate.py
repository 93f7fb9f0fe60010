"""The simulator: cluster bookkeeping, queues, rules, and what the planner must not do."""

from dataclasses import replace

import numpy as np
import pytest

from sharder.simulate.cluster import Merge, MoveShard, Settings, SimulatedCluster, Split
from sharder.simulate.forecasts import Learned, Truth, learn
from sharder.simulate.measure import response_p95_ms
from sharder.simulate.planned import HORIZON
from sharder.simulate.port import greedy_homes
from sharder.simulate.run import OURS, POLICIES, REACTIVE, Scenario, auto_capacity, simulate
from sharder.simulate.series import (
    PARTS,
    Series,
    compose,
    daily_autocorrelation,
    from_events,
    part_weights,
)

SLOT_S = 3600.0
SETTINGS = Settings(instances=3, capacity=100.0, slot_s=SLOT_S, move_slots=2)


def series(loads: np.ndarray) -> Series:
    return Series(tuple(f"c{n}" for n in range(loads.shape[1])), loads.astype(float), SLOT_S)


def cluster(homes: tuple[int, ...] = (0, 0, 1)) -> SimulatedCluster:
    weights = part_weights(len(homes), 1)
    return SimulatedCluster.of_columns(SETTINGS, weights, np.full(len(homes), 1e6), homes)


def scenario(load: Series, first: int, room: float = 1.3, **changes: object) -> Scenario:
    settings = Settings(3, auto_capacity(load, 3, room), load.slot_s, seed=1)
    settings = replace(settings, **changes)  # type: ignore[arg-type]
    return Scenario(load, settings, first, Truth(load, HORIZON))


def diurnal(days: int, columns: int = 9, seed: int = 2) -> Series:
    rng = np.random.default_rng(seed)
    hour = np.arange(24 * days)[:, None]
    peak = rng.integers(0, 24, columns)
    wave = 1 + 0.9 * np.cos(2 * np.pi * (hour - peak) / 24)
    return series(wave * rng.lognormal(3, 0.8, columns))


def test_a_move_takes_its_slots_and_costs_load_on_both_sides() -> None:
    c = cluster()
    now = np.array([40.0, 20.0, 10.0])
    c.act(5, [MoveShard((0, 0, PARTS), 2)])
    assert c.load(now) == pytest.approx([60 + 6, 10, 6])
    c.advance(6)
    assert c.load(now) == pytest.approx([66, 10, 6])
    c.advance(7)
    assert c.load(now) == pytest.approx([20, 10, 40])
    assert (c.moves[0].start, c.moves[0].end, c.moves[0].flip) == (5, 7, False)
    c.act(8, [MoveShard((0, 0, PARTS), 0)])
    assert c.moves[1].flip  # back within a day


def test_splits_and_merges_keep_the_cover_and_the_load() -> None:
    c = cluster()
    now = np.array([40.0, 20.0, 10.0])
    whole = (0, 0, PARTS)
    c.act(1, [Split(whole, 5)])
    assert sorted(c.uids) == [(0, 0, 5), (0, 5, PARTS), (1, 0, PARTS), (2, 0, PARTS)]
    assert c.load(now) == pytest.approx([60, 10, 0])
    c.act(2, [Merge((0, 0, 5), (0, 5, PARTS))])
    assert sorted(c.uids) == [whole, (1, 0, PARTS), (2, 0, PARTS)]
    assert c.share.sum() == pytest.approx(3.0)


def test_what_is_not_allowed_is_refused_and_counted() -> None:
    c = cluster()
    c.act(1, [MoveShard((0, 0, PARTS), 0), MoveShard((9, 0, 1), 1), Split((0, 0, PARTS), PARTS)])
    c.act(1, [Merge((0, 0, PARTS), (1, 0, PARTS))])
    assert c.refused == 4
    assert c.moves == []
    tight = replace(SETTINGS, operators_per_instance_max=1)
    c = SimulatedCluster.of_columns(tight, part_weights(3, 1), np.ones(3), (0, 0, 0))
    c.act(1, [MoveShard((0, 0, PARTS), 1), MoveShard((1, 0, PARTS), 2)])
    assert (len(c.moves), c.refused) == (1, 1)


def test_queues_grow_over_capacity_and_drain_after() -> None:
    loads = np.array([[50.0], [150.0], [50.0], [50.0]])
    p95 = response_p95_ms(loads, SETTINGS)[:, 0]
    assert p95[0] == pytest.approx(3.0 * 0.5 / 0.5, rel=0.01)
    assert p95[1] > 1e3
    assert p95[3] == pytest.approx(p95[0])
    assert (np.diff(response_p95_ms(np.linspace(0, 99, 50)[:, None], SETTINGS)[:, 0]) > 0).all()


def test_zipf_weights_are_seeded_and_whole() -> None:
    assert np.array_equal(part_weights(4, 7), part_weights(4, 7))
    assert not np.array_equal(part_weights(4, 7), part_weights(4, 8))
    assert part_weights(4, 7).sum(axis=1) == pytest.approx(np.ones(4))


def test_series_of_events_compositions_and_longer_slots() -> None:
    found = from_events(np.array([0.0, 1.0, 61.0]), np.array([0, 1, 0]), 60.0, ranges=2)
    assert found.loads.tolist() == [[1, 1], [1, 0]]
    composed = compose(np.array([10.0, 20.0]), np.array([0, 0, 1, 1]), 60.0, window=2)
    assert composed.loads.tolist() == [[10, 0], [0, 20]]
    assert series(np.ones((5, 2))).rebin(2 * SLOT_S).loads.tolist() == [[2, 2], [2, 2]]
    assert daily_autocorrelation(diurnal(4)) > 0.99
    for bad in (-np.ones((2, 1)), np.full((2, 1), np.nan)):
        with pytest.raises(ValueError, match="negative or not finite"):
            series(bad)
    with pytest.raises(ValueError, match="move_slots is -1"):
        replace(SETTINGS, move_slots=-1)


def test_initial_sharding_from_history_lays_different_hours_together() -> None:
    profile = np.array([[9.0, 1.0], [9.0, 1.0], [1.0, 9.0], [1.0, 9.0]])
    homes = greedy_homes(profile, 2)
    assert {homes[0], homes[1]} == {0, 1}
    assert {homes[2], homes[3]} == {0, 1}


def test_all_policies_run_seeded_and_the_oracle_is_never_beaten() -> None:
    load = diurnal(6)
    case = scenario(load, 72, room=1.15)
    found = simulate(case)
    assert tuple(found) == POLICIES
    assert simulate(case) == found
    best = min(m.overloaded_instance_slots for m in found.values())
    assert found["oracle"].overloaded_instance_slots == best
    assert found["static-mean"].overloaded_instance_slots > 0
    assert found["ours"].overloaded_instance_slots < min(
        found[name].overloaded_instance_slots for name in REACTIVE
    )


@pytest.mark.parametrize("kind", ["constant", "diurnal", "walk"])
def test_no_flip_flops(kind: str) -> None:
    rng = np.random.default_rng(5)
    if kind == "constant":
        loads = np.repeat(rng.lognormal(3, 1, (1, 9)), 144, axis=0)
    elif kind == "diurnal":
        loads = diurnal(6).loads
    else:
        loads = np.abs(np.cumsum(rng.normal(0, 2, (144, 9)), axis=0) + 30)
    load = series(loads)
    said: Learned = learn(load, 48, HORIZON)
    for room in (1.15, 1.3):
        case = replace(scenario(load, 48, room), forecasts=said)
        for name, metrics in simulate(case, OURS).items():
            assert metrics.flip_flops == 0, name
            if kind == "constant":
                assert metrics.moves <= 9, name


def test_forecasts_only_see_the_past() -> None:
    load = diurnal(4)
    altered = load.loads.copy()
    altered[60:] *= 5
    a, b = learn(load, 48, 4), learn(replace(load, loads=altered), 48, 4)
    for slot in range(48, 60):
        assert np.array_equal(a.at(slot)[0], b.at(slot)[0])
    assert not np.array_equal(a.at(61)[0], b.at(61)[0])
    with pytest.raises(ValueError, match="slot is 47"):
        a.at(47)


def test_unknown_policies_and_bad_warm_ups_are_refused() -> None:
    case = scenario(diurnal(3), 24)
    with pytest.raises(ValueError, match="policy is 'best'"):
        simulate(case, ["best"])
    with pytest.raises(ValueError, match="warm-up is 0"):
        replace(case, first=0)
