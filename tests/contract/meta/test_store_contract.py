"""One contract suite over every MetadataStore: memory, rocks, remote over real gRPC, real etcd."""

import asyncio

import pytest

from logstore.base.errors import ConflictError, InvalidArgumentError, LimitExceededError
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.port import (
    TXN_BYTES_MAX,
    TXN_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Compare,
    Delete,
    MetadataStore,
    Put,
    WatchEvent,
)
from tests.contract.meta.conftest import HISTORY


async def put(store: MetadataStore, key: str, value: bytes) -> int:
    result = await store.txn([], [Put(key, value)])
    assert result.succeeded
    return result.revision


async def test_absent_key_is_none(store: MetadataStore) -> None:
    assert await store.get("/a") is None


async def test_get_returns_the_writing_revision(store: MetadataStore) -> None:
    first = await put(store, "/a", b"1")
    await put(store, "/b", b"2")
    found = await store.get("/a")
    assert found is not None
    assert (found.key, found.value, found.revision) == ("/a", b"1", first)


async def test_an_empty_value_is_not_a_deletion(store: MetadataStore) -> None:
    revision = await put(store, "/a", b"")
    found = await store.get("/a")
    assert found is not None
    assert found.value == b""
    (event,) = await anext(store.watch("/a", revision - 1))
    assert event == WatchEvent("/a", b"", revision)


async def test_range_is_in_key_order_at_one_revision(store: MetadataStore) -> None:
    last = 0
    for key in ("/s/b", "/s/a", "/t/a", "/s", "/s/c"):
        last = await put(store, key, key.encode())
    result = await store.range("/s/")
    assert [item.key for item in result.items] == ["/s/a", "/s/b", "/s/c"]
    assert result.revision == last


async def test_txn_applies_all_or_nothing(store: MetadataStore) -> None:
    revision = await put(store, "/a", b"1")
    refused = await store.txn(
        [Compare("/a", revision), Compare("/b", revision)], [Put("/a", b"2"), Put("/b", b"2")]
    )
    assert not refused.succeeded
    assert refused.revision == revision
    assert [item.value for item in (await store.range("/")).items] == [b"1"]
    done = await store.txn(
        [Compare("/a", revision), Compare("/b", 0)], [Delete("/a"), Put("/b", b"2")]
    )
    assert done.succeeded
    assert [item.key for item in (await store.range("/")).items] == ["/b"]


async def test_all_changes_of_a_txn_share_a_revision(store: MetadataStore) -> None:
    result = await store.txn([], [Put("/a", b"1"), Put("/b", b"1")])
    items = (await store.range("/")).items
    assert {item.revision for item in items} == {result.revision}


async def test_deleting_an_absent_key_changes_nothing(store: MetadataStore) -> None:
    revision = await put(store, "/a", b"1")
    result = await store.txn([], [Delete("/zzz")])
    assert result.succeeded
    assert result.revision == revision


async def test_a_deleted_key_compares_as_absent_and_revisions_never_repeat(
    store: MetadataStore,
) -> None:
    first = await put(store, "/a", b"1")
    await store.txn([], [Delete("/a")])
    again = await store.txn([Compare("/a", 0)], [Put("/a", b"1")])
    assert again.succeeded
    assert again.revision == first + 2


async def test_of_racing_swaps_exactly_one_wins(store: MetadataStore) -> None:  # G1, I9
    revision = await put(store, "/a", b"0")
    results = await asyncio.gather(
        *(store.txn([Compare("/a", revision)], [Put("/a", b"%d" % i)]) for i in range(20))
    )
    assert sum(result.succeeded for result in results) == 1


async def test_limits_are_named(store: MetadataStore) -> None:
    with pytest.raises(LimitExceededError, match=r"txn\.operations is 129 operations"):
        await store.txn([], [Put(f"/{i}", b"") for i in range(TXN_OPERATIONS_MAX + 1)])
    with pytest.raises(LimitExceededError, match=r"value of /a is 1000001 bytes"):
        await store.txn([], [Put("/a", bytes(VALUE_BYTES_MAX + 1))])
    half = bytes(TXN_BYTES_MAX // 2)
    with pytest.raises(LimitExceededError, match=r"txn\.operations is 1250004 bytes"):
        await store.txn([], [Put("/a", half), Put("/b", half)])
    with pytest.raises(InvalidArgumentError, match="one key twice"):
        await store.txn([], [Put("/a", b""), Delete("/a")])
    assert (await store.range("/")).items == ()


async def test_watch_replays_and_follows_in_order(store: MetadataStore) -> None:
    start = await put(store, "/w/a", b"1")
    await put(store, "/w/b", b"2")
    await put(store, "/x", b"no")
    watch = store.watch("/w/", start)
    assert await anext(watch) == (WatchEvent("/w/b", b"2", start + 1),)
    await store.txn([], [Put("/w/c", b"3"), Delete("/w/a")])
    together = await anext(watch)  # one revision never comes in parts
    got = {event.key: event for event in together}
    assert len(got) == 2
    assert got["/w/a"] == WatchEvent("/w/a", None, start + 3)
    assert got["/w/c"] == WatchEvent("/w/c", b"3", start + 3)


async def test_a_waiting_watch_sees_a_later_change(store: MetadataStore) -> None:
    revision = (await store.range("/")).revision
    waiting = asyncio.ensure_future(anext(store.watch("/w", revision)))
    await put(store, "/other", b"")
    await put(store, "/w", b"1")
    (event,) = await asyncio.wait_for(waiting, 5)
    assert event == WatchEvent("/w", b"1", revision + 2)


async def test_watch_with_a_bursty_writer_has_no_gap(store: MetadataStore) -> None:
    start = (await store.range("/")).revision
    seen: list[int] = []
    progress = asyncio.Condition()

    async def follow() -> None:
        async for (event,) in store.watch("/k", start):
            async with progress:
                seen.append(event.revision)
                progress.notify_all()
            if event.revision >= start + 60:
                return

    task = asyncio.ensure_future(follow())
    for i in range(60):
        await put(store, "/k", b"%d" % i)
        behind_max = i - HISTORY // 2
        async with progress:
            while len(seen) < behind_max:
                await progress.wait()
    await asyncio.wait_for(task, 5)
    assert seen == list(range(start + 1, start + 61))


async def test_compacted_history_is_a_conflict(store: MetadataStore) -> None:
    revisions = [await put(store, "/a", b"%d" % i) for i in range(HISTORY + 5)]
    if isinstance(store, EtcdMetadataStore):
        await store.compact(revisions[5])
    with pytest.raises(ConflictError, match="compacted"):
        await anext(store.watch("/a", revisions[0]))
    (event,) = await anext(store.watch("/a", revisions[-2]))
    assert event.revision == revisions[-1]


async def test_a_txn_without_operations_only_compares(store: MetadataStore) -> None:
    revision = await put(store, "/a", b"1")
    assert (await store.txn([Compare("/a", revision)], [])).succeeded
    assert not (await store.txn([Compare("/a", revision + 1)], [])).succeeded
    assert not (await store.txn([Compare("/a", 0)], [])).succeeded
