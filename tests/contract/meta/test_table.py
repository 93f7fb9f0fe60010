"""`Table`'s contract, over every store: memory, rocks, remote over real gRPC, real etcd."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from logstore.base.errors import ConflictError, FencedError, RefusedError, UnavailableError
from logstore.meta.election import FencedStore
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.etcd.store import RANGE_PAGE_KEYS
from logstore.meta.port import TXN_OPERATIONS_MAX, Compare, MetadataStore, Put
from logstore.meta.records import SHARDS, ChangefeedCursor, DrainRecord, decode_drain
from logstore.meta.table import (
    TRIES_MAX,
    Decided,
    Entry,
    Followed,
    Odd,
    Table,
    transact,
    wait_for_change,
)
from logstore.meta.tables import changefeed_table, number_table, shard_table, text_table
from tests.contract.meta.conftest import HISTORY

PREFIX = "/drains/"
WAIT_S = 10.0


def table_of(store: MetadataStore) -> Table[DrainRecord]:
    return Table(store, PREFIX, decode_drain)


def drain(name: str, copies: int = 0) -> DrainRecord:
    return DrainRecord(name, 7, copies)


def more(entry: Entry[DrainRecord] | None) -> DrainRecord:
    if entry is None:
        raise RefusedError("there is none")
    return drain(entry.name, entry.record.copies + 1)


async def put(store: MetadataStore, key: str, value: bytes) -> int:
    return (await store.txn([], [Put(key, value)])).revision


# ---- reading -------------------------------------------------------------------------------------


async def test_what_is_absent_is_none(store: MetadataStore) -> None:
    table = table_of(store)
    assert await table.get("a") is None
    assert await table.entry("a") is None
    assert await table.all() == []


async def test_an_entry_has_its_name_its_record_and_the_revision_that_wrote_it(
    store: MetadataStore,
) -> None:
    table = table_of(store)
    assert await table.create("a", drain("a", 3))
    await put(store, "/other", b"")
    found = await table.entry("a")
    assert found is not None
    assert (found.name, found.record, found.item.key) == ("a", drain("a", 3), "/drains/a")
    assert found.unchanged == Compare("/drains/a", found.revision)
    assert (await store.txn([found.unchanged], [])).succeeded
    assert await table.get("a") == drain("a", 3)


async def test_a_table_holds_its_prefix_in_key_order(store: MetadataStore) -> None:
    table = table_of(store)
    for name in ("b/1", "a/2", "a/1"):
        assert await table.create(name, drain(name))
    await put(store, "/drain", b"not ours")
    await put(store, "/drainsx", b"not ours")
    assert await table.names() == ["a/1", "a/2", "b/1"]
    assert await table.all("a/") == [drain("a/1"), drain("a/2")]
    assert [entry.name for entry in await table.entries("a/")] == ["a/1", "a/2"]


async def test_a_table_of_many_is_read_at_one_revision_over_all_pages(
    store: MetadataStore,
) -> None:
    count = RANGE_PAGE_KEYS + 5
    table = table_of(store)
    names = [f"{i:04}" for i in range(count)]
    for at in range(0, count, TXN_OPERATIONS_MAX):
        part = names[at : at + TXN_OPERATIONS_MAX]
        await store.txn([], [table.put(name, drain(name)) for name in part])
    assert await table.names() == names
    assert await table.all() == [drain(name) for name in names]


# ---- changing one --------------------------------------------------------------------------------


async def test_only_the_first_creates(store: MetadataStore) -> None:
    table = table_of(store)
    made = await asyncio.gather(*(table.create("a", drain("a", i)) for i in range(8)))
    assert made.count(True) == 1
    assert await table.get("a") == drain("a", made.index(True))


async def test_all_get_what_the_first_creates(store: MetadataStore) -> None:
    table = table_of(store)
    got = await asyncio.gather(
        *(table.get_or_create("a", lambda i=i: drain("a", i)) for i in range(8))  # type: ignore[misc]
    )
    assert set(got) == {await table.get("a")}


async def test_of_racing_updates_none_is_lost(store: MetadataStore) -> None:  # G1, I9
    table = table_of(store)
    await table.create("a", drain("a"))
    told = await asyncio.gather(*(table.update("a", more) for _ in range(8)))
    assert sorted(record.copies for record in told) == list(range(1, 9))
    assert await table.get("a") == drain("a", 8)


async def test_an_update_may_begin_with_nothing(store: MetadataStore) -> None:
    numbers = number_table(store)

    def next_one(entry: Entry[int] | None) -> int:
        return (entry.record if entry is not None else 1) + 10

    assert await numbers.update("/ids/x", next_one) == 11
    assert await numbers.update("/ids/x", next_one) == 21
    found = await store.get("/ids/x")
    assert found is not None
    assert found.value == b"21"


async def test_a_change_that_is_refused_writes_nothing(store: MetadataStore) -> None:
    before = (await store.range("/")).revision
    with pytest.raises(RefusedError, match="there is none"):
        await table_of(store).update("a", more)
    assert (await store.range("/")).revision == before


async def test_what_was_written_is_read_and_compared_from_then_on(store: MetadataStore) -> None:
    table = table_of(store)
    await table.create("a", drain("a"))
    old = await table.entry("a")
    assert old is not None
    await table.update("a", more)
    new = await table.entry("a")
    assert new is not None
    assert new.record.copies == 1
    assert not (await store.txn([old.unchanged], [])).succeeded
    assert (await store.txn([new.unchanged], [])).succeeded
    assert not await table.replace(old, drain("a", 9))
    assert not await table.remove(old)
    assert await table.get("a") == drain("a", 1)
    assert await table.replace(new, drain("a", 5))
    assert not await table.remove(new)
    newest = await table.entry("a")
    assert newest is not None
    assert newest.record == drain("a", 5)
    assert await table.remove(newest)
    assert await table.get("a") is None


async def test_a_deletion_returns_what_was_there(store: MetadataStore) -> None:
    table = table_of(store)
    assert await table.delete("a") is None
    await table.create("a", drain("a", 4))
    found = await table.delete("a")
    assert found is not None
    assert found.record == drain("a", 4)
    assert await table.names() == []


async def test_text_keeps_its_bytes(store: MetadataStore) -> None:
    assert await text_table(store).create("/ids/cluster", "5f")
    found = await store.get("/ids/cluster")
    assert found is not None
    assert found.value == b"5f"
    assert await text_table(store).get("/ids/cluster") == "5f"


# ---- changing several ----------------------------------------------------------------------------


async def test_records_of_several_tables_change_together_or_not_at_all(
    store: MetadataStore,
) -> None:
    drains, cursors = table_of(store), changefeed_table(store)
    await drains.create("a", drain("a"))
    tries = 0

    async def decide() -> Decided[int]:
        nonlocal tries
        tries += 1
        held, cursor = await drains.entry("a"), await cursors.entry("log/0")
        assert held is not None
        if tries == 1:
            await cursors.create("log/0", ChangefeedCursor(5))
        offset = cursor.record.offset if cursor is not None else 0
        return Decided(
            offset,
            [held.unchanged, cursors.unchanged("log/0", cursor)],
            [drains.removal("a"), cursors.put("log/0", ChangefeedCursor(offset + 1))],
        )

    assert await transact(store, "the two", decide) == 5
    assert tries == 2
    assert await drains.names() == []
    assert await cursors.get("log/0") == ChangefeedCursor(6)


async def test_a_decision_without_operations_writes_and_compares_nothing(
    store: MetadataStore,
) -> None:
    async def decide() -> Decided[str]:
        return Decided("so it stays", [Compare("/a", 999)])

    before = (await store.range("/")).revision
    assert await transact(store, "it", decide) == "so it stays"
    assert (await store.range("/")).revision == before


async def test_who_is_always_in_the_way_is_named(store: MetadataStore) -> None:
    table = table_of(store)
    tries = 0

    async def decide() -> Decided[None]:
        nonlocal tries
        tries += 1
        found = await table.entry("a")
        await put(store, "/drains/a", b"%d" % tries)
        return Decided(None, [table.unchanged("a", found)], [table.put("a", drain("a"))])

    with pytest.raises(ConflictError, match="the drain of a changed too often, try again"):
        await transact(store, "the drain of a", decide)
    assert tries == TRIES_MAX
    found = await store.get("/drains/a")
    assert found is not None
    assert found.value == b"%d" % TRIES_MAX


async def test_a_table_of_a_fenced_store_writes_only_for_the_leader(store: MetadataStore) -> None:
    led = await put(store, "/leader", b"me")
    fenced = table_of(FencedStore(store, Compare("/leader", led)))
    assert await fenced.create("a", drain("a"))
    assert await fenced.update("a", more) == drain("a", 1)
    await put(store, "/leader", b"another")
    with pytest.raises(FencedError):
        await fenced.update("a", more)
    with pytest.raises(FencedError):
        await fenced.delete("a")
    with pytest.raises(FencedError):
        await fenced.create("b", drain("b"))
    assert await table_of(store).all() == [drain("a", 1)]


# ---- odd entries ---------------------------------------------------------------------------------


async def test_an_odd_entry_is_shown_beside_the_others(store: MetadataStore) -> None:
    table = table_of(store)
    await table.create("a", drain("a"))
    await put(store, "/drains/b", b'{"instance": 5}')
    await table.create("c", drain("c"))
    good, odd = await table.all_and_odd()
    assert good == [drain("a"), drain("c")]
    (one,) = odd
    assert isinstance(one, Odd)
    assert (one.name, "Expected `str`" in one.odd) == ("b", True)
    assert await table.names() == ["a", "b", "c"]
    with pytest.raises(msgspec.ValidationError):
        await table.all()
    with pytest.raises(msgspec.ValidationError):
        await table.get("b")


async def test_an_odd_entry_can_be_replaced_and_deleted(store: MetadataStore) -> None:
    table = table_of(store)
    await put(store, "/drains/a", b"odd")
    await put(store, "/drains/b", b"odd")
    assert await table.update("a", lambda _: drain("a")) == drain("a")
    gone = await table.delete("b")
    assert gone is not None
    assert gone.item.value == b"odd"
    assert await table.all() == [drain("a")]


# ---- following -----------------------------------------------------------------------------------


class Follower:
    """Follows a table in a task; each step is what it was handed."""

    def __init__(
        self,
        table: Table[DrainRecord],
        before: Callable[[Followed[DrainRecord]], Awaitable[None]] | None = None,
    ) -> None:
        self.steps: asyncio.Queue[Followed[DrainRecord]] = asyncio.Queue()
        self._before = before
        self._task = asyncio.ensure_future(table.follow(self._take, "not watched"))

    async def _take(self, step: Followed[DrainRecord]) -> None:
        if self._before is not None:
            await self._before(step)
        self.steps.put_nowait(step)

    async def next(self) -> tuple[bool, list[str], tuple[str, ...]]:
        async with asyncio.timeout(WAIT_S):
            step = await self.steps.get()
        return step.whole, [e.name for e in step.entries], step.gone

    async def __aenter__(self) -> "Follower":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_who_follows_gets_all_and_then_each_revision(store: MetadataStore) -> None:
    table = table_of(store)
    await table.create("a", drain("a", 1))
    async with Follower(table) as follower:
        assert await follower.next() == (True, ["a"], ())
        await put(store, "/other", b"")
        await table.update("a", more)
        async with asyncio.timeout(WAIT_S):
            step = await follower.steps.get()
        assert (step.whole, step.gone) == (False, ())
        (entry,) = step.entries
        read = await table.entry("a")
        assert read is not None
        assert (entry.record, entry.revision) == (drain("a", 2), read.revision)
        await store.txn([], [table.put("b", drain("b")), table.removal("a")])
        assert await follower.next() == (False, ["b"], ("a",))  # one revision, never in parts
        assert await table.delete("b") is not None
        assert await follower.next() == (False, [], ("b",))


async def test_who_follows_an_odd_entry_goes_on(store: MetadataStore) -> None:
    table = table_of(store)
    async with Follower(table) as follower:
        assert await follower.next() == (True, [], ())
        await put(store, "/drains/a", b"odd")
        assert await follower.next() == (False, ["a"], ())
        await table.create("b", drain("b"))
        assert await follower.next() == (False, ["b"], ())


async def test_what_was_compacted_meanwhile_is_handed_over_whole(store: MetadataStore) -> None:
    table = table_of(store)

    async def outdated(step: Followed[DrainRecord]) -> None:
        """While the first listing is taken, more happens than the store remembers."""
        if step.entries:
            return
        for i in range(HISTORY + 5):
            revision = await put(store, "/drains/a", msgspec.json.encode(drain("a", i)))
        if isinstance(store, EtcdMetadataStore):
            await store.compact(revision)

    async with Follower(table, outdated) as follower:
        assert await follower.next() == (True, [], ())
        assert await follower.next() == (True, ["a"], ())
        await table.create("b", drain("b"))
        assert await follower.next() == (False, ["b"], ())


async def test_who_could_not_take_a_step_gets_all_again(store: MetadataStore) -> None:
    table = table_of(store)
    failed = 0

    async def refuses_once(step: Followed[DrainRecord]) -> None:
        nonlocal failed
        if not step.whole and failed == 0:
            failed += 1
            raise UnavailableError("not now")

    async with Follower(table, refuses_once) as follower:
        assert await follower.next() == (True, [], ())
        await table.create("a", drain("a"))
        assert await follower.next() == (True, ["a"], ())
    assert failed == 1


async def test_who_waits_for_a_change_gets_the_first_under_its_prefixes(
    store: MetadataStore,
) -> None:
    before = await put(store, "/a/1", b"")
    waiting = asyncio.ensure_future(wait_for_change(store, ["/a/", "/b/"], before, 60))
    await put(store, "/other", b"")
    await put(store, "/b/1", b"")
    async with asyncio.timeout(WAIT_S):
        await waiting
        await wait_for_change(store, ["/b/"], before, 60)  # it changed since, not from now on
    after = await put(store, "/other", b"")
    waiting = asyncio.ensure_future(wait_for_change(store, ["/a/", "/b/"], after, 60))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    waiting.cancel()
    assert not done


async def test_who_waits_for_a_change_reads_again_when_there_is_none_and_when_it_is_lost(
    store: MetadataStore,
) -> None:
    first = await put(store, "/a/1", b"")
    async with asyncio.timeout(WAIT_S):
        await wait_for_change(store, ["/a/"], first, 0.05)
        for _ in range(HISTORY + 5):
            last = await put(store, "/a/1", b"")
        if isinstance(store, EtcdMetadataStore):
            await store.compact(last)
        await wait_for_change(store, ["/b/"], first, 60)


# ---- the tables ----------------------------------------------------------------------------------


async def test_a_shard_cannot_be_written_without_its_tombstones(store: MetadataStore) -> None:
    table = shard_table(store)
    assert not isinstance(table, Table)
    assert not hasattr(table, "put")
    await put(store, f"{SHARDS}log/0", b"{}")
    assert await table.names("log/") == ["log/0"]
