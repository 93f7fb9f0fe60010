"""The demo's pure parts: the scene it chooses, the replay it makes, the figures it reports."""

import numpy as np
import pyarrow as pa
import pytest

from coordinator.local.demo import report
from coordinator.local.demo.drive import Driver, _places
from coordinator.local.demo.report import Outcome, Throttle, migrations_of, spans
from coordinator.local.demo.run import START_US
from coordinator.local.demo.scene import (
    HOUR_US,
    INSTANCES,
    PEAK_OVER_CAPACITY,
    READ_SHARE,
    Replay,
    Scene,
    choose_scene,
    make_replay,
)
from coordinator.local.demo.watch import Watch
from coordinator.local.flights import flight_events
from coordinator.migration.answers import Migration
from coordinator.migration.records import HashResult, MigrationRecord, Phase, State
from coordinator.migration.service import told as migration_told
from logstore.base.env import Env, ManualClock
from logstore.base.types import Ack
from logstore.meta.records import Member


@pytest.fixture(scope="module")
def september() -> pa.Table:
    events = flight_events([9])
    return events.filter(pa.compute.less(events["event_time_us"], START_US))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_scene_has_one_hot_instance_that_one_move_cures(september: pa.Table, seed: int) -> None:
    scene = choose_scene(september, START_US, np.random.default_rng(seed))
    keys = september["key"].to_pylist()
    assert sorted(scene.cuts) == list(scene.cuts)
    assert set(scene.homes) == set(range(INSTANCES))
    shards = scene.shards_of(keys)
    assert shards[keys.index(min(keys))] == 0
    hours = (september["event_time_us"].to_numpy() - START_US) // HOUR_US + 24 * 28
    loads = np.zeros((len(scene.homes), 24 * 28))
    inside = hours >= 0
    np.add.at(loads, (shards[inside], hours[inside]), 1.0 + READ_SHARE)
    homes = np.array(scene.homes)
    daily = [loads[homes == i].sum(axis=0).reshape(28, 24).max(axis=1) for i in range(INSTANCES)]
    hot = np.percentile(daily[scene.hot], 95)
    assert hot == pytest.approx(scene.ops_per_s * PEAK_OVER_CAPACITY, rel=0.01)
    for i in set(range(INSTANCES)) - {scene.hot}:
        assert np.percentile(daily[i], 95) < scene.limit


