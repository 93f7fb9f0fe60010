"""coordinator.v1.Placement: keys of balanced logs, drawn by forecast headroom."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.answers.statistics import Shares
from coordinator.catalog.catalog import Catalog
from coordinator.keys.tokens import Ask, Book
from coordinator.planning.loop import PlanningLoop
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.intake import StatisticsIntake
from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LimitExceededError,
    UnavailableError,
    UnknownLogError,
)
from logstore.base.limits import KEY_BYTES_MAX
from logstore.base.tls import TlsOptions
from logstore.base.types import ShardStatus
from logstore.client.client import Client, Log, connect
from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    LogOptions,
    LogRecord,
    ShardRecord,
    mapping_log,
)
from logstore.meta.tables import log_table, shard_table
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import placement_pb2 as ppb
from logstore.proto.coordinator_v1.placement_pb2_grpc import PlacementServicer
from sharder.keys import TOKEN_BYTES, Partitioner
from sharder.placement import (
    Estimate,
    Headroom,
    Placement,
    PlacementConfig,
    Preference,
    Slot,
    headrooms,
    takes_keys,
    virtual_key,
)
from sharder.view import View

KEYS_PER_CALL_MAX = 65_536
MAPPING_TIMEOUT_S = 10.0
"""How long the mapping log may take before the caller has to ask again."""
OBSERVED_KEYS_MIN = 1_000
"""With fewer keys their load says little about an instance."""


@dataclass(slots=True)
class _OpenLog:
    """A balanced log in use: its book, and the basis of its slots."""

    book: Book
    wish: Preference
    """The log's options."""
    shards: tuple[ShardRecord, ...]
    seen: tuple[object, ...]
    renewed_s: float


