"""Records of one kind in the metadata store: read, created, changed by compare-and-swap, followed.

A `Table` knows the keys of its kind, and only its entries decode values. A change is decided from
entries and written only while they are as they were read (G1). A caller that changes several
records in one transaction makes it of their compares and puts for `transact` to write. Leadership
and claims fence a table through its store: `FencedStore` and `ClaimedStore` add their compares.

What keeps a loop of its own: the replication machine (a lost race is an event of the machine), an
election, an instance's view of the whole store (it goes on where it was when the store is away),
and what takes several transactions (dropping a log's shards).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NoReturn, TypeVar

import msgspec
import structlog

from logstore.base.background import Background
from logstore.base.errors import ConflictError, LogstoreError
from logstore.meta.port import (
    Compare,
    Delete,
    MetadataStore,
    Operation,
    Put,
    Versioned,
    WatchEvent,
)
from logstore.meta.records import encode as encode_json

TRIES_MAX = 20
"""How often one change is decided before it is given up as one that others are in the way of."""
FOLLOW_RETRY_S = 0.2
"""Wait before a store that did not answer is followed again."""
WHY_CHARS_MAX = 300

_log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A record as it was read: its `name` in the table, and the revision that wrote it."""

    name: str
    item: Versioned
    decode: Callable[[bytes], T]

    @cached_property
    def record(self) -> T:
        """Decoded when it is asked for; `decode`'s errors for what another version, another tool or
        a person wrote. Such an entry can be listed, replaced and deleted like any other."""
        return self.decode(self.item.value)

    @property
    def revision(self) -> int:
        return self.item.revision

    @property
    def unchanged(self) -> Compare:
        """Holds while it was not written or deleted since it was read."""
        return Compare(self.item.key, self.item.revision)


@dataclass(frozen=True, slots=True)
class Odd:
    """An entry that cannot be decoded: its name, and in `odd` why. Listings show the good ones and
    name the odd ones; a person removes or repairs them."""

    name: str
    odd: str


def good_and_odd(entries: Iterable[Entry[T]]) -> tuple[list[T], list[Odd]]:
    """The records, and, apart, what cannot be decoded; each in the order given."""
    good: list[T] = []
    odd: list[Odd] = []
    for entry in entries:
        try:
            good.append(entry.record)
        except (msgspec.MsgspecError, ValueError, LogstoreError) as e:
            odd.append(Odd(entry.name, str(e)[:WHY_CHARS_MAX]))
    return good, odd


@dataclass(frozen=True, slots=True)
class Followed(Generic[T]):
    """What `follow` hands over: everything (`whole`), or all changes of one revision."""

    whole: bool
    entries: tuple[Entry[T], ...]
    """What is there (`whole`), or was written; in key order, or as it was written."""
    gone: tuple[str, ...] = ()
    """Names of what was deleted."""


@dataclass(frozen=True, slots=True)
class Decided(Generic[R]):
    """`operations` are to be written while all `compares` hold; then `result` is the outcome.
    Without operations it is the outcome at once, and nothing is compared."""

    result: R
    compares: Sequence[Compare] = ()
    operations: Sequence[Operation] = ()


async def transact(
    store: MetadataStore, what: str, decide: Callable[[], Awaitable[Decided[R]]]
) -> R:
    """Write what `decide` makes of what it reads; when that changed meanwhile, decide again.

    `what` changes, for the message. Errors: those of `decide`; `ConflictError` after TRIES_MAX;
    `UnavailableError` when the store does not answer: what was written then is unknown.
    """
    for _ in range(TRIES_MAX):
        decision = await decide()
        if not decision.operations:
            return decision.result
        if (await store.txn(decision.compares, decision.operations)).succeeded:
            return decision.result
    raise ConflictError(f"{what} changed too often, try again")


async def wait_for_change(
    store: MetadataStore, prefixes: Sequence[str], after_revision: int, timeout_s: float
) -> None:
    """Return once a key under one of `prefixes` changes after `after_revision`; also after
    `timeout_s`, and when a watch ends or fails: the waiter reads again in each case."""
    watching = Background("watches of one wait")
    waiting = [watching.answer(_first(store, p, after_revision)) for p in prefixes]
    try:
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await watching.stop()


async def _first(store: MetadataStore, prefix: str, after_revision: int) -> None:
    with contextlib.suppress(LogstoreError):
        async for _ in store.watch(prefix, after_revision):
            return


