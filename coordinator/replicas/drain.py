"""Emptying an instance: when it is refused, what is left, and the moves of single copies.

`/drains/INSTANCE` orders that it becomes empty, until it is cancelled, so a restarted or a
new leader goes on, and the instance gets no new copies. Copies of replicated logs leave by repair's
steps (`replicas.repair`): a new copy elsewhere, a switch of the primary, the removal. A shard with
one copy leaves by a `shadow` migration. Every cell's leader moves the shards of its cell.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import structlog
from msgspec.structs import replace

from coordinator.answers.catalog import DrainProgress
from coordinator.catalog.listing import Listing
from coordinator.catalog.replica_placement import PlacementState, choose_instance
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Proposal
from coordinator.migration.records import MoveOptions, State
from logstore.base.env import Env
from logstore.base.errors import LogstoreError, RefusedError, UnknownInstanceError
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore
from logstore.meta.records import DrainRecord, LogOptions, ShardRecord
from logstore.meta.table import Decided, transact
from logstore.meta.tables import drain_table, instance_table, log_table, shard_table
from profiler.types import DataStoreStatus

TRIGGER = "drain"
BACK_OFF_S = 60.0
"""After a drain's move was rolled back, its shard rests this long."""
NO_LOGS: Mapping[str, int] = MappingProxyType({})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """What an instance still holds."""

    primaries: int
    followers: int
    learners: int

    @property
    def copies(self) -> int:
        return self.primaries + self.followers + self.learners


def left_on(instance: str, shards: Sequence[ShardRecord]) -> Left:
    primaries = sum(s.primary.instance == instance for s in shards)
    in_sync = sum(m.instance == instance for s in shards for m in s.in_sync)
    learners = sum(m.instance == instance for s in shards for m in s.learners)
    return Left(primaries, in_sync - primaries, learners)


def only_copies(instance: str, shards: Sequence[ShardRecord]) -> list[str]:
    """Shards whose records are surely on no other instance: only it can give them away."""
    return sorted(s.shard for s in shards if {m.instance for m in s.in_sync} == {instance})


def check_drain(
    instance: str,
    shards: Sequence[ShardRecord],
    cluster: PlacementState,
    sizes: Mapping[str, int],
    statuses: Mapping[str, DataStoreStatus],
    replicas: Mapping[str, int] = NO_LOGS,
) -> None:
    """`RefusedError` when the others lack room, or copies would share a zone.

    `cluster`: with `instance` among its draining ones. `sizes`: shard -> bytes of a copy.
    `replicas`: log -> copies of each shard; by default as many as are in sync.
    """
    alive = [n for n in cluster.instances if cluster.is_alive(n) and n not in cluster.draining]
    spare_bytes, spare_ops = {}, 0.0
    for name in alive:
        capacity, status = cluster.instances[name].capacity, statuses.get(name)
        stored, ops = (status.stored_bytes, status.ops_per_s) if status else (0, 0.0)
        limit, rate = capacity.stored_bytes, capacity.ops_per_s
        spare_bytes[name] = float("inf") if limit is None else float(limit - stored)
        spare_ops += float("inf") if rate is None else max(0.0, rate - ops)
    for shard in sorted(shards, key=lambda s: -sizes.get(s.shard, 0)):
        here, size = shard.member_on(instance) is not None, sizes.get(shard.shard, 0)
        stay = [m.instance for m in shard.members() if m.instance not in cluster.draining]
        zones = {cluster.instances[m.instance].zone for m in shard.members()
                 if m.instance in cluster.instances}  # fmt: skip
        wanted = replicas.get(shard.log, len(shard.in_sync))
        for _ in range(max(int(here), wanted - len(stay))):  # also owed copies
            full = [name for name in alive if spare_bytes[name] < size and name not in stay]
            home = choose_instance([*stay, *full], cluster, zones_of=stay)
            if home is None:
                have = f"{len(alive)} other instances are alive and not draining"
                why = (
                    f"{len(full)} of them lack {size} bytes of room" if full else "each has a copy"
                )
                raise RefusedError(
                    f"{instance} cannot be drained: shard {shard.shard} has no place: {have}, {why}"
                    if alive
                    else f"{instance} cannot be drained: no other instance is alive"
                )
            spare_bytes[home.instance] -= size
            stay.append(home.instance)
        after = {cluster.instances[i].zone for i in stay if i in cluster.instances}
        if here and len(after) < len(zones):
            raise RefusedError(
                f"{instance} cannot be drained: the copies of shard {shard.shard} would be in "
                f"{len(after)} zones instead of {len(zones)}"
            )
    carried = statuses[instance].ops_per_s if instance in statuses else 0.0
    if carried > spare_ops:
        raise RefusedError(
            f"{instance} cannot be drained: it carries {carried:.0f} ops/s, the others have "
            f"{spare_ops:.0f} ops/s to spare"
        )