class PlacementService(PlacementServicer):
    """Serves where the log-wide cell is led; the next leader reads its memory again."""

    def __init__(
        self,
        store: MetadataStore,
        env: Env,
        catalog: Catalog,
        loop: PlanningLoop,
        intake: StatisticsIntake,
        tls: TlsOptions | None,
        renew_s: float,
    ) -> None:
        """`renew_s`: how often weights follow the forecast; lost instances and moved shards count
        at once."""
        self._store, self._env, self._catalog = store, env, catalog
        self._loop, self._intake, self._tls = loop, intake, tls
        self._renew_s = renew_s
        self._client: Client | None = None
        self._logs: dict[str, _OpenLog] = {}
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        for held in self._logs.values():
            await held.book.close()
        self._logs.clear()
        if self._client is not None:
            await self._client.close()
            self._client = None

    @unary
    async def GetPartition(
        self, request: ppb.GetPartitionRequest, context: Context
    ) -> ppb.Partition:
        sizes = [float(request.size)] if request.size else None
        ask = Ask([request.key], sizes, request.schema, place=not request.lookup_only)
        return (await self._partitions(request, ask))[0]

    @unary
    async def GetPartitions(
        self, request: ppb.GetPartitionsRequest, context: Context
    ) -> ppb.GetPartitionsResponse:
        keys, sizes = list(request.keys), [float(s) for s in request.sizes]
        if len(keys) > KEYS_PER_CALL_MAX:
            raise LimitExceededError.of("keys", len(keys), KEYS_PER_CALL_MAX, "keys")
        if sizes and len(sizes) != len(keys):
            raise InvalidArgumentError(
                f"sizes has {len(sizes)} elements, it must have none or one a key ({len(keys)})"
            )
        ask = Ask(keys, sizes or None, request.schema, place=not request.lookup_only)
        return ppb.GetPartitionsResponse(partitions=await self._partitions(request, ask))

    @unary
    async def Shares(self, request: ppb.SharesRequest, context: Context) -> pb.JsonResponse:
        held = await self._open(request.log)
        await held.book.tokens(Ask([], place=False))
        placement = held.book.placement
        return answered(
            Shares(
                log=request.log,
                keys=len(held.book.table),
                shares=placement.shares(
                    float(request.size) or None, request.schema, held.wish.weights
                ),
                corrections=placement.corrections,
                keys_by_instance=_keys_by_instance(held),
                expected=placement.expected,
            )
        )

    async def _partitions(
        self, request: ppb.GetPartitionRequest | ppb.GetPartitionsRequest, ask: Ask
    ) -> list[ppb.Partition]:
        longest = max((len(k) for k in ask.keys), default=0)
        if longest > KEY_BYTES_MAX - TOKEN_BYTES:
            raise LimitExceededError.of("key", longest, KEY_BYTES_MAX - TOKEN_BYTES, "bytes")
        held = await self._open(request.log)
        ask.wish = _wish(request, held)
        tokens, known = await held.book.tokens(ask)
        starts = _starts(held.shards)
        at = np.searchsorted(starts, tokens, side="right") - 1
        found = []
        rows = zip(ask.keys, tokens.tolist(), known.tolist(), at.tolist(), strict=True)
        for key, token, is_known, place in rows:
            if not is_known:
                found.append(ppb.Partition())
                continue
            virtual = virtual_key(token, key)
            shard = _shard_of(held.shards, place, virtual)
            found.append(ppb.Partition(
                virtual_key=virtual, shard=shard.shard, instance=shard.primary.instance
            ))  # fmt: skip
        return found

    async def _open(self, log: str) -> _OpenLog:
        """The book of a log, with weights and slots that are up to date."""
        record = await log_table(self._store).get(log)
        if record is None:
            self._logs.pop(log, None)
            raise UnknownLogError(f"log {log!r} does not exist")
        if record.options.partitioner is not Partitioner.BALANCED:
            raise InvalidArgumentError(
                f"log {log!r} has partitioner {record.options.partitioner.value!r}, placement is"
                " for balanced logs"
            )
        async with self._renewing:
            return await self._up_to_date(log, record)

    async def _up_to_date(self, log: str, record: LogRecord) -> _OpenLog:
        shards = await self._open_shards(log)
        now_s = self._env.clock.monotonic_s()
        instances = sorted({s.primary.instance for s in shards})
        alive = tuple(i for i in instances if self._intake.alive(i, now_s))
        seen = (record.created_us, alive, tuple((s.shard, s.primary.instance) for s in shards))
        held = self._logs.get(log)
        ended = held is not None and held.book.ended
        fresh = held is not None and now_s - held.renewed_s < self._renew_s
        if held is not None and held.seen == seen and fresh and not ended:
            return held
        # Made again under its name, or opened before it was known that its mapping log was.
        if held is not None and (held.seen[0] != record.created_us or ended):
            await held.book.close()
            held = None
        slots, room, view = await self._room(shards)
        if held is None:
            book = await self._book(log, record.options, slots, room)
            held = self._logs[log] = _OpenLog(book, _wish_of(record.options), shards, seen, now_s)
        _observe(held, view)
        held.shards, held.seen, held.renewed_s = shards, seen, now_s
        held.book.placement.renew(slots, room)
        return held

    async def _open_shards(self, log: str) -> tuple[ShardRecord, ...]:
        found = await shard_table(self._store).all(f"{log}/")
        opened = [s for s in found if s.status is not ShardStatus.SEALED]
        return tuple(sorted(opened, key=lambda s: s.range.start))

    async def _room(
        self, shards: Sequence[ShardRecord]
    ) -> tuple[list[Slot], dict[str, Headroom], View]:
        """Slots and the headroom of each instance; UnavailableError if no instance lives."""
        view = await self._loop.view()
        statuses = self._intake.statuses()
        room = headrooms(view)
        share = view.config.risk.threshold
        for name, status in statuses.items():
            if name in room:
                cores = share * status.capacity.cpu_share - status.cpu_share
                room[name] = replace(room[name], cpu_share=max(cores, 0.0))
        slots = [Slot(s.shard, s.primary.instance, s.range) for s in shards]
        slots = [s for s in slots if takes_keys(s) and s.instance in room]
        if not slots:
            raise UnavailableError("no open shard is on an instance that is alive")
        return slots, room, view

    async def _book(
        self, log: str, options: LogOptions, slots: Sequence[Slot], room: dict[str, Headroom]
    ) -> Book:
        client = await self._connected()
        name = mapping_log(log)
        try:
            mapping = await client.log(name)
        except UnknownLogError:
            await self._make_mapping(name, options, room)
            mapping = await self._made_mapping(client, name)
        return Book(mapping, Placement(slots, room, PlacementConfig()))

    async def _made_mapping(self, client: Client, name: str) -> Log:
        """The new mapping log. Instances that have not seen it yet may still know that a log of
        this name was deleted: the caller has to ask again."""
        try:
            return await client.log(name)
        except UnknownLogError as e:
            raise UnavailableError(
                f"the mapping log {name} is not served yet: {e.message}"
            ) from None

    async def _make_mapping(
        self, name: str, options: LogOptions, room: dict[str, Headroom]
    ) -> None:
        """As safe as the log itself, a shard for each instance."""
        made = LogOptions(
            partitioner=Partitioner.HASH,
            replicas=options.replicas,
            min_in_sync=options.min_in_sync,
            durability=options.durability,
        )
        alive = {r.instance: r.instance in room for r in await self._catalog.instances()}
        try:
            await self._catalog.create(name, made, len(room), alive=alive)
        except AlreadyExistsError:
            return

    async def _connected(self) -> Client:
        """A client of the instances: they serve routes, so the mapping log needs no coordinator."""
        if self._client is None:
            addresses = [r.address for r in await self._catalog.instances()]
            client = connect(
                addresses, tls=self._tls, timeout_s=MAPPING_TIMEOUT_S, env=self._env,
                client_group="placement",
            )  # fmt: skip
            self._client = await client.__aenter__()
        return self._client


