"""Logs and instances: create, delete, list, describe. Every change is a compare-and-swap."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from coordinator.catalog.listing import Described, Listing
from coordinator.catalog.replica_placement import PlacementState, choose_instance
from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyExistsError,
    ConflictError,
    InstanceDownError,
    InvalidArgumentError,
    UnavailableError,
    UnknownInstanceError,
    UnknownLogError,
)
from logstore.base.limits import KEY_BYTES_MAX, LOG_NAME_CHARS_MAX, SHARDS_PER_LOG_MAX
from logstore.base.types import ShardStatus
from logstore.meta.port import TXN_OPERATIONS_MAX, MetadataStore
from logstore.meta.records import (
    REPLICA_COUNTER,
    InstanceRecord,
    LogOptions,
    LogRecord,
    Member,
    ShardRecord,
)
from logstore.meta.shard_writes import (
    compares_of,
    delete_shard,
    in_chunks,
    new_shard,
    operations_of,
)
from logstore.meta.table import Decided, transact
from logstore.meta.tables import (
    changefeed_table,
    log_table,
    number_table,
    shard_table,
    weight_table,
)
from logstore.meta.tombstones import KEEP_DELETED_LOG_S, Order, deletion_of
from sharder.keys import TOKEN_BYTES, KeyRange, Partitioner, even_ranges, ranges_from_cuts
from sharder.ring import place
from sharder.settings import complaint

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,128}")
_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_CHUNK = TXN_OPERATIONS_MAX - 1
_TRIES = 20


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"log name is {name[:200]!r}, it must match [a-zA-Z0-9._-]{{1,{LOG_NAME_CHARS_MAX}}}"
        )
    if not name.strip("."):
        raise InvalidArgumentError(f"log name is {name!r}, dots alone name no log")
    return name


def parse_log_options(data: bytes, replicas: int = 1) -> LogOptions:
    """LogOptions from a JSON object; unknown fields and wrong types are refused by name.

    `replicas`: the default; then `min_in_sync` is a majority of them.
    """
    try:
        given = msgspec.json.decode(data or b"{}", type=dict[str, object])
        for name in given:
            if name not in LogOptions.__slots__:
                raise InvalidArgumentError(f"options.{name} is not an option of a log")
        if "replicas" not in given:
            given = {"replicas": replicas, "min_in_sync": replicas // 2 + 1, **given}
        options = msgspec.convert(given, LogOptions)
    except msgspec.DecodeError as e:
        raise InvalidArgumentError(f"options: {e}") from None
    return check_log_options(options)


def check_log_options(options: LogOptions) -> LogOptions:
    """Refuse options that have no effect yet."""
    said = complaint(options)
    if said is not None:
        none = ", or null for no limit" if said.startswith("timestamp_ahead_max_s ") else ""
        raise InvalidArgumentError(f"{said}{none}")
    if not 1 <= options.min_in_sync <= options.replicas:
        raise InvalidArgumentError(
            f"min_in_sync is {options.min_in_sync}, with {options.replicas} replicas it must be "
            f"within 1..{options.replicas}"
        )
    topic = options.changefeed
    if topic is not None and not _TOPIC.fullmatch(topic):
        raise InvalidArgumentError(
            f"changefeed is {topic[:300]!r}, a topic's name must match [a-zA-Z0-9._-]{{1,249}}"
        )
    if options.partitioner is not Partitioner.BALANCED and options.placement_weights:
        raise InvalidArgumentError(
            f"placement_weights is {options.placement_weights}, but partitioner is"
            f" {options.partitioner.value!r}: only a balanced log places keys"
        )
    for field in ("retention_s", "retention_bytes"):
        value = getattr(options, field)
        if value is not None:
            raise InvalidArgumentError(
                f"{field} is {value}, but nothing is trimmed by age or size yet: leave it out"
            )
    return options


def ranges_of(
    options: LogOptions, shards: int, split_keys: Sequence[bytes]
) -> tuple[KeyRange, ...]:
    """The ranges of a new log: divided at `split_keys`, or `shards` even ones (0: one)."""
    if split_keys:
        if shards and shards != len(split_keys) + 1:
            raise InvalidArgumentError(
                f"shards is {shards}, {len(split_keys)} split keys make {len(split_keys) + 1}"
            )
        if len(split_keys) >= SHARDS_PER_LOG_MAX:
            raise InvalidArgumentError(
                f"split_keys has {len(split_keys)} keys, the limit is {SHARDS_PER_LOG_MAX - 1}"
            )
        token = TOKEN_BYTES if options.partitioner is Partitioner.HASH else 0
        for i, key in enumerate(split_keys):
            if not 1 <= len(key) <= KEY_BYTES_MAX + token:
                raise InvalidArgumentError(
                    f"split_keys[{i}] has {len(key)} bytes, it must have 1..{KEY_BYTES_MAX + token}"
                )
            if i and key <= split_keys[i - 1]:
                raise InvalidArgumentError(f"split_keys[{i}] is not above split_keys[{i - 1}]")
        return tuple(ranges_from_cuts(list(split_keys)))
    try:
        return tuple(even_ranges(options.partitioner, shards or 1))
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The size of a deletion. `keep_s`: how long the copies can be brought back."""

    log: str
    shards: int
    copies: int
    keep_s: float


