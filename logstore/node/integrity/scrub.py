"""The scrub: each copy's batches are read back and linked again, slowly, to find cold rot.

One copy after the other, in steps of STEP_BYTES, at `scrub_bytes_per_s` at most, each copy once an
`scrub_interval_s`. Its findings go to the copy's `Integrity`.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from logstore.base.errors import (
    CorruptStorageError,
    LogstoreError,
    OutOfRangeError,
    UnknownShardError,
)
from logstore.node.integrity.integrity import Integrity
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import DamageFound

STEP_BYTES = 4 * 1024 * 1024
LOOK_S = 1.0

_log = structlog.get_logger(__name__)


class Scrubber:
    """Scrubs the copies of one instance until cancelled. `scrub` does one copy at once."""

    def __init__(self, node: NodeContext, copies: Callable[[], Sequence[Integrity]]) -> None:
        """`copies`: those that are open now."""
        self._node, self._copies = node, copies

    async def run(self) -> None:
        interval_s = self._node.config.scrub_interval_s
        first_s = self._node.now_s()
        while True:
            await asyncio.sleep(min(LOOK_S, interval_s))
            self._look_at_disk()
            for one in self._copies():
                last_s = one.scrubbed_s
                since_s = first_s if last_s is None else last_s
                if self._node.now_s() - since_s < interval_s:
                    continue
                try:
                    await self.scrub(one)
                except LogstoreError as e:
                    _log.warning("scrub broke", shard=one.copy.shard, error=e.message)

    def _look_at_disk(self) -> None:
        """Damage that the engine's own background work met."""
        damaged = {m.replica_id: m.damage for m in self._node.engine.replicas() if m.damage}
        for one in self._copies():
            if one.copy.log.id in damaged:
                one.copy.report(DamageFound(damaged[one.copy.log.id]))

    async def scrub(self, one: Integrity) -> None:
        """Recompute the chain of what the copy holds now, from its base (F4)."""
        copy, log = one.copy, one.copy.log
        meta = log.meta()
        if meta is None or not copy.availability(Purpose.SCRUB).allowed:
            return
        at, stop = meta.base, log.end().end
        records = max(stop - at.end, 1)
        step = max(1, int(STEP_BYTES / max(log.bytes_stored() / records, 1)))
        loop = asyncio.get_running_loop()
        try:
            while at.end < stop:
                due_s = self._node.now_s() + STEP_BYTES / self._node.config.scrub_bytes_per_s
                upto = min(at.end + step, stop)
                found = await loop.run_in_executor(self._node.readers, log.verify, at, upto)
                step = 2 * step if found == at else step  # a batch larger than the step
                at = found
                await asyncio.sleep(max(due_s - self._node.now_s(), 0.0))
        except CorruptStorageError as e:
            one.scrub_result = e.message
            copy.report(DamageFound(e.message, e.offset))
        except (OutOfRangeError, UnknownShardError):
            return  # trimmed or dropped meanwhile: the next round begins again
        else:
            one.scrub_result = "whole"
        one.scrubbed_s = self._node.now_s()
