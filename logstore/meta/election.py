"""One leader at a time, on top of the port: a key under a lease, and its revision as the fence.

The creator of the election key leads until the key is gone. The key's revision is never used again,
so a transaction that compares it is refused as soon as another leads, or none: two leaders can
never both write, whatever their clocks say (I9, G1). `FencedStore` adds that compare to each
transaction. The lease only decides how soon a dead leader is replaced, and lets a live one stop
before it could be replaced: it counts from sending, with LEASE_DRIFT less than it bought (P7).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import (
    ConflictError,
    FencedError,
    LeaseLostError,
    LogstoreError,
    UnavailableError,
)
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
from logstore.meta.records import LeaderRecord, decode_leader, encode

TTL_S = 3.0
"""Lease of a leader: short enough to be replaced within 5 s, long enough for a busy machine."""
KEEP_ALIVES_PER_TTL = 4
RETRY_S = 0.2
"""Wait of a candidate before it asks again a store that did not answer."""
LAST_CHANCE_S = 1.0
"""A leader that woke up after its time reads again: it was not replaced while its key is there."""

_log = structlog.get_logger(__name__)


class Leadership:
    """A won leadership. Ask `held` before any step that needs no transaction."""

    def __init__(self, fence: Compare, lease: Lease, sent_s: float, env: Env) -> None:
        self.fence = fence
        """Holds while no other can lead: part of every transaction of this leader."""
        self.lease = lease
        self.lost = asyncio.Event()
        """Set once this leadership is over for good; campaign again."""
        self._env = env
        self.until_s = 0.0
        self.extend(lease, sent_s)

    def extend(self, lease: Lease, sent_s: float) -> None:
        """Count from sending the keep-alive, on our clock, less what clocks may drift (P7)."""
        self.until_s = sent_s + lease.ttl_s * (1 - LEASE_DRIFT)

    def left_s(self) -> float:
        """Seconds that are surely left; not above 0 once it is over."""
        return 0.0 if self.lost.is_set() else self.until_s - self._env.clock.monotonic_s()

    def held(self) -> bool:
        """False from the end of the bought time; true again if the lease turns out to live on."""
        return self.left_s() > 0

    def check(self) -> None:
        """`FencedError` unless it is held."""
        if not self.held():
            raise FencedError(f"no longer the leader by {self.fence.key}")


@dataclass(frozen=True, slots=True)
class _Attempt:
    lease: Lease
    number: int
    sent_s: float


class Election:
    """One candidate for one election key. `campaign`, lead until `lost`, `campaign` again."""

    def __init__(
        self,
        store: MetadataStore,
        key: str,
        candidate: str,
        env: Env,
        *,
        address: str = "",
        ttl_s: float = TTL_S,
    ) -> None:
        """`address` is what `leader` returns to others; `ttl_s` is how long a dead leader is waited
        for.

        Etcd rounds the length up, to 2 s at least, and its keys go up to 1 s later than that.
        """
        self._store, self._key, self._env, self._ttl_s = store, key, env, ttl_s
        self._candidate, self._address = candidate, address
        self._attempt: _Attempt | None = None
        self._leadership: Leadership | None = None
        self._keeper = Background(f"election {key}")

    async def campaign(self) -> Leadership:
        """Wait until this candidate leads. Retries while the store does not answer."""
        await self.resign()
        said = ""
        while True:
            try:
                found, revision = await self._exact()
                if found is not None and self._is_ours(found):
                    return self._lead(await self._renewed(), found.revision)
                if found is not None:
                    await self._vacant(revision)
                elif (won := await self._try()) is not None:
                    return won
            except ConflictError:
                continue  # the watch's history was compacted: look again
            except (UnavailableError, LeaseLostError) as e:
                if e.message != said:  # not one line for each try
                    said = e.message
                    _log.warning("campaign goes on", key=self._key, error=said)
                await asyncio.sleep(RETRY_S)

    async def leader(self) -> LeaderRecord | None:
        """The present leader, read linearizably."""
        found = await self._store.get(self._key)
        return decode_leader(found.value) if found is not None else None

    async def resign(self) -> None:
        """Stop leading, or trying to, and let the next one in at once. Idempotent.

        When the store does not answer, the lease ends by itself.
        """
        await self._stop_keeping()
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            with contextlib.suppress(LogstoreError):
                await self._store.lease_revoke(attempt.lease.id)

    # ---- campaign ------------------------------------------------------------------------------

    async def _exact(self) -> tuple[Versioned | None, int]:
        result = await self._store.range(self._key)
        found = next((item for item in result.items if item.key == self._key), None)
        return found, result.revision

    def _is_ours(self, found: Versioned) -> bool:
        """Whether it is the write of our last attempt, whose answer was lost."""
        attempt = self._attempt
        return attempt is not None and decode_leader(found.value).attempt == attempt.number

    async def _renewed(self) -> _Attempt:
        """Our last attempt with its lease kept alive: it may be long ago."""
        assert self._attempt is not None
        sent_s = self._env.clock.monotonic_s()
        lease = await self._store.lease_keep_alive(self._attempt.lease.id)
        return _Attempt(lease, self._attempt.number, sent_s)

    async def _try(self) -> Leadership | None:
        """None when another was faster."""
        await self.resign()  # an attempt whose write may still be in flight dies with its lease
        sent_s = self._env.clock.monotonic_s()
        lease = await self._store.lease_grant(self._ttl_s)
        attempt = self._attempt = _Attempt(lease, self._env.new_id(), sent_s)
        record = LeaderRecord(self._candidate, self._address, attempt.number)
        result = await self._store.txn(
            [Compare(self._key, 0)], [Put(self._key, encode(record), lease.id)]
        )
        if result.succeeded:
            return self._lead(attempt, result.revision)
        await self.resign()
        return None

    async def _vacant(self, revision: int) -> None:
        """Wait until the key was deleted after `revision`."""
        async with contextlib.aclosing(self._store.watch(self._key, revision)) as watch:  # type: ignore[type-var]
            async for events in watch:
                if any(e.key == self._key and e.value is None for e in events):
                    return

    def _lead(self, attempt: _Attempt, revision: int) -> Leadership:
        fence = Compare(self._key, revision)
        leadership = Leadership(fence, attempt.lease, attempt.sent_s, self._env)
        self._leadership = leadership
        self._keeper.start(self._keep(leadership))
        _log.info("leads", key=self._key, candidate=self._candidate, revision=revision)
        return leadership

    # ---- while leading -------------------------------------------------------------------------

    async def _keep(self, leadership: Leadership) -> None:
        lease = leadership.lease
        try:
            while (left_s := leadership.left_s()) > 0:
                await asyncio.sleep(min(left_s, lease.ttl_s / KEEP_ALIVES_PER_TTL))
                sent_s = self._env.clock.monotonic_s()
                try:
                    async with asyncio.timeout(max(LAST_CHANCE_S, leadership.left_s())):
                        leadership.extend(await self._store.lease_keep_alive(lease.id), sent_s)
                except (TimeoutError, UnavailableError):
                    continue  # what was bought before still counts
        except LogstoreError as e:
            _log.warning("leadership ends", key=self._key, error=e.message)
        finally:
            leadership.lost.set()
            _log.info("leadership lost", key=self._key, candidate=self._candidate)

    async def _stop_keeping(self) -> None:
        if self._leadership is not None:
            self._leadership.lost.set()
            self._leadership = None
        await self._keeper.stop()


class FencedStore:
    """The store for a leader: each transaction compares the election key's revision.

    `fence` changes when the leader is elected again. `FencedError` when a transaction was refused
    because of it. A transaction may hold one compare less than the port allows.
    """

    def __init__(self, store: MetadataStore, fence: Compare) -> None:
        self._store, self.fence = store, fence

    async def get(self, key: str) -> Versioned | None:
        return await self._store.get(key)

    async def range(self, prefix: str) -> RangeResult:
        return await self._store.range(prefix)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        fence = self.fence
        result = await self._store.txn([*compares, fence], operations)
        if not result.succeeded:
            found = await self._store.get(fence.key)
            if found is None or found.revision != fence.revision:
                raise FencedError(f"no longer the leader by {fence.key}; nothing was written")
        return result

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        return self._store.watch(prefix, after_revision)

    async def lease_grant(self, ttl_s: float) -> Lease:
        return await self._store.lease_grant(ttl_s)

    async def lease_keep_alive(self, lease: int) -> Lease:
        return await self._store.lease_keep_alive(lease)

    async def lease_revoke(self, lease: int) -> None:
        await self._store.lease_revoke(lease)

    async def close(self) -> None:
        """The store is its owner's; a leadership that ends does not close it."""
