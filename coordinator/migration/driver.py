"""The edge of migrations: one task per active migration carries out what the machine decides.

What it guarantees (each has a test):
 1. A state is durable before anything of it is done: each `Commit` is one transaction that compares
    the migration's and the shard's revision as they were read before the decision (G1).
 2. A transaction that did not succeed, or whose outcome is unknown, is never repeated: the records
    are read again and the machine decides again.
 3. A driver that starts goes on with every unfinished migration from the records alone (I7).
 4. No message orders an instance to change anything; it is asked for its status and its chains.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from coordinator.migration.common import switches
from coordinator.migration.difference import first_difference
from coordinator.migration.facts import (
    CopyReport,
    Facts,
    Finished,
    RecordWrite,
    Verified,
    Verify,
    Wait,
)
from coordinator.migration.ledger import Ledger, Proposal, migration_table
from coordinator.migration.machine import decide
from coordinator.migration.nodes import Nodes
from coordinator.migration.ramp import RampState
from coordinator.migration.records import MigrationRecord, MoveOptions, State
from coordinator.migration.table import COPY_ON_WRITE
from coordinator.migration.windows import RampStatistics, seconds_asked
from logstore.base.background import Background, first_of
from logstore.base.env import Env
from logstore.base.errors import (
    ConflictError,
    CorruptStorageError,
    DivergedError,
    InvalidArgumentError,
    LogstoreError,
    OutOfRangeError,
    UnavailableError,
)
from logstore.meta.port import MetadataStore, Operation
from logstore.meta.records import REPLICA_COUNTER, LogRecord, ShardRecord, shard_key
from logstore.meta.shard_writes import (
    ShardWrite,
    change_shard,
    compares_of,
    new_shard,
    operations_of,
)
from logstore.meta.table import Entry
from logstore.meta.tables import instance_table, log_table, number_table, shard_table
from logstore.meta.tombstones import Order

RETRY_S = 0.2
FAULT_RETRY_S = 2.0
CHAIN_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class MoveMemory:
    """A leader's memory of a migration; losing it costs time, never safety."""

    ramp: RampState = field(default_factory=RampState)
    verified: Verified | None = None
    source_heard_s: float | None = None
    target_heard_s: float | None = None
    soaking_since_us: int | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a step is decided from, as it was read (None: absent)."""

    migration: Entry[MigrationRecord]
    held: Entry[ShardRecord] | None
    counter: Entry[int] | None
    log: Entry[LogRecord] | None = None
    successor: Entry[ShardRecord] | None = None

    @property
    def record(self) -> MigrationRecord:
        return self.migration.record

    @property
    def shard(self) -> ShardRecord | None:
        return self.held.record if self.held is not None else None


class MigrationDriver:
    """Runs migrations over a store and the instances. `start` resumes unfinished ones.

    `owns`: of which shards (a cell's, design note 0004); others' migrations are written, not run.
    """

    def __init__(
        self,
        store: MetadataStore,
        nodes: Nodes,
        env: Env,
        owns: Callable[[str], bool] = lambda shard: True,
        *,
        cluster: str,
    ) -> None:
        self.ledger = Ledger(store, env)
        self._store = store
        self._nodes = nodes
        self._env = env
        self.owns = owns
        self._cluster = cluster
        self._memories: dict[str, MoveMemory] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background = Background("migrations")
        self.feed_prefix = ""
        """Topics of Kafka feeds; empty: no broker is configured."""
        self.feed_ended = asyncio.Event()
        """Set when a topic is not needed any more."""

    async def start(self) -> None:
        """Work on every unfinished migration of ours without a worker; repeatable."""
        for record in await self.ledger.all():
            if record.active and self.owns(record.shard):
                self._spawn(record.id)

    async def propose(self, proposal: Proposal) -> MigrationRecord:
        """Write a planned migration and start on it."""
        self.check_feed(proposal.options)
        record = await self.ledger.propose(proposal)
        if self.owns(record.shard):
            self._spawn(record.id)
        return record

    def check_feed(self, options: MoveOptions) -> None:
        """InvalidArgumentError for a Kafka feed without a broker."""
        if options.feed == "kafka" and not self.feed_prefix:
            raise InvalidArgumentError(
                "feed is 'kafka', but no broker is configured; start with --kafka HOST:PORT"
            )

    async def order(self, migration: str, action: str, cause: str = "") -> MigrationRecord:
        """Pause, resume, abort, rollback or complete; acted on at once."""
        record = await self.ledger.order(migration, action, cause)
        memory = self._memories.get(migration)
        if memory is not None:
            memory.wake.set()
        return record

    def running(self) -> tuple[str, ...]:
        """Ids of the migrations that this driver works on."""
        return tuple(self._tasks)

    def now_us(self) -> int:
        return self._env.clock.wall_us()

    async def ended(self, migration: str) -> MigrationRecord:
        """Wait for the end state."""
        task = self._tasks.get(migration)
        if task is not None:
            await asyncio.wait([task])
        return await self.ledger.get(migration)

    async def close(self) -> None:
        """Stop working; the migrations stay where they are, for the next leader."""
        await self._background.stop()

    def _spawn(self, migration: str) -> None:
        if migration not in self._tasks:
            self._memories[migration] = MoveMemory()
            task = self._background.start(self._run(migration), f"migration {migration}")
            self._tasks[migration] = task
            task.add_done_callback(lambda _: self._forget(migration))

    def _forget(self, migration: str) -> None:
        self._tasks.pop(migration, None)
        self._memories.pop(migration, None)

    async def _run(self, migration: str) -> None:
        memory = self._memories[migration]
        while True:
            try:
                seconds = await self.step(migration, memory)
                if seconds is None:
                    return
            except (UnavailableError, ConflictError) as e:
                _log.warning("migration waits", migration=migration, why=e.message)
                seconds = RETRY_S
            except LogstoreError as e:
                _log.error("migration step failed", migration=migration, why=e.message)
                seconds = FAULT_RETRY_S
            except Exception:
                _log.exception("migration step failed", migration=migration)
                seconds = FAULT_RETRY_S
            await _sleep(memory.wake, seconds)

    async def step(self, migration: str, memory: MoveMemory) -> float | None:
        """One decision and its effect. Returns how long to wait; None: the migration has ended."""
        read = await self._read(migration)
        if read is None:
            return None
        facts = await self._observe(read, memory)
        effect = decide(read.record, facts)
        match effect:
            case Finished():
                return None
            case Wait(seconds):
                return seconds
            case Verify():
                memory.verified = await self._verify(read.record, effect, memory.wake)
            case RecordWrite():
                done = await self._commit(read, effect)
                if done and effect.ramp is not None:
                    memory.ramp = effect.ramp
                memory.verified = None
                if done and effect.record.state is not read.record.state:
                    _log.info(
                        "migration",
                        migration=migration,
                        shard=effect.record.shard,
                        epoch=read.shard.epoch if read.shard is not None else None,
                        state=effect.record.state.value,
                        why=effect.why,
                    )
        return 0.0

    async def _read(self, migration: str) -> _Read | None:
        found = await migration_table(self._store).entry(migration)
        if found is None:
            return None
        record, shards = found.record, shard_table(self._store)
        held = await shards.entry(record.shard)
        counter = await number_table(self._store).entry(REPLICA_COUNTER)
        if record.strategy != COPY_ON_WRITE:
            return _Read(found, held, counter)
        log = await log_table(self._store).entry(record.log)  # its next shard is drawn
        if record.successor is None:
            return _Read(found, held, counter, log)
        return _Read(found, held, counter, log, await shards.entry(record.successor))

    async def _observe(self, read: _Read, memory: MoveMemory) -> Facts:
        record = read.record
        known = await instance_table(self._store).all()
        clock = self._env.clock
        source_s, target_s = seconds_asked(record, memory.ramp.judged_us, clock.wall_us())
        source, target = await asyncio.gather(
            self._copies(record.source.instance, record.shard, source_s),
            self._copies(record.target_instance, record.shard, target_s),
        )
        now_us, now_s = clock.wall_us(), clock.monotonic_s()
        if source is not None or memory.source_heard_s is None:
            memory.source_heard_s = now_s
        if target is not None or memory.target_heard_s is None:
            memory.target_heard_s = now_s
        in_sync = read.shard is not None and any(
            m.replica_id == record.source.replica_id for m in read.shard.in_sync
        )
        if record.state is not State.SOAKING or not in_sync:
            memory.soaking_since_us = None
        elif memory.soaking_since_us is None:
            memory.soaking_since_us = now_us
        source_copy = _of(source, record.source.replica_id)
        held = record.target
        if held is None and read.shard is not None and switches(record):
            held = read.shard.member_on(record.target_instance)  # it may lead after a failover
        target_copy = _of(target, held.replica_id if held else None)
        figures = _figures(source_copy, target_copy)
        if record.successor is not None and target_s > 0:  # its clients are there
            opened = await self._copies(record.target_instance, record.successor, target_s)
            figures = replace(figures, target=opened[0].recent if opened else None)
        return Facts(
            now_us=now_us,
            shard=read.shard,
            source=source_copy,
            target=target_copy,
            target_heard=target is not None,
            incarnations={i.instance: i.incarnation for i in known},
            next_replica_id=read.counter.record if read.counter is not None else 1,
            verified=memory.verified,
            ramp=memory.ramp,
            figures=figures,
            source_silent_s=now_s - memory.source_heard_s,
            target_silent_s=now_s - memory.target_heard_s,
            soaking_since_us=memory.soaking_since_us,
            log=read.log.record if read.log is not None else None,
            successor=read.successor.record if read.successor is not None else None,
            feed_prefix=self.feed_prefix,
        )

    async def _copies(self, instance: str, shard: str, recent_s: float) -> list[CopyReport] | None:
        """None: no answer. An instance that answers with an error holds no copy yet."""
        try:
            return await self._nodes.copies(instance, shard, recent_s)
        except UnavailableError:
            return None
        except LogstoreError:
            return []

    async def _commit(self, read: _Read, effect: RecordWrite) -> bool:
        record, shard = effect.record, effect.shard
        migrations, logs = migration_table(self._store), log_table(self._store)
        numbers = number_table(self._store)
        compares = [read.migration.unchanged]
        operations: list[Operation] = []
        if record != read.record:
            operations.append(migrations.put(record.id, record))
        writes = self._shard_writes(read, effect)
        if shard_key(record.shard) not in {w.compare.key for w in writes}:
            compares.append(shard_table(self._store).unchanged(record.shard, read.held))
        compares += compares_of(writes)
        operations += operations_of(writes)
        if effect.draws is not None:
            compares.append(numbers.unchanged(REPLICA_COUNTER, read.counter))
            operations.append(numbers.put(REPLICA_COUNTER, effect.draws + 1))
        if effect.created is not None and effect.log is not None and read.log is not None:
            compares.append(read.log.unchanged)
            operations.append(logs.put(read.log.name, effect.log))
        if not operations:  # an earlier leader wrote the same
            return True
        done = (await self._store.txn(compares, operations)).succeeded
        before = read.shard.feed_topic if read.shard is not None else ""
        if done and before and shard is not None and shard.feed_topic != before:
            self.feed_ended.set()
        return done

    def _shard_writes(self, read: _Read, effect: RecordWrite) -> list[ShardWrite]:
        """The shard, and with copy-on-write its successor; copies that leave get tombstones."""
        why = f"{effect.record.id}: {effect.why}"
        order = Order(self._cluster, why, self._env.clock.wall_us())
        writes = []
        held, after = read.held, effect.shard
        if held is not None and after is not None and after != held.record:
            writes.append(change_shard(held.record, held.revision, after, order))
        if effect.successor is not None and read.successor is not None:
            held = read.successor
            writes.append(change_shard(held.record, held.revision, effect.successor, order))
        if effect.created is not None and effect.log is not None and read.log is not None:
            writes.append(new_shard(effect.created))
        return writes

    async def _verify(
        self, record: MigrationRecord, effect: Verify, wake: asyncio.Event
    ) -> Verified | None:
        """Both chains at one offset. None: a call woke us before it was done."""
        verified, _ = await first_of(self._chains(record, effect), wake.wait())
        return verified

    async def _chains(self, record: MigrationRecord, effect: Verify) -> Verified:
        try:
            return await self._chains_at(record, effect, effect.end)
        except OutOfRangeError:
            bases = [await self._nodes.base(m, record.shard) for m in (effect.copy, effect.against)]
            if max(bases) <= effect.end:
                raise
            # One of them was trimmed past it: what was trimmed was committed.
            return await self._chains_at(record, effect, max(bases))

    async def _chains_at(self, record: MigrationRecord, effect: Verify, end: int) -> Verified:
        copy = effect.copy
        try:
            chain = await self._nodes.chain(
                copy,
                record.shard,
                end,
                recompute=True,
                timeout_s=record.options.verifying_timeout_s,
            )
        except (CorruptStorageError, DivergedError) as e:
            return Verified(copy.replica_id, end, error=e.message)
        expected = await self._nodes.chain(
            effect.against, record.shard, end, recompute=False, timeout_s=CHAIN_TIMEOUT_S
        )
        where = "" if chain == expected else await self._where(record, effect, end)
        return Verified(copy.replica_id, end, chain, expected, where=where)

    async def _where(self, record: MigrationRecord, effect: Verify, end: int) -> str:
        """The first difference of both copies below `end`; without one the decision is the same."""
        nodes, shard = self._nodes, record.shard
        try:
            bases = [await nodes.base(m, shard) for m in (effect.copy, effect.against)]
            found = await first_difference(
                lambda *span: nodes.digests(effect.copy, shard, *span),
                lambda *span: nodes.digests(effect.against, shard, *span),
                max(bases),
                end,
            )
        except LogstoreError as e:
            return f"an offset that was not found: {e.message}"
        return str(found) if found is not None else "an offset in what was trimmed since"


def _of(copies: list[CopyReport] | None, replica_id: int | None) -> CopyReport | None:
    return next((c for c in copies or () if c.replica_id == replica_id), None)


def _figures(source: CopyReport | None, target: CopyReport | None) -> RampStatistics:
    lag = None
    if source is not None and target is not None:
        lag = max(0, source.high_watermark - target.end)
    return RampStatistics(
        lag,
        source.recent if source is not None else None,
        target.recent if target is not None else None,
    )


async def _sleep(wake: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        try:
            await asyncio.wait_for(wake.wait(), seconds)
        except TimeoutError:
            return
    wake.clear()
