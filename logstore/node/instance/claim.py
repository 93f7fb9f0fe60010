"""An instance's claim to its name: which process may run it, on which metadata (note 0008).

`Claim.make` compares directory and store, waits until the name is free, and registers by
compare-and-swap under a lease. Then `Claim.keep` keeps the lease and looks each time whether the
store is still the one that was acted on. `ClaimedStore` is the store as everyone else in the
instance sees it: its transactions hold only while the claim does.

Outcomes that end a process: `WrongClusterError` (refused before anything is written),
`AlreadyRunningError` (the name is taken), `taken` (another process has it now).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import structlog

from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyRunningError,
    FencedError,
    LeaseLostError,
    LogstoreError,
    UnavailableError,
    WrongClusterError,
)
from logstore.engine.port import CopyFacts
from logstore.meta.generations import Lineage, Point, check_holds, read_lineage
from logstore.meta.port import (
    LEASE_DRIFT,
    Compare,
    Lease,
    MetadataStore,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    Versioned,
    WatchEvent,
)
from logstore.meta.records import (
    GENERATION,
    InstanceRecord,
    ProcessRecord,
    encode,
    instance_key,
    process_key,
)
from logstore.meta.tables import instance_table, process_table, shard_table
from logstore.node.instance.identity import Identity, IdentityStore, begin

TTL_S = 5.0
"""Of a registration: how long a name stays taken after its process was seen last."""
KEEP_ALIVES_PER_TTL = 5
WAIT_TTLS = 2.0
"""A name that is still taken after this many leases belongs to a living process."""
POLL_S = 0.1
BEFORE_OPEN_S = 2.0
"""A store that does not answer so quickly is compared after the directory was opened."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Seat:
    """Our registration: the revision that wrote our record, and the lease beside it."""

    revision: int
    lease: Lease
    lineage: Lineage
    record: InstanceRecord


