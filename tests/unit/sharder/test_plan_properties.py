"""Properties of `plan` over generated views."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.types import Forecast
from sharder.config import PlannerConfig
from sharder.load import LoadTable
from sharder.plan import dump_plan, plan
from sharder.reasons import Reason
from sharder.risk import upper_bound
from sharder.view import ForecastView, SplitPoint, View, dump_view, forecast_view, load_view
from tests.unit.sharder.scenes import MB, carried_out, scene, shard

H = 6
ROOMY = PlannerConfig(operators_in_flight_max=1000, operators_per_instance_max=1000)


@st.composite
def views(draw: st.DrawFn, config: PlannerConfig = ROOMY) -> View:
    """3-14 shards on 2-5 instances, about half of them on the first, from idle to far too busy."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, instances = draw(st.integers(3, 14)), draw(st.integers(2, 5))
    level = draw(st.sampled_from([0.5, 1.0, 1.5, 3.0])) * 100.0 / count
    shards = []
    for n in range(count):
        mean = level * rng.uniform(0.2, 1.5) * rng.uniform(0.3, 1.0, H)
        shards.append(
            shard(
                f"log/{n}",
                f"i{rng.integers(instances) if rng.random() < 0.5 else 0}",
                mean.tolist(),
                (mean * rng.uniform(0, 0.4)).tolist(),
                size=int(rng.integers(1, 500)) * MB,
                migration_weight=float(rng.choice([0.0, 0.5, 1.0, 1.0, 4.0])),
                migrating=bool(rng.random() < 0.1),
            )
        )
    capacity = {f"i{n}": float(rng.choice([60.0, 100.0, 200.0])) for n in range(instances)}
    return scene(shards, capacity, config)


def over(view: View) -> dict[str, float]:
    """By how much each instance's worst upper bound is over its limit (share; below 0: under)."""
    table = LoadTable(view)
    upper = upper_bound(table.sum_mean, table.sum_squares, table.sum_sigma, view.config.risk)
    limit = view.config.risk.threshold * table.capacity
    worst = (upper / limit[:, :, None]).max(axis=(1, 2)) - 1.0
    return {i.id: float(w) for i, w in zip(table.instances, worst, strict=True)}


@settings(max_examples=150, deadline=None)
@given(views())
def test_the_same_view_gives_the_same_bytes(view: View) -> None:
    first = dump_plan(plan(view))
    assert dump_plan(plan(view)) == first
    assert dump_plan(plan(load_view(dump_view(view)))) == first
    shuffled = replace(
        view, shards=tuple(reversed(view.shards)), instances=tuple(reversed(view.instances))
    )
    assert dump_plan(plan(shuffled)) == first


@settings(max_examples=150, deadline=None)
@given(views(replace(ROOMY, policies=("move_hot", "split"))))
def test_a_plan_makes_no_new_hot_spot_and_never_a_worse_one(view: View) -> None:
    result = plan(view)
    before, after = over(view), over(carried_out(view, result))
    for name, share in after.items():
        if any(op.target == name for op in result.operators):
            assert share <= -view.config.hysteresis / view.config.risk.threshold + 1e-6
        else:
            assert share <= before[name] + 1e-9
    moved = [op.shard for op in result.operators]
    assert len(moved) == len(set(moved))
    homes = {s.id: s for s in view.shards}
    for op in result.operators:
        assert homes[op.shard].instance == op.source != op.target
        assert not homes[op.shard].migrating
        assert homes[op.shard].migration_weight > 0
        assert op.expected_gain > 0
        assert op.start_s >= view.now_s


@settings(max_examples=150, deadline=None)
@given(views())
def test_easing_what_nothing_cures_never_raises_the_worst_load(view: View) -> None:
    result = plan(view)
    before, after = over(view), over(carried_out(view, result))
    touched = {name for op in result.operators for name in (op.source, op.target)}
    if touched:
        assert max(after[n] for n in touched) < max(before[n] for n in touched)
    assert all(op.expected_gain > 0 for op in result.operators)


@settings(max_examples=150, deadline=None)
@given(views())
def test_planning_settles_and_nothing_flips_back(view: View) -> None:
    moved: set[str] = set()
    for _ in range(len(view.shards) + 1):
        result = plan(view)
        if not result.operators:
            return
        assert moved.isdisjoint(op.shard for op in result.operators)  # none twice in the cooldown
        moved |= {op.shard for op in result.operators}
        after = carried_out(view, result)
        if all(share <= 1e-9 for share in over(after).values()):
            assert plan(after).operators == ()
        view = after
    pytest.fail("still moving after as many plans as there are shards")


@settings(max_examples=150, deadline=None)
@given(views(), st.sampled_from([2.0, 10.0]))
def test_a_higher_migration_weight_never_makes_a_shard_stay(view: View, factor: float) -> None:
    chosen = [op.shard for op in plan(view).operators]
    for shard_id in chosen[:3]:
        heavier = tuple(
            replace(s, migration_weight=s.migration_weight * factor) if s.id == shard_id else s
            for s in view.shards
        )
        again = {op.shard for op in plan(replace(view, shards=heavier)).operators}
        assert shard_id in again


