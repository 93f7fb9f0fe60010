"""Logs and instances by the metadata; this module does not write."""

from dataclasses import dataclass

from logstore.base.errors import UnknownLogError
from logstore.meta.port import MetadataStore
from logstore.meta.records import InstanceRecord, LogRecord, ShardRecord
from logstore.meta.tables import drain_table, instance_table, log_table, shard_table


@dataclass(frozen=True, slots=True)
class Described:
    """A log with its shards in key order, and the newest metadata revision among them."""

    log: LogRecord
    shards: tuple[ShardRecord, ...]
    map_version: int


class Listing:
    """The content of one store."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def describe(self, name: str) -> Described:
        found = await log_table(self._store).entry(name)
        if found is None:
            raise UnknownLogError(f"log {name!r} does not exist")
        entries = await shard_table(self._store).entries(f"{name}/")
        shards = sorted((entry.record for entry in entries), key=lambda s: s.range.start)
        version = max([found.revision, *(entry.revision for entry in entries)])
        return Described(found.record, tuple(shards), version)

    async def list(self) -> list[Described]:
        logs = await log_table(self._store).all()
        return [await self.describe(log.name) for log in logs]

    async def instances(self) -> tuple[InstanceRecord, ...]:
        return tuple(await instance_table(self._store).all())

    async def draining(self) -> frozenset[str]:
        """Instances that are being drained, or are drained: nothing new is placed there."""
        return frozenset(await drain_table(self._store).names())
