"""Golden answers of a cluster of real processes: copies, moves, splits, placement, deletion."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.local.cluster import LocalCluster, local_cluster
from logstore.base.errors import LogstoreError
from logstore.client.client import connect
from logstore.meta.records import log_key, mapping_log, shard_key
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.coordinator_v1 import placement_pb2 as ppb
from tests.support.golden import RULES, Caller, Golden

pytestmark = pytest.mark.timeout(300)
WAIT_S = 60.0
KEYS = [b"user-%03d" % n for n in range(200)]
TIMES = [1_700_000_000_000_000 + n for n in range(200)]
MOVE = (
    b'{"shadow_s": 0.0, "ramp_step": 1.0, "ramp_interval_s": 0.01, "soak_s": 600.0,'
    b' "throttle_bytes_per_s": 0.0}'
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    settings = {"report_interval_s": 0.2, "planning_period_s": 300}
    async with local_cluster(
        3, data=tmp_path, autopilot="off", coordinator_settings=settings,
        node_settings={"report_interval_s": 0.2},
    ) as found:  # fmt: skip
        yield found


class Waiting(Caller):
    """Asks again until a state of the cluster has come."""

    async def until(self, name: str, request: Any, holds: Callable[[Any], bool]) -> None:
        """Ask, and keep nothing, until the answer is so."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    if holds(await self.call(name, request)):
                        return
                except LogstoreError:
                    pass
                await asyncio.sleep(0.1)


async def logs(caller: Waiting, cluster: LocalCluster) -> None:
    made = pb.CreateLogRequest(
        name="orders", split_keys=[b"user-100"], instances=["instance-1", "instance-1"]
    )
    await caller.ask("Catalog.CreateLog", made)
    async with connect(cluster.addresses) as db:
        await (await db.log("orders")).append_many(KEYS, [b"value"] * len(KEYS), TIMES)
    await caller.ask("Catalog.DescribeLog", pb.DescribeLogRequest(name="orders"))
    await caller.ask("Catalog.ListLogs", pb.ListLogsRequest())
    await caller.ask("Catalog.CountRecords", pb.CountRecordsRequest(log="orders"))
    await caller.ask("Catalog.ListInstances", pb.ListInstancesRequest())
    await caller.ask("Catalog.ListCopies", pb.ListCopiesRequest())


async def moves(caller: Waiting) -> None:
    request = pb.MoveRequest(shard="orders/0", target="instance-2", options_json=MOVE)
    begun = await caller.ask("Migrations.Move", request)
    get = pb.GetMigrationRequest(id=begun["json"]["id"])

    async def watched(case: str, state: str) -> None:
        async for message in stubs.MigrationsStub(caller.channel).Watch(get):
            if f'"state":"{state}"'.encode() in message.json:
                caller.golden.take(case, message)
                return

    async with asyncio.timeout(WAIT_S):
        await watched("Migrations.Watch", "soaking")
    await caller.ask("Migrations.Get", get, "soaking")
    await caller.ask("Migrations.List", pb.ListMigrationsRequest(active_only=True), "active")
    order = pb.ControlRequest(id=get.id, action="complete", cause="golden")
    await caller.ask("Migrations.Control", order)
    async with asyncio.timeout(WAIT_S):
        await watched("Migrations.Watch.end", "completed")
    broken = pb.MetaOperation(key="/migrations/broken", put=b"[]")
    await caller.call("Metadata.Txn", pb.MetaTxnRequest(operations=[broken]))
    await caller.ask("Migrations.List", pb.ListMigrationsRequest())
    removed = pb.MetaOperation(key="/migrations/broken")
    await caller.call("Metadata.Txn", pb.MetaTxnRequest(operations=[removed]))


async def reshapes(caller: Waiting) -> None:
    split = pb.ReshapeRequest(parents=["orders/1"], key=b"user-150")
    done = await caller.ask("Migrations.Reshape", split)
    await caller.ask("Migrations.ListReshapes", pb.ListReshapesRequest())
    one = pb.ListReshapesRequest(reshape=done["json"]["id"])
    await caller.ask("Migrations.ListReshapes", one, "one")


