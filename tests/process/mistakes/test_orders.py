"""Orders for an instance that is down: refused at once, by name, before anything is written.

The rule is `statistics.presence`: whoever an order needs must be heard and must answer. A move
that is under way when its target dies ends in bounded time.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.answers.catalog import DrainProgress
from coordinator.cli.common import Coordinator
from coordinator.local.cluster import LocalCluster, local_cluster
from coordinator.migration.answers import Migration, MigrationRows, Reshape
from logstore.base.errors import InstanceDownError, LogstoreError
from logstore.client.client import Client, connect
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

DEAD = "instance-3"
REFUSED_WITHIN_S = 5.0
QUICK = {"target_dead_after_s": 1.5, "soak_s": 3_000.0, "ramp_step": 1.0, "shadow_s": 0.0}
SETTINGS = {"report_interval_s": 0.2, "alive_s": 3.0, "autopilot": "off", "lost_after_s": 600}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    settings = {**SETTINGS, "move": json.dumps(QUICK)}
    async with local_cluster(3, data=tmp_path, coordinator_settings=settings) as running:
        yield running


LIST = pb.ListMigrationsRequest()


async def make_logs(db: Client) -> None:
    big = await db.create_log("big", instances=["instance-1"])
    await big.append_many([b"k"] * 300, [b"v" * 10_000] * 300)
    await db.create_log("theirs", split_keys=[b"m"], instances=[DEAD, DEAD])
    await db.create_log("soaks", instances=[DEAD])
    await db.create_log("ours", split_keys=[b"m"], instances=["instance-1", "instance-1"])


async def until(coordinator: Coordinator, migration: str, *states: str) -> Migration:
    async with asyncio.timeout(30):
        while True:
            request = pb.GetMigrationRequest(id=migration)
            found = await coordinator.ask("Migrations", "Get", request, Migration)
            if found.state in states:
                return found
            await asyncio.sleep(0.05)


def orders_for_the_dead(soaking: str) -> list[tuple[str, str, Any]]:
    """Service, method, request: each needs the instance that is down."""
    found: list[tuple[str, str, Any]] = [
        ("Migrations", "Move", pb.MoveRequest(shard=shard, target=target, dry_run=dry, strategy=s))
        for shard, target in (("ours/0", DEAD), ("theirs/0", "instance-2"))
        for dry in (True, False)
        for s in ("auto", "shadow", "log-shipping", "copy-on-write")
    ]
    at = pb.ReshapeRequest(parents=["theirs/0"], key=b"c")
    return [
        *found,
        ("Migrations", "Reshape", at),
        ("Migrations", "Reshape", pb.ReshapeRequest(parents=["theirs/0"], key=b"c", dry_run=True)),
        ("Migrations", "Reshape", pb.ReshapeRequest(parents=["theirs/0", "theirs/1"])),
        ("Migrations", "Control", pb.ControlRequest(id=soaking, action="rollback")),
        ("Drains", "Begin", pb.DrainRequest(instance=DEAD)),
        ("Drains", "Begin", pb.DrainRequest(instance=DEAD, dry_run=True)),
        ("Catalog", "CreateLog", pb.CreateLogRequest(name="new", instances=[DEAD], shards=1)),
        (
            "Catalog",
            "CreateLog",
            pb.CreateLogRequest(name="new", shards=2, instances=["instance-1", DEAD]),
        ),
    ]


async def refuse_all(coordinator: Coordinator, soaking: str) -> None:
    migrations = await coordinator.ask("Migrations", "List", LIST, MigrationRows)
    for service, method, request in orders_for_the_dead(soaking):
        began = time.monotonic()
        with pytest.raises(InstanceDownError, match=f"{DEAD} .*(since|ago)") as answer:
            await coordinator.call(service, method, request)
        assert time.monotonic() - began < REFUSED_WITHIN_S, (request, answer.value.message)
    after = await coordinator.ask("Migrations", "List", LIST, MigrationRows)
    assert [m.id for m in after.known] == [m.id for m in migrations.known]
    reshapes = pb.ListReshapesRequest()
    assert not await coordinator.ask("Migrations", "ListReshapes", reshapes, list[Reshape])
    drains = pb.ListDrainsRequest()
    assert not await coordinator.ask("Drains", "List", drains, list[DrainProgress])
    logs = await coordinator.call("Catalog", "ListLogs", pb.ListLogsRequest())
    assert "new" not in {log.name for log in logs.logs}


async def test_orders_for_a_lost_instance_are_refused_and_its_moves_end(
    cluster: LocalCluster,
) -> None:
    async with connect(cluster.address) as db, Coordinator(cluster.address) as coordinator:
        await make_logs(db)
        slow = pb.MoveRequest(
            shard="big/0", target=DEAD, options_json=b'{"throttle_bytes_per_s": 20000}'
        )
        copying = (await coordinator.ask("Migrations", "Move", slow, Migration)).id
        away = pb.MoveRequest(shard="soaks/0", target="instance-2")
        soaking = (await coordinator.ask("Migrations", "Move", away, Migration)).id
        await until(coordinator, soaking, "soaking")
        await until(coordinator, copying, "snapshot")
        cluster.lose(DEAD)
        await refuse_all(coordinator, soaking)  # no report is missed yet: it is asked
        ended = await until(coordinator, copying, "rolled-back")
        assert ended.cause is not None
        assert ended.cause.startswith(f"{DEAD} is silent for")
        assert "target_dead_after_s = 1.5 s" in ended.cause
        await refuse_all(coordinator, soaking)  # now its reports are missed, too
        log = await db.log("big")
        await log.append(b"k", b"the source serves on")
        with pytest.raises(LogstoreError, match="min_in_sync is 3, 2 of 3 instances are alive"):
            await db.create_log("never", replicas=3, min_in_sync=3)
        begun = time.monotonic()
        made = await db.create_log("elsewhere", shards=4)
        assert time.monotonic() - begun < REFUSED_WITHIN_S
        homes = {s.primary for s in (await made.shard_map()).shards}
        assert homes == {"instance-1", "instance-2"}
        order = pb.ControlRequest(id=soaking, action="complete")
        await coordinator.ask("Migrations", "Control", order, Migration)
        await until(coordinator, soaking, "completed")
