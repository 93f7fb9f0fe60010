"""One instance: its engine, the copies it holds, and its way to the metadata.

What it holds follows from the metadata alone: for each record that names it, a copy is open; a copy
that no record names is deleted after one more linearizable read (P9).
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import structlog
from grpc.aio import Channel

from logstore.base.env import Env
from logstore.base.errors import (
    ConflictError,
    CorruptStorageError,
    FencedError,
    LogstoreError,
    NotServingError,
    StorageFullError,
    UnavailableError,
    UnknownLogError,
    UnknownShardError,
)
from logstore.base.tls import TlsOptions
from logstore.engine.port import Engine, ReplicaMeta
from logstore.feed.port import Broker
from logstore.meta.port import Compare, MetadataStore, Put, WatchEvent
from logstore.meta.records import (
    LOGS,
    SHARDS,
    CapacityRecord,
    InstanceRecord,
    Member,
    ShardRecord,
    decode_shard,
    encode,
    instance_key,
    shard_key,
)
from logstore.node.admission import Admission
from logstore.node.agent import Agent
from logstore.node.catalog import Catalog
from logstore.node.commit import GroupCommit, Source
from logstore.node.config import NodeConfig
from logstore.node.context import NodeContext
from logstore.node.copying import CopyPace
from logstore.node.replica import Replica
from logstore.node.scrub import Scrubber
from logstore.proto.channel import open_channel
from logstore.replication.events import Role
from sharder.keys import routing_key

_log = structlog.get_logger(__name__)

TICK_S = 0.05
LAG_PROBE_S = 0.01
INDEX_RECORDS = 65_536
INDEX_IDLE_S = 0.2


class Instance:
    """Opens, keeps and closes the copies of one instance."""

    def __init__(
        self,
        config: NodeConfig,
        env: Env,
        engine: Engine,
        store: MetadataStore,
        incarnation: int,
        tls: TlsOptions | None = None,
        broker: Broker | None = None,
    ) -> None:
        self.catalog = Catalog()
        self.replicas: dict[str, Replica] = {}
        self.committer = GroupCommit(engine)
        self.committer.on_damage = self._on_damage
        self.scrubber = Scrubber(self)
        self.writes_stopped: str | None = None
        """Damage that made the engine refuse every write: only a restart (a rebuild) helps."""
        self._no_room: set[str] = set()
        """Shards whose copy here waits for space on the disk."""
        self._tls = tls
        self._channels: dict[str, Channel] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._index_thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        agent = Agent(config, env)
        self.node = NodeContext(
            config=config,
            env=env,
            engine=engine,
            store=store,
            committer=self.committer,
            admission=Admission(config.ops_per_s_max, config.bytes_per_s_max, config.burst_s),
            agent=agent,
            stamps=agent.clock,
            readers=ThreadPoolExecutor(config.read_threads, thread_name_prefix="read"),
            incarnation=incarnation,
            channel_to=self._channel_to,
            shard_record=self._shard_record,
            open_copy=self.replicas.get,
            pace=CopyPace(config, env.clock.monotonic_s, self._copies),
            broker=broker,
        )

    # ---- look-ups ----------------------------------------------------------------------------

    def replica(self, shard: str) -> Replica:
        """The open copy of a shard; else an error that tells a caller to refresh its route."""
        found = self.replicas.get(shard)
        if found is not None:
            return found
        if not self.catalog.filled:
            raise NotServingError(f"instance {self.node.instance} is starting")
        if shard in self.catalog.shards:
            raise FencedError(f"shard {shard} is not on {self.node.instance}")
        raise UnknownShardError(f"shard {shard!r} does not exist")

    def replica_of_key(self, log: str, key: bytes) -> Replica:
        """The copy here of the open shard that holds `key`."""
        found = self.catalog.logs.get(log)
        if found is None:
            raise UnknownLogError(f"log {log!r} does not exist")
        routed = routing_key(found[0].options.partitioner, key)
        for record, _ in self.catalog.shards.values():
            if record.log == log and record.status != "sealed" and routed in record.range:
                return self.replica(record.shard)
        raise NotServingError(f"log {log} has no open shard for key {key!r} yet")

    def _shard_record(self, shard: str) -> ShardRecord | None:
        found = self.catalog.shards.get(shard)
        return found[0] if found is not None else None

    def _channel_to(self, instance: str) -> Channel:
        address = self.catalog.address(instance)
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address, self._tls)
        return channel

    # ---- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work; the metadata may come later."""
        works = (self.committer.run(), self._follow_metadata(), self._tick(), self._index(),
                 self._probe_loop(), self._open_when_room())  # fmt: skip
        for work in (*works, self.scrubber.run()):
            self._tasks.append(asyncio.create_task(self._watched(work)))

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        """No task of ours may end unseen: without it the instance would serve as if well."""
        try:
            await work
        except Exception as e:
            self.node.broken = f"{type(e).__name__}: {e}"
            _log.critical("instance broken", error=self.node.broken, exc_info=True)

    async def register(self, address: str) -> None:
        """Write who and where we are (compare-and-swap; retried until the store answers)."""
        config = self.node.config
        record = InstanceRecord(
            instance=config.instance,
            address=address,
            incarnation=self.node.incarnation,
            tier=config.tier,
            zone=config.zone,
            capacity=CapacityRecord(
                config.ops_per_s_max, config.bytes_per_s_max, config.stored_bytes_max
            ),
            started_us=self.node.env.clock.wall_us(),
        )
        key = instance_key(config.instance)
        while True:
            try:
                found = await self.node.store.get(key)
                revision = 0 if found is None else found.revision
                result = await self.node.store.txn(
                    [Compare(key, revision)], [Put(key, encode(record))]
                )
                if result.succeeded:
                    return
            except LogstoreError as e:
                _log.warning("not registered yet", error=e.message)
                await asyncio.sleep(self.node.config.retry_interval_s)

    async def _follow_metadata(self) -> None:
        """Range once, then watch; again from the start when history was compacted."""
        store = self.node.store
        while True:
            try:
                if not self.catalog.filled:
                    await self._fill()
                async for events in store.watch("/", self.catalog.revision):
                    # All of a revision at once: routes never show a half-done split (I1).
                    taken = [(event, self.catalog.take(event)) for event in events]
                    for event, record in taken:
                        await self._act_on(event, record)
                    self.catalog.revision = events[-1].revision
            except ConflictError:
                self.catalog.filled = False
            except LogstoreError as e:
                _log.info("metadata away", error=e.message)
                await asyncio.sleep(self.node.config.retry_interval_s)

    async def _fill(self) -> None:
        found = await self.node.store.range("/")
        self.catalog.logs.clear()
        self.catalog.shards.clear()
        for item in found.items:
            self.catalog.take(WatchEvent(item.key, item.value, item.revision))
        self.catalog.revision = found.revision
        self.catalog.filled = True
        try:
            for record, revision in list(self.catalog.shards.values()):
                await self._follow_shard(record, revision)
            await self._drop_orphans()
        except LogstoreError:
            self.catalog.filled = False  # what was not followed is told by no watch
            raise

    async def _act_on(self, event: WatchEvent, record: ShardRecord | None) -> None:
        if record is not None:
            await self._follow_shard(record, event.revision)
        elif event.key.startswith(LOGS) and event.value is not None:
            # A log's record comes after its shards: those that waited for it are opened now.
            name = event.key.removeprefix(LOGS)
            for shard, revision in list(self.catalog.shards.values()):
                if shard.log == name:
                    await self._follow_shard(shard, revision)
        elif event.key.startswith(SHARDS):
            await self._drop_if_gone(event.key.removeprefix(SHARDS))

    async def _follow_shard(self, record: ShardRecord, revision: int) -> None:
        member = record.member_on(self.node.instance)
        held = self.replicas.get(record.shard)
        if held is not None and (member is None or member.replica_id != held.member.replica_id):
            await self._drop_if_gone(record.shard)
            held = self.replicas.get(record.shard)
        if member is None:
            return
        if held is None:
            opened = self._open_if_room(member, record)
            if opened is None:
                return
            held = self.replicas[record.shard] = opened
        held.on_config(record, revision)

    def _open_if_room(self, member: Member, record: ShardRecord) -> Replica | None:
        """A full disk holds back the copies that begin on it, and nothing else."""
        try:
            opened = self._open(member, record)
        except StorageFullError as e:
            if record.shard not in self._no_room:
                _log.warning("no room for a copy", shard=record.shard, error=e.message)
                self._no_room.add(record.shard)
            return None
        self._no_room.discard(record.shard)
        return opened

    async def _open_when_room(self) -> None:
        while True:
            await asyncio.sleep(self.node.config.retry_interval_s)
            for shard in sorted(self._no_room):
                found = self.catalog.shards.get(shard)
                if found is None:
                    self._no_room.discard(shard)
                    continue
                try:
                    await self._follow_shard(*found)
                except LogstoreError as e:
                    _log.info("metadata away", error=e.message)

    def _open(self, member: Member, record: ShardRecord) -> Replica | None:
        """Open the copy a record names; a primary that never led gets an empty one."""
        log = self.catalog.log_of(record)
        if log is None:
            return None  # the log's record comes last, and brings its shards again
        engine = self.node.engine
        exists = any(m.replica_id == member.replica_id for m in engine.replicas())
        if not exists and self._begins_here(member, record):
            engine.create_replica(
                ReplicaMeta(replica_id=member.replica_id, shard=record.shard),
                key_index=log.options.key_index,
            )
            exists = True
        mine = replace(member, incarnation=self.node.incarnation)
        replica = Replica(self.node, mine, record, log.options)
        if not exists and member in record.in_sync:
            missing = (
                f"copy {member.replica_id} of shard {record.shard} is missing on the disk of "
                f"{self.node.instance}, though it is in sync by the metadata"
            )
            replica.fail(missing)
            replica.health.found(missing)
        return replica

    def _on_damage(self, source: Source | None, error: CorruptStorageError) -> None:
        if source is None:
            self.writes_stopped = error.message
            return
        for replica in self.replicas.values():
            if source in (replica.writer, replica.receiver):
                replica.health.found(error.message)

    def leaving(self) -> bool:
        """A damaged copy is still to be deleted here."""
        return any(r.health.damage and not r.health.alone() for r in self.replicas.values())

    def _begins_here(self, member: Member, record: ShardRecord) -> bool:
        """May this copy begin empty? A new log's primary does, and each first member of a successor
        in place, as long as its disk proves that it was there: it holds a parent's end (S1)."""
        if record.epoch == 1 and record.primary.replica_id == member.replica_id:
            return True
        if member.replica_id not in record.first_members:
            return False
        parents = [self.replicas.get(parent) for parent in record.predecessors]
        return record.epoch == 1 or any(p is not None and p.holds_seal() for p in parents)

    async def _drop_if_gone(self, shard: str) -> None:
        """P9: delete a copy only after our own linearizable read that its id is no member."""
        held = self.replicas.get(shard)
        if held is None:
            return
        found = await self.node.store.get(shard_key(shard))
        record = decode_shard(found.value) if found else None
        if record is not None and any(
            m.replica_id == held.member.replica_id for m in record.members()
        ):
            return
        del self.replicas[shard]
        await held.close(FencedError(f"shard {shard} left {self.node.instance}"))
        await held.settled()
        await self._drop(held.member.replica_id)

    async def _drop_orphans(self) -> None:
        """Copies on the disk that the map does not name any more."""
        named = {
            m.replica_id for record, _ in self.catalog.shards.values() for m in record.members()
        }
        for meta in self.node.engine.replicas():
            if meta.replica_id in named:
                continue
            found = await self.node.store.get(shard_key(meta.shard))
            members = decode_shard(found.value).members() if found else ()
            if all(m.replica_id != meta.replica_id for m in members):
                await self._drop(meta.replica_id)

    async def _drop(self, replica_id: int) -> None:
        _log.info("copy deleted", replica_id=replica_id)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._index_thread, self.node.engine.drop_replica, replica_id)

    # ---- periodic work -------------------------------------------------------------------------

    def _copies(self) -> int:
        """Shards of the cluster that have a learner now."""
        return sum(1 for record, _ in self.catalog.shards.values() if record.learners)

    async def _probe_loop(self) -> None:
        """How late the loop is: what an append waits before it is even seen."""
        node = self.node
        while True:
            due_s = node.now_s() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            now_s = node.now_s()
            node.pace.latency.lagged(max(0.0, now_s - due_s))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for replica in list(self.replicas.values()):
                replica.tick()
                if replica.role is Role.LEARNER:
                    replica.learning.resume_if_silent()

    async def _index(self) -> None:
        """Build the key index in a thread of its own, off the append path."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                done = await loop.run_in_executor(
                    self._index_thread, self.node.engine.index_step, INDEX_RECORDS
                )
            except LogstoreError as e:
                _log.warning("index step failed", error=e.message)
                done = 0
            if done == 0:
                await asyncio.sleep(INDEX_IDLE_S)

    async def close(self) -> None:
        """Stop serving: waiting appends get a retriable error; engine and store stay open."""
        for task in self._tasks[1:]:
            task.cancel()
        error = UnavailableError(f"instance {self.node.instance} stops")
        for replica in list(self.replicas.values()):
            await replica.close(error)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._index_thread.shutdown(wait=True)
        self.node.readers.shutdown(wait=True)
        for channel in self._channels.values():
            await channel.close()
