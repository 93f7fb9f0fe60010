"""How late the event loop runs a timer: the wait of whatever wants to run on it."""

import asyncio

from logstore.base.env import Env

STEP_S = 0.25


class LoopLag:
    """Measures while `run` runs; `take` gives the mean since the last call."""

    def __init__(self, env: Env) -> None:
        self._now_s = env.clock.monotonic_s
        self._sum_s, self._count = 0.0, 0
        self._due_s: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._due_s = self._now_s() + STEP_S
            await asyncio.sleep(STEP_S)
            self._sum_s += max(0.0, self._now_s() - self._due_s)
            self._count += 1

    def take(self) -> float:
        """Seconds."""
        waiting_s = max(0.0, self._now_s() - self._due_s) if self._due_s is not None else 0.0
        if not self._count:
            return waiting_s
        mean_s = self._sum_s / self._count
        self._sum_s, self._count = 0.0, 0
        return max(mean_s, waiting_s)