def _wish_of(options: LogOptions) -> Preference:
    return Preference(options.placement_randomness, options.placement_weights)


def _wish(
    request: ppb.GetPartitionRequest | ppb.GetPartitionsRequest, held: _OpenLog
) -> Preference:
    """What a call wishes, else its log's options. InvalidArgumentError names what is wrong."""
    own = held.wish
    known = held.book.placement.instances
    for name in request.weights:
        if name not in known:
            raise InvalidArgumentError(
                f"weights names instance {name[:200]!r}, the log's shards are on {', '.join(known)}"
            )
    factors = dict(request.weights) or own.weights
    if request.weights and not any(factors.get(name, 1.0) for name in known):
        raise InvalidArgumentError(
            "weights is 0 for every instance of the log, it must leave at least 1"
        )
    randomness = request.randomness if request.HasField("randomness") else own.randomness
    try:
        return Preference(randomness, factors)
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from None


def _starts(shards: Sequence[ShardRecord]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The first tokens of the shards; where a boundary lies within a token, both sides have it."""
    head = [s.range.start[:TOKEN_BYTES].ljust(TOKEN_BYTES, b"\0") for s in shards]
    return np.array([int.from_bytes(h, "big") for h in head], dtype=np.uint64)


def _shard_of(shards: Sequence[ShardRecord], at: int, key: bytes) -> ShardRecord:
    """The shard of a virtual key, at `at` or, where boundaries share a token, just before it."""
    while at > 0 and key < shards[at].range.start:
        at -= 1
    return shards[at]


def _keys_by_instance(held: _OpenLog) -> dict[str, int]:
    found: dict[str, int] = {}
    counts = held.book.table.counts(_starts(held.shards)).tolist()
    for shard, count in zip(held.shards, counts, strict=True):
        name = shard.primary.instance
        found[name] = found.get(name, 0) + count
    return found


def _observe(held: _OpenLog, view: View) -> None:
    """Correct the weights and the log's estimate by the load of the keys placed so far."""
    keys = _keys_by_instance(held)
    total = sum(keys.values())
    names = {s.shard for s in held.shards}
    seen = [s for s in view.shards if s.id in names]
    ops = sum(s.ops_per_s for s in seen)
    if total < OBSERVED_KEYS_MIN or ops <= 0:
        return
    brought = dict.fromkeys(keys, 0.0)
    for shard in seen:
        brought[shard.instance] = brought.get(shard.instance, 0.0) + shard.ops_per_s
    placement = held.book.placement
    placement.observe({n: float(k) for n, k in keys.items()}, brought)
    size = sum(s.bytes_per_s for s in seen) / ops
    stored = sum(s.bytes for s in seen)
    placement.learn("", Estimate(
        ops_per_s=ops / total, record_bytes=size, records=stored / max(size, 1.0) / total
    ))  # fmt: skip
