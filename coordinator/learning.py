"""Learning what was reported, beside the calls that are served."""

import asyncio

from coordinator.statistics import StatisticsIntake
from logstore.base.env import Env

LEARN_INTERVAL_S = 0.2
LEARN_SLOTS = 5


class Learner:
    """Learns the slots that are complete, a few at a time, until closed."""

    def __init__(self, intake: StatisticsIntake, env: Env) -> None:
        self._intake, self._env = intake, env
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="learning")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            learned = self._intake.learn(self._env.clock.monotonic_s(), LEARN_SLOTS)
            await asyncio.sleep(0.001 if learned == LEARN_SLOTS else LEARN_INTERVAL_S)
