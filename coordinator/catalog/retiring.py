"""Removing an instance that will not come back: its record, its drain and its tombstones."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from coordinator.answers.catalog import RetiredInstance
from coordinator.catalog.catalog import Catalog
from logstore.base.errors import ConflictError, RefusedError, UnknownInstanceError
from logstore.meta.port import TXN_OPERATIONS_MAX, Compare, MetadataStore, Operation
from logstore.meta.records import ShardRecord
from logstore.meta.shard_writes import change_shard
from logstore.meta.tables import (
    drain_table,
    instance_table,
    process_table,
    shard_table,
    tombstone_table,
)
from logstore.meta.tombstones import Order

SHOWN_MAX = 10
"""Shards named in a refusal."""
_SPARE = 8
_log = structlog.get_logger(__name__)


def check_retire(instance: str, shards: Sequence[ShardRecord]) -> None:
    """`RefusedError` while a shard needs the instance: as its only copy, or still in sync (P3)."""
    needed = [s for s in shards if any(m.instance == instance for m in s.in_sync)]
    only = [s.shard for s in needed if len(s.in_sync) == 1]
    if only:
        raise RefusedError(
            f"instance {instance} cannot be retired: it has the only copy of {_some(only)}. Bring "
            "its disk back; or give the records up: delete the log, or stop the cluster and run "
            "`logstore recover --fill-holes` without its directory"
        )
    if needed:
        raise RefusedError(
            f"instance {instance} cannot be retired yet: {_some([s.shard for s in needed])} still "
            "count it as in sync; their primaries drop it within seconds"
        )
    moving = [s for s in shards if s.member_on(instance) is not None and s.migration is not None]
    if moving:
        raise RefusedError(
            f"instance {instance} cannot be retired yet: {_some([s.shard for s in moving])} move; "
            f"abort {', '.join(sorted({str(s.migration) for s in moving}))} first"
        )


def without(record: ShardRecord, instance: str) -> ShardRecord:
    """The record without the learner on the instance."""
    gone = {m.replica_id for m in record.learners if m.instance == instance}
    return replace(
        record,
        learners=tuple(m for m in record.learners if m.replica_id not in gone),
        admit=tuple(r for r in record.admit if r not in gone),
    )


def _some(shards: Sequence[str]) -> str:
    more = f" and {len(shards) - SHOWN_MAX} more" if len(shards) > SHOWN_MAX else ""
    return f"{', '.join(sorted(shards)[:SHOWN_MAX])}{more}"


class Retiring:
    """Over one store."""

    def __init__(self, store: MetadataStore, catalog: Catalog) -> None:
        self._store, self._catalog = store, catalog

    async def retire(self, instance: str, *, dry_run: bool = False) -> RetiredInstance:
        """Forget the instance. `RefusedError` while it lives or is needed; repeatable."""
        store = self._store
        instances, drains = instance_table(store), drain_table(store)
        processes, tombstones = process_table(store), tombstone_table(store)
        found = await instances.entry(instance)
        if found is None:
            raise UnknownInstanceError(f"instance {instance!r} is not registered")
        process = await processes.get(instance)
        if process is not None:
            raise RefusedError(
                f"instance {instance} cannot be retired: it lives at {process.address}. Empty it "
                f"with `logstore drain {instance}` and stop it, or stop it and wait for its lease "
                "to end"
            )
        held = await shard_table(store).entries()
        check_retire(instance, [entry.record for entry in held])
        mine = [entry for entry in held if entry.record.member_on(instance) is not None]
        graves = await tombstones.entries(f"{instance}/")
        told = RetiredInstance(instance=instance, learners=len(mine), tombstones=len(graves))
        if dry_run:
            return told
        order = Order(self._catalog.cluster, f"{instance} was retired", self._catalog.now_us())
        gone = processes.unchanged(instance, None)
        for entry in mine:
            after = without(entry.record, instance)
            write = change_shard(entry.record, entry.revision, after, order)
            compares = [found.unchanged, gone, write.compare]
            await self._txn(compares, write.operations, instance)
        graves = await tombstones.entries(f"{instance}/")
        size = TXN_OPERATIONS_MAX - _SPARE
        for at in range(0, len(graves), size):
            part = graves[at : at + size]
            compares = [found.unchanged, gone, *(grave.unchanged for grave in part)]
            await self._txn(compares, [tombstones.removal(g.name) for g in part], instance)
        drain = await drains.entry(instance)
        compares, operations = [found.unchanged], [instances.removal(instance)]
        if drain is not None:
            compares.append(drain.unchanged)
            operations.append(drains.removal(instance))
        await self._txn([*compares, gone], operations, instance)
        _log.warning("instance retired", instance=instance, learners=len(mine))
        return told

    async def _txn(
        self, compares: Sequence[Compare], operations: Sequence[Operation], instance: str
    ) -> None:
        if not (await self._store.txn(compares, operations)).succeeded:
            raise ConflictError(f"instance {instance} or a shard of it changed, try again")
