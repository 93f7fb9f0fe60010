"""kill -9 of each party in each state of the other strategies (`make test-moves`), as
`test_kill_in_each_state` does for `shadow`, whose way has every state.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

import logstore
from coordinator.local.checker import check_log
from coordinator.local.cluster import LocalCluster, local_cluster
from coordinator.local.journal import Journal
from coordinator.migration.records import State
from coordinator.migration.table import PATHS, STRATEGIES
from logstore.base.errors import LogstoreError
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub
from logstore.proto.status import called
from tests.process.migration.test_kill_in_each_state import (
    VICTIMS,
    EndedBefore,
    Loader,
    Moves,
    kill_when,
)

pytestmark = pytest.mark.moves

TRIES = 4
PATIENT = {"follower_timeout_s": 4.0, "lease_s": 4.0, "grace_s": 5.0}
OTHERS = tuple(s for s in STRATEGIES if s != "shadow")


async def settled(cluster: LocalCluster, members: int) -> dict[str, Any]:
    """The open shard once it has so many copies in sync and is in no migration."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with open_channel(cluster.address) as channel, called():
                    request = pb.DescribeLogRequest(name="orders")
                    info = await CatalogStub(channel).DescribeLog(request, timeout=5)
            except LogstoreError:
                await asyncio.sleep(0.2)
                continue
            rows = [msgspec.json.decode(s) for s in info.shards_json]
            (row,) = [r for r in rows if r["status"] != "sealed"]
            if len(row["in_sync"]) == members and row["migration"] is None:
                return dict(row)
            await asyncio.sleep(0.1)


async def kill_once(moves: Moves, state: State, victim: str, strategy: str) -> State:
    """A busy machine may make a follower look dead, and a move end early: then once more."""
    for attempt in range(TRIES):
        row = await settled(moves.cluster, 2 if strategy == "switch" else 1)
        here = str(row["primary"]["instance"])
        there = "instance-2" if here == "instance-1" else "instance-1"
        try:
            return await kill_when(moves, state, victim, here, there, strategy, str(row["shard"]))
        except EndedBefore:
            if attempt + 1 == TRIES:
                raise
    raise AssertionError("TRIES is at least 1")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", OTHERS)
async def test_kill_of_anyone_in_any_state(tmp_path: Path, strategy: str) -> None:
    replicas = 2 if strategy == "switch" else 1
    states = (*PATHS[strategy], State.ROLLING_BACK)
    async with local_cluster(
        2, data=tmp_path / "data", autopilot="off", node_settings=PATIENT
    ) as cluster:
        async with logstore.connect(cluster.address) as db:
            await db.create_log("orders", shards=1, instances=["instance-1"], replicas=replicas)
        moves = Moves(cluster)
        ends: dict[tuple[State, str], State] = {}
        with Journal(tmp_path / "live.journal", "orders") as journal:
            loader = Loader(cluster.addresses, journal)
            running = asyncio.create_task(loader.run())
            for state in states:
                for victim in VICTIMS:
                    ends[state, victim] = await kill_once(moves, state, victim, strategy)
                    await cluster.wait_ready()
            loader.stop()
            await running
        assert moves.killed == {(s, v) for s in states for v in VICTIMS}
        assert set(ends.values()) <= {State.COMPLETED, State.ROLLED_BACK}, ends
        verdict = await check_log(cluster.addresses, [tmp_path / "live.journal"])
        assert verdict.ok, verdict
        assert verdict.acked > 1_000
