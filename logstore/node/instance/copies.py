"""The copies on an instance's disk, apart from serving them: the facts of each, retiring and
restoring, orphans, and when bytes are deleted (design note 0008, P9, I13).

A copy leaves the disk only on a tombstone that names cluster, shard and replica id, and only after
it was retired: its bytes stay until its time is over, or the disk runs full.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from logstore.base.errors import StorageError, UnknownShardError
from logstore.engine.port import CopyFacts, ReplicaMeta, Retired, RetiredCopy
from logstore.meta.records import ShardRecord, Tombstone, encode
from logstore.meta.table import Entry
from logstore.meta.tables import shard_table, tombstone_table

if TYPE_CHECKING:
    from logstore.node.instance.claim import Claim
    from logstore.node.resources.context import NodeContext

SEEN_S_MIN = 600.0
"""However the wall clock jumps, a process sees a retired copy for this long, or for the whole of
the copy's time, before it deletes it."""

_log = structlog.get_logger(__name__)


class InstanceCopies:
    """Of one instance."""

    def __init__(self, node: "NodeContext", claim: "Claim", thread: ThreadPoolExecutor) -> None:
        """`thread`: where slow calls of the engine are made, one at a time."""
        self._node, self._claim, self._thread = node, claim, thread
        self._seen_s: dict[int, float] = {}
        self._due: dict[int, CopyFacts] = {}
        self._wake = asyncio.Event()
        self.dropped = 0
        """Copies whose bytes were deleted by this process."""
        self.free_share: Callable[[], float] = lambda: _free_share(node)

    # ---- the facts of each ---------------------------------------------------------------------

    def facts_of(self, record: ShardRecord, revision: int, log: bytes) -> CopyFacts:
        return CopyFacts(self._claim.cluster, self._claim.generation, revision, encode(record), log)

    def acted_on(self, replica_id: int, facts: CopyFacts) -> None:
        """Keep the newest facts of a copy, soon and off the loop."""
        self._due[replica_id] = facts
        self._wake.set()

    async def keep_facts(self) -> None:
        """Write the facts of `acted_on`, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, {}
            held = {m.replica_id for m in self._node.engine.replicas()}
            for replica_id in sorted(due.keys() & held):
                try:
                    await self._run(self._node.engine.set_facts, replica_id, due[replica_id])
                except UnknownShardError:
                    continue  # retired while this waited for the thread
                except StorageError as e:
                    _log.warning("facts of a copy not kept", replica_id=replica_id, error=e.message)

    def check_ours(self, meta: ReplicaMeta, record: ShardRecord) -> str:
        """Why the copy on the disk is not the one that the record names; empty: it is."""
        if meta.shard != record.shard:
            return f"copy {meta.replica_id} here is of shard {meta.shard}, not of {record.shard}"
        facts = self._node.engine.facts(meta.replica_id)
        if facts is not None and facts.cluster not in ("", self._claim.cluster):
            return (
                f"copy {meta.replica_id} of {meta.shard} belongs to cluster {facts.cluster}, this "
                f"is cluster {self._claim.cluster}"
            )
        return ""

    def orphans(self, records: Iterable[ShardRecord]) -> list[ReplicaMeta]:
        """Copies here that none of the records names."""
        named = {m.replica_id for record in records for m in record.members()}
        return [m for m in self._node.engine.replicas() if m.replica_id not in named]

    # ---- retiring ------------------------------------------------------------------------------

    async def order(self, replica_id: int) -> Entry[Tombstone] | None:
        """The tombstone of a copy, read linearizably; None unless it orders just this copy, of this
        cluster, away (P9)."""
        tombstones = tombstone_table(self._node.store)
        found = await tombstones.entry(f"{self._node.instance}/{replica_id}")
        if found is None:
            return None
        tombstone = found.record
        meta = next((m for m in self._node.engine.replicas() if m.replica_id == replica_id), None)
        if tombstone.cluster != self._claim.cluster or tombstone.replica_id != replica_id:
            _log.error("a tombstone is not for this cluster", tombstone=tombstone)
            return None
        if meta is not None and meta.shard != tombstone.shard:
            _log.error("a tombstone is not for this copy", tombstone=tombstone, shard=meta.shard)
            return None
        return found

    async def is_named(self, tombstone: Tombstone) -> bool:
        """Whether a record names the copy again: it was brought back since."""
        shard = await shard_table(self._node.store).get(tombstone.shard)
        members = shard.members() if shard is not None else ()
        return any(m.replica_id == tombstone.replica_id for m in members)

    async def retire(self, order: Entry[Tombstone]) -> None:
        """Carry the order out, durably, and confirm it."""
        tombstone = order.record
        engine, replica_id = self._node.engine, tombstone.replica_id
        if any(m.replica_id == replica_id for m in engine.replicas()):
            now_us = self._node.env.clock.wall_us()
            until_us = now_us + round(tombstone.keep_s * 1e6)
            retired = Retired(tombstone.cause, order.revision, now_us, until_us)
            await self._run(engine.retire_replica, replica_id, retired)
            _log.warning("copy retired", shard=tombstone.shard, replica_id=replica_id,
                         cause=tombstone.cause, keep_s=tombstone.keep_s)  # fmt: skip
        elif tombstone.keep_s == 0.0:
            kept = next((r for r in engine.retired() if r.meta.replica_id == replica_id), None)
            if kept is not None:
                await self._drop(kept, tombstone.cause)
        await self.confirm(order)

    async def confirm(self, order: Entry[Tombstone]) -> None:
        """The tombstone has done its work; a lost race means that somebody else saw to it."""
        await tombstone_table(self._node.store).remove(order)

    async def mark_short(self) -> None:
        """The directory is old or a copied one: durably mark every copy as perhaps short (P6)."""
        for meta in self._node.engine.replicas():
            if not meta.tail_lost:
                await self._run(self._node.engine.set_meta, replace(meta, tail_lost=True))

    # ---- freeing space -------------------------------------------------------------------------

    async def reclaim(self) -> None:
        """Delete the bytes of retired copies whose time is over; when free space is below the
        guard, of the oldest one before its time."""
        now_s, now_us = self._node.now_s(), self._node.env.clock.wall_us()
        kept = sorted(self._node.engine.retired(), key=lambda r: r.retired.retired_us)
        self._seen_s = {r.meta.replica_id: self._seen_s.get(r.meta.replica_id, now_s) for r in kept}
        over = [r for r in kept if self._is_over(r, now_s, now_us)]
        for copy in over:
            await self._drop(copy, "its time is over")
        left = [r for r in kept if r not in over]
        if left and self.free_share() < self._node.config.disk_free_share_min:
            await self._drop(left[0], "the disk is nearly full")

    def _is_over(self, copy: RetiredCopy, now_s: float, now_us: int) -> bool:
        retired = copy.retired
        keep_s = (retired.keep_until_us - retired.retired_us) / 1e6
        seen_s = now_s - self._seen_s[copy.meta.replica_id]
        return now_us >= retired.keep_until_us and seen_s >= min(keep_s, SEEN_S_MIN)

    async def _drop(self, copy: RetiredCopy, why: str) -> None:
        _log.warning("retired copy deleted", shard=copy.meta.shard, replica_id=copy.meta.replica_id,
                     cause=copy.retired.cause, why=why, size_bytes=copy.bytes_stored)  # fmt: skip
        await self._run(self._node.engine.drop_replica, copy.meta.replica_id)
        self.dropped += 1

    async def _run(self, call: Callable[..., None], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


def _free_share(node: "NodeContext") -> float:
    """Free space of the data directory's disk, as a share of it; 1 when unknown."""
    try:
        usage = shutil.disk_usage(node.config.data)
    except OSError:
        return 1.0
    return usage.free / usage.total if usage.total else 1.0
