"""Balanced logs over real processes: written and read like any other, by several placers."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.keys.tokens import Ask, Book
from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.errors import (
    InvalidArgumentError,
    LimitExceededError,
    RefusedError,
    UnknownLogError,
    VersionConflictError,
)
from logstore.base.limits import RECORD_BYTES_MAX
from logstore.client.client import Client, connect
from logstore.meta.records import CapacityRecord, mapping_log
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import placement_pb2
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsStub
from logstore.proto.coordinator_v1.placement_pb2_grpc import PlacementStub
from logstore.proto.status import called
from sharder.keys import TOKEN_BYTES, Partitioner, routing_key
from sharder.placement import Headroom, Placement, PlacementConfig, Slot

SMALL_DISK = [
    CapacityRecord(ops_per_s=1e5, bytes_per_s=1e9, stored_bytes=10**9),
    CapacityRecord(ops_per_s=1e5, bytes_per_s=1e9, stored_bytes=10**13),
]
KEYS = [b"customer-%04d" % n for n in range(400)]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(2, data=tmp_path, capacities=SMALL_DISK, autopilot="off") as found:
        yield found


async def ask(cluster: LocalCluster, method: str, request: Any) -> Any:
    async with open_channel(cluster.address) as channel, called():
        return await getattr(PlacementStub(channel), method)(request, timeout=30.0)


async def check_writes_and_reads(db: Client) -> None:
    log = await db.create_log("orders", partitioner="balanced", shards=4)
    tail = log.tail(key=KEYS[7], from_start=True)  # of a key that was not placed yet
    first = asyncio.ensure_future(anext(tail))
    await log.append_many(KEYS, [b"first of " + key for key in KEYS])
    ack = await log.append(KEYS[7], b"second", expected_version=1)
    assert ack.version == 2
    with pytest.raises(VersionConflictError):
        await log.append(KEYS[7], b"third", expected_version=1)
    assert [r.value async for r in log.read(key=KEYS[7])] == [b"first of " + KEYS[7], b"second"]
    assert [r.key async for r in log.read(start=KEYS[10], end=KEYS[14], order="key")] == KEYS[10:14]
    assert len([r async for r in log.read(start=KEYS[10], end=KEYS[90], limit=5)]) == 5
    assert [r async for r in log.read(key=b"nobody")] == []
    table = await log.scan().to_arrow()
    assert sorted(table["key"].to_pylist()) == sorted([*KEYS, KEYS[7]])
    assert {s.primary for s in (await log.shard_map()).open_shards} == {"instance-1", "instance-2"}
    assert (await first).value == b"first of " + KEYS[7]
    await tail.aclose()


async def check_size_alone_changes_a_placement(cluster: LocalCluster) -> None:
    found = {}
    for size in (10, 1_000_000):
        keys = [b"%d bytes, %d" % (size, n) for n in range(300)]
        answer = await ask(
            cluster,
            "GetPartitions",
            placement_pb2.GetPartitionsRequest(log="orders", keys=keys, sizes=[size] * len(keys)),
        )
        found[size] = sum(p.instance == "instance-1" for p in answer.partitions)
    assert found[10] > 50
    assert found[1_000_000] == 0  # a key of 1,000 such records does not fit on its disk
    request = placement_pb2.GetPartitionRequest(log="orders", key=b"10 bytes, 0", size=1_000_000)
    again = await ask(cluster, "GetPartition", request)
    assert again.virtual_key[8:] == b"10 bytes, 0"  # and what is placed stays


async def check_a_records_token_counts(db: Client) -> None:
    log = await db.log("orders")
    key = KEYS[0]
    largest = bytes(RECORD_BYTES_MAX - TOKEN_BYTES - len(key))
    await log.append(key, largest)
    await log.append_many([key], [largest])
    for call in (log.append(key, largest + b"x"), log.append_many([key], [largest + b"x"])):
        with pytest.raises(LimitExceededError, match="record of a balanced log is 1048569 bytes"):
            await call
    assert [len(r.value) async for r in log.read(key=key)][1:] == [len(largest)] * 2


async def check_first_writers_agree(cluster: LocalCluster, db: Client) -> None:
    """Two who draw differently place the same keys at once, as two leaders might."""
    keys = [b"raced %d" % n for n in range(3_000)]
    async with connect(cluster.addresses) as one, connect(cluster.addresses) as two:
        books = [
            Book(
                await client.log(mapping_log("orders")),
                Placement([Slot("orders/0", "a")], {"a": Headroom()}, PlacementConfig(seed=seed)),
            )
            for seed, client in ((1, one), (2, two))
        ]
        books[1]._draw = lambda ask: _other_tokens(Book._draw(books[1], ask))  # type: ignore[method-assign]
        rounds = [
            book.tokens(Ask(keys[at : at + 500]))
            for at in range(0, 3_000, 500)
            for book in books
        ]  # fmt: skip
        await asyncio.gather(*rounds)
        ours, theirs = [await book.tokens(Ask(keys)) for book in books]
        assert ours[1].all()
        assert (ours[0] == theirs[0]).all()
        for book in books:
            await book.close()
    answer = await ask(
        cluster,
        "GetPartitions",
        placement_pb2.GetPartitionsRequest(log="orders", keys=keys, lookup_only=True),
    )
    served = [int.from_bytes(p.virtual_key[:8], "big") for p in answer.partitions]
    assert served == ours[0].tolist()


def _other_tokens(drawn: tuple[list[bytes], list[int]]) -> tuple[list[bytes], list[int]]:
    return drawn[0], [token ^ 1 for token in drawn[1]]


async def check_it_outlives_its_mappings_split(cluster: LocalCluster, db: Client) -> None:
    name = mapping_log("orders")
    shards = await (await db.log(name)).shard_map()
    parent = shards.find(routing_key(Partitioner.HASH, KEYS[0])).id
    async with open_channel(cluster.address) as channel, called():
        request = pb.ReshapeRequest(parents=[parent], key=KEYS[0])
        await MigrationsStub(channel).Reshape(request, timeout=120.0)
    log = await db.log(name)
    for _ in range(2_400):
        if not any(s.id == parent for s in (await log.shard_map()).open_shards):
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail(f"shard {parent} was not split")
    async with connect(cluster.address) as fresh:
        orders = await fresh.log("orders")
        assert [r.value async for r in orders.read(key=KEYS[3])] == [b"first of " + KEYS[3]]
        await orders.append(b"after the split", b"value")
        assert [r.value async for r in orders.read(key=b"after the split")] == [b"value"]


async def check_keys_are_found_without_the_coordinator(cluster: LocalCluster) -> None:
    async with connect(cluster.addresses) as db:
        log = await db.log("orders")
        cluster.kill("coordinator")
        assert [r.value async for r in log.read(key=KEYS[5])] == [b"first of " + KEYS[5]]
        await log.append(b"new after the kill", b"value")  # the client waits for the next one
        assert [r.value async for r in log.read(key=b"new after the kill")] == [b"value"]
    await cluster.wait_ready()


async def check_what_is_refused(cluster: LocalCluster, db: Client) -> None:
    await db.create_log("plain")
    for request in (
        placement_pb2.GetPartitionsRequest(log="plain", keys=[b"k"]),
        placement_pb2.GetPartitionsRequest(log="orders", keys=[b"k"], sizes=[1, 2]),
        placement_pb2.GetPartitionsRequest(log="orders", keys=[b"k" * 4_089]),
    ):
        with pytest.raises(InvalidArgumentError, match=r"partitioner|sizes has 2|4088"):
            await ask(cluster, "GetPartitions", request)
    with pytest.raises(InvalidArgumentError, match="remembers the keys"):
        await db.create_log("mine.placement")
    with pytest.raises(RefusedError, match="delete that one"):
        await db.delete_log("orders.placement")
    shares = json.loads(
        (await ask(cluster, "Shares", placement_pb2.SharesRequest(log="orders"))).json
    )
    assert sum(shares["keys_by_instance"].values()) == shares["keys"] > len(KEYS)
    await db.delete_log("orders")
    assert await db.list_logs() == ["plain"]
    with pytest.raises(UnknownLogError):
        await ask(cluster, "GetPartitions", placement_pb2.GetPartitionsRequest(log="orders"))


@pytest.mark.timeout(300)
async def test_a_balanced_log_is_a_log_like_any_other(cluster: LocalCluster) -> None:
    async with connect(cluster.address) as db:
        await check_writes_and_reads(db)
        await check_size_alone_changes_a_placement(cluster)
        await check_a_records_token_counts(db)
        await check_first_writers_agree(cluster, db)
        await check_it_outlives_its_mappings_split(cluster, db)
        await check_keys_are_found_without_the_coordinator(cluster)
        await check_what_is_refused(cluster, db)