def _has(state: str, shard: str) -> Callable[[Any], bool]:
    return lambda answer: any(
        f'"shard":"{shard}","state":"{state}"'.encode() in row for row in answer.json.split(b"},{")
    )


async def copies(caller: Waiting) -> None:
    """The source's copy is retired, then discarded; a log whose records are lost is adopted."""
    listing = pb.ListCopiesRequest(instance="instance-1")
    await caller.until("Catalog.ListCopies", listing, _has("retired", "orders/0"))
    rows = await caller.ask("Catalog.ListCopies", listing, "retired")
    retired = next(row["replica_id"] for row in rows["json"] if row["state"] == "retired")
    for dry_run in (True, False):
        request = pb.CopyRequest(instance="instance-1", replica_id=retired, dry_run=dry_run)
        await caller.ask("Catalog.DiscardCopy", request, "dry_run" if dry_run else "")
    made = pb.CreateLogRequest(name="lost", shards=1, instances=["instance-2"])
    await caller.call("Catalog.CreateLog", made)
    listing = pb.ListCopiesRequest(instance="instance-2")
    await caller.until("Catalog.ListCopies", listing, _has("member", "lost/0"))
    keys = (log_key("lost"), shard_key("lost/0"))
    forget = pb.MetaTxnRequest(operations=[pb.MetaOperation(key=key) for key in keys])
    await caller.call("Metadata.Txn", forget)
    await caller.until("Catalog.ListCopies", listing, _has("orphan", "lost/0"))
    rows = await caller.ask("Catalog.ListCopies", listing, "orphan")
    orphan = next(row["replica_id"] for row in rows["json"] if row["state"] == "orphan")
    for dry_run in (True, False):
        copy = pb.CopyRequest(instance="instance-2", replica_id=orphan, dry_run=dry_run)
        await caller.ask("Catalog.AdoptCopy", copy, "dry_run" if dry_run else "")


async def placement(caller: Waiting) -> None:
    made = pb.CreateLogRequest(
        name="carts", shards=1, instances=["instance-1"],
        options_json=b'{"partitioner": "balanced"}',
    )  # fmt: skip
    await caller.call("Catalog.CreateLog", made)
    await caller.ask("Placement.GetPartition", ppb.GetPartitionRequest(log="carts", key=b"a"))
    request = ppb.GetPartitionsRequest(log="carts", keys=[b"a", b"b"], lookup_only=True)
    await caller.ask("Placement.GetPartitions", request)
    await caller.ask("Placement.Shares", ppb.SharesRequest(log="carts", size=100))


async def deletion(caller: Waiting) -> None:
    for dry_run in (True, False):
        request = pb.DeleteLogRequest(name="carts", dry_run=dry_run)
        await caller.ask("Catalog.DeleteLog", request, "dry_run" if dry_run else "")
    listing = pb.ListCopiesRequest()
    await caller.until("Catalog.ListCopies", listing, _has("retired", "carts/0"))
    for n in range(2):
        mapping = f"{mapping_log('carts')}/{n}"
        await caller.until("Catalog.ListCopies", listing, _has("retired", mapping))
    for dry_run in (True, False):
        back = pb.RestoreLogRequest(name="carts", dry_run=dry_run)
        await caller.ask("Catalog.RestoreLog", back, "dry_run" if dry_run else "")


async def retiring(caller: Waiting, cluster: LocalCluster) -> None:
    cluster.lose("instance-3")
    request = pb.RetireInstanceRequest(instance="instance-3", dry_run=True)
    await caller.until("Catalog.RetireInstance", request, lambda answer: True)
    await caller.ask("Catalog.RetireInstance", request, "dry_run")
    await caller.ask("Catalog.RetireInstance", pb.RetireInstanceRequest(instance="instance-3"))


async def test_the_answers_are_the_stored_ones(cluster: LocalCluster) -> None:
    async with open_channel(cluster.address) as channel:
        caller = Waiting(channel, Golden("cluster", frozenset(RULES)))
        await logs(caller, cluster)
        await moves(caller)
        await reshapes(caller)
        await copies(caller)
        await retiring(caller, cluster)
        await placement(caller)
        await deletion(caller)
        caller.golden.check()
