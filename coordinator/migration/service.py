"""coordinator.v1.Migrations: move, list, watch, order."""

from collections.abc import AsyncIterator, Callable

from coordinator.answers.base import fields_of
from coordinator.migration import reshape_driver
from coordinator.migration.answers import DryMove, Migration, MigrationRows, OddMigration
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.dry_run import dry_run
from coordinator.migration.history import move_history, move_seconds
from coordinator.migration.ledger import Proposal
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.records import (
    MigrationRecord,
    MoveOptions,
    State,
    parse_options,
)
from coordinator.migration.reshape_driver import ReshapeDriver
from coordinator.migration.table import PATHS, TABLE, check_strategy, story
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.presence import Presence
from logstore.base.errors import ConflictError, InvalidArgumentError, LogstoreError
from logstore.meta.port import MetadataStore
from logstore.meta.records import ShardRecord, migration_key
from logstore.meta.table import wait_for_change
from logstore.meta.tables import log_table, shard_table
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsServicer
from logstore.proto.status import served
from profiler.heatmap import AccessHeatmap
from sharder.keys import TOKEN_BYTES, Partitioner, routing_key

WATCH_INTERVAL_S = 0.25


def told(record: MigrationRecord, shard: ShardRecord | None, now_us: int, rate: float) -> Migration:
    """A migration as an answer: the record, its story, the ramp's p, and the seconds left.

    `rate` is the expected copy rate, 10^6 bytes/s.
    """
    p = shard.route.get(record.target_instance, 0.0) if shard is not None else 0.0
    steps = {
        s.state: s.seconds for s in dry_run(record.options, record.bytes, rate, record.strategy)
    }
    eta_s = 0.0
    if record.active and record.state is not State.ROLLING_BACK:
        order = PATHS[record.strategy]
        at = order.index(record.state) if record.state in order else -1
        later = order[at + 1 :]
        eta_s = sum(steps.get(state.value, 0.0) for state in later)
        here = steps.get(record.state.value, 0.0)
        if record.state is State.RAMPING:
            eta_s += here * (1.0 - p)
        elif record.state is State.SOAKING:
            eta_s += max(0.0, here - record.soaked_s)
        else:
            eta_s += max(0.0, here - (now_us - record.since_us) / 1e6)
    ended_us = record.phases[-1].at_us if record.phases and not record.active else now_us
    instances = {"source": record.source.instance, "target": record.target_instance}
    return Migration(
        **(fields_of(record) | instances),
        hash_equal=record.hash.equal if record.hash is not None else None,
        hash_age_s=_age_s(record, now_us),
        p=p,
        eta_s=round(eta_s, 3),
        duration_s=round((ended_us - record.created_us) / 1e6, 3),
        phase_s=phase_seconds(record, now_us),
        waits_for=TABLE[record.state].waits if record.active else "",
        story=tuple(story(record)),
    )


def _age_s(record: MigrationRecord, now_us: int) -> float | None:
    """How old the result of the verification is; None: there is none."""
    if record.hash is None or not record.hash.at_us:
        return None
    return round((now_us - record.hash.at_us) / 1e6, 3)


def phase_seconds(record: MigrationRecord, now_us: int) -> dict[str, float]:
    """How long each state took, summed over its visits; the present one until now."""
    found: dict[str, float] = {}
    for i, phase in enumerate(record.phases):
        if phase.state not in TABLE or not TABLE[phase.state].to:
            continue
        end_us = record.phases[i + 1].at_us if i + 1 < len(record.phases) else now_us
        seconds = found.get(phase.state.value, 0.0) + (end_us - phase.at_us) / 1e6
        found[phase.state.value] = round(seconds, 6)
    return found


HeatmapOf = Callable[[str], AccessHeatmap | None]