@settings(max_examples=150, deadline=None)
@given(views(), st.floats(1.05, 5.0), st.integers(0, 4))
def test_more_capacity_never_raises_the_risk_of_an_instance(
    view: View, factor: float, which: int
) -> None:
    name = view.instances[which % len(view.instances)].id
    roomier = replace(
        view,
        instances=tuple(
            replace(i, capacity_ops_per_s=(i.capacity_ops_per_s or 1.0) * factor)
            if i.id == name
            else i
            for i in view.instances
        ),
    )
    risks = [
        {c.instance: c.overload_cost for c in plan(v).crossings}.get(name, 0.0)
        for v in (view, roomier)
    ]
    assert risks[1] <= risks[0] + 1e-9


@settings(max_examples=40, deadline=None)
@given(views(PlannerConfig(operators_in_flight_max=2, operators_per_instance_max=1)))
def test_limits_on_operators_hold(view: View) -> None:
    result = plan(view)
    assert sum(op.due for op in result.operators) <= 2
    touched = [name for op in result.operators for name in (op.source, op.target)]
    assert len(touched) == len(set(touched))


def test_ten_thousand_shards_are_planned_in_time() -> None:
    rng = np.random.default_rng(3)
    wave = 1 + 0.4 * np.sin(2 * np.pi * np.arange(24) / 24)
    shards = []
    for n in range(10_000):
        mean = rng.lognormal(0, 0.7) * wave * (1.5 if n % 100 < 5 else 1.0)
        shards.append(shard(f"log/{n}", f"i{n % 100:02}", mean.tolist(), (mean * 0.2).tolist()))
    view = scene(shards, {f"i{n:02}": 300.0 for n in range(100)})
    took_s = []
    for _ in range(3):
        started = time.process_time()
        result = plan(view)
        took_s.append(time.process_time() - started)
    assert result.operators
    assert Reason.BELOW_THRESHOLD in {r.reason for r in result.refused}
    assert min(took_s) < 0.5


def test_forecasts_of_unequal_length_and_none_at_all() -> None:
    known = shard("log/0", "a", [10.0, 20.0, 30.0], 1.0)
    short = shard("log/1", "a", [5.0], 0.0)
    new = replace(shard("log/2", "a", [7.0]), forecast=None)
    spread = replace(
        shard("log/3", "a", [1.0]), forecast=ForecastView((1.0,), (0.0,), (9.0,), "x", (2.0,))
    )
    table = LoadTable(scene([known, short, new, spread], {"a": 100.0}))
    assert table.mean.tolist() == [[10, 20, 30], [5, 5, 5], [7, 7, 7], [1, 1, 1]]
    assert table.sigma[3].tolist() == [2.0, 2.0, 2.0]
    assert table.sum_mean[0, 0].tolist() == [23.0, 33.0, 43.0]
    assert table.sum_mean[0, 1] == pytest.approx(100 * table.sum_mean[0, 0])