class Catalog(Listing):
    """The logs and instances of one store, and every change of them except moves."""

    def __init__(
        self, store: MetadataStore, env: Env, cluster: str, *, has_broker: bool = False
    ) -> None:
        """`cluster`: its id, for tombstones. `has_broker`: logs may have a change stream."""
        super().__init__(store)
        self._env = env
        self.cluster = cluster
        self.has_broker = has_broker

    async def create(
        self,
        name: str,
        options: LogOptions,
        shards: int = 0,
        split_keys: Sequence[bytes] = (),
        instances: Sequence[str] = (),
        alive: Mapping[str, bool] | None = None,
    ) -> Described:
        """Create a log: its shards first, its own record last, so a half-made log never shows.

        `instances`: a primary for each shard; empty: the ring places them on instances that are
        `alive` (those it does not name count as alive).
        """
        check_name(name)
        check_log_options(options)
        if options.changefeed is not None and not self.has_broker:
            raise InvalidArgumentError(
                f"changefeed is {options.changefeed!r}, but no broker is configured; "
                "start with --kafka HOST:PORT"
            )
        ranges = ranges_of(options, shards, split_keys)
        known = {record.instance: record for record in await self.instances()}
        ids = [f"{name}/{number}" for number in range(len(ranges))]
        for wanted in options.placement_weights:
            if wanted not in known:
                raise UnknownInstanceError(
                    f"placement_weights names instance {wanted[:200]!r}, it is not registered"
                )
        if options.replicas > len(known):
            raise InvalidArgumentError(
                f"replicas is {options.replicas}, {len(known)} instances are registered"
            )
        homes = _homes(ids, instances, known, alive or {})
        if await log_table(self._store).entry(name) is not None:
            raise AlreadyExistsError(f"log {name} exists already")
        await self._drop_shards(name, self._unfinished(name))
        replica_id = await self.draw_replica_ids(len(ids) * options.replicas)
        copies = _copies(homes, known, alive or {}, options.replicas)
        _check_acks(copies, options, alive or {}, known)
        records = []
        for shard, keys in zip(ids, ranges, strict=True):
            members = [
                Member(home.instance, home.incarnation, replica_id + i)
                for i, home in enumerate(copies[shard])
            ]
            replica_id += options.replicas
            records.append(_new_shard(shard, name, keys, members, options))
        log = LogRecord(name, options, len(ids), self._env.clock.wall_us(), len(ids))
        await self.write_new(log, records)
        return await self.describe(name)

    async def write_new(self, log: LogRecord, records: Sequence[ShardRecord]) -> None:
        """Write a log that is not there: its shards first, its own record last."""
        logs = log_table(self._store)
        chunks = list(in_chunks([new_shard(r) for r in records]))
        for i, chunk in enumerate(chunks):
            operations = operations_of(chunk)
            compares = [*compares_of(chunk), logs.unchanged(log.name, None)]
            if i == len(chunks) - 1:
                operations.append(logs.put(log.name, log))
            if not (await self._store.txn(compares, operations)).succeeded:
                raise AlreadyExistsError(f"log {log.name} exists already, or is being created")

    async def delete(
        self, name: str, keep_s: float = KEEP_DELETED_LOG_S, *, dry_run: bool = False
    ) -> Deleted:
        """Delete a log, its record first; the instances retire its copies (P9).

        Refused while one of its shards is migrating. `dry_run`: report the deletion, change
        nothing.
        """
        logs = log_table(self._store)

        async def decide() -> Decided[Deleted]:
            found = await logs.entry(name)
            if found is None:
                raise UnknownLogError(f"log {name!r} does not exist")
            shards = await shard_table(self._store).all(f"{name}/")
            for shard in shards:
                if shard.migration is not None:
                    raise ConflictError(f"shard {shard.shard} is in {shard.migration}")
            told = Deleted(name, len(shards), sum(len(s.members()) for s in shards), keep_s)
            return Decided(told, [found.unchanged], [] if dry_run else [logs.removal(name)])

        told = await transact(self._store, f"log {name}", decide)
        if not dry_run:
            await self._drop_shards(name, self._order(deletion_of(name), keep_s))
            await self._drop_notes(name)
        return told

    async def _drop_notes(self, name: str) -> None:
        """How far a change stream came (the topic is the user's and stays), and weights."""
        for table in (changefeed_table(self._store), weight_table(self._store)):
            shards = await table.names(f"{name}/")
            for at in range(0, len(shards), _CHUNK):
                await self._store.txn([], [table.removal(s) for s in shards[at : at + _CHUNK]])

    def now_us(self) -> int:
        return self._env.clock.wall_us()

    def _order(self, cause: str, keep_s: float) -> Order:
        return Order(self.cluster, cause, self.now_us(), keep_s)

    def _unfinished(self, name: str) -> Order:
        """For shards without a log, which may be half created or half deleted."""
        return self._order(f"{deletion_of(name)}, or was never finished", KEEP_DELETED_LOG_S)

    async def _drop_shards(self, name: str, order: Order) -> None:
        """Remove shard records that belong to no log; their copies are ordered away."""
        logs = log_table(self._store)
        for _ in range(_TRIES):
            shards = await shard_table(self._store).entries(f"{name}/")
            if not shards:
                return
            writes = [delete_shard(s.record, s.revision, order) for s in shards]
            for chunk in in_chunks(writes):
                compares = [*compares_of(chunk), logs.unchanged(name, None)]
                result = await self._store.txn(compares, operations_of(chunk))
                if not result.succeeded and await logs.entry(name) is not None:
                    raise AlreadyExistsError(f"log {name} exists already")
        raise ConflictError(f"the shards of {name} changed too often, try again")

    async def tidy(self) -> None:
        """Remove the shards of logs whose creation or deletion died half-way."""
        logs = set(await log_table(self._store).names())
        shards = await shard_table(self._store).all()
        for name in {shard.log for shard in shards} - logs:
            await self._drop_shards(name, self._unfinished(name))

    async def draw_replica_ids(self, count: int) -> int:
        """The first of `count` ids for this caller alone."""
        after = await number_table(self._store).update(
            REPLICA_COUNTER,
            lambda found: (found.record if found is not None else 1) + count,
            "the replica counter",
        )
        return after - count


