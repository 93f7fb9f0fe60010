"""Forgetting an instance that will not come back: its record, its drain and its tombstones."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from coordinator.answers.catalog import RetiredInstance
from coordinator.catalog.catalog import Catalog
from logstore.base.errors import ConflictError, RefusedError, UnknownInstanceError
from logstore.meta.port import TXN_OPERATIONS_MAX, Compare, Delete, MetadataStore, Operation
from logstore.meta.records import (
    SHARDS,
    ShardRecord,
    decode_process,
    decode_shard,
    drain_key,
    instance_key,
    process_key,
    tombstone_prefix,
)
from logstore.meta.shard_writes import change_shard
from logstore.meta.tombstones import Order

SHOWN_MAX = 10
"""Shards that a refusal names."""
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
        store, key = self._store, instance_key(instance)
        found = await store.get(key)
        if found is None:
            raise UnknownInstanceError(f"instance {instance!r} is not registered")
        process = await store.get(process_key(instance))
        if process is not None:
            address = decode_process(process.value).address
            raise RefusedError(
                f"instance {instance} cannot be retired: it lives at {address}. Empty it with "
                f"`logstore drain {instance}` and stop it, or stop it and wait for its lease to end"
            )
        items = (await store.range(SHARDS)).items
        held = [(item, decode_shard(item.value)) for item in items]
        check_retire(instance, [shard for _, shard in held])
        mine = [(item, s) for item, s in held if s.member_on(instance) is not None]
        graves = (await store.range(tombstone_prefix(instance))).items
        told = RetiredInstance(instance=instance, learners=len(mine), tombstones=len(graves))
        if dry_run:
            return told
        order = Order(self._catalog.cluster, f"{instance} was retired", self._catalog.now_us())
        dead = [Compare(key, found.revision), Compare(process_key(instance), 0)]
        for item, shard in mine:
            write = change_shard(shard, item.revision, without(shard, instance), order)
            await self._txn([*dead, write.compare], write.operations, instance)
        graves = (await store.range(tombstone_prefix(instance))).items
        size = TXN_OPERATIONS_MAX - _SPARE
        for at in range(0, len(graves), size):
            part = graves[at : at + size]
            compares = [Compare(item.key, item.revision) for item in part]
            await self._txn([*dead, *compares], [Delete(item.key) for item in part], instance)
        drain = await store.get(drain_key(instance))
        ends = [found] if drain is None else [found, drain]
        compares = [Compare(item.key, item.revision) for item in ends]
        await self._txn([*compares, dead[1]], [Delete(item.key) for item in ends], instance)
        _log.warning("instance retired", instance=instance, learners=len(mine))
        return told

    async def _txn(
        self, compares: Sequence[Compare], operations: Sequence[Operation], instance: str
    ) -> None:
        if not (await self._store.txn(compares, operations)).succeeded:
            raise ConflictError(f"instance {instance} or a shard of it changed, try again")
