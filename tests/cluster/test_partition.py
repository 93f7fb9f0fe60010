"""Networks that fail: each pair of parties, both ways and one way; loss of packets."""

import asyncio
import time

import pytest

from tests.cluster.cluster import COORDINATORS, ETCD, INSTANCES, Cluster
from tests.cluster.conftest import Running
from tests.cluster.network import Pair

HELD_S = 4.0
"""Longer than any time-out of the failure detection (grace 2 s, lease of a cell 3 s)."""
LOSS = 0.2
LOSS_HELD_S = 10.0
ONE_SHARD_LIMIT_S = 20.0


async def others_go_on(cluster: Cluster, running: Running, name: str, pair: Pair) -> None:
    """The partition is held, then all is judged; writes must go on in every shard meanwhile or
    right after it, which `running` waits for."""
    async with running(name) as run:
        run.load.recorder.fault(f"cut {pair}")
        await cluster.network.cut(pair)
        await asyncio.sleep(HELD_S)  # the fault itself, held for a time
        run.load.recorder.fault("healed")


@pytest.mark.parametrize("way", ["both", "in", "out"])
async def test_two_instances(cluster: Cluster, running: Running, way: str) -> None:
    """`in`: the first does not hear the second; `out`: the second does not hear the first."""
    name = f"instance-instance-{way}"
    sides = ("i1",), ("i2",)
    here, there = sides if way != "out" else sides[::-1]
    await others_go_on(cluster, running, name, Pair(here, there, one_way=way != "both"))


@pytest.mark.parametrize("way", ["both", "in", "out"])
async def test_an_instance_and_the_coordinators(
    cluster: Cluster, running: Running, way: str
) -> None:
    name = f"instance-coordinator-{way}"
    sides = ("i1",), COORDINATORS
    here, there = sides if way != "out" else sides[::-1]
    await others_go_on(cluster, running, name, Pair(here, there, one_way=way != "both"))


@pytest.mark.parametrize("way", ["both", "in", "out"])
async def test_an_instance_and_etcd(cluster: Cluster, running: Running, way: str) -> None:
    name = f"instance-etcd-{way}"
    sides = ("i1",), ETCD
    here, there = sides if way != "out" else sides[::-1]
    await others_go_on(cluster, running, name, Pair(here, there, one_way=way != "both"))


@pytest.mark.parametrize("way", ["both", "in", "out"])
async def test_a_leading_coordinator_and_etcd(cluster: Cluster, running: Running, way: str) -> None:
    sides = (await cluster.leading_coordinator(),), ETCD
    here, there = sides if way != "out" else sides[::-1]
    name = f"coordinator-etcd-{way}"
    await others_go_on(cluster, running, name, Pair(here, there, one_way=way != "both"))


async def test_a_primary_alone(cluster: Cluster, running: Running) -> None:
    """Cut off from its peers, etcd and the coordinators, not from its clients: it must not ack,
    and another one takes over while the partition lasts."""
    async with running("primary-alone") as run:
        victim, shards = await cluster.most_loaded(run.load.log)
        rest = tuple(p for p in (*ETCD, *COORDINATORS, *INSTANCES) if p != victim)
        run.load.recorder.fault(f"cut {victim}, which led {shards}, from all but clients")
        cut_s = time.monotonic()
        await cluster.network.cut(Pair((victim,), rest))
        for shard in shards:
            acked_s = await run.load.acks[shard].first_after(cut_s + 1.0, ONE_SHARD_LIMIT_S)
            print(f"primary alone: {shard} acks again after {acked_s - cut_s:.1f} s")
        for record in (await cluster.shards(run.load.log)).values():
            assert record.primary.instance != victim


async def test_lost_packets(cluster: Cluster, running: Running) -> None:
    """Every fifth packet to each party is lost."""
    async with running("lost-packets") as run:
        run.load.recorder.fault(f"lose {LOSS:.0%} of all packets")
        before = run.load.counts.acked
        await cluster.network.lose((*ETCD, *COORDINATORS, *INSTANCES), LOSS)
        await asyncio.sleep(LOSS_HELD_S)  # the fault itself, held for a time
        print(f"lost packets: {run.load.counts.acked - before} acked in {LOSS_HELD_S:g} s")
