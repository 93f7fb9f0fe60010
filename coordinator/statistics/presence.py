"""Orders need live instances: an order for an instance that is down is refused at once.

Every order of a person that names an instance, or needs one, passes `Presence.require` before
anything is written: move and its dry run, split, merge, rollback, complete, a log with named
primaries. An instance is present when its reports come and it answers a call now. Reports alone
are seconds old; a call alone does not show that its reports arrive.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from coordinator.statistics.intake import StatisticsIntake
from logstore.base.env import Env
from logstore.base.errors import InstanceDownError, LogstoreError, UnavailableError

ANSWER_S = 1.5
"""An instance with a recent report may just be starting again: it is asked for this long."""
RETRY_S = 0.1


class Answers(Protocol):
    """Makes a short call to an instance; UnavailableError when it cannot be reached."""

    async def sizes(self, instance: str) -> dict[str, int]: ...


class Presence:
    """Says whether instances can take part in an order."""

    def __init__(self, intake: StatisticsIntake, nodes: Answers, env: Env) -> None:
        self._intake, self._nodes, self._env = intake, nodes, env
        self._started_s = env.clock.monotonic_s()

    async def require(self, order: str, needed: Mapping[str, str], hint: str = "") -> None:
        """`needed`: instance -> its part in the order. InstanceDownError names the silent ones,
        since when, and `hint`, the alternative."""
        silences = await asyncio.gather(*(self._silence(name) for name in needed))
        down = [
            f"{name} ({role}) {why}"
            for (name, role), why in zip(needed.items(), silences, strict=True)
            if why is not None
        ]
        if down:
            more = f"; {hint}" if hint else ""
            raise InstanceDownError(f"{order} is refused: {', '.join(down)}{more}")

    async def silent(self, instances: Sequence[str]) -> dict[str, str]:
        """The silent ones of these instances, with since when."""
        silences = await asyncio.gather(*(self._silence(name) for name in instances))
        return {n: why for n, why in zip(instances, silences, strict=True) if why is not None}

    async def _silence(self, instance: str) -> str | None:
        """Since when an instance is silent, in words; None: it is present."""
        now_s = self._env.clock.monotonic_s()
        silent_s = self._intake.silent_s(instance, now_s)
        if silent_s:
            return f"is silent for {silent_s:.0f} s, since {self._utc(silent_s)}"
        deadline_s = now_s + ANSWER_S
        while not await self._answers(instance):
            if self._env.clock.monotonic_s() >= deadline_s:
                if silent_s is None:
                    for_s = self._env.clock.monotonic_s() - self._started_s
                    return f"was never heard since this coordinator started, {for_s:.0f} s ago"
                return f"does not answer, since {self._utc(ANSWER_S)} or shortly before"
            await asyncio.sleep(RETRY_S)
        return None

    async def _answers(self, instance: str) -> bool:
        try:
            await self._nodes.sizes(instance)
        except UnavailableError:
            return False
        except LogstoreError:
            return True  # an error is an answer
        return True

    def _utc(self, ago_s: float) -> str:
        at = self._env.clock.wall_us() / 1e6 - ago_s
        return (
            datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
            + " UTC"
        )
