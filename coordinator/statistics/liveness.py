"""Which instances are alive, as this process can tell."""

from collections.abc import Sequence

from coordinator.statistics.intake import StatisticsIntake
from logstore.base.env import Env


class Liveness:
    """Silence of instances, counted from this process's start before their first report.

    A coordinator that has just started gives all instances time to report before it replaces
    copies.
    """

    def __init__(self, intake: StatisticsIntake, env: Env) -> None:
        self._intake, self._env = intake, env
        self._started_s = env.clock.monotonic_s()

    def silent_s(self, instances: Sequence[str]) -> dict[str, float]:
        """Instance -> seconds since its last report; 0 while it counts as alive."""
        now_s = self._env.clock.monotonic_s()
        never_s = max(now_s - self._started_s, 1e-9)
        silent = {i: self._intake.silent_s(i, now_s) for i in instances}
        return {i: never_s if s is None else s for i, s in silent.items()}
