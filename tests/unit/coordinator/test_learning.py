"""Learning in its thread: the loop is not held up, and a restart forgets little."""

import asyncio
import random
from pathlib import Path

import pytest

from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.model_trainer import ModelTrainer
from logstore.base.env import Env
from tests.support.statistics import statistic

SEASONS = (24,)


def intake(slot_s: float = 3600.0) -> StatisticsIntake:
    return StatisticsIntake(slot_s, seasons_slots=SEASONS, settle_s=0.0, history_slots=24)


def fed(shards: int, slots: int) -> StatisticsIntake:
    """An intake with reports of so many shards of log `x`, which differ and go by the hour."""
    made, rng = intake(), random.Random(1)
    for slot in range(slots):
        rows = [
            statistic(f"x/{n}", "a", slot, 100 + n + 50 * (slot % 24 > 12) + rng.randrange(5))
            for n in range(shards)
        ]
        made.take("a", 1, rows, None, float(slot), slot)
    return made


async def test_what_was_learned_survives_a_restart(tmp_path: Path) -> None:
    path, env = tmp_path / "learned", Env()
    before = fed(3, 120)
    before.learn(1e9, 1_000)
    first = ModelTrainer(before, env, path)
    first.start()
    await first.close()  # it saves what was learned since the last time
    after = intake()
    second = ModelTrainer(after, env, path)
    await second.restore({"x"})
    names = ["x/0", "x/1", "x/2"]
    said = before.forecasts(names, 6, 119.0, 3600.0)  # slot n came at second n
    again = await second.call(after.forecasts, names, 6, env.clock.monotonic_s(), 3600.0)
    assert set(again) == set(names)
    for name in names:
        assert again[name].mean == pytest.approx(said[name].mean, rel=0.1)
        assert again[name].upper80 == pytest.approx(said[name].upper80, rel=0.1)
        assert after.book.last_slot(name) == 119
        assert after.load(name) == before.load(name)
        assert after.history("x")[name] == before.history("x")[name]
    assert after.newest_slots(["x"]) == {"x": 119}
    heatmap = after.heatmap("x")
    assert heatmap is not None
    # It goes on: the next slot is learned by the restored models, an old one is not again.
    after.take(
        "a", 1, [statistic("x/0", "a", 119, 9), statistic("x/0", "a", 120, 100)], None, 0.0, 0
    )
    assert after.learn(1e9) == 1
    assert after.book.last_slot("x/0") == 120
    await second.close()


async def test_what_is_of_no_use_is_left(tmp_path: Path) -> None:
    path, env = tmp_path / "learned", Env()
    before = fed(2, 30)
    before.learn(1e9, 1_000)
    learner = ModelTrainer(before, env, path)
    learner.start()
    await learner.close()
    gone, other = intake(), intake(slot_s=60.0)
    for made, logs in ((gone, set[str]()), (other, {"x"})):
        late = ModelTrainer(made, env, path)
        await late.restore(logs)
        assert made.history() == {}
        assert made.book.shards == ()
        await late.close()
    path.write_bytes(b"torn")
    torn = ModelTrainer(intake(), env, path)
    await torn.restore({"x"})  # it is logged, and nothing is learned
    assert torn.intake.book.shards == ()
    await torn.close()


async def test_the_loop_turns_while_much_is_learned() -> None:
    """500 shards: the models take a slot in some 10 ms or more, five of them in one go."""
    made = fed(500, 30)
    learner = ModelTrainer(made, Env())
    loop = asyncio.get_running_loop()
    lags: list[float] = []
    learner.start()
    async with asyncio.timeout(60):
        while made.slots_learned < 30:
            before_s = loop.time()
            await asyncio.sleep(0.005)
            lags.append(loop.time() - before_s - 0.005)
    await learner.close()
    lags.sort()
    assert lags[len(lags) // 2] < 0.1