class ReadTable(Generic[T]):
    """The records whose keys are `prefix` and a name; with an empty prefix names are whole keys.

    `get` and `all` answer records, `entry` and `entries` also the revisions, to compare by. All
    reads are linearizable; those of many are of one revision. `within`: names that begin so.
    """

    def __init__(self, store: MetadataStore, prefix: str, decode: Callable[[bytes], T]) -> None:
        self.prefix = prefix
        self._store, self._decode = store, decode

    def key(self, name: str) -> str:
        return self.prefix + name

    async def entry(self, name: str) -> Entry[T] | None:
        found = await self._store.get(self.key(name))
        return self._entry(found) if found is not None else None

    async def get(self, name: str) -> T | None:
        found = await self.entry(name)
        return found.record if found is not None else None

    async def entries(self, within: str = "") -> list[Entry[T]]:
        """In key order."""
        found = await self._store.range(self.prefix + within)
        return [self._entry(item) for item in found.items]

    async def all(self, within: str = "") -> list[T]:
        """In key order; `decode`'s error when one is odd."""
        return [entry.record for entry in await self.entries(within)]

    async def all_and_odd(self) -> tuple[list[T], list[Odd]]:
        """In key order; those that cannot be decoded, apart."""
        return good_and_odd(await self.entries())

    async def names(self, within: str = "") -> list[str]:
        """In key order, odd ones too."""
        return [entry.name for entry in await self.entries(within)]

    def unchanged(self, name: str, entry: Entry[T] | None) -> Compare:
        """Holds while `name` is as it was read; None: while it does not exist."""
        return Compare(self.key(name), entry.revision if entry is not None else 0)

    async def follow(
        self, take: Callable[[Followed[T]], Awaitable[None]], missed: str, **fields: object
    ) -> NoReturn:
        """Hand over everything, then each revision's changes, without a gap, until cancelled.

        Everything again when the watch's history was compacted, and FOLLOW_RETRY_S after the store,
        or `take`, failed; `missed` and `fields` are what the log says then.
        """
        while True:
            try:
                found = await self._store.range(self.prefix)
                await take(Followed(True, tuple(self._entry(item) for item in found.items)))
                watch = self._store.watch(self.prefix, found.revision)
                async with contextlib.aclosing(watch):  # type: ignore[type-var]
                    async for events in watch:
                        await take(self._followed(events))
            except ConflictError:
                continue  # the watch's history was compacted
            except LogstoreError as e:
                _log.warning(missed, **fields, why=e.message)
                await asyncio.sleep(FOLLOW_RETRY_S)

    def _entry(self, item: Versioned) -> Entry[T]:
        return Entry(item.key.removeprefix(self.prefix), item, self._decode)

    def _followed(self, events: Sequence[WatchEvent]) -> Followed[T]:
        return Followed(
            whole=False,
            entries=tuple(
                self._entry(Versioned(e.key, e.value, e.revision))
                for e in events
                if e.value is not None
            ),
            gone=tuple(e.key.removeprefix(self.prefix) for e in events if e.value is None),
        )


class Table(ReadTable[T]):
    """A `ReadTable` whose records may be written one by one. Not a shard's: a copy that leaves its
    record needs a tombstone in the same transaction (`shard_writes`, P9)."""

    def __init__(
        self,
        store: MetadataStore,
        prefix: str,
        decode: Callable[[bytes], T],
        encode: Callable[[T], bytes] = encode_json,
    ) -> None:
        super().__init__(store, prefix, decode)
        self._encode = encode

    def put(self, name: str, record: T, lease: int = 0) -> Put:
        """For a transaction of several records, beside `unchanged`."""
        return Put(self.key(name), self._encode(record), lease)

    def removal(self, name: str) -> Delete:
        """For a transaction of several records, beside `unchanged`."""
        return Delete(self.key(name))

    async def create(self, name: str, record: T) -> bool:
        """False when there is one of the name: nothing is written then."""
        put = self.put(name, record)
        return (await self._store.txn([self.unchanged(name, None)], [put])).succeeded

    async def get_or_create(self, name: str, make: Callable[[], T], what: str = "") -> T:
        """What is there, or what `make` made because nothing was. Errors: those of `transact`."""

        async def decide() -> Decided[T]:
            found = await self.entry(name)
            if found is not None:
                return Decided(found.record)
            record = make()
            return Decided(record, [self.unchanged(name, None)], [self.put(name, record)])

        return await transact(self._store, what or self.key(name), decide)

    async def update(self, name: str, change: Callable[[Entry[T] | None], T], what: str = "") -> T:
        """Write what `change` makes of what is there (None: nothing); returns it.

        `change` may be called again, and its errors end it. `ConflictError`, `UnavailableError` as
        `transact`, which names `what`, or the key.
        """

        async def decide() -> Decided[T]:
            found = await self.entry(name)
            record = change(found)
            return Decided(record, [self.unchanged(name, found)], [self.put(name, record)])

        return await transact(self._store, what or self.key(name), decide)

    async def delete(self, name: str, what: str = "") -> Entry[T] | None:
        """Delete what is there, odd or not, and return it; None: there was none. Errors: those of
        `transact`."""

        async def decide() -> Decided[Entry[T] | None]:
            found = await self.entry(name)
            if found is None:
                return Decided(None)
            return Decided(found, [found.unchanged], [self.removal(name)])

        return await transact(self._store, what or self.key(name), decide)

    async def replace(self, entry: Entry[T], record: T) -> bool:
        """Write `record` in its place unless it changed since it was read; False: it did."""
        put = self.put(entry.name, record)
        return (await self._store.txn([entry.unchanged], [put])).succeeded

    async def remove(self, entry: Entry[T]) -> bool:
        """Delete the entry unless it changed since it was read; False: it did."""
        removal = self.removal(entry.name)
        return (await self._store.txn([entry.unchanged], [removal])).succeeded
