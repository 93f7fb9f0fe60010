"""What only the etcd adapter promises: URLs, namespaces, dead endpoints, paging, large watches."""

import asyncio

import pytest

from logstore.base.errors import ConfigError, InvalidArgumentError, UnavailableError
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.etcd.store import RANGE_PAGE_KEYS
from logstore.meta.open import open_etcd, open_metadata
from logstore.meta.port import TXN_OPERATIONS_MAX, Put
from logstore.meta.remote import RemoteMetadataStore
from tests.support.services import etcd_store

DEAD = "127.0.0.1:1"


def test_a_url_names_endpoints_namespace_and_login() -> None:
    assert EtcdTarget.of("etcd://a:1,b:2") == EtcdTarget(("a:1", "b:2"), "/logstore")
    assert EtcdTarget.of("etcds://u%40x:p%3Aw@a:1/prod/") == EtcdTarget(
        ("a:1",), "/prod", "u@x", "p:w", True
    )


@pytest.mark.parametrize(
    "url", ["http://a:1", "etcd://", "etcd://a", "etcd://a:1,", "etcd://a:0", "etcd://a:1?x=1"]
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="metadata"):
        EtcdTarget.of(url)


def test_a_bad_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        EtcdTarget.of("etcd://user:secret@host")
    assert "secret" not in caught.value.message


async def test_settings_choose_the_store() -> None:
    etcd, remote = open_metadata([f"etcd://{DEAD}"]), open_metadata([DEAD, DEAD])
    assert isinstance(etcd, EtcdMetadataStore)
    assert isinstance(remote, RemoteMetadataStore)
    for store in (etcd, remote):
        await store.close()
    with pytest.raises(ConfigError, match="2 addresses, the limit is 1"):
        open_metadata([f"etcd://{DEAD}", DEAD])
    with pytest.raises(ConfigError, match="CA"):
        open_etcd(f"etcds://{DEAD}")


async def test_nobody_there_is_unavailable() -> None:
    store = open_etcd(f"etcd://{DEAD},127.0.0.1:2")
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
        await store.get("/a")
    with pytest.raises(UnavailableError):
        await anext(store.watch("/a", 0))
    await store.close()
    with pytest.raises(UnavailableError, match="closed"):
        await store.get("/a")


async def test_a_dead_endpoint_leaves_no_outcome_unknown(etcd_address: str) -> None:
    store = EtcdMetadataStore(EtcdTarget.of(f"etcd://{DEAD},{etcd_address}/dead-endpoint"))
    done = await store.txn([], [Put("/a", b"1")])  # not sent to the dead one, so sent on
    assert done.succeeded
    (event,) = await anext(store.watch("/a", done.revision - 1))
    assert event.value == b"1"
    await store.close()


async def test_namespaces_are_apart(etcd_address: str) -> None:
    outer, inner = (
        EtcdMetadataStore(EtcdTarget.of(f"etcd://{etcd_address}{name}")) for name in ("/n", "/nn")
    )
    done = await inner.txn([], [Put("/a", b"inner")])
    await outer.txn([], [Put("/a", b"outer")])
    assert [item.value for item in (await outer.range("")).items] == [b"outer"]
    (event,) = await anext(outer.watch("", done.revision - 1))
    assert event.value == b"outer"
    with pytest.raises(InvalidArgumentError, match="start with"):
        await outer.get("n/a")
    await outer.close()
    await inner.close()


async def test_a_range_over_several_pages_is_of_one_revision(etcd_address: str) -> None:
    store = etcd_store(etcd_address)
    keys = [f"/k/{i:05}" for i in range(2 * RANGE_PAGE_KEYS + 1)]
    generation = 0

    async def write() -> None:
        nonlocal generation
        generation += 1
        value = b"%d" % generation
        for at in range(0, len(keys), TXN_OPERATIONS_MAX):
            part = keys[at : at + TXN_OPERATIONS_MAX]
            await store.txn([], [Put(key, value) for key in part])

    await write()
    writing = asyncio.create_task(write())
    while not writing.done():
        result = await store.range("/k/")
        assert [item.key for item in result.items] == keys
        seen = [int(item.value) for item in result.items]
        assert seen == sorted(seen, reverse=True)  # written from the front, never torn
        assert max(item.revision for item in result.items) <= result.revision
    await writing
    await store.close()


async def test_a_watch_catches_up_over_large_revisions(etcd_address: str) -> None:
    store = etcd_store(etcd_address)
    start = (await store.range("/")).revision
    for i in range(8):
        value = bytes([i]) * 600_000
        await store.txn([], [Put("/a", value), Put("/b", value)])
    watch = store.watch("/", start)
    for i in range(8):
        together = await asyncio.wait_for(anext(watch), 10)
        assert {event.key for event in together} == {"/a", "/b"}
        assert {event.revision for event in together} == {start + 1 + i}
        assert all(event.value == bytes([i]) * 600_000 for event in together)
    await store.close()


async def test_closing_ends_what_waits(etcd_address: str) -> None:
    store = etcd_store(etcd_address)
    done = await store.txn([], [Put("/a", b"1")])
    watch = store.watch("/", done.revision - 1)
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.wait({waiting}, timeout=0.05)
    await store.close()
    with pytest.raises(UnavailableError, match="closed"):
        await asyncio.wait_for(waiting, 5)