@dataclass(slots=True)
class Claim:
    """Of one process. `acted_on`: the newest revision of the metadata that it acted on."""

    store: MetadataStore
    kept: IdentityStore
    env: Env
    instance: str
    new_disk: bool
    """The disk of this name is lost, and this empty directory takes its place."""
    accepts: str | None
    """A generation of this store that is accepted by hand: what was acted on before is settled."""
    acted_on: Callable[[], int] = lambda: 0
    identity: Identity = field(init=False)
    estranged: str = ""
    """Why the metadata is not ours; empty while it is."""
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once another process has our name."""
    _seat: _Seat | None = None

    def __post_init__(self) -> None:
        self.identity = begin(self.kept, self.instance, self.env)

    # ---- what others ask ---------------------------------------------------------------------

    @property
    def cluster(self) -> str:
        """Empty until the claim was made, or the directory knows it."""
        return self.identity.cluster

    @property
    def generation(self) -> str:
        """The newest one that was accepted."""
        return self.identity.generation

    def point(self) -> Point:
        return Point(self.identity.generation, max(self.identity.revision, self.acted_on()))

    def fences(self) -> tuple[Compare, ...]:
        """Hold as long as the store is ours, and the name too. `UnavailableError` when the claim
        was not made, or the store turned out to be another."""
        if self.estranged:
            raise UnavailableError(f"the metadata is not followed: {self.estranged}")
        if self._seat is None:
            raise UnavailableError(f"instance {self.instance} is not registered yet")
        return *self._seat.lineage.fences(), self._ours()

    def _ours(self) -> Compare:
        assert self._seat is not None
        return Compare(instance_key(self.instance), self._seat.revision)

    # ---- making it ---------------------------------------------------------------------------

    async def make(
        self,
        record: Callable[[Identity], InstanceRecord],
        copies: Sequence[CopyFacts],
        mark_short: Callable[[], Awaitable[None]],
        *,
        empty: bool,
    ) -> None:
        """Register, once it is safe. `record`: what to register for an identity. `copies`: what the
        copies on the disk acted on; `empty`: there is none. `mark_short`: durably mark each of them
        as perhaps short; done before an old directory or a twin registers.

        `WrongClusterError`, `AlreadyRunningError`; `UnavailableError` when the store is away.
        """
        lineage = await self._lineage(copies)
        await self._wait_until_free()
        key = instance_key(self.instance)
        found = await instance_table(self.store).entry(self.instance)
        known = found.record if found is not None else None
        stale = await self._is_stale(known, empty=empty)
        if stale:
            await mark_short()
        drawn = msgspec.structs.replace(
            self.identity,
            cluster=lineage.cluster,
            incarnation=self.env.new_id() if stale else self.identity.incarnation,
            drawn=self.env.new_id(),
            generation=lineage.newest,
            revision=lineage.began[lineage.newest],
        )
        self.kept.save(drawn)
        ours = record(drawn)
        lease = await self.store.lease_grant(TTL_S)
        result = await self.store.txn(
            [
                *lineage.fences(),
                Compare(key, found.revision if found is not None else 0),
                Compare(process_key(self.instance), 0),
            ],
            [Put(key, encode(ours)), self._process(ours, lease)],
        )
        if not result.succeeded:
            await self.store.lease_revoke(lease.id)
            raise UnavailableError(f"the registration of {self.instance} changed meanwhile")
        self._registered(drawn)
        self._seat = _Seat(result.revision, lease, lineage, ours)

    async def _lineage(self, copies: Sequence[CopyFacts]) -> Lineage:
        """The store's, if it is ours and holds what this directory acted on."""
        lineage = await read_lineage(self.store)
        if lineage is None:
            if self.cluster:
                raise WrongClusterError(self._empty_store())
            raise UnavailableError("the metadata has no generation yet: no coordinator began")
        who = f"instance {self.instance}"
        settled = self.accepts is not None and self.accepts in lineage.began
        check_holds(lineage, Point() if settled else self.point(), self.cluster, who)
        for facts in copies:
            check_holds(lineage, Point(), facts.cluster, f"a copy in the directory of {who}")
            if not settled and facts.generation == self.identity.generation:
                check_holds(lineage, Point(facts.generation, facts.revision), facts.cluster, who)
        return lineage

    def _empty_store(self) -> str:
        return (
            f"the metadata is empty, instance {self.instance} belongs to cluster {self.cluster}: "
            "give it its own metadata back, or rebuild that with `logstore recover`"
        )

    async def _wait_until_free(self) -> None:
        """Return when no other process runs this name; `AlreadyRunningError` when one lives."""
        processes = process_table(self.store)
        began_s = self.env.clock.monotonic_s()
        limit_s = WAIT_TTLS * TTL_S * (1 + LEASE_DRIFT)
        said = False
        while (found := await processes.entry(self.instance)) is not None:
            other = found.record
            if self._is_gone(other):
                await processes.remove(found)
                continue
            if self.env.clock.monotonic_s() - began_s > limit_s:
                raise AlreadyRunningError(
                    f"instance {self.instance} is run by another process at {other.address}: "
                    "stop it first, or give this one a name of its own"
                )
            if not said:
                said = True
                _log.warning("the name is taken, waiting for its lease", address=other.address)
            await asyncio.sleep(POLL_S)

    def _is_gone(self, other: ProcessRecord) -> bool:
        """The process held the lock that we hold: it ended."""
        return other.witness != "" and other.witness == self.kept.witness

    async def _is_stale(self, known: InstanceRecord | None, *, empty: bool) -> bool:
        """Whether this directory is not the one that registered last."""
        if known is None:
            return self.identity.process != 0
        if known.process == 0:
            _log.warning("adopted: registered before processes were numbered",
                         instance=self.instance, incarnation=self.identity.incarnation)  # fmt: skip
            return False
        if self.identity.knows(known.process):
            return False
        if self.identity.process == 0 and empty and not self.new_disk:
            await self._check_nothing_lost()
        _log.warning(
            "this directory is not the one that ran last under its name: its copies may be short",
            instance=self.instance, cluster=self.cluster,
        )  # fmt: skip
        return True

    async def _check_nothing_lost(self) -> None:
        """An empty directory under a name that has copies may be a disk that is not mounted."""
        records = await shard_table(self.store).all()
        shards = [r for r in records if r.member_on(self.instance) is not None]
        if not shards:
            return
        only = sum(1 for r in shards if len(r.in_sync) == 1 and r.primary.instance == self.instance)
        raise WrongClusterError(
            f"the data directory is empty, but instance {self.instance} holds {len(shards)} copies "
            f"by the metadata, {only} of them the only one of its shard: mount its disk, or start "
            "it once with --replace to build the copies anew from other members"
        )

    def _process(self, record: InstanceRecord, lease: Lease) -> Put:
        process = ProcessRecord(self.instance, record.process, record.address, self.kept.witness)
        return Put(process_key(self.instance), encode(process), lease.id)

    def _registered(self, drawn: Identity) -> None:
        self.identity = msgspec.structs.replace(drawn, process=drawn.drawn)
        self.kept.save(self.identity)

    # ---- keeping it --------------------------------------------------------------------------

    async def keep(self) -> None:
        """Keep the lease, and see that the store stays ours, until cancelled or `taken`."""
        while not self.taken.is_set():
            await asyncio.sleep(TTL_S / KEEP_ALIVES_PER_TTL)
            try:
                await self.look()
                if not self.estranged:
                    await self._keep_alive()
            except LogstoreError as e:
                _log.info("registration not kept", error=e.message)

    async def look(self) -> None:
        """Compare the store with what was acted on: a newer generation is accepted if the store
        holds our point, another store estranges us until it is ours again."""
        seat = self._seat
        if seat is None:
            return
        if not self.estranged and self.is_accepted(await self.store.range(GENERATION)):
            return
        lineage = await read_lineage(self.store)
        try:
            if lineage is None:
                raise WrongClusterError(self._empty_store())
            check_holds(lineage, self.point(), self.cluster, f"instance {self.instance}")
        except WrongClusterError as e:
            if self.estranged != e.message:
                _log.critical("estranged from the metadata", why=e.message)
            self.estranged = e.message
            return
        if self.estranged:
            _log.warning("the metadata is ours again", generation=lineage.newest)
        self._accept(seat, lineage)

    def is_accepted(self, newest: RangeResult) -> bool:
        """Whether the store's newest generation, as read, is the one that was accepted last, and
        reaches as far as we acted. Its id is drawn: no other store has it."""
        ids = [item.value.decode() for item in newest.items if item.key == GENERATION]
        return ids == [self.identity.generation] and newest.revision >= self.point().revision

    def _accept(self, seat: _Seat, lineage: Lineage) -> None:
        revision = max(self.point().revision, lineage.began[lineage.newest])
        self.identity = msgspec.structs.replace(
            self.identity, generation=lineage.newest, revision=revision
        )
        self.kept.save(self.identity)
        seat.lineage = lineage
        self.estranged = ""

    async def _keep_alive(self) -> None:
        seat = self._seat
        if seat is None:
            return
        try:
            seat.lease = await self.store.lease_keep_alive(seat.lease.id)
        except LeaseLostError:
            await self._renew(seat)

    async def _renew(self, seat: _Seat) -> None:
        """Our lease ended while we lived: take the name again, unless another has it."""
        lease = await self.store.lease_grant(TTL_S)
        result = await self.store.txn(
            [*self.fences(), Compare(process_key(self.instance), 0)],
            [self._process(seat.record, lease)],
        )
        if result.succeeded:
            seat.lease = lease
            return
        await self.store.lease_revoke(lease.id)
        await self.check_name()

    async def check_name(self) -> None:
        """`FencedError`, and `taken`, when another process is registered under our name.

        `UnavailableError` when that was read from a store that is not ours: an older copy of the
        metadata names an earlier process.
        """
        seat = self._seat
        if seat is None:
            return
        instances = instance_table(self.store)
        found = await instances.entry(self.instance)
        if found is not None and found.revision == seat.revision:
            return
        read = [*seat.lineage.fences(), instances.unchanged(self.instance, found)]
        result = await self.store.txn(read, [])
        if not result.succeeded or result.revision < self.point().revision:
            await self.look()
            raise UnavailableError("the metadata changed while the name was checked, ask again")
        if found is not None and found.record.process == seat.record.process:
            seat.revision = found.revision  # the registered facts changed, not our identity
            return
        self.taken.set()
        raise FencedError(f"another process runs instance {self.instance} now")

    async def release(self) -> None:
        """Give the name back at a clean stop. A number of its own is drawn for the stop, so that a
        copy of the directory that was made while it ran is recognised as old."""
        seat, self._seat = self._seat, None
        if seat is None or self.taken.is_set() or self.estranged:
            return
        drawn = msgspec.structs.replace(
            self.identity, drawn=self.env.new_id(), revision=self.point().revision
        )
        try:
            self.kept.save(drawn)
            ours = replace(seat.record, process=drawn.drawn)
            fences = (*seat.lineage.fences(), Compare(instance_key(self.instance), seat.revision))
            result = await self.store.txn(fences, [Put(instance_key(self.instance), encode(ours))])
            if result.succeeded:
                self._registered(drawn)
            await self.store.lease_revoke(seat.lease.id)
        except LogstoreError as e:
            _log.info("the name was not given back, its lease ends by itself", error=e.message)


