"""The edge of splits and merges: one task per active reshape carries out what `reshape` decides."""

import asyncio
from collections.abc import Sequence
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
    reshape_key,
)
from logstore.base.env import Env
from logstore.base.errors import (
    ConflictError,
    InvalidArgumentError,
    LogstoreError,
    UnknownMigrationError,
    UnknownShardError,
)
from logstore.meta.port import Compare, Delete, MetadataStore, Operation, Put, Versioned
from logstore.meta.records import (
    REPLICA_COUNTER,
    ShardRecord,
    decode_log,
    decode_shard,
    encode,
    log_key,
    shard_key,
)
from logstore.meta.shard_writes import change_shard, compares_of, new_shard, operations_of
from logstore.meta.tombstones import Order

RESHAPE_COUNTER = "/ids/reshape"
KEPT_MAX = 1_000
RETRY_S = 0.1
_TRIES = 20
_log = structlog.get_logger(__name__)


class ReshapeDriver:
    """Runs splits and merges; `start` goes on with unfinished ones."""

    def __init__(self, store: MetadataStore, nodes: Nodes, env: Env, *, cluster: str) -> None:
        self._store, self._nodes, self._env = store, nodes, env
        self._cluster = cluster
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Work on every unfinished one that nobody works on yet; repeatable."""
        for record in await self.all():
            if record.active:
                self._spawn(record.id)

    async def close(self) -> None:
        """Stop working; a reshape stays where it is, for the next leader."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def all(self) -> list[ReshapeRecord]:
        """Oldest first."""
        items = (await self._store.range(RESHAPES)).items
        return sorted((decode_reshape(i.value) for i in items), key=lambda r: (r.created_us, r.id))

    async def get(self, reshape: str) -> ReshapeRecord:
        found = await self._store.get(reshape_key(reshape))
        if found is None:
            raise UnknownMigrationError(f"reshape {reshape!r} does not exist")
        return decode_reshape(found.value)

    async def shard(self, name: str) -> ShardRecord:
        found = await self._store.get(shard_key(name))
        if found is None:
            raise UnknownShardError(f"shard {name!r} does not exist")
        return decode_shard(found.value)

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
        for _ in range(_TRIES):
            known = await self.all()
            counter = await self._store.get(RESHAPE_COUNTER)
            number = int(counter.value) if counter is not None else 1
            record = replace(draft, id=f"r{number}")
            operations: list[Operation] = [
                Put(RESHAPE_COUNTER, str(number + 1).encode()),
                Put(reshape_key(record.id), encode(record)),
            ]
            ended = [r for r in known if not r.active]
            operations += [Delete(reshape_key(r.id)) for r in ended[: -KEPT_MAX or None][:100]]
            compares = [
                Compare(RESHAPE_COUNTER, counter.revision if counter is not None else 0),
                Compare(reshape_key(record.id), 0),
            ]
            if (await self._store.txn(compares, operations)).succeeded:
                self._spawn(record.id)
                return record
        raise ConflictError("the reshape counter changed too often, try again")

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
            task = asyncio.create_task(self._run(reshape), name=f"reshape {reshape}")
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
        found = await self._store.get(reshape_key(reshape))
        if found is None:
            return None
        record = decode_reshape(found.value)
        log = await self._store.get(log_key(record.log))
        counter = await self._store.get(REPLICA_COUNTER)
        parents = [await self._store.get(shard_key(p)) for p in record.parents]
        held = {p.key: p for p in parents if p is not None}
        facts = ReshapeFacts(
            now_us=self._env.clock.wall_us(),
            parents={s.shard: s for s in (decode_shard(p.value) for p in held.values())},
            log=decode_log(log.value) if log is not None else None,
            next_replica_id=int(counter.value) if counter is not None else 1,
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
        found: Versioned,
        parents: dict[str, Versioned],
        log: Versioned | None,
        counter: Versioned | None,
        effect: ReshapeCommit,
    ) -> bool:
        compares = [Compare(found.key, found.revision)]
        operations: list[Operation] = [Put(found.key, encode(effect.record))]
        why = f"{effect.record.id}: {effect.why}"
        order = Order(self._cluster, why, self._env.clock.wall_us())
        writes = []
        for shard in effect.shards:
            held = parents[shard_key(shard.shard)]
            writes.append(change_shard(decode_shard(held.value), held.revision, shard, order))
        writes += [new_shard(s) for s in effect.created]
        written = {w.compare.key for w in writes}
        compares += [Compare(p.key, p.revision) for p in parents.values() if p.key not in written]
        compares += compares_of(writes)
        operations += operations_of(writes)
        if effect.log is not None and log is not None:
            compares.append(Compare(log.key, log.revision))
            operations.append(Put(log.key, encode(effect.log)))
        if effect.drawn:
            compares.append(Compare(REPLICA_COUNTER, counter.revision if counter else 0))
            drawn = (int(counter.value) if counter else 1) + effect.drawn
            operations.append(Put(REPLICA_COUNTER, str(drawn).encode()))
        return (await self._store.txn(compares, operations)).succeeded

    async def _confirm(self, found: Versioned, record: ReshapeRecord) -> None:
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
            await self._store.txn(
                [Compare(found.key, found.revision)], [Put(found.key, encode(told))]
            )


def told(record: ReshapeRecord, dry_run: bool | UnsetType = UNSET) -> Reshape:
    """A reshape as it is answered, with what it took."""
    took_s = (record.phases[-1].at_us - record.created_us) / 1e6
    return Reshape(dry_run=dry_run, **fields_of(record), duration_s=round(took_s, 6))
