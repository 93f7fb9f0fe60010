"""A retry is decided where it was first sent (S2, note 0005): the node's table, and the client."""

import asyncio
from pathlib import Path

from logstore.proto.v1 import log_pb2
from tests.support.clients import Starter, client_of
from tests.support.nodes import append, batch_of
from tests.support.scripted import Cluster, Shard
from tests.support.sealing import LOG, sealing


async def test_a_sealed_shard_answers_retries_for_ever(tmp_path: Path) -> None:  # S5
    async with sealing(tmp_path) as bench:
        stub = bench.nodes.log_stub("i1")
        first = batch_of(f"{LOG}/0", [b"a", b"z"], 1, producer=7)
        (stored,) = await append(stub, [first])
        await bench.split(f"{LOG}/0", b"m")
        (again,) = await append(stub, [first])
        assert (again.duplicate, again.base_offset) == (True, stored.base_offset)
        (new,) = await append(stub, [batch_of(f"{LOG}/0", [b"a"], 2, producer=7)])
        assert new.error.code == "sealed"
        await bench.nodes.stop("i1")
        await bench.nodes.start("i1")
        await bench.nodes.until(f"{LOG}/1", lambda r: r.epoch >= 3)
        answers = await append(bench.nodes.log_stub("i1"), [first])
        assert answers[0].duplicate


async def split(cluster: Cluster, parent: Shard) -> None:
    low, high = parent.range.split(b"m")
    for name, keys in (("1", low), ("2", high)):
        child = type(parent)(f"orders/{name}", keys, "a", predecessors=[parent.id])
        cluster.shards[child.id] = child
    change = {"status": "sealed", "successors": ["orders/1", "orders/2"]}
    await cluster.change(s0=change)


async def test_an_append_whose_ack_the_seal_swallowed_is_stored_once(start: Starter) -> None:
    """Stored at the parent, the answer lost, then the split: a duplicate, acked by the parent."""
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"a", b"0")
        parent = cluster.shards["orders/0"]

        def swallow(message: log_pb2.AppendBatch) -> str:
            return "lose_ack"

        cluster.instances["a"].faults.append(swallow)
        call = asyncio.create_task(log.append_many([b"b", b"y"], [b"1", b"2"]))
        async with asyncio.timeout(10):
            while len(parent.records) < 3:
                await asyncio.sleep(0.001)
        await split(cluster, parent)
        acks = await call
        assert [(a.shard, a.offset, a.count) for a in acks] == [("orders/0", 1, 2)]
        later = await log.append(b"b", b"3")
        assert later.shard == "orders/1"
    assert sorted(r.value for r in cluster.all_records()) == [b"0", b"1", b"2", b"3"]


async def test_an_append_that_the_seal_refused_is_cut_by_successor_and_keeps_its_order(
    start: Starter,
) -> None:
    """Lost before it was stored: resolved as not stored, and still before what came after it."""
    cluster = await start()
    instance = cluster.instances["a"]
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"a", b"0")
        instance.faults.append(lambda m: "lose")
        instance.gate = asyncio.Event()
        first = asyncio.create_task(log.append_many([b"b", b"y"], [b"1", b"2"]))
        async with instance.received:
            await instance.received.wait()
        await split(cluster, cluster.shards["orders/0"])
        await db._directory.refresh("orders")  # the client knows before it is answered
        second = asyncio.create_task(log.append_many([b"b", b"y"], [b"3", b"4"]))
        await asyncio.sleep(0)
        instance.gate.set()
        await asyncio.gather(first, second)
    assert [r.value for r in cluster.shards["orders/1"].records] == [b"1", b"3"]
    assert [r.value for r in cluster.shards["orders/2"].records] == [b"2", b"4"]
