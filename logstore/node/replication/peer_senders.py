"""The peers that the primary sends to, and the batches that it may still have to send."""

import asyncio
from bisect import bisect_left
from collections import deque
from operator import attrgetter

from logstore.base.limits import READ_BATCHES_MAX, REPLICATION_WINDOW_BYTES_MAX
from logstore.engine.batch import StoredBatch
from logstore.engine.rules import up_to_bytes
from logstore.meta.records import Member
from logstore.node.replication.peer_sender import PeerSender, ReadConfig
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.replication.machine import ReplicationMachine


class PeerSenders:
    """A sender for each peer that the machine named, and the newest assigned batches."""

    def __init__(
        self, copy: Copy, node: NodeContext, machine: ReplicationMachine, read_config: ReadConfig
    ) -> None:
        self._copy, self._node, self._machine = copy, node, machine
        self._read_config = read_config
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._recent: deque[StoredBatch] = deque()
        """Without a gap, up to the newest one assigned; those not written here yet stay in it."""
        self._recent_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def push(self, member: Member) -> None:
        """Begin a stream to `member`, replacing an existing one."""
        self.stop(member.replica_id)
        pusher = PeerSender(
            self._copy, self._node, self._machine, member, self.batches_from, self._read_config
        )
        task = self._copy.spawn(pusher.run(), f"push {self._copy.shard}")
        self._tasks[member.replica_id] = task

    def stop(self, replica_id: int) -> None:
        task = self._tasks.pop(replica_id, None)
        if task is not None:
            task.cancel()

    def remember(self, batches: list[StoredBatch]) -> None:
        """Batches that were assigned now, the next ones of the log."""
        if not self._tasks:
            self.forget()  # what follows would leave a gap in it
            return
        self._recent.extend(batches)
        self._recent_bytes += sum(len(b.data) for b in batches)
        while self._recent_bytes > REPLICATION_WINDOW_BYTES_MAX and len(self._recent) > 1:
            if self._recent[0].end > self._machine.end.end:
                break
            self._recent_bytes -= len(self._recent.popleft().data)

    def forget(self) -> None:
        """Batches that were assigned are no longer the log's end: a term or a write has failed."""
        self._recent.clear()
        self._recent_bytes = 0

    def batches_from(self, offset: int, max_bytes: int) -> list[StoredBatch]:
        """Batches to send from `offset` on: assigned ones from memory, older ones from the disk."""
        if self._recent and self._recent[0].base_offset <= offset:
            at = bisect_left(self._recent, offset, key=attrgetter("base_offset"))
            rest = (self._recent[i] for i in range(at, len(self._recent)))
            return up_to_bytes(rest, max_bytes, READ_BATCHES_MAX)
        copy = self._copy
        stop = self._machine.end.end
        if offset >= stop:
            return []
        return copy.log.read(offset, stop, max_bytes)