def learned_key(kind: Partitioner, parent: ShardRecord, heatmap: AccessHeatmap | None) -> bytes:
    """Where a shard's learned load halves; a hash log's load is even over its tokens."""
    keys = parent.range
    if kind is Partitioner.HASH:
        low = int.from_bytes(keys.start[:TOKEN_BYTES].ljust(TOKEN_BYTES, b"\0"), "big")
        end = keys.end[:TOKEN_BYTES].ljust(TOKEN_BYTES, b"\0") if keys.end else None
        high = int.from_bytes(end, "big") if end else 1 << 8 * TOKEN_BYTES
        return ((low + high) // 2).to_bytes(TOKEN_BYTES, "big")
    found = heatmap.split_key(keys.start, keys.end) if heatmap is not None else None
    if found is None:
        raise InvalidArgumentError(
            f"no key that splits shard {parent.shard} was learned yet; name one with --at"
        )
    return found


class MigrationsService(MigrationsServicer):
    """`defaults`: move options of this coordinator, under those of a request. `heatmap`:
    of a log with statistics."""

    def __init__(
        self,
        store: MetadataStore,
        driver: MigrationDriver,
        nodes: GrpcNodes,
        defaults: MoveOptions,
        reshapes: ReshapeDriver,
        presence: Presence,
        heatmap: HeatmapOf = lambda log: None,
    ) -> None:
        self._presence = presence
        self._reshapes = reshapes
        self._heatmap = heatmap
        self._store = store
        self._driver = driver
        self._nodes = nodes
        self._defaults = defaults

    @unary
    async def Move(self, request: pb.MoveRequest, context: Context) -> pb.JsonResponse:
        proposal = Proposal(
            shard=request.shard,
            target=request.target,
            strategy=check_strategy(request.strategy),
            options=parse_options(request.options_json, self._defaults),
            reason="asked for",
        )
        self._driver.check_feed(proposal.options)
        draft = await self._driver.ledger.draft(proposal)
        sides = {draft.source.instance: "the source", draft.target_instance: "the target"}
        await self._presence.require(f"the move of {draft.shard}", sides)
        if not request.dry_run:
            return answered(await self._told(await self._driver.propose(proposal)))
        try:
            size = (await self._nodes.sizes(draft.source.instance)).get(draft.shard, 0)
        except LogstoreError:
            size = 0
        if draft.strategy == "switch":
            size = 0
        history = move_history(await self._driver.ledger.all(), draft.options, draft.strategy)
        steps = dry_run(draft.options, size, history.copy_mb_per_s, draft.strategy)
        expected_s, low_s, high_s = move_seconds(history, draft.options, draft.strategy, size)
        return answered(
            DryMove(
                dry_run=True,
                shard=draft.shard,
                source=draft.source.instance,
                target=draft.target_instance,
                strategy=draft.strategy,
                bytes=size,
                seconds=expected_s,
                seconds_low=low_s,
                seconds_high=high_s,
                blackout_ms=round(history.blackout_ms, 3),
                options=draft.options,
                steps=tuple(steps),
            )
        )

    @unary
    async def Reshape(self, request: pb.ReshapeRequest, context: Context) -> pb.JsonResponse:
        """Split or merge; answers at the end, `ConflictError` when it was aborted."""
        at = None
        if len(request.parents) > 1 and request.HasField("key"):
            raise InvalidArgumentError(
                f"key is given with {len(request.parents)} parents: a merge has none"
            )
        if len(request.parents) == 1:
            parent = await self._reshapes.shard(request.parents[0])
            at = await self._split_key(parent, request.key if request.HasField("key") else None)
        draft = await self._reshapes.draft(list(request.parents), at)
        leaders = [(await self._reshapes.shard(p)).primary.instance for p in draft.parents]
        needed = {
            name: f"the primary of {shard}"
            for name, shard in zip(leaders, draft.parents, strict=True)
        }
        await self._presence.require(f"the {draft.kind} of {' and '.join(draft.parents)}", needed)
        if request.dry_run:
            return answered(reshape_driver.told(draft, dry_run=True))
        record = await self._reshapes.propose(draft)
        record = await self._reshapes.ended(record.id)
        if record.cause is not None:
            raise ConflictError(f"{record.kind} {record.id} was aborted: {record.cause}")
        return answered(reshape_driver.told(record))

    async def _split_key(self, parent: ShardRecord, key: bytes | None) -> bytes:
        """The routing key to cut at: of the given record key, or as learned from accesses."""
        log = await log_table(self._store).get(parent.log)
        kind = log.options.partitioner if log is not None else Partitioner.RANGE
        if key is not None:
            return routing_key(kind, key)
        return learned_key(kind, parent, self._heatmap(parent.log))

    @unary
    async def ListReshapes(
        self, request: pb.ListReshapesRequest, context: Context
    ) -> pb.JsonResponse:
        if request.reshape:
            return answered(reshape_driver.told(await self._reshapes.get(request.reshape)))
        return answered([reshape_driver.told(r) for r in await self._reshapes.all()])

    @unary
    async def List(self, request: pb.ListMigrationsRequest, context: Context) -> pb.JsonResponse:
        known, odd = await self._driver.ledger.all_and_odd()
        found = [r for r in known if r.active or not request.active_only]
        known_rows = tuple([await self._told(record) for record in found])
        odd_rows = tuple(OddMigration(id=entry.name, odd=entry.odd) for entry in odd)
        return answered(MigrationRows(known_rows, odd_rows))

    @unary
    async def Get(self, request: pb.GetMigrationRequest, context: Context) -> pb.JsonResponse:
        return answered(await self._told(await self._driver.ledger.get(request.id)))

    async def Watch(
        self, request: pb.GetMigrationRequest, context: Context
    ) -> AsyncIterator[pb.JsonResponse]:
        """One message at each change of the record or the ramp, until the end state."""
        async with served(context):
            record = await self._driver.ledger.get(request.id)
            sent: tuple[MigrationRecord, float] | None = None
            while True:
                telling = await self._told(record)
                if sent != (record, telling.p):
                    sent = (record, telling.p)
                    yield answered(telling)
                if not record.active:
                    return
                await self._next(request.id)
                record = await self._driver.ledger.get(request.id)

    async def _next(self, migration: str) -> None:
        """The next change of the record, or after a while (the ramp's share is in the shard
        record)."""
        key = migration_key(migration)
        revision = (await self._store.range(key)).revision
        await wait_for_change(self._store, [key], revision, WATCH_INTERVAL_S)

    @unary
    async def Control(self, request: pb.ControlRequest, context: Context) -> pb.JsonResponse:
        await self._check_control(request.id, request.action)
        record = await self._driver.order(request.id, request.action, request.cause)
        return answered(await self._told(record))

    async def _check_control(self, migration: str, action: str) -> None:
        """After the cutover the way back needs the source, and the end needs the target."""
        record = await self._driver.ledger.get(migration)
        if record.state is not State.SOAKING or record.removing:
            return
        order, source, target = f"{action} of {migration}", record.source.instance, record.target
        if action == "rollback":
            hint = f"complete {migration} leaves the shard on {record.target_instance}"
            await self._presence.require(order, {source: "the source"}, hint)
        elif action == "complete" and target is not None:
            hint = f"rollback {migration} takes the shard back to {source}"
            await self._presence.require(order, {target.instance: "the target"}, hint)

    async def _told(self, record: MigrationRecord) -> Migration:
        shard = await shard_table(self._store).get(record.shard)
        return told(record, shard, self._driver.now_us(), await self._rate())

    async def _rate(self) -> float:
        return move_history(await self._driver.ledger.all()).copy_mb_per_s
