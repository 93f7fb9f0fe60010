"""kill -9 of the broker, and of the metadata's leader, in each state of a move (`make test-moves`).

As `test_kill_in_each_state` for the cluster's own processes. What was killed is started again once
the move went on or waited for it; the move must end without a person.
"""

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import logstore
from bench.services.base import ProcessService
from bench.services.etcd import EtcdCluster
from bench.services.kafka import KafkaCluster
from coordinator.local.checker import check_log
from coordinator.local.cluster import ClusterOptions, LocalCluster, local_cluster, running
from coordinator.local.journal import Journal
from coordinator.migration.records import State
from tests.process.migration.test_kill_in_each_state import (
    ACTIVE,
    SHARD,
    EndedBefore,
    Loader,
    Moves,
    kill_when,
)
from tests.process.migration.test_kills import PATIENT, TRIES, settled

pytestmark = pytest.mark.moves

AWAY_S = 1.0
"""So long the killed one stays away: longer than any state waits for what it asks."""
ASK_TIMEOUT_S = 2.0

Kill = Callable[[], Awaitable[None]]


def leader_of(service: EtcdCluster) -> int:
    """The member that leads, as the members themselves say (etcd's gateway, /v3/maintenance)."""
    for index, address in enumerate(service.address.split(",")):
        request = urllib.request.Request(
            f"http://{address}/v3/maintenance/status", data=b"{}", method="POST"
        )
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as reply:
            found = json.load(reply)
        if found["leader"] == found["header"]["member_id"]:
            return index
    raise AssertionError("no member of etcd leads")


class Away:
    """Kills a member of a service and starts it again a little later."""

    def __init__(self, service: ProcessService, member: Callable[[], int]) -> None:
        self._service, self._member = service, member
        self._returns: asyncio.Task[None] | None = None

    async def kill(self) -> None:
        member = await asyncio.to_thread(self._member)
        self._service.kill_member(member)
        self._returns = asyncio.create_task(self._start(member))

    async def _start(self, member: int) -> None:
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(self._service.start_member, member)
        await asyncio.to_thread(self._service.wait_ready)

    async def returned(self) -> None:
        if self._returns is not None:
            await self._returns


async def kill_in_each_state(
    tmp_path: Path, cluster: LocalCluster, moves: Moves, away: Away, victim: str, **options: object
) -> None:
    """One move a state; ends when all of them ended and the log was checked."""
    async with logstore.connect(cluster.addresses, timeout_s=60) as db:
        log = await db.create_log("orders", shards=1, instances=["instance-1"])
        keys = [b"old-%d" % i for i in range(2_000)]
        await log.append_many(keys, [bytes(100)] * len(keys))
    ends: dict[State, State] = {}
    with Journal(tmp_path / "live.journal", "orders") as journal:
        loader = Loader(cluster.addresses, journal)
        running = asyncio.create_task(loader.run())
        for state in ACTIVE:
            for attempt in range(TRIES):
                row = await settled(cluster, 1)
                here = str(row["primary"]["instance"])
                there = "instance-2" if here == "instance-1" else "instance-1"
                try:
                    ends[state] = await kill_when(
                        moves, state, victim, here, there, "shadow", SHARD, away.kill, **options
                    )
                    break
                except EndedBefore:
                    if attempt + 1 == TRIES:
                        raise
            await away.returned()
        loader.stop()
        await running
    assert {state for state, _ in moves.killed} == set(ACTIVE)
    assert set(ends) == set(ACTIVE)
    assert set(ends.values()) <= {State.COMPLETED, State.ROLLED_BACK}, ends
    verdict = await check_log(cluster.addresses, [tmp_path / "live.journal"])
    assert verdict.ok, verdict
    assert verdict.acked > 500


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_of_the_broker_in_any_state(tmp_path: Path) -> None:
    with KafkaCluster(1, heap_mb=256) as kafka:
        async with local_cluster(
            2, data=tmp_path / "data", autopilot="off", kafka=kafka.address, node_settings=PATIENT
        ) as cluster:
            away = Away(kafka, lambda: 0)
            await kill_in_each_state(
                tmp_path, cluster, Moves(cluster), away, "broker", feed="kafka", lag_records_max=20
            )


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_of_the_metadata_leader_in_any_state(tmp_path: Path) -> None:
    with EtcdCluster(3) as etcd:
        url = f"etcd://{etcd.address}/moves"
        options = ClusterOptions(
            tmp_path / "data", 2, autopilot="off", metadata=url, node_settings=PATIENT
        )
        async with running(options) as cluster:
            away = Away(etcd, lambda: leader_of(etcd))
            await kill_in_each_state(tmp_path, cluster, Moves(cluster, url), away, "metadata")
