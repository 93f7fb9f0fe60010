"""What is set live goes before the coordinator's start, is kept with its history, and fits."""

import random
from pathlib import Path

import pytest

from coordinator.answers.plans import PlannerSetting, PlannerSettings
from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.planning.tuning import CHANGES_MAX, PlannerTuning
from logstore.base.env import Env, ManualClock
from logstore.base.errors import InvalidArgumentError
from logstore.meta.memory import MemoryMetadataStore

STORE = MemoryMetadataStore


def tuning(store: MemoryMetadataStore, folder: Path, **settings: float) -> PlannerTuning:
    config = CoordinatorConfig(data=folder, **settings)  # type: ignore[arg-type]
    return PlannerTuning(config, Env(ManualClock(), random.Random(1)), store)


def row(found: PlannerSettings, name: str) -> PlannerSetting:
    return next(s for s in found.settings if s.name == name)


async def test_live_goes_before_the_start_and_that_before_the_default(tmp_path: Path) -> None:
    store = STORE()
    knobs = tuning(store, tmp_path, threshold=0.6)
    found = await knobs.settings()
    assert (row(found, "risk.threshold").value, row(found, "risk.threshold").source) == (
        0.6,
        "start",
    )
    assert row(found, "payback_s").source == "default"
    await knobs.change({"risk.threshold": "0.5", "payback_s": 60}, [], "ann")
    again = tuning(store, tmp_path, threshold=0.6)  # as after a restart
    made = await again.config(Autopilot.ON)
    assert (made.risk.threshold, made.payback_s) == (0.5, 60.0)
    shown = row(await again.settings(), "risk.threshold")
    assert (shown.source, shown.by, shown.value, shown.at_start) == ("live", "ann", 0.5, 0.6)
    await again.change({}, ["risk.threshold"], "bob")
    assert (await again.config(Autopilot.ON)).risk.threshold == 0.6


async def test_the_history_says_who_changed_what_from_what(tmp_path: Path) -> None:
    knobs = tuning(STORE(), tmp_path)
    await knobs.change({"cooldown_s": 60}, [], "ann")
    await knobs.change({"cooldown_s": 60}, [], "bob")  # nothing changes
    await knobs.change({"surprise": "none"}, ["cooldown_s"], "bob")
    changes = (await knobs.settings(history=True)).changes
    assert isinstance(changes, list)
    assert [(c.by, c.name, c.old, c.new, c.reset) for c in changes] == [
        ("ann", "cooldown_s", 900.0, 60.0, False),
        ("bob", "surprise", 2.5, None, False),
        ("bob", "cooldown_s", 60.0, 900.0, True),
    ]
    for n in range(CHANGES_MAX):
        await knobs.change({"cooldown_s": n}, [], "ann")
    changes = (await knobs.settings(history=True)).changes
    assert isinstance(changes, list)
    assert (len(changes), changes[-1].new) == (CHANGES_MAX, CHANGES_MAX - 1.0)


async def test_a_refused_change_writes_nothing(tmp_path: Path) -> None:
    store = STORE()
    knobs = tuning(store, tmp_path)
    for values, resets, said in (
        ({"risk.threshold": 0.7, "payback_s": -1}, [], "payback_s is -1.0, it must be within"),
        ({"hysteresis": 0.3, "threshold": 0.2}, [], "must be below risk.threshold 0.2"),
        ({"threshold": 0.2, "risk.threshold": 0.2}, [], "risk.threshold is set twice"),
        ({"payback_s": 1}, ["payback_s"], "payback_s is set and reset"),
        ({"horizon_periods": 2000}, [], "it must be within 1..1024"),
        ({}, [], "nothing is set or reset"),
        ({"fly": 1}, [], "'fly' is no setting of the planner"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await knobs.change(values, resets, "ann")
        assert said in str(refused.value)
    assert (await store.range("/planner/")).items == ()


async def test_what_does_not_fit_to_a_later_start_does_not_count(tmp_path: Path) -> None:
    store = STORE()
    await tuning(store, tmp_path).change({"risk.threshold": 0.3, "payback_s": 5}, [], "ann")
    later = tuning(store, tmp_path, hysteresis=0.4)
    assert (await later.config(Autopilot.ON)).risk.threshold == 0.8
    assert "must be below risk.threshold 0.3" in (await later.settings()).problem
    await later.change({}, ["risk.threshold"], "ann")
    assert (await later.config(Autopilot.ON)).payback_s == 5.0
