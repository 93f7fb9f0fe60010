"""The acceptance of placement, live: `python -m tests.acceptance.placement [KEYS]` prints JSON.

Three real instances of unequal capacity, one of them busy with another log; KEYS new keys (default
1,000,000) are placed in batches by two clients at once and a record of each is written. Measured:
keys on each instance against its target share. Then one instance is killed for good: every key must
be found, by the service (a new leader's memory), in a scan and by reads of single keys.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from coordinator.local.cluster import ClusterOptions, LocalCluster, running
from logstore.base.errors import LogstoreError
from logstore.client.client import Client, Log, connect
from logstore.meta.records import CapacityRecord
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import placement_pb2
from logstore.proto.coordinator_v1.placement_pb2_grpc import PlacementStub

BATCH = 10_000
SAMPLE = 300
CAPACITIES = [CapacityRecord(ops_per_s=o, bytes_per_s=1e9) for o in (2e5, 4e5, 4e5)]


async def shares(address: str, log: str) -> dict[str, Any]:
    async with open_channel(address) as channel:
        stub: Any = PlacementStub(channel)
        answer = await stub.Shares(placement_pb2.SharesRequest(log=log), timeout=60.0)
        found: dict[str, Any] = json.loads(answer.json)
        return found


async def found_by_service(address: str, log: str, keys: list[bytes]) -> int:
    """Number of keys whose virtual shard key a caller without a cache gets."""
    total = 0
    async with open_channel(address) as channel:
        stub: Any = PlacementStub(channel)
        for at in range(0, len(keys), BATCH):
            request = placement_pb2.GetPartitionsRequest(
                log=log, keys=keys[at : at + BATCH], lookup_only=True
            )
            answer = await stub.GetPartitions(request, timeout=60.0)
            total += sum(bool(p.virtual_key) for p in answer.partitions)
    return total


async def write(log: Log, keys: list[bytes]) -> None:
    for at in range(0, len(keys), BATCH):
        part = keys[at : at + BATCH]
        await log.append_many(part, [b"value of " + key for key in part])


async def busy(db: Client, stop: asyncio.Event) -> None:
    """Load on the largest instance that the forecast sees."""
    other = await db.create_log("other", instances=["instance-3"])
    batch = [b"k%d" % n for n in range(5_000)]
    while not stop.is_set():
        await other.append_many(batch, batch)
        await asyncio.sleep(0.1)


async def seen_busy(cluster: LocalCluster, log: str) -> None:
    """Until the weights have taken the other log's load in."""
    for _ in range(300):
        found = (await shares(cluster.address, log))["shares"]
        if found["instance-3"] < 0.95 * found["instance-2"]:
            return
        await asyncio.sleep(0.2)


async def everything_found(cluster: LocalCluster, log: str, keys: list[bytes]) -> dict[str, Any]:
    async with connect(cluster.addresses) as db:
        opened = await db.log(log)
        seen: Counter[bytes] = Counter()
        async for batch in opened.scan().batches():
            seen.update(batch.column("key").to_pylist())
        sample = random.Random(1).sample(keys, min(SAMPLE, len(keys)))
        read = 0
        for key in sample:
            values = [r.value async for r in opened.read(key=key)]
            read += values == [b"value of " + key]
        missing = sum(seen[key] != 1 for key in keys)
    by_service = await found_by_service(cluster.address, log, keys)
    return {"scanned": sum(seen.values()), "not_once": missing, "found_by_service": by_service,
            "single_reads": read, "of": len(sample)}  # fmt: skip


async def main(count: int, folder: Path) -> dict[str, Any]:
    options = ClusterOptions(
        folder,
        3,
        capacities=CAPACITIES,
        coordinator_settings={"planning_period_s": 1.0, "slot_s": 1.0, "lost_after_s": 5.0},
        autopilot="off",
    )
    keys = [b"customer-%07d" % n for n in range(count)]
    random.Random(7).shuffle(keys)
    async with running(options) as cluster, connect(cluster.address) as db:
        log = await db.create_log("orders", partitioner="balanced", shards=12, replicas=2)
        stop = asyncio.Event()
        load = asyncio.create_task(busy(db, stop))
        await seen_busy(cluster, "orders")
        target = (await shares(cluster.address, "orders"))["shares"]
        begun = time.monotonic()
        async with connect(cluster.address) as other:
            mine, theirs = keys[: count // 2], keys[count // 2 :]
            both = await other.log("orders")
            await asyncio.gather(write(log, mine), write(both, theirs))
        took_s = time.monotonic() - begun
        stop.set()
        await load
        shown = await shares(cluster.address, "orders")
        placed = {n: c / shown["keys"] for n, c in shown["keys_by_instance"].items()}
        meant = {n: c / sum(shown["expected"].values()) for n, c in shown["expected"].items()}
        answer: dict[str, Any] = {
            "keys": shown["keys"],
            "seconds": round(took_s, 1),
            "target_at_start": target,
            "target_while_placed": meant,
            "placed": placed,
            "worst_error": max(abs(placed[n] / meant[n] - 1.0) for n in meant),
            "target_at_end": shown["shares"],
        }
        answer["before"] = await everything_found(cluster, "orders", keys)
        cluster.lose("instance-1")
        begun = time.monotonic()
        after = await settled(cluster.address, "orders", without="instance-1")
        answer["taken_over_s"] = round(time.monotonic() - begun, 1)
        answer["share_of_lost"] = after["shares"].get("instance-1", 0.0)
        cluster.kill("coordinator")  # the next one has nothing in memory
        await settled(cluster.address, "orders", without="instance-1")
        answer["after"] = await everything_found(cluster, "orders", keys)
        fresh = [b"fresh-%d" % n for n in range(2_000)]
        await write(log, fresh)
        last = await shares(cluster.address, "orders")
        answer["fresh_keys_on"] = {
            n: c - after["keys_by_instance"].get(n, 0) for n, c in last["keys_by_instance"].items()
        }
        return answer


async def settled(address: str, log: str, *, without: str) -> dict[str, Any]:
    """Shares once the coordinator answers and no shard is led by that instance."""
    while True:
        try:
            found = await shares(address, log)
            if without not in found["keys_by_instance"]:
                return found
        except (LogstoreError, grpc.aio.AioRpcError):
            pass
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(asyncio.run(main(size, Path(work))), indent=1))
