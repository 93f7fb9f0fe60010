"""The high watermark on the disk of an in-sync copy: at most a moment behind the truth.

Each batch is written with the mark of that moment; after the last batch no other would follow, and
a copy that restarts would not know that its newest records were committed. So the newest mark is
also written by itself, soon after it rose and at a stop: a follower's disk then shows an older disk
of its primary that it lacks records (P11), and keeps them from being truncated (P5).
"""

import asyncio
import contextlib

from logstore.base.errors import LogstoreError
from logstore.base.types import Durability
from logstore.engine.port import ReplicaWrite
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy

MARK_INTERVAL_S = 1.0
"""A mark by itself is written this often at most."""


class MarkKeeper:
    """Writes one copy's mark. A `Source` of the group commit."""

    durability = Durability.OS

    def __init__(self, copy: Copy, node: NodeContext) -> None:
        self._copy, self._node = copy, node
        self._stored = copy.high_watermark
        self._due_s = float("-inf")
        self._writing: asyncio.Future[None] | None = None
        self._mark = 0

    def keep_if_due(self) -> None:
        """Called each tick."""
        now_s = self._node.now_s()
        if now_s >= self._due_s and self._wanted():
            self._due_s = now_s + MARK_INTERVAL_S
            self._node.committer.wake(self)

    def keep_now(self) -> None:
        """At the end of the copy's service, when nothing of it is being written any more."""
        if self._wanted():
            with contextlib.suppress(LogstoreError):  # it is behind then, as after a kill
                node, mark = self._node, self._copy.high_watermark
                node.engine.write([ReplicaWrite(self._copy.log.id, (), mark)], self.durability)
                self._stored = mark

    async def settled(self) -> None:
        """Return when no mark is being written."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _wanted(self) -> bool:
        copy = self._copy
        kept = copy.availability(Purpose.KEEP_MARK).allowed
        return kept and copy.high_watermark > self._stored

    # ---- Source ------------------------------------------------------------------------------

    def next_write(self, max_bytes: int) -> ReplicaWrite | None:
        if not self._wanted():
            return None
        self._mark = self._copy.high_watermark
        self._writing = asyncio.get_running_loop().create_future()
        return ReplicaWrite(self._copy.log.id, (), self._mark)

    def written(self) -> None:
        self._stored = self._mark
        self._land()

    def failed(self, error: LogstoreError) -> None:
        self._land()

    def _land(self) -> None:
        if self._writing is not None:
            self._writing.set_result(None)
            self._writing = None
