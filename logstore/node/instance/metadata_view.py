"""An instance's copy of the metadata, by a watch. It stays when the store is away."""

import asyncio
from dataclasses import dataclass, field

from logstore.base.errors import NotServingError, UnavailableError, UnknownLogError
from logstore.meta.port import WatchEvent
from logstore.meta.records import (
    INSTANCES,
    LOGS,
    SHARDS,
    InstanceRecord,
    LogRecord,
    ShardRecord,
    decode_instance,
    decode_log,
    decode_shard,
)
from logstore.meta.routes import log_routes
from logstore.proto.v1 import common_pb2

NEWER_WAIT_S = 1.0


@dataclass(slots=True)
class MetadataView:
    """Logs, shards and instances by id, each with the revision that wrote it."""

    logs: dict[str, tuple[LogRecord, int]] = field(default_factory=dict)
    shards: dict[str, tuple[ShardRecord, int]] = field(default_factory=dict)
    instances: dict[str, InstanceRecord] = field(default_factory=dict)
    revision: int = 0
    filled: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: WatchEvent) -> ShardRecord | None:
        """Apply one change; returns the shard's record when it is about a shard."""
        self._changed.set()
        self._changed = asyncio.Event()
        for prefix, known in ((LOGS, self.logs), (SHARDS, self.shards)):
            if event.key.startswith(prefix) and event.value is None:
                known.pop(event.key.removeprefix(prefix), None)
                return None
        if event.value is None:
            self.instances.pop(event.key.removeprefix(INSTANCES), None)
        elif event.key.startswith(LOGS):
            log = decode_log(event.value)
            self.logs[log.name] = (log, event.revision)
        elif event.key.startswith(INSTANCES):
            instance = decode_instance(event.value)
            self.instances[instance.instance] = instance
        elif event.key.startswith(SHARDS):
            shard = decode_shard(event.value)
            self.shards[shard.shard] = (shard, event.revision)
            return shard
        return None

    def log_of(self, shard: ShardRecord) -> LogRecord | None:
        found = self.logs.get(shard.log)
        return found[0] if found else None

    def address(self, instance: str) -> str:
        """The address of an instance; UnavailableError when it never registered."""
        found = self.instances.get(instance)
        if found is None:
            raise UnavailableError(f"the address of instance {instance} is not known")
        return found.address

    async def routes(self, log: str, newer_than: int) -> common_pb2.LogRoutes:
        """The log's routes, waiting a second for a map newer than `newer_than`."""
        routes = self._routes(log)
        if newer_than == 0 or routes.map_version > newer_than:
            return routes
        try:
            async with asyncio.timeout(NEWER_WAIT_S):
                while routes.map_version <= newer_than:
                    await self._changed.wait()
                    routes = self._routes(log)
        except TimeoutError:
            pass
        return routes

    def _routes(self, log: str) -> common_pb2.LogRoutes:
        if not self.filled:
            raise NotServingError("this instance has not read the map yet")
        found = self.logs.get(log)
        if found is None:
            raise UnknownLogError(f"log {log!r} does not exist")
        shards = [(s, r) for s, r in self.shards.values() if s.log == log]
        version = max([found[1], *(r for _, r in shards)])
        addresses = {i.instance: i.address for i in self.instances.values()}
        return log_routes(found[0], (s for s, _ in shards), addresses, version)
