"""Keeping every shard at its log's number of replicas, off draining instances.

`decide` is pure, the loop is the edge. It writes intents only (design note 0001): new learners,
leave to admit them, members to remove, the next primary. In a move the machine alone handles the
copies of its source and its target; repair keeps the others at their number. One step at a time
per shard; the next round sees the outcome.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from coordinator.catalog.catalog import Catalog
from coordinator.catalog.replica_placement import PlacementState, choose_instance
from coordinator.migration.ledger import migration_table
from coordinator.migration.records import MigrationRecord
from coordinator.migration.table import COPY_ON_WRITE
from coordinator.replicas.drain import DrainMoves
from logstore.base.background import Background
from logstore.base.errors import LogstoreError
from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    InstanceRecord,
    LogOptions,
    Member,
    ShardRecord,
)
from logstore.meta.shard_writes import change_shard
from logstore.meta.table import Entry
from logstore.meta.tables import drain_table, shard_table
from logstore.meta.tombstones import Order

_log = structlog.get_logger(__name__)

ROUND_S = 0.5
DRAIN_COPIES_MAX = 4
"""Learners at once, of a cell's shards, while instances are emptied."""

SilentTimes = Callable[[Sequence[str]], Mapping[str, float]]
"""Instance ids -> seconds since their last report, 0 for those that count as alive."""


@dataclass(frozen=True, slots=True)
class Step:
    """The record to write, why, and whether the new learner needs a fresh replica id."""

    record: ShardRecord
    why: str
    add: InstanceRecord | None = None


def decide(
    shard: ShardRecord,
    options: LogOptions,
    cluster: PlacementState,
    move: MigrationRecord | None = None,
) -> Step | None:
    """The next step towards `options.replicas` healthy copies, or None.

    `move`: what `shard.migration` names; None if it names no move (a split or merge) or nothing.
    """
    if move is not None:
        return _beside(shard, options, cluster, move)
    left = len(shard.in_sync) - len(shard.remove)
    blocked = bool(shard.remove) and left < shard.min_in_sync
    if (shard.migration is not None or shard.remove) and not blocked:
        return None  # a removal that `min_in_sync` forbids waits for another copy, also in a move
    wanted = options.replicas + (len(shard.remove) if blocked else 0)
    lost = next((m for m in shard.learners if cluster.is_lost(m.instance)), None)
    if lost is not None and len(shard.in_sync) >= 1:
        return Step(_without_learner(shard, lost), f"{lost.instance} is lost")
    stay = tuple(m for m in shard.members() if m.instance not in cluster.draining)
    holding = [m for m in shard.in_sync if m in stay]
    waiting = next(
        (
            m
            for m in shard.learners
            if m in stay and m.replica_id not in shard.admit and cluster.is_alive(m.instance)
        ),
        None,
    )
    if waiting is not None and len(holding) < wanted:
        admitted = replace(shard, admit=(*shard.admit, waiting.replica_id))
        return Step(admitted, f"{waiting.instance} may join")
    if len(stay) < wanted:
        taken = [m.instance for m in shard.members()]
        home = choose_instance(taken, cluster, zones_of=[m.instance for m in stay])
        if home is not None:
            return Step(shard, f"a copy on {home.instance}", add=home)
    if len(stay) < len(shard.members()):
        return _empty(shard, holding, wanted, cluster)
    if len(holding) >= wanted and shard.learners:
        extra = shard.learners[-1]  # it fell out after another took its place, or is not needed
        return Step(_without_learner(shard, extra), f"{extra.instance} is one too many")
    if len(shard.in_sync) > wanted:
        extra = next(m for m in reversed(shard.in_sync) if m != shard.primary)
        return Step(replace(shard, remove=(extra.replica_id,)), f"{extra.instance} is one too many")
    return None


def _beside(
    shard: ShardRecord, options: LogOptions, cluster: PlacementState, move: MigrationRecord
) -> Step | None:
    """In a move: copies that are not the machine's come back, or are replaced.

    Else a shard whose followers fell out acks nothing (P2) until the target is admitted, however
    slow or paused the move is. The machine's are the target and, once that leads, the source: they
    join when it has verified them (I8, H4), and one of the two stays (both after a switch). A
    hand-over or seal that is under way is not disturbed: it compares the shard's revision.
    """
    if move.strategy == COPY_ON_WRITE or shard.hand_over is not None or shard.seal is not None:
        return None
    apart = {move.target_instance}
    if shard.primary.instance == move.target_instance:
        apart.add(move.source.instance)
    stay = len(apart) - (move.strategy != "switch")
    others = [m for m in shard.members() if m.instance not in apart]
    learners = [m for m in others if m in shard.learners]
    lost = next((m for m in learners if cluster.is_lost(m.instance)), None)
    if lost is not None:
        return Step(_without_learner(shard, lost), f"{lost.instance} is lost")
    missing = options.replicas - stay - (len(others) - len(learners))
    if missing <= 0:
        return None
    able = [m for m in learners if m.replica_id not in shard.admit and cluster.is_alive(m.instance)]
    staying = [m for m in learners if m.instance not in cluster.draining]
    waiting = next((m for m in able if m in staying), None)
    if waiting is None and len(staying) < missing:
        taken = {*apart, *(m.instance for m in shard.members())}
        home = choose_instance(sorted(taken), cluster)
        if home is not None:
            return Step(shard, f"a copy on {home.instance}, in {move.id}", add=home)
        waiting = next(iter(able), None)  # it is drained once the move has made room
    if waiting is None:
        return None
    admitted = replace(shard, admit=(*shard.admit, waiting.replica_id))
    return Step(admitted, f"{waiting.instance} may join, in {move.id}")


