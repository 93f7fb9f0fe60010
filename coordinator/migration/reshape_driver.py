"""The edge of splits and merges: one task per active reshape carries out what `reshape` decides."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from msgspec import UNSET, UnsetType

from coordinator.answers.base import fields_of
from coordinator.migration.answers import Reshape
from coordinator.migration.nodes import Nodes
from coordinator.migration.reshape import (
    RESHAPES,
    TIMEOUT_S,
    ReshapeCommit,
    ReshapeFacts,
    ReshapePhase,
    ReshapeRecord,
    ReshapeState,
    ReshapeWait,
    check_merge,
    check_split,
    decide,
    decode_reshape,
)
from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import (
    InvalidArgumentError,
    LogstoreError,
    UnknownMigrationError,
    UnknownShardError,
)
from logstore.meta.port import MetadataStore, Operation
from logstore.meta.records import REPLICA_COUNTER, LogRecord, ShardRecord, shard_key
from logstore.meta.shard_writes import change_shard, compares_of, new_shard, operations_of
from logstore.meta.table import Decided, Entry, Table, transact
from logstore.meta.tables import log_table, number_table, shard_table
from logstore.meta.tombstones import Order

RESHAPE_COUNTER = "/ids/reshape"
KEPT_MAX = 1_000
RETRY_S = 0.1
_log = structlog.get_logger(__name__)


def reshape_table(store: MetadataStore) -> Table[ReshapeRecord]:
    """By id."""
    return Table(store, RESHAPES, decode_reshape)


class ReshapeDriver:
    """Runs splits and merges; `start` goes on with unfinished ones.

    `owns`: of which parents (a cell's, design note 0004); others' are written, not run.
    """

    def __init__(
        self,
        store: MetadataStore,
        nodes: Nodes,
        env: Env,
        owns: Callable[[Sequence[str]], bool] = lambda parents: True,
        *,
        cluster: str,
    ) -> None:
        self._store, self._nodes, self._env = store, nodes, env
        self.owns = owns
        self._cluster = cluster
        self._table = reshape_table(store)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background = Background("splits and merges")

    async def start(self) -> None:
        """Work on every unfinished one of ours without a worker; repeatable."""
        for record in await self.all():
            if record.active and self.owns(record.parents):
                self._spawn(record.id)

    async def close(self) -> None:
        """Stop working; a reshape stays where it is, for the next leader."""
        await self._background.stop()

    async def all(self) -> list[ReshapeRecord]:
        """Oldest first."""
        return sorted(await self._table.all(), key=lambda r: (r.created_us, r.id))

    async def get(self, reshape: str) -> ReshapeRecord:
        found = await self._table.get(reshape)
        if found is None:
            raise UnknownMigrationError(f"reshape {reshape!r} does not exist")
        return found

    async def shard(self, name: str) -> ShardRecord:
        found = await shard_table(self._store).get(name)
        if found is None:
            raise UnknownShardError(f"shard {name!r} does not exist")
        return found

    async def draft(
        self, parents: Sequence[str], at: bytes | None, trigger: str = "manual", reason: str = ""
    ) -> ReshapeRecord:
        """The record that a split at `at`, or a merge, would become; checked, not written."""
        if len(parents) != (2 if at is None else 1):
            raise InvalidArgumentError(
                f"parents has {len(parents)} shards; a merge has 2, a split 1 and a key"
            )
        shards = sorted([await self.shard(p) for p in parents], key=lambda s: s.range.start)
        if at is not None:
            check_split(shards[0], at)
        else:
            check_merge(shards[0], shards[1])
        now = self._env.clock.wall_us()
        return ReshapeRecord(
            id="",
            log=shards[0].log,
            kind="merge" if at is None else "split",
            parents=tuple(s.shard for s in shards),
            created_us=now,
            at=at,
            trigger=trigger,
            reason=reason,
            timeout_s=TIMEOUT_S,
            phases=(ReshapePhase(ReshapeState.PLANNED, now),),
        )

    async def propose(self, draft: ReshapeRecord) -> ReshapeRecord:
        """Write a drafted reshape and start on it."""
        numbers, reshapes = number_table(self._store), self._table

        async def decide() -> Decided[ReshapeRecord]:
            known = await self.all()
            counter = await numbers.entry(RESHAPE_COUNTER)
            number = counter.record if counter is not None else 1
            record = replace(draft, id=f"r{number}")
            ended = [r for r in known if not r.active]
            return Decided(
                record,
                [
                    numbers.unchanged(RESHAPE_COUNTER, counter),
                    reshapes.unchanged(record.id, None),
                ],
                [
                    numbers.put(RESHAPE_COUNTER, number + 1),
                    reshapes.put(record.id, record),
                    *(reshapes.removal(r.id) for r in ended[: -KEPT_MAX or None][:100]),
                ],
            )

        record = await transact(self._store, "the reshape counter", decide)
        if self.owns(record.parents):
            self._spawn(record.id)
        return record

    def running(self) -> tuple[str, ...]:
        """Ids of the reshapes that this driver works on."""
        return tuple(self._tasks)

    async def ended(self, reshape: str) -> ReshapeRecord:
        """Wait for the end state."""
        task = self._tasks.get(reshape)
        if task is not None:
            await asyncio.wait([task])
        return await self.get(reshape)

    def _spawn(self, reshape: str) -> None:
        if reshape not in self._tasks:
            task = self._background.start(self._run(reshape), f"reshape {reshape}")
            self._tasks[reshape] = task
            task.add_done_callback(lambda _: self._tasks.pop(reshape, None))

    async def _run(self, reshape: str) -> None:
        while True:
            try:
                seconds = await self.step(reshape)
                if seconds is None:
                    return
            except LogstoreError as e:
                _log.warning("reshape waits", reshape=reshape, why=e.message)
                seconds = RETRY_S
            except Exception:
                _log.exception("reshape step failed", reshape=reshape)
                seconds = RETRY_S
            await asyncio.sleep(seconds)

    async def step(self, reshape: str) -> float | None:
        """One decision and its effect. How long to wait then; None: it has ended."""
        found = await self._table.entry(reshape)
        if found is None:
            return None
        record, shards = found.record, shard_table(self._store)
        log = await log_table(self._store).entry(record.log)
        counter = await number_table(self._store).entry(REPLICA_COUNTER)
        parents = [await shards.entry(p) for p in record.parents]
        held = {p.name: p for p in parents if p is not None}
        facts = ReshapeFacts(
            now_us=self._env.clock.wall_us(),
            parents={name: entry.record for name, entry in held.items()},
            log=log.record if log is not None else None,
            next_replica_id=counter.record if counter is not None else 1,
        )
        effect = decide(record, facts)
        if effect is None:
            await self._confirm(found, record)
            return None
        if isinstance(effect, ReshapeWait):
            return effect.seconds
        if await self._commit(found, held, log, counter, effect):
            _log.info("reshape", id=reshape, state=effect.record.state.value, why=effect.why)
        return 0.0

    async def _commit(
        self,
        found: Entry[ReshapeRecord],
        parents: dict[str, Entry[ShardRecord]],
        log: Entry[LogRecord] | None,
        counter: Entry[int] | None,
        effect: ReshapeCommit,
    ) -> bool:
        logs, numbers = log_table(self._store), number_table(self._store)
        compares = [found.unchanged]
        operations: list[Operation] = [self._table.put(found.name, effect.record)]
        why = f"{effect.record.id}: {effect.why}"
        order = Order(self._cluster, why, self._env.clock.wall_us())
        writes = []
        for shard in effect.shards:
            held = parents[shard.shard]
            writes.append(change_shard(held.record, held.revision, shard, order))
        writes += [new_shard(s) for s in effect.created]
        written = {w.compare.key for w in writes}
        compares += [p.unchanged for p in parents.values() if shard_key(p.name) not in written]
        compares += compares_of(writes)
        operations += operations_of(writes)
        if effect.log is not None and log is not None:
            compares.append(log.unchanged)
            operations.append(logs.put(log.name, effect.log))
        if effect.drawn:
            compares.append(numbers.unchanged(REPLICA_COUNTER, counter))
            drawn = (counter.record if counter is not None else 1) + effect.drawn
            operations.append(numbers.put(REPLICA_COUNTER, drawn))
        return (await self._store.txn(compares, operations)).succeeded

    async def _confirm(self, found: Entry[ReshapeRecord], record: ReshapeRecord) -> None:
        """Keep how long each parent's primary held appends, as far as it still tells."""
        if record.state is not ReshapeState.COMPLETED or record.stall_ms:
            return
        stalls: dict[str, float] = {}
        for name in record.parents:
            shard = await self.shard(name)
            copies = await self._nodes.copies(shard.primary.instance, name)
            held = [c.blackout_ms for c in copies if c.replica_id == shard.primary.replica_id]
            if held and held[0]:
                stalls[name] = round(held[0], 3)
        if stalls:
            told = replace(record, stall_ms=stalls)
            await self._table.replace(found, told)


def told(record: ReshapeRecord, dry_run: bool | UnsetType = UNSET) -> Reshape:
    """A reshape as an answer, with its durations."""
    took_s = (record.phases[-1].at_us - record.created_us) / 1e6
    return Reshape(dry_run=dry_run, **fields_of(record), duration_s=round(took_s, 6))
