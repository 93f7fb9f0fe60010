"""One instance: its engine, the copies it holds, and its way to the metadata.

The metadata alone decides what it serves: for each record that names it, a copy is open. It does
not decide what it holds: a copy is retired only on a tombstone, and one without a record is kept
(P9).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog
from grpc.aio import Channel

from logstore.base.background import Background
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
from logstore.engine.port import Engine, ReplicaMeta
from logstore.feed.port import Broker
from logstore.meta.port import MetadataStore, WatchEvent
from logstore.meta.records import (
    GENERATION,
    LOGS,
    SHARDS,
    Member,
    ShardRecord,
    encode,
    tombstone_prefix,
)
from logstore.meta.tables import shard_table
from logstore.node.config import NodeConfig
from logstore.node.instance.claim import Claim, ClaimedStore
from logstore.node.instance.copies import InstanceCopies
from logstore.node.instance.identity import IdentityStore
from logstore.node.instance.metadata_view import MetadataView
from logstore.node.instance.registration import Registration
from logstore.node.instance.replica import Replica
from logstore.node.intake.admission import Admission
from logstore.node.integrity.scrub import Scrubber
from logstore.node.resources.commit import GroupCommit, Source
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, DamageFound
from logstore.node.resources.copy_pace import CopyPace
from logstore.node.statistics.statistics_reporter import StatisticsReporter
from logstore.proto.handshake import MemberChannel
from logstore.proto.transport import Transport
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
        kept: IdentityStore,
        transport: Transport,
        broker: Broker | None = None,
        *,
        lag_probe_s: float = LAG_PROBE_S,
    ) -> None:
        """`kept`: where the data directory's identity is. `transport`: who passes it closes it.
        `lag_probe_s`: how often the loop's lag is measured.

        Raises what `identity.begin` does.
        """
        self.metadata_view = MetadataView()
        self.replicas: dict[str, Replica] = {}
        self.claim = Claim(
            store,
            kept,
            env,
            config.instance,
            new_disk=config.replace,
            accepts=config.accept_generation,
            acted_on=self._acted_on,
        )
        self.committer = GroupCommit(engine)
        self.committer.on_damage = self._on_damage
        self.writes_stopped: str | None = None
        """Damage that made the engine refuse every write: only a restart (a rebuild) helps."""
        self._no_room: set[str] = set()
        """Shards whose copy here waits for space on the disk."""
        self._transport, self._lag_probe_s = transport, lag_probe_s
        self._tasks = Background("instance", self.task_failed)
        self._committing = Background("group commit", self.task_failed)
        """Ends last: what the copies still write goes through it."""
        self._index_thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        reporter = StatisticsReporter(config, env)
        self.node = NodeContext(
            config=config,
            env=env,
            engine=engine,
            store=ClaimedStore(self.claim),
            committer=self.committer,
            admission=Admission(
                config.ops_per_s_max,
                config.bytes_per_s_max,
                config.burst_s,
                config.stored_bytes_max,
            ),
            reporter=reporter,
            stamps=reporter.clock,
            readers=ThreadPoolExecutor(config.read_threads, thread_name_prefix="read"),
            incarnation=self.claim.identity.incarnation,
            channel_to=self._channel_to,
            shard_record=self._shard_record,
            open_copy=self._open_copy,
            pace=CopyPace(config, env.clock.monotonic_s, self._copies),
            broker=broker,
            acted=self._keep_facts,
            cluster=lambda: self.claim.cluster,
        )
        self.copies = InstanceCopies(self.node, self.claim, self._index_thread)
        self.scrubber = Scrubber(self.node, lambda: [r.integrity for r in self.replicas.values()])
        self.registration = Registration(self.node, self.claim, self.copies)

    # ---- look-ups ----------------------------------------------------------------------------

    def replica(self, shard: str, created_us: int = 0) -> Replica:
        """The open copy of a shard; else an error with which a caller refreshes its route.

        `created_us`: when the log that is meant was created (0: any log of the name).
        """
        found = self.replicas.get(shard)
        if found is not None and created_us and found.created_us not in (0, created_us):
            raise FencedError(
                f"shard {shard} on {self.node.instance} is of the log that was created at"
                f" {found.created_us} us, the call means that of {created_us} us"
            )
        if found is not None:
            return found
        if not self.metadata_view.filled:
            raise NotServingError(f"instance {self.node.instance} is starting")
        if shard in self.metadata_view.shards:
            raise FencedError(f"shard {shard} is not on {self.node.instance}")
        raise UnknownShardError(f"shard {shard!r} does not exist")

    def replica_of_key(self, log: str, key: bytes) -> Replica:
        """The copy here of the open shard that holds `key`."""
        found = self.metadata_view.logs.get(log)
        if found is None:
            raise UnknownLogError(f"log {log!r} does not exist")
        routed = routing_key(found[0].options.partitioner, key)
        for record, _ in self.metadata_view.shards.values():
            if record.log == log and record.status != "sealed" and routed in record.range:
                return self.replica(record.shard)
        raise NotServingError(f"log {log} has no open shard for key {key!r} yet")

    def _open_copy(self, shard: str) -> Copy | None:
        found = self.replicas.get(shard)
        return found.copy if found is not None else None

    def _shard_record(self, shard: str) -> ShardRecord | None:
        found = self.metadata_view.shards.get(shard)
        return found[0] if found is not None else None

    def _channel_to(self, instance: str) -> Channel:
        channel = self._transport.channel(self.metadata_view.address(instance))
        return MemberChannel(channel, self.claim.cluster, instance)

    # ---- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work; the metadata may come later."""
        self._committing.start(self.committer.run())
        works = (self._follow_metadata(), self._tick(), self._index(), self._probe_loop(),
                 self._open_when_room(), self.copies.keep_facts(), self._reclaim(),
                 self._end_if_taken(), self.scrubber.run())  # fmt: skip
        for work in works:
            self._tasks.start(work)

    def task_failed(self, name: str, error: BaseException) -> None:
        """Without this task the instance would serve as if well: a new process is asked for."""
        self.node.broken = f"{type(error).__name__}: {error}"
        _log.critical("instance broken", error=self.node.broken, task=name, exc_info=error)

    def _acted_on(self) -> int:
        """The newest revision of the metadata that this process acted on."""
        marks = (r.machine.revision for r in self.replicas.values())
        return max(self.metadata_view.revision if self.metadata_view.filled else 0, *marks, 0)

    async def _end_if_taken(self) -> None:
        """Another process has our name: stop serving at once, whatever we hold (I2)."""
        await self.claim.taken.wait()
        why = f"another process runs instance {self.node.instance} now"
        for replica in self.replicas.values():
            replica.fail(why)

    async def _reclaim(self) -> None:
        while True:
            await asyncio.sleep(self.node.config.reclaim_interval_s)
            try:
                await self.copies.reclaim()
            except LogstoreError as e:  # a disk filled to its last block takes no delete either
                _log.warning("retired copies not deleted", error=e.message)

    async def _follow_metadata(self) -> None:
        """Range once, then watch; again from the start when history was compacted."""
        store = self.node.store
        await self.registration.made.wait()
        while True:
            try:
                await self._check_metadata()
                if not self.metadata_view.filled:
                    await self._fill()
                async for events in store.watch("/", self.metadata_view.revision):
                    if any(event.key == GENERATION for event in events):
                        await self._check_metadata()
                    # All of a revision at once: routes never show a half-done split (I1).
                    taken = [(event, self.metadata_view.take(event)) for event in events]
                    for event, record in taken:
                        await self._act_on(event, record)
                    self.metadata_view.revision = events[-1].revision
            except ConflictError:
                self.metadata_view.filled = False
            except LogstoreError as e:
                _log.info("metadata away", error=e.message)
                await asyncio.sleep(self.node.config.retry_interval_s)

    async def _check_metadata(self) -> None:
        """`UnavailableError` while the store is not the one that we acted on."""
        await self.claim.look()
        if self.claim.estranged:
            raise UnavailableError(self.claim.estranged)

    async def _fill(self) -> None:
        found = await self.node.store.range("/")
        self.metadata_view.logs.clear()
        self.metadata_view.shards.clear()
        for item in found.items:
            self.metadata_view.take(WatchEvent(item.key, item.value, item.revision))
        self.metadata_view.revision = found.revision
        self.metadata_view.filled = True
        try:
            for record, revision in list(self.metadata_view.shards.values()):
                await self._follow_shard(record, revision)
            for item in found.items:
                await self._obey(WatchEvent(item.key, item.value, item.revision))
        except LogstoreError:
            self.metadata_view.filled = False  # no watch will bring what was not followed
            raise

    async def _act_on(self, event: WatchEvent, record: ShardRecord | None) -> None:
        if record is not None:
            await self._follow_shard(record, event.revision)
        elif event.key.startswith(LOGS) and event.value is not None:
            # A log's record comes after its shards: those that waited for it are opened now.
            name = event.key.removeprefix(LOGS)
            for shard, revision in list(self.metadata_view.shards.values()):
                if shard.log == name:
                    await self._follow_shard(shard, revision)
        elif event.key.startswith(SHARDS):
            await self._close_if_gone(event.key.removeprefix(SHARDS))
        else:
            await self._obey(event)

    async def _follow_shard(self, record: ShardRecord, revision: int) -> None:
        member = record.member_on(self.node.instance)
        held = self.replicas.get(record.shard)
        if held is not None and (member is None or member.replica_id != held.member.replica_id):
            await self._close_if_gone(record.shard)
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
                found = self.metadata_view.shards.get(shard)
                if found is None:
                    self._no_room.discard(shard)
                    continue
                try:
                    await self._follow_shard(*found)
                except LogstoreError as e:
                    _log.info("metadata away", error=e.message)

    def _open(self, member: Member, record: ShardRecord) -> Replica | None:
        """Open the copy a record names; a primary that never led gets an empty one."""
        log = self.metadata_view.log_of(record)
        if log is None:
            return None  # the log's record comes last, and brings its shards again
        engine = self.node.engine
        known = {m.replica_id: m for m in engine.replicas()}
        retired = {r.meta.replica_id: r.meta for r in engine.retired()}
        meta = known.get(member.replica_id) or retired.get(member.replica_id)
        wrong = self.copies.check_ours(meta, record) if meta is not None else ""
        if meta is not None and not wrong and member.replica_id in retired:
            _log.warning("retired copy is back", shard=record.shard, replica_id=meta.replica_id)
            engine.restore_replica(member.replica_id)
        exists = meta is not None and not wrong
        if meta is None and self._begins_here(member, record):
            # The writer of a later epoch had a copy: ours may be gone with an older disk (P6).
            late = record.epoch > 1
            engine.create_replica(
                ReplicaMeta(replica_id=member.replica_id, shard=record.shard, tail_lost=late),
                key_index=log.options.key_index,
            )
            revision = self.metadata_view.shards[record.shard][1]
            facts = self.copies.facts_of(record, revision, encode(log))
            engine.set_facts(member.replica_id, facts)
            exists = True
        mine = replace(member, incarnation=self.node.incarnation)
        replica = Replica(self.node, mine, record, log.options, log.created_us)
        if wrong:
            replica.fail(wrong)
        elif not exists and member in record.in_sync:
            missing = (
                f"copy {member.replica_id} of shard {record.shard} is missing on the disk of "
                f"{self.node.instance}, though it is in sync by the metadata"
            )
            replica.fail(missing)
            replica.report(DamageFound(missing))
        return replica

    def _on_damage(self, source: Source | None, error: CorruptStorageError) -> None:
        if source is None:
            self.writes_stopped = error.message
            return
        for replica in self.replicas.values():
            if source in (replica.writer, replica.receiver):
                replica.report(DamageFound(error.message))

    def leaving(self) -> bool:
        """A damaged copy is still to be deleted here."""
        return any(r.copy.damage and not r.copy.is_alone() for r in self.replicas.values())

    def _begins_here(self, member: Member, record: ShardRecord) -> bool:
        """Whether this copy may begin empty. A new log's primary may, and each first member of a
        successor in place, as long as its disk proves that it was there: it holds a parent's end
        (S1)."""
        if record.epoch == 1 and record.primary.replica_id == member.replica_id:
            return True
        if member.replica_id not in record.first_members:
            return False
        parents = [self.replicas.get(parent) for parent in record.predecessors]
        return record.epoch == 1 or any(p is not None and p.copy.holds_seal() for p in parents)

    async def _close_if_gone(self, shard: str) -> None:
        """Stop serving a copy once our own linearizable read says that its id is no member."""
        held = self.replicas.get(shard)
        if held is None:
            return
        record = await shard_table(self.node.store).get(shard)
        if record is not None and any(
            m.replica_id == held.member.replica_id for m in record.members()
        ):
            return
        await self._close(shard, held)

    async def _close(self, shard: str, held: Replica) -> None:
        del self.replicas[shard]
        await held.close(FencedError(f"shard {shard} left {self.node.instance}"))
        await held.settled()

    async def _obey(self, event: WatchEvent) -> None:
        """P9: a tombstone of ours is the only order to retire a copy."""
        prefix = tombstone_prefix(self.node.instance)
        if event.value is None or not event.key.startswith(prefix):
            return
        order = await self.copies.order(int(event.key.removeprefix(prefix)))
        if order is None:
            return
        tombstone = order.record
        if await self.copies.is_named(tombstone):
            await self.copies.confirm(order)
            return
        held = self.replicas.get(tombstone.shard)
        if held is not None and held.member.replica_id == tombstone.replica_id:
            await self._close(tombstone.shard, held)
        await self.copies.retire(order)

    def orphans(self) -> list[ReplicaMeta]:
        """Copies on the disk that no record names and no tombstone ordered away (yet)."""
        if not self.metadata_view.filled:
            return []
        return self.copies.orphans(record for record, _ in self.metadata_view.shards.values())

    def _keep_facts(self, shard: str, replica_id: int, record: ShardRecord, revision: int) -> None:
        """The records that a copy acts on are kept with it, to rebuild lost metadata (recover)."""
        log = self.metadata_view.log_of(record)
        if log is not None and self.claim.generation:
            facts = self.copies.facts_of(record, revision, encode(log))
            self.copies.acted_on(replica_id, facts)

    # ---- periodic work -------------------------------------------------------------------------

    def _copies(self) -> int:
        """Shards of the cluster that have a learner now."""
        return sum(1 for record, _ in self.metadata_view.shards.values() if record.learners)

    async def _probe_loop(self) -> None:
        """How late the loop is: the wait of an append before it is even seen."""
        node = self.node
        while True:
            due_s = node.now_s() + self._lag_probe_s
            await asyncio.sleep(self._lag_probe_s)
            now_s = node.now_s()
            node.pace.latency.lagged(max(0.0, now_s - due_s))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for replica in list(self.replicas.values()):
                replica.tick()
                if replica.role is Role.LEARNER:
                    replica.catch_up.resume_if_silent()

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
        await self._tasks.stop()
        error = UnavailableError(f"instance {self.node.instance} stops")
        for replica in list(self.replicas.values()):
            await replica.close(error)
        await self._committing.stop()
        self._index_thread.shutdown(wait=True)
        self.node.readers.shutdown(wait=True)
