"""Logs and instances as the metadata tells them; nothing here writes."""

from dataclasses import dataclass

from logstore.base.errors import UnknownLogError
from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    DRAINS,
    INSTANCES,
    LOGS,
    InstanceRecord,
    LogRecord,
    ShardRecord,
    decode_instance,
    decode_log,
    decode_shard,
    log_key,
    shard_prefix,
)


@dataclass(frozen=True, slots=True)
class Described:
    """A log with its shards in key order, and the newest metadata revision among them."""

    log: LogRecord
    shards: tuple[ShardRecord, ...]
    map_version: int


class Listing:
    """What one store holds."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def describe(self, name: str) -> Described:
        found = await self._store.get(log_key(name))
        if found is None:
            raise UnknownLogError(f"log {name!r} does not exist")
        items = (await self._store.range(shard_prefix(name))).items
        shards = sorted((decode_shard(i.value) for i in items), key=lambda s: s.range.start)
        version = max(i.revision for i in (found, *items))
        return Described(decode_log(found.value), tuple(shards), version)

    async def list(self) -> list[Described]:
        names = [decode_log(item.value).name for item in (await self._store.range(LOGS)).items]
        return [await self.describe(name) for name in names]

    async def instances(self) -> tuple[InstanceRecord, ...]:
        items = (await self._store.range(INSTANCES)).items
        return tuple(decode_instance(item.value) for item in items)

    async def draining(self) -> frozenset[str]:
        """Instances that are being drained, or are drained: nothing new is placed there."""
        items = (await self._store.range(DRAINS)).items
        return frozenset(item.key.removeprefix(DRAINS) for item in items)