def _without_learner(shard: ShardRecord, learner: Member) -> ShardRecord:
    return replace(
        shard,
        learners=tuple(m for m in shard.learners if m != learner),
        admit=tuple(r for r in shard.admit if r != learner.replica_id),
    )


def _empty(
    shard: ShardRecord, holding: Sequence[Member], wanted: int, cluster: PlacementState
) -> Step | None:
    """Copies on draining instances: learners leave, the primary is switched, then the rest leaves.

    `holding`: members in sync that stay. No member is removed before `wanted` others are in sync.
    """
    learner = next((m for m in shard.learners if m.instance in cluster.draining), None)
    if learner is not None:
        return Step(_without_learner(shard, learner), f"{learner.instance} is draining")
    if shard.primary.instance in cluster.draining:
        heir = next((m for m in holding if cluster.is_alive(m.instance)), None)
        if heir is None or shard.hand_over is not None:
            return None
        switched = replace(shard, hand_over=heir.replica_id)
        return Step(switched, f"{shard.primary.instance} is draining: {heir.instance} must lead")
    if len(holding) < wanted:
        return None
    leave = [m for m in shard.in_sync if m not in holding]
    if not leave:
        return None
    removed = replace(shard, remove=tuple(m.replica_id for m in leave))
    return Step(removed, f"{leave[0].instance} is draining")


def with_copy(shard: ShardRecord, home: InstanceRecord, replica_id: int) -> ShardRecord:
    """The shard with one more learner, which the primary may admit when it caught up."""
    member = Member(home.instance, home.incarnation, replica_id)
    return replace(
        shard, learners=(*shard.learners, member), admit=(*shard.admit, member.replica_id)
    )


class RepairLoop:
    """Runs `decide` over all shards each round. `silent_s`: how long instances are silent."""

    def __init__(
        self,
        store: MetadataStore,
        catalog: Catalog,
        silent_s: SilentTimes,
        lost_after_s: float,
        owns: Callable[[str], bool] = lambda shard: True,
        moves: DrainMoves | None = None,
    ) -> None:
        """`owns`: which shards this loop repairs (a cell's). `moves`: drains those of one copy."""
        self._store, self._catalog, self._owns, self._moves = store, catalog, owns, moves
        self._silent_s = silent_s
        self._lost_after_s = lost_after_s
        self._tasks = Background("repair")

    def start(self) -> None:
        self._tasks.start(self._run())

    async def close(self) -> None:
        await self._tasks.stop()

    async def _run(self) -> None:
        while True:
            try:
                await self.round()
            except LogstoreError as e:
                _log.warning("repair round failed", error=e.message)
            await asyncio.sleep(ROUND_S)

    async def round(self) -> int:
        """One look at every shard of ours; returns how many steps were written."""
        draining = frozenset(await drain_table(self._store).names())
        logs = await self._catalog.list()
        if not draining and all(d.log.options.replicas == 1 for d in logs):
            return 0
        instances = {r.instance: r for r in await self._catalog.instances()}
        copies = Counter(m.instance for d in logs for s in d.shards for m in s.members())
        silent_s = self._silent_s(list(instances))
        cluster = PlacementState(instances, silent_s, copies, self._lost_after_s, draining)
        steps = 0
        learning = sum(len(s.learners) for d in logs for s in d.shards if self._owns(s.shard))
        for described in logs:
            options = described.log.options
            if options.replicas == 1:
                continue
            for held in await shard_table(self._store).entries(f"{described.log.name}/"):
                if not self._owns(held.name):
                    continue
                shard = held.record
                step = decide(shard, options, cluster, await self._move_of(shard))
                if step is None:
                    continue
                if step.add is not None and len(shard.in_sync) >= options.replicas:
                    if learning >= DRAIN_COPIES_MAX:
                        continue  # no copy is missing but the instance must be emptied
                    learning += 1
                if await self._write(held, step):
                    steps += 1
        if draining and self._moves is not None:
            ours = [(s, d.log.options) for d in logs for s in d.shards if self._owns(s.shard)]
            steps += await self._moves.round(ours, cluster)
        return steps

    async def _move_of(self, shard: ShardRecord) -> MigrationRecord | None:
        """The inputs of the decision, its instances and strategy, are fixed while the shard names
        it."""
        if shard.migration is None:
            return None
        return await migration_table(self._store).get(shard.migration)

    async def _write(self, held: Entry[ShardRecord], step: Step) -> bool:
        record = step.record
        if step.add is not None:
            record = with_copy(record, step.add, await self._catalog.draw_replica_ids(1))
        order = Order(self._catalog.cluster, f"repair: {step.why}", self._catalog.now_us())
        write = change_shard(held.record, held.revision, record, order)
        result = await self._store.txn([write.compare], write.operations)
        if result.succeeded:
            _log.info("repair", shard=record.shard, why=step.why)
        return result.succeeded
