"""A copy leaves its disk on a tombstone only, by way of being retired (P9, I13)."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from logstore.engine.port import ReplicaMeta, Retired, RetiredCopy
from logstore.meta.port import Compare, Delete, Put
from logstore.meta.records import (
    CLUSTER_ID,
    Tombstone,
    encode,
    shard_key,
    tombstone_key,
)
from logstore.meta.shard_writes import delete_shard, new_shard
from logstore.meta.tombstones import Order
from logstore.node.instance.copies import SEEN_S_MIN
from tests.support.nodes import Nodes, append, batch_of, nodes

SHARD, REPLICA = "orders/0", 100


async def cluster_id(n: Nodes) -> str:
    found = await n.store.get(CLUSTER_ID)
    assert found is not None
    return found.value.decode()


async def with_records(n: Nodes) -> None:
    await n.create(SHARD, "i1")
    await n.until(SHARD, lambda r: r.epoch == 2)
    (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"k"] * 10)])
    assert not result.HasField("error"), result.error


async def bury(n: Nodes, keep_s: float) -> None:
    """Delete the shard as a coordinator does."""
    found = await n.store.get(shard_key(SHARD))
    assert found is not None
    order = Order(await cluster_id(n), "deleted by a test", 0, keep_s)
    write = delete_shard(await n.record(SHARD), found.revision, order)
    assert (await n.store.txn([write.compare], write.operations)).succeeded


async def held(n: Nodes, *, replicas: set[int], retired: set[int]) -> None:
    """Wait until the disk of i1 holds just these copies."""
    engine = n.servers["i1"].instance.node.engine
    async with asyncio.timeout(10):
        while {m.replica_id for m in engine.replicas()} != replicas or {
            r.meta.replica_id for r in engine.retired()
        } != retired:
            await asyncio.sleep(0.01)


async def test_a_record_that_is_gone_orders_nothing(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await with_records(n)
        before = await n.record(SHARD)
        found = await n.store.get(shard_key(SHARD))
        assert found is not None
        await n.store.txn([Compare(found.key, found.revision)], [Delete(found.key)])
        instance = n.servers["i1"].instance
        async with asyncio.timeout(10):
            while SHARD in instance.replicas:
                await asyncio.sleep(0.01)
        await held(n, replicas={REPLICA}, retired=set())
        assert [m.replica_id for m in instance.orphans()] == [REPLICA]
        write = new_shard(replace(before, epoch=before.epoch + 1))
        await n.store.txn([write.compare], write.operations)
        await n.until(SHARD, lambda r: r.epoch > before.epoch + 1)
        assert instance.node.engine.end(REPLICA).end == 10
        assert instance.orphans() == []


async def test_a_tombstone_retires_and_a_record_brings_back(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await with_records(n)
        before = await n.record(SHARD)
        await bury(n, 600.0)
        await held(n, replicas=set(), retired={REPLICA})
        async with asyncio.timeout(10):
            while await n.store.get(tombstone_key("i1", REPLICA)) is not None:  # confirmed
                await asyncio.sleep(0.01)
        write = new_shard(replace(before, epoch=before.epoch + 1))
        await n.store.txn([write.compare], write.operations)
        await held(n, replicas={REPLICA}, retired=set())
        assert n.servers["i1"].instance.node.engine.end(REPLICA).end == 10


@pytest.mark.parametrize("wrong", ["cluster", "shard", "named"])
async def test_a_tombstone_that_does_not_mean_this_copy_retires_nothing(
    tmp_path: Path, wrong: str
) -> None:
    async with nodes(tmp_path, 1) as n:
        await with_records(n)
        tombstone = Tombstone(
            await cluster_id(n), "i1", SHARD, REPLICA, 1, "a mistake", keep_s=0.0, created_us=0
        )
        if wrong == "cluster":
            tombstone = replace(tombstone, cluster="another")
        if wrong == "shard":
            tombstone = replace(tombstone, shard="orders/7")
        await n.store.txn([], [Put(tombstone_key("i1", REPLICA), encode(tombstone))])
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"k"] * 10, id_=2)])
        assert not result.HasField("error"), result.error
        await held(n, replicas={REPLICA}, retired=set())


@pytest.mark.parametrize(("keep_s", "free_min", "stays"), [
    (600.0, 0.0, True), (0.0, 0.0, False), (600.0, 1.0, False),
])  # fmt: skip
async def test_bytes_go_when_their_time_is_over_or_the_disk_is_full(
    tmp_path: Path, keep_s: float, free_min: float, stays: bool
) -> None:
    settings = {"reclaim_interval_s": 0.1, "disk_free_share_min": free_min}
    async with nodes(tmp_path, 1, **settings) as n:
        await with_records(n)
        await bury(n, keep_s)
        copies = n.servers["i1"].instance.copies
        async with asyncio.timeout(10):
            while not stays and copies.dropped == 0:  # it is counted after it left the disk
                await asyncio.sleep(0.01)
        await held(n, replicas=set(), retired={REPLICA} if stays else set())
        assert copies.dropped == (0 if stays else 1)


async def test_a_wall_clock_that_jumps_deletes_nothing(tmp_path: Path) -> None:
    """However far it says the time is, a process sees a copy for so long first."""
    async with nodes(tmp_path, 1) as n:
        await with_records(n)
        copies = n.servers["i1"].instance.copies
        copy = RetiredCopy(
            ReplicaMeta(7, SHARD), Retired("x", 1, 0, round(86_400e6)),
            n.servers["i1"].instance.node.engine.end(REPLICA), 0,
        )  # fmt: skip
        copies._seen_s[7] = 1_000.0
        far_us = round(1e18)
        assert not copies._is_over(copy, 1_000.0 + SEEN_S_MIN - 1, far_us)
        assert copies._is_over(copy, 1_000.0 + SEEN_S_MIN, far_us)
        assert not copies._is_over(copy, 1_000.0 + 10 * SEEN_S_MIN, round(80_000e6))