def _copies(
    primaries: Mapping[str, str],
    known: Mapping[str, InstanceRecord],
    alive: Mapping[str, bool],
    replicas: int,
) -> dict[str, list[InstanceRecord]]:
    """Shard -> the instances of its first copies, the primary's first; fewer where too few live."""
    counts = Counter(primaries.values())
    silent_s = {name: 0.0 if alive.get(name, True) else math.inf for name in known}
    homes: dict[str, list[InstanceRecord]] = {}
    for shard, primary in primaries.items():
        homes[shard] = [known[primary]]
        while len(homes[shard]) < replicas:
            cluster = PlacementState(known, silent_s, counts, lost_after_s=math.inf)
            home = choose_instance([r.instance for r in homes[shard]], cluster)
            if home is None:
                break
            counts[home.instance] += 1
            homes[shard].append(home)
    return homes


def _check_acks(
    copies: Mapping[str, Sequence[InstanceRecord]],
    options: LogOptions,
    alive: Mapping[str, bool],
    known: Mapping[str, InstanceRecord],
) -> None:
    """InstanceDownError when too few instances are alive for a single append to be acked."""
    fewest = min(map(len, copies.values()))
    if fewest < options.min_in_sync:
        living = sum(alive.get(name, True) for name in known)
        raise InstanceDownError(
            f"min_in_sync is {options.min_in_sync}, {living} of {len(known)} instances are alive "
            "and take shards: no append would be acked"
        )


def _new_shard(
    shard: str, log: str, keys: KeyRange, members: Sequence[Member], options: LogOptions
) -> ShardRecord:
    """The first member leads; the others may join as soon as they match."""
    primary, *learners = members
    return ShardRecord(
        shard=shard,
        log=log,
        range=keys,
        status=ShardStatus.OPEN,
        epoch=1,
        primary_since=1,
        primary=primary,
        in_sync=(primary,),
        min_in_sync=options.min_in_sync,
        learners=tuple(learners),
        admit=tuple(m.replica_id for m in learners),
    )


def _homes(
    shards: Sequence[str],
    wanted: Sequence[str],
    known: Mapping[str, InstanceRecord],
    alive: Mapping[str, bool],
) -> dict[str, str]:
    """Shard -> instance of its first primary."""
    if wanted:
        if len(wanted) != len(shards):
            raise InvalidArgumentError(
                f"instances has {len(wanted)} entries for {len(shards)} shards, one each is needed"
            )
        for name in wanted:
            if name not in known:
                raise UnknownInstanceError(f"instance {name!r} is not registered")
        return dict(zip(shards, wanted, strict=True))
    healthy = [name for name in known if alive.get(name, True)]
    if not healthy:
        raise UnavailableError("no instance is alive, a log needs at least 1")
    return place(shards, dict.fromkeys(healthy, 1.0), bound=1.0)