def test_another_seed_is_another_scene(september: pa.Table) -> None:
    scenes = [choose_scene(september, START_US, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert scenes[0] == scenes[1]
    assert (scenes[0].cuts, scenes[0].ops_per_s) != (scenes[2].cuts, scenes[2].ops_per_s)


def test_the_replay_reads_keys_after_they_were_appended(september: pa.Table) -> None:
    start = int(september["event_time_us"][0].as_py())
    replay = make_replay(september, start, 2, np.random.default_rng(1))
    appended = {int(r): at for r, at, read in
                zip(replay.row, replay.at_s, replay.is_read, strict=True) if not read}  # fmt: skip
    read_rows = replay.row[replay.is_read]
    assert len(read_rows) == int(len(appended) * READ_SHARE)
    assert all(np.diff(replay.at_s) >= 0)
    times = september["event_time_us"].to_numpy()
    event_s = (times[replay.row] - start) / HOUR_US
    assert (replay.at_s >= event_s).all()
    assert float(event_s.max()) < 48.0


def test_rows_get_the_places_of_their_acks() -> None:
    acks = [Ack("l/1", 7, 0, 2), Ack("l/0", 3, 0, 1), Ack("l/1", 9, 0, 1)]
    assert _places(["l/1", "l/0", "l/1", "l/1"], acks) == [
        ("l/1", 7), ("l/0", 3), ("l/1", 8), ("l/1", 9)
    ]  # fmt: skip


def outcome(load_of_hot: list[int], answer: Migration) -> Outcome:
    """Two shards: `hot` on instance-1 with so many appends in each slot, one idle elsewhere."""
    at = np.concatenate([[s + 0.5] * n for s, n in enumerate(load_of_hot)] + [[0.0]])
    rows = np.arange(len(at))
    events = pa.table({"key": [b"a/x/1"] * (len(at) - 1) + [b"z/x/1"]})
    replay = Replay(at, rows, np.zeros(len(at), bool), 0, len(load_of_hot))
    scene = Scene((b"m",), (0, 1), 0, 10.0, 1e6, 12.0, 20)
    driver = Driver(log=None, replay=replay, events=events, env=Env(ManualClock()), journal=None)  # type: ignore[arg-type]
    driver.begin_us = 1_000_000
    watch = Watch("", "l")
    watch.migrations = (answer,)
    return Outcome(1, scene, watch, driver, 0, 0, "", {}, Throttle(), True)


def migration(begin_s: float, done_s: float) -> Migration:
    def us(at_s: float) -> int:
        return 1_000_000 + round(at_s * 1e6)

    phases = (
        Phase(State.PLANNED, us(begin_s)),
        Phase(State.SOAKING, us(done_s)),
        Phase(State.COMPLETED, us(done_s + 1)),
    )
    record = MigrationRecord(
        id="m1", log="l", shard="l/0", source=Member("instance-1", 1, 1),
        target_instance="instance-2", created_us=us(begin_s), state=State.COMPLETED,
        trigger="forecast", reason="why", risk=1.0, phases=phases, bytes=1, copy_mb_per_s=1.0,
        blackout_ms=1.0, hash=HashResult(1, "ab", "ab", True),
    )  # fmt: skip
    return migration_told(record, None, us(done_s + 2), 10.0)


def test_lead_is_to_the_crossing_of_the_load_that_came() -> None:
    loads = [9, 2, 2, 2, 8, 9, 12, 3]  # the limit is 0.8 x 10: first crossed in slot 5 after 1.5
    (found,) = migrations_of(outcome(loads, migration(1.5, 3.25)))
    assert found["crossing_s"] == 5.0
    assert found["lead_s"] == pytest.approx(1.75)
    assert found["counterfactual_peak_ops_per_s"] == 12.0


def test_lead_is_negative_when_the_move_was_late_and_none_without_a_crossing() -> None:
    late = migrations_of(outcome([2, 2, 9, 9, 9], migration(0.5, 3.0)))[0]
    assert late["lead_s"] == pytest.approx(-1.0)
    calm = migrations_of(outcome([2, 2, 8, 8, 8], migration(0.5, 3.0)))[0]
    assert calm["lead_s"] is None


def test_spans_of_two_moves() -> None:
    moves = [
        {"begin_s": begin, "phases": [{"at_s": end}]} for begin, end in ((30.0, 35.0), (10.0, 12.0))
    ]
    assert spans(moves) == {
        "before": [(0.0, 10.0)],
        "during": [(10.0, 12.0), (30.0, 35.0)],
        "after": [(12.0, 30.0), (35.0, np.inf)],
    }


def test_throttles_are_counted_from_what_was_seen() -> None:
    seen = Throttle([(1.0, 0), (2.0, 5), (3.0, 9)])
    assert seen.between() == 9
    assert seen.between(2.0) == 4
    assert seen.between(0.0, 2.5) == 5


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"lost": 1}, {"none_lost"}),
        ({"errors_seen_by_clients": 2}, {"no_client_error"}),
        ({"records_acked": 10, "records_in_log": 10}, {"records_acked"}),
        (
            {"throttled": {"after_the_move": {"with_autopilot": 9, "without_autopilot": 9}}},
            {"less_throttled_after_the_move"},
        ),
        ({"migrations": []}, {"moved_before_its_peak", "chains_equal", "went_on_past_the_peak"}),
    ],
)
def test_each_check_can_fail(change: dict[str, object], failed: set[str]) -> None:
    move = {"trigger": "forecast", "state": "completed", "lead_s": 2.0, "crossing_s": 30.0,
            "hash_equal": True}  # fmt: skip
    answer = {
        "autopilot": True, "records_acked": 250_000, "records_in_log": 250_000, "lost": 0,
        "duplicated": 0, "out_of_order": 0, "changed": 0, "errors_seen_by_clients": 0,
        "replay": {"hours": 144}, "migrations": [move],
        "throttled": {"after_the_move": {"with_autopilot": 1, "without_autopilot": 9}},
    }  # fmt: skip
    found = report.checks({**answer, **change})
    assert {name for name, holds in found.items() if not holds} == failed