class Drains:
    """The drains of one store."""

    def __init__(self, store: MetadataStore, env: Env) -> None:
        self._store, self._env = store, env
        self._beginning = asyncio.Lock()
        """One drain is checked and written before the next is checked: they may need one place. The
        leader of the log-wide cell begins all of them."""

    async def all(self) -> list[DrainProgress]:
        """Each drain with its progress."""
        drains = await drain_table(self._store).all()
        shards = await self.shards() if drains else []
        return [self._told(drain, left_on(drain.instance, shards)) for drain in drains]

    async def shards(self) -> list[ShardRecord]:
        return await shard_table(self._store).all()

    async def instances(self) -> list[str]:
        return await instance_table(self._store).names()

    async def begin(
        self,
        instance: str,
        silent_s: Mapping[str, float],
        sizes: Mapping[str, int],
        statuses: Mapping[str, DataStoreStatus],
        *,
        dry_run: bool = False,
    ) -> DrainProgress:
        """Check and write it; an existing one goes on. RefusedError."""
        async with self._beginning:
            return await self._begin(instance, silent_s, sizes, statuses, dry_run)

    async def _begin(
        self,
        instance: str,
        silent_s: Mapping[str, float],
        sizes: Mapping[str, int],
        statuses: Mapping[str, DataStoreStatus],
        dry_run: bool,
    ) -> DrainProgress:
        instances = {r.instance: r for r in await instance_table(self._store).all()}
        if instance not in instances:
            raise UnknownInstanceError(f"instance {instance!r} is not registered")
        shards = await self.shards()
        replicas = {log.name: log.options.replicas for log in await log_table(self._store).all()}
        left = left_on(instance, shards)
        drains = drain_table(self._store)

        async def decide() -> Decided[tuple[DrainRecord, bool]]:
            found = await drains.get(instance)
            if found is not None:
                return Decided((found, False))
            draining = await Listing(self._store).draining() | {instance}
            cluster = PlacementState(instances, silent_s, {}, 0.0, draining)
            check_drain(instance, shards, cluster, sizes, statuses, replicas)
            record = DrainRecord(instance, self._env.clock.wall_us(), left.copies)
            put = [] if dry_run else [drains.put(instance, record)]
            return Decided((record, True), [drains.unchanged(instance, None)], put)

        record, new = await transact(self._store, f"the drain of {instance}", decide)
        told = self._told(record, left)
        if new and dry_run:
            return replace(told, dry_run=True)
        if new:
            _log.info("drain", instance=instance, copies=left.copies)
        return told

    async def cancel(self, instance: str) -> DrainProgress:
        """It takes shards again; what has left it stays away. UnknownInstanceError: no drain."""
        found = await drain_table(self._store).delete(instance, f"the drain of {instance}")
        if found is None:
            raise UnknownInstanceError(f"instance {instance!r} is not being drained")
        told = self._told(found.record, left_on(instance, await self.shards()))
        return replace(told, state="cancelled", eta_s=None)

    def _told(self, drain: DrainRecord, left: Left) -> DrainProgress:
        elapsed_s = max(0.0, (self._env.clock.wall_us() - drain.begun_us) / 1e6)
        done = max(0, drain.copies - left.copies)
        eta_s = round(elapsed_s * left.copies / done, 1) if done else None
        return DrainProgress(
            instance=drain.instance,
            state="draining" if left.copies else "drained",
            begun_us=drain.begun_us,
            copies=max(drain.copies, left.copies),
            left=left.copies,
            primaries=left.primaries,
            followers=left.followers,
            learners=left.learners,
            elapsed_s=round(elapsed_s, 1),
            eta_s=eta_s if left.copies else 0.0,
        )


class DrainMoves:
    """Starts the moves of single copies, a few at a time."""

    def __init__(
        self,
        driver: MigrationDriver,
        env: Env,
        options: MoveOptions,
        moves_max: int,
        back_off_s: float,
    ) -> None:
        """`back_off_s`: a shard whose move was rolled back is left alone so long."""
        self._driver, self._env, self._options = driver, env, options
        self._moves_max, self._back_off_us = max(1, moves_max), round(back_off_s * 1e6)

    async def round(
        self, shards: Sequence[tuple[ShardRecord, LogOptions]], cluster: PlacementState
    ) -> int:
        """Move the shards with one copy on a draining instance; returns how many."""
        due = [
            shard
            for shard, options in shards
            if options.replicas == 1
            and shard.primary.instance in cluster.draining
            and cluster.is_alive(shard.primary.instance)
            and shard.migration is None
            and shard.status is not ShardStatus.SEALING
        ]
        if not due:
            return 0
        known = await self._driver.ledger.all()
        busy = {m.shard for m in known if m.active}
        room = self._moves_max - sum(m.active and m.trigger == TRIGGER for m in known)
        since_us = self._env.clock.wall_us() - self._back_off_us
        busy |= {
            m.shard
            for m in known
            if m.trigger == TRIGGER and m.state is State.ROLLED_BACK and m.since_us > since_us
        }
        started = 0
        for shard in due:
            if started >= room:
                break
            home = choose_instance([m.instance for m in shard.members()], cluster)
            if shard.shard in busy or home is None:
                continue
            source = shard.primary.instance
            proposal = Proposal(
                shard=shard.shard,
                target=home.instance,
                options=self._options,
                trigger=TRIGGER,
                reason=f"{source} is being drained",
            )
            try:
                await self._driver.propose(proposal)
                started += 1
            except LogstoreError as e:
                _log.warning("a drain's move was not started", shard=shard.shard, why=e.message)
        return started
