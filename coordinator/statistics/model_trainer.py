"""Learning, forecasting and planning in one thread of their own, beside the served calls.

The models are saved beside the coordinator's data, so that a restart loses little. They are stored
nowhere else: instances report to every coordinator and each learns from the reports, so one that
takes a dead leader's cells over has learned the same.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.state import Saved
from logstore.base.background import Background
from logstore.base.env import Env

LEARN_INTERVAL_S = 0.2
LEARN_SLOTS_MAX = 200
LEARN_GO_S = 0.2
"""Slots are learned for about this long at a time, then plans and forecasts have their turn."""
LEARNED_FILE = "learned.msgpack"
SAVE_INTERVAL_S = 60.0
"""Time between two saves: slots that were learned after the last one are lost with the process."""
SAVE_SHARE_MAX = 0.02
"""Largest share of the time that saves may take: saving many shards takes long."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class ModelTrainer:
    """Learns the slots that are complete, a few at a time, and saves, until closed."""

    def __init__(self, intake: StatisticsIntake, env: Env, path: Path | None = None) -> None:
        """`path`: where the models are saved; None: nowhere."""
        self.intake = intake
        self._env, self._path = env, path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learning")
        self._tasks = Background("the model trainer")
        self._saved_s = env.clock.monotonic_s()
        self._saved_slots = 0
        self._wait_s = SAVE_INTERVAL_S

    async def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work` in the thread that owns the models."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def restore(
        self, logs: Collection[str], ceilings: Mapping[str, int] | None = None
    ) -> None:
        """Restore the last save of this coordinator; a bad file is logged and ignored.

        `ceilings`: log -> the newest possible slot (`StatisticsIntake.restore`).
        """
        if self._path is None or not self._path.exists():
            return
        now_s = self._env.clock.monotonic_s()
        try:
            found = await self.call(_restore, self.intake, self._path, logs, now_s, ceilings)
        except (OSError, msgspec.DecodeError, ValueError, KeyError) as e:
            _log.warning("what was learned cannot be read", file=str(self._path), why=str(e))
            return
        _log.info("learned before", shards=found, file=str(self._path))

    def start(self) -> None:
        self._tasks.start(self._run())

    async def close(self) -> None:
        """Stop, and save."""
        await self._tasks.stop()
        await self._save()
        self._thread.shutdown()

    async def _run(self) -> None:
        slots = 1
        while True:
            began_s = self._env.clock.monotonic_s()
            due = self.intake.due(began_s, slots)
            await self.call(self.intake.absorb, due)
            self.intake.settle(due)
            more = len(due) == slots
            if more:
                took_s = max(self._env.clock.monotonic_s() - began_s, 1e-6)
                slots = max(1, min(2 * slots, round(slots * LEARN_GO_S / took_s), LEARN_SLOTS_MAX))
            if self._env.clock.monotonic_s() - self._saved_s >= self._wait_s:
                await self._save()
            await asyncio.sleep(0.0 if more else LEARN_INTERVAL_S)

    async def _save(self) -> None:
        """Save if slots were learned since the last time."""
        if self._path is None or self.intake.slots_learned == self._saved_slots:
            return
        began_s, slots = self._env.clock.monotonic_s(), self.intake.slots_learned
        try:
            await self.call(_save, self.intake, self._path)
        except OSError as e:
            _log.warning("what was learned was not saved", file=str(self._path), why=str(e))
        self._saved_s, self._saved_slots = self._env.clock.monotonic_s(), slots
        self._wait_s = max(SAVE_INTERVAL_S, (self._saved_s - began_s) / SAVE_SHARE_MAX)


def _save(intake: StatisticsIntake, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.msgpack.encode(intake.saved()))
    part.replace(path)


def _restore(
    intake: StatisticsIntake,
    path: Path,
    logs: Collection[str],
    now_s: float,
    ceilings: Mapping[str, int] | None,
) -> int:
    saved = msgspec.msgpack.decode(path.read_bytes(), type=Saved)
    return intake.restore(saved, logs, now_s, ceilings)
