"""Where a copy takes its appends in: queued where it leads or will, forwarded where it follows.

Appends that are held while leadership changes hands are answered by the next primary, to which they
go in order (H3), or by the seal (S1).
"""

import asyncio

from logstore.base.errors import (
    FencedError,
    LogstoreError,
    UnavailableError,
)
from logstore.meta.records import Member
from logstore.node.appends.forward import Forwarder
from logstore.node.appends.sealed import AncestorVersions, SealedAnswers
from logstore.node.appends.writer import ShardWriter, only_key
from logstore.node.intake.appends import PendingAppend
from logstore.node.resources.availability import Availability, Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.replication.events import Role


class AppendGate:
    """The gate of one copy. `blackout_ms` is how long it held appends the last time."""

    def __init__(self, copy: Copy, node: NodeContext, writer: ShardWriter) -> None:
        self._copy, self._node, self._writer = copy, node, writer
        self.blackout_ms = 0.0
        self._held_since_s: float | None = None
        self._forwarder: Forwarder | None = None
        self._ancestors = AncestorVersions(copy, node)
        self._sealed = SealedAnswers(copy)

    def submit(self, append: PendingAppend) -> None:
        """Take an append: queue it where we lead (or will), forward it where we follow."""
        copy = self._copy
        request = append.request
        forwarded = request is not None and request.forwarded
        state = copy.availability(Purpose.APPEND).state
        if state is Availability.ELSE and self._forwarder is not None and not forwarded:
            self._forwarder.submit(append)
            return
        copy.check(Purpose.APPEND)
        if state is Availability.SEALED:
            self._sealed.settle(append)
        elif self._with_ancestors(append):
            self._writer.submit(append)
            if self._writer.is_open:
                self._node.committer.wake(self._writer)

    def _with_ancestors(self, append: PendingAppend) -> bool:
        """True when the append can be checked; else the key's version in the ancestors is fetched
        first, and it is submitted again (S3)."""
        if append.expected_version is None:
            return True
        before = self._ancestors.known(only_key(append))
        if before is not None:
            append.version_before = before
            return True
        self._copy.spawn(self._submit_later(append), f"version {self._copy.shard}")
        return False

    async def _submit_later(self, append: PendingAppend) -> None:
        try:
            await self._ancestors.fetch(only_key(append))
            self.submit(append)
        except LogstoreError as e:
            append.refuse(e)
        except asyncio.CancelledError:
            append.refuse(UnavailableError(f"shard {self._copy.shard} closes"))
            raise

    @property
    def waiting_bytes(self) -> int:
        """Of appends that wait here, or for the primary's answer."""
        forwarded = self._forwarder.waiting_bytes if self._forwarder is not None else 0
        return self._writer.queue_bytes + forwarded

    def hold(self) -> None:
        """Hold appends from now on: leadership changes hands, or the shard ends."""
        self._held_since_s = self._node.now_s()

    def unhold(self) -> None:
        """This copy goes on taking appends itself: the change held none up."""
        self._held_since_s = None

    def pass_on(self, role: Role, primary: Member) -> None:
        """H3: held appends go to the new primary, in order, with producer and sequence."""
        held, shard = self._writer.take_queue(), self._copy.shard
        self.stop_forwarding()
        if role is Role.FOLLOWER:
            self._forwarder = Forwarder(self._copy, self._node, primary.instance)
            self._copy.spawn(self._forwarder.run(), f"forward {shard}")
        for append in held:
            if self._forwarder is not None:
                self._forwarder.submit(append)
            else:
                append.refuse(FencedError(f"shard {shard} is led by {primary.instance} now"))
        self._blackout_over()

    def settle_at_seal(self) -> None:
        """The shard has ended: a held append is a duplicate, or was surely not stored (S1)."""
        for append in self._writer.take_queue():
            try:
                self._sealed.settle(append)
            except LogstoreError as e:
                append.refuse(e)
        self._blackout_over()

    def refuse_held(self, error: LogstoreError) -> None:
        """The copy goes out of service: waiting appends get `error`."""
        for append in self._writer.take_queue():
            append.refuse(error)

    def stop_forwarding(self) -> None:
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None

    def _blackout_over(self) -> None:
        if self._held_since_s is not None:
            self.blackout_ms = (self._node.now_s() - self._held_since_s) * 1e3
            self._held_since_s = None
