"""Leases by a clock that the test moves, and across restarts of the embedded store (P7)."""

import random
from pathlib import Path

import pytest

from logstore.base.env import Env, ManualClock
from logstore.base.errors import LeaseLostError, LimitExceededError
from logstore.meta.leases import LEASES_MAX, LeaseTable
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import LEASE_DRIFT, Lease, Put
from logstore.meta.rocks import RocksMetadataStore


async def test_a_lease_ends_at_its_end_and_not_before() -> None:
    clock = ManualClock()
    store = MemoryMetadataStore(env=Env(clock, random.Random(1)))
    lease = await store.lease_grant(10)
    await store.txn([], [Put("/a", b"", lease.id)])
    clock.advance(9.9)
    store.expire()
    await store.lease_keep_alive(lease.id)
    clock.advance(9.9)
    store.expire()
    assert await store.get("/a") is not None
    clock.advance(0.1)
    with pytest.raises(LeaseLostError):  # at its end, before anything was deleted
        await store.lease_keep_alive(lease.id)
    with pytest.raises(LeaseLostError):
        await store.txn([], [Put("/b", b"", lease.id)])
    store.expire()
    assert await store.get("/a") is None
    await store.close()


async def test_leases_that_ended_together_go_the_earliest_first() -> None:
    clock = ManualClock()
    store = MemoryMetadataStore(env=Env(clock, random.Random(1)))
    for key, ttl_s in (("/late", 9), ("/early", 3)):
        lease = await store.lease_grant(ttl_s)
        await store.txn([], [Put(key, b"", lease.id)])
    revision = (await store.range("/")).revision
    clock.advance(10)
    store.expire()
    watch = store.watch("/", revision)
    assert [(await anext(watch))[0].key for _ in range(2)] == ["/early", "/late"]
    await store.close()


async def test_a_restarted_store_waits_a_full_lease_and_drift(tmp_path: Path) -> None:
    clock = ManualClock()
    env = Env(clock, random.Random(1))
    store = RocksMetadataStore(tmp_path, env=env)
    lease, freed = await store.lease_grant(10), await store.lease_grant(10)
    revoked = await store.lease_grant(10)
    await store.txn([], [Put("/a", b"1", lease.id), Put("/b", b"1", freed.id)])
    await store.txn([], [Put("/b", b"2")])
    await store.lease_revoke(revoked.id)
    clock.advance(9)
    await store.close()
    clock.advance(100)  # a holder may have got a keep-alive's answer just before
    store = RocksMetadataStore(tmp_path, env=env)
    clock.advance(10 * (1 + LEASE_DRIFT) - 0.001)
    store.expire()
    assert await store.get("/a") is not None
    clock.advance(0.002)
    store.expire()
    assert await store.get("/a") is None
    assert await store.get("/b") is not None
    for gone in (lease, revoked):
        with pytest.raises(LeaseLostError):
            await store.lease_keep_alive(gone.id)
    await store.close()
    store = RocksMetadataStore(tmp_path, env=env)  # its end is durable too
    with pytest.raises(LeaseLostError):
        await store.lease_keep_alive(lease.id)
    assert [item.key for item in (await store.range("/")).items] == ["/b"]
    await store.close()


async def test_a_restored_lease_can_be_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    env = Env(clock, random.Random(1))
    store = RocksMetadataStore(tmp_path, env=env)
    lease = await store.lease_grant(10)
    await store.txn([], [Put("/a", b"1", lease.id)])
    await store.close()
    store = RocksMetadataStore(tmp_path, env=env)
    assert await store.lease_keep_alive(lease.id) == lease
    clock.advance(9.9)
    store.expire()
    assert await store.get("/a") is not None
    await store.close()


def test_leases_are_bounded() -> None:
    table = LeaseTable()
    for i in range(LEASES_MAX):
        table.grant(Lease(i + 1, 10), 0.0)
    with pytest.raises(LimitExceededError, match="leases is 10001 leases"):
        table.check_room()
