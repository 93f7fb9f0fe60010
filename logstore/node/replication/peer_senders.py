"""The peers that the primary sends to, and the batches that it may still have to send."""

import asyncio
from collections import deque
from itertools import chain

from logstore.base.limits import READ_BATCHES_MAX
from logstore.engine.batch import StoredBatch
from logstore.engine.rules import up_to_bytes
from logstore.meta.records import Member
from logstore.node.replication.peer_sender import PeerSender, ReadConfig
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.replication.machine import ReplicationMachine


class PeerSenders:
    """A sender for each peer that the machine named, and the batches not written here yet."""

    def __init__(
        self, copy: Copy, node: NodeContext, machine: ReplicationMachine, read_config: ReadConfig
    ) -> None:
        self._copy, self._node, self._machine = copy, node, machine
        self._read_config = read_config
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unwritten: deque[StoredBatch] = deque()
        """The group that is being written here, without a gap; the engine keeps what is older."""

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
        self._drop_written()
        self._unwritten.extend(batches)

    def forget(self) -> None:
        """Batches that were assigned are no longer the log's end: a term or a write has failed."""
        self._unwritten.clear()

    def batches_from(self, offset: int, max_bytes: int) -> list[StoredBatch]:
        """Batches to send from `offset` on: what is written (the newest of it is in the engine's
        memory), and after it what is being written."""
        self._drop_written()
        stop = self._machine.end.end
        found = self._copy.log.read(offset, stop, max_bytes) if offset < stop else []
        at = found[-1].end if found else offset
        if not self._unwritten or at < self._unwritten[0].base_offset:
            return found
        rest = (batch for batch in self._unwritten if batch.base_offset >= at)
        return up_to_bytes(chain(found, rest), max_bytes, READ_BATCHES_MAX)

    def _drop_written(self) -> None:
        while self._unwritten and self._unwritten[0].end <= self._machine.end.end:
            self._unwritten.popleft()