@pytest.mark.parametrize(
    ("mean", "lower", "sigma", "message"),
    [
        ((), (), None, r"forecast\.mean is empty"),
        ((1.0,), (), None, "1 means, 0 lower and 1 upper"),
        ((1.0,), (1.0,), (), "1 means and 0 sigmas"),
    ],
)
def test_forecasts_that_do_not_fit_together_are_refused(
    mean: tuple[float, ...],
    lower: tuple[float, ...],
    sigma: tuple[float, ...] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastView(mean, lower, mean, "x", sigma)


def test_a_profilers_forecast_becomes_rates_of_the_coming_periods() -> None:
    learned = Forecast(
        shard="log/0",
        made_at_slot=10,
        horizon_slots=(1, 2, 4),
        mean=(60.0, 120.0, 240.0),
        lower80=(0.0, 60.0, 120.0),
        upper80=(120.0, 180.0, 360.0),
        lower95=(0.0, 0.0, 0.0),
        upper95=(150.0, 200.0, 400.0),
        model=("last value", "last value", "holt-winters"),
        levels=(0.1, 0.9),
        quantiles=((0.0, 120.0), (60.0, 180.0), (120.0, 360.0)),
    )
    seen = forecast_view(learned, slot=11, periods=5, period_s=60.0)
    assert seen.mean == (1.0, 2.0, 3.0, 4.0, 4.0)
    assert seen.upper80[:2] == (2.0, 3.0)
    assert seen.model == "holt-winters"
    assert forecast_view(learned, slot=12, periods=1, period_s=60.0).mean == (2.0,)
    with pytest.raises(ValueError, match="periods is 0"):
        forecast_view(learned, 11, 0, 60.0)


ABLE = replace(ROOMY, executable=("move", "switch", "split", "merge", "replicate"))


@st.composite
def rich_views(draw: st.DrawFn, config: PlannerConfig = ABLE) -> View:
    """Views in which every policy finds something: copies, zones, tiers, failures, full disks,
    draining and dead instances, cold neighbours, shards used together."""
    view = draw(views(config))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = [i.id for i in view.instances]
    shards = []
    for n, answer in enumerate(view.shards):
        others = [name for name in names if name != answer.instance]
        keys = [bytes([k]) for k in range(len(view.shards) + 1)]
        cold = rng.random() < 0.3
        assert answer.forecast is not None
        mean = [m * (0.01 if cold else 1.0) for m in answer.forecast.mean]
        cuts = tuple(SplitPoint(keys[n] + bytes([k + 1]), (k + 1) / 5) for k in range(4))
        shards.append(
            replace(
                answer,
                forecast=replace(answer.forecast, mean=tuple(mean), upper80=tuple(mean)),
                in_sync=tuple(rng.permutation(others)[: rng.integers(0, 3)].tolist()),
                start=keys[n],
                end=keys[n + 1],
                cuts=cuts if rng.random() < 0.5 else (),
                last_moved_s=-float(rng.uniform(0, 4_000)) if rng.random() < 0.3 else None,
                last_moved_from=str(rng.choice(names)),
                related={"log/0": float(rng.random())} if rng.random() < 0.3 else {},
            )
        )
    instances = [
        replace(
            answer,
            zone=f"z{rng.integers(3)}",
            tier=str(rng.choice(["slow", "standard", "fast"])),
            failures_per_day=float(rng.choice([0.0, 0.0, 3.0])),
            draining=bool(rng.random() < 0.15),
            alive=bool(rng.random() < 0.9),
            capacity_stored_bytes=int(rng.choice([1_000, 100_000])) * MB,
        )
        for answer in view.instances
    ]
    return replace(view, shards=tuple(shards), instances=tuple(instances))


@settings(max_examples=50, deadline=None)
@given(rich_views())
def test_no_operator_goes_against_a_limit(view: View) -> None:
    made = plan(view)
    assert dump_plan(plan(load_view(dump_view(view)))) == dump_plan(made)
    answer, shards = {i.id: i for i in view.instances}, {s.id: s for s in view.shards}
    touched = [name for op in made.operators for name in (op.shard, op.partner) if name]
    assert len(touched) == len(set(touched))
    for op in made.operators:
        shard_ = shards[op.shard]
        assert not shard_.migrating
        assert op.start_s >= view.now_s
        assert answer[op.source].alive
        if op.kind in ("move", "switch", "replicate"):
            assert answer[op.target].alive
            assert not answer[op.target].draining
            assert op.source != op.target
        if op.kind == "switch":
            assert op.target in shard_.in_sync
            assert op.bytes == 0
        if op.kind in ("move", "replicate"):
            assert op.target not in (shard_.instance, *shard_.in_sync)
        if op.kind == "replicate":
            kept = [n for n in (shard_.instance, *shard_.in_sync) if n != op.source]
            assert answer[op.target].zone not in {answer[n].zone for n in kept}
        if op.kind == "split":
            assert op.key in {cut.key for cut in shard_.cuts}
        if op.kind == "merge":
            upper = shards[op.partner or ""]
            assert (shard_.end, shard_.instance) == (upper.start, upper.instance)
        elif not answer[op.source].draining:
            assert shard_.migration_weight > 0


@settings(max_examples=50, deadline=None)
@given(rich_views(replace(ABLE, policies=tuple(p for p in ABLE.policies if p != "split"))))
def test_the_cover_is_kept_and_planning_settles(view: View) -> None:
    """Carrying out plan after plan keeps one cover of the key space and comes to an end."""
    ends = (view.shards[0].start, view.shards[-1].end)
    for _ in range(4 * len(view.shards)):
        made = plan(view)
        after = carried_out(view, made)
        ranges = sorted((s.start or b"", s.end or b"") for s in after.shards)
        assert (ranges[0][0], ranges[-1][1]) == ends
        assert all(a[1] == b[0] for a, b in pairwise(ranges))
        if not made.operators:
            return
        view = replace(after, now_s=view.now_s + 2 * view.config.cooldown_s)
    pytest.fail("still something to do after four plans a shard")


@settings(max_examples=40, deadline=None)
@given(rich_views(replace(ABLE, operators_in_flight_max=3, operators_per_instance_max=1)))
def test_limits_on_operators_hold_for_every_policy(view: View) -> None:
    made = plan(view)
    moving = [op for op in made.operators if op.kind != "merge"]
    assert sum(op.due for op in moving) <= 3
    touched = [n for op in moving for n in {op.source, op.target}]
    assert len(touched) == len(set(touched))


def test_over_seeds_a_heavier_shard_is_chosen_more_often() -> None:
    chosen = dict.fromkeys((0.25, 1.0, 4.0), 0)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        means = rng.uniform(6.0, 12.0, 10)
        for weight in chosen:
            shards = [
                shard(f"log/{n}", "a", [float(m)] * 4, migration_weight=weight if n == 3 else 1.0)
                for n, m in enumerate(means)
            ]
            view = scene(shards, {"a": 100.0, "b": 100.0}, replace(ROOMY, seed=seed))
            chosen[weight] += "log/3" in {op.shard for op in plan(view).operators}
    assert chosen[0.25] < chosen[1.0] < chosen[4.0]