async def check_directory(
    store: MetadataStore, kept: IdentityStore, instance: str, env: Env, accepts: str | None
) -> None:
    """Compare a directory with the metadata before it is opened, which writes to it.

    `WrongClusterError` as `Claim.make`; a store that does not answer is compared later, by that.
    """
    identity = begin(kept, instance, env)
    try:
        async with asyncio.timeout(BEFORE_OPEN_S):
            lineage = await read_lineage(store)
    except (UnavailableError, TimeoutError):
        return
    if lineage is not None:
        settled = accepts is not None and accepts in lineage.began
        point = Point() if settled else Point(identity.generation, identity.revision)
        check_holds(lineage, point, identity.cluster, f"instance {instance}")


class ClaimedStore:
    """The metadata as the parts of an instance use it: every answer is of the accepted generation,
    every transaction compares the claim. `UnavailableError` while the claim does not hold."""

    def __init__(self, claim: Claim) -> None:
        self._claim, self._store = claim, claim.store

    async def get(self, key: str) -> Versioned | None:
        self._claim.fences()
        found = await self._store.get(key)
        await self._confirm()
        return found

    async def range(self, prefix: str) -> RangeResult:
        self._claim.fences()
        found = await self._store.range(prefix)
        await self._confirm()
        return found

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        fences = self._claim.fences()
        result = await self._store.txn([*compares, *fences], operations)
        if not result.succeeded:
            await self._confirm()
            await self._claim.check_name()
        return result

    async def _confirm(self) -> None:
        """What was answered before this came from the store in the accepted generation."""
        if not self._claim.is_accepted(await self._store.range(GENERATION)):
            await self._claim.look()
            raise UnavailableError("the metadata began a new generation, ask again")

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        return self._store.watch(prefix, after_revision)

    async def lease_grant(self, ttl_s: float) -> Lease:
        return await self._store.lease_grant(ttl_s)

    async def lease_keep_alive(self, lease: int) -> Lease:
        return await self._store.lease_keep_alive(lease)

    async def lease_revoke(self, lease: int) -> None:
        await self._store.lease_revoke(lease)

    async def close(self) -> None:
        """The store is its owner's."""
