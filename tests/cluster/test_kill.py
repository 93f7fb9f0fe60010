"""Processes that die, freeze or are restarted: primaries, coordinators, members, all at once."""

import asyncio
import time

from logstore.node.config import NodeConfig
from tests.cluster.cluster import COORDINATORS, ETCD, INSTANCES, Cluster, NotConverged, eventually
from tests.cluster.conftest import Running
from tests.support.checkers.history import Outcome

KILLS = 20
FAILOVER_LIMIT_S = 3.0
"""B12: from kill -9 of a primary to the next acked append, p99. A budget: told, as it hangs on how
busy the machine is."""
STUCK_S = 2 * FAILOVER_LIMIT_S
"""No machine is so busy: a fail-over that takes longer waits for something that does not come."""
LEASE_S = NodeConfig.model_fields["lease_s"].default
CELL_LIMIT_S = 5.0
"""A dead leader's cell moves within it."""
FLAPS = 5


def share_of(samples: list[float], share: float) -> float:
    """The smallest sample that is not below this share of them."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def test_killed_primaries(cluster: Cluster, running: Running) -> None:
    """B12 over twenty kills; every shard that the victim led is a sample."""
    samples: list[float] = []
    async with running("killed-primaries") as run:
        for _ in range(KILLS):
            victim, shards = await cluster.most_loaded(run.load.log)
            killed_s = time.monotonic()
            await cluster.parties[victim].kill()
            run.load.recorder.fault(f"kill {victim}, which led {shards}")
            for shard in shards:
                acked_s = await run.load.acks[shard].first_after(killed_s, 30.0)
                samples.append(acked_s - killed_s)
            await cluster.parties[victim].start()
            await cluster.converge(run.load.log)
    p50, p99, most = (share_of(samples, s) for s in (0.5, 0.99, 1.0))
    print(
        f"B12: {KILLS} kills, {len(samples)} shards: kill to next acked append "
        f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s; budget {FAILOVER_LIMIT_S:g} s: "
        f"{'pass' if p99 <= FAILOVER_LIMIT_S else 'short'}"
    )
    assert len(samples) >= KILLS
    assert p99 <= STUCK_S, samples


async def test_frozen_primary(cluster: Cluster, running: Running) -> None:
    """SIGSTOP for twice the lease: it wakes up as a deposed primary and must not ack."""
    async with running("frozen-primary") as run:
        victim, shards = await cluster.most_loaded(run.load.log)
        run.load.recorder.fault(f"freeze {victim}, which led {shards}")
        cluster.parties[victim].freeze()
        await asyncio.sleep(2 * LEASE_S)  # the fault itself, held for a time

        async def followed() -> None:
            for shard, record in (await cluster.shards(run.load.log)).items():
                if record.primary.instance == victim:
                    raise NotConverged(f"{shard} is still led by {victim}")

        await eventually(followed, 10.0)
        cluster.parties[victim].thaw()
        run.load.recorder.fault(f"thaw {victim}")


async def test_killed_follower(cluster: Cluster, running: Running) -> None:
    """One that leads nothing, or least, dies: the others go on at once or after its removal."""
    async with running("killed-follower") as run:
        led = await cluster.led_by(run.load.log)
        victim = min(led, key=lambda i: len(led[i]))
        killed_s = time.monotonic()
        await cluster.parties[victim].kill()
        for shard, acks in run.load.acks.items():
            if shard not in led[victim]:
                acked_s = await acks.first_after(killed_s, 30.0)
                assert acked_s - killed_s <= FAILOVER_LIMIT_S


async def test_killed_coordinator(cluster: Cluster, running: Running) -> None:
    """The one that leads dies: its cell has another leader within five seconds."""
    async with running("killed-coordinator"):
        victim = await cluster.leading_coordinator()
        killed_s = time.monotonic()
        await cluster.parties[victim].kill()

        async def moved() -> float:
            leaders = await cluster.leaders()
            if not leaders or any(r.address == cluster.address(victim) for r in leaders.values()):
                raise NotConverged("the dead one's cells have no other leader")
            return time.monotonic()

        took_s = await eventually(moved, 20.0) - killed_s
        print(f"killed coordinator: another leads after {took_s:.2f} s")
        assert took_s <= CELL_LIMIT_S


async def test_killed_etcd_leader(cluster: Cluster, running: Running) -> None:
    """And a primary right after it, so that a take-over meets the election."""
    async with running("killed-etcd-leader") as run:
        await cluster.parties[await cluster.leading_member()].kill()
        victim, shards = await eventually(lambda: cluster.most_loaded(run.load.log))
        killed_s = time.monotonic()
        await cluster.parties[victim].kill()
        for shard in shards:
            acked_s = await run.load.acks[shard].first_after(killed_s, 30.0)
            print(f"killed etcd leader and primary: {shard} acks after {acked_s - killed_s:.2f} s")


async def test_restart_of_all_at_once(cluster: Cluster, running: Running) -> None:
    """kill -9 of every process within the same moment, then all start again."""
    async with running("restart-all") as run:
        run.load.recorder.fault("kill all")
        await asyncio.gather(*(party.kill() for party in cluster.parties.values()))
        await cluster.start_all()


async def test_rolling_restart(cluster: Cluster, running: Running) -> None:
    """Every process in its turn, in order (SIGTERM): no call fails, retries included."""
    async with running("rolling-restart") as run:
        for name in (*INSTANCES, *COORDINATORS, *ETCD):
            run.load.recorder.fault(f"restart {name}")
            await cluster.parties[name].stop()
            await cluster.parties[name].start()
            await cluster.whole()
            await cluster.converge(run.load.log)
    assert run.story is not None
    counts = run.load.counts
    failed = [
        call
        for call in run.story.appends
        if call.outcome is not Outcome.ACKED and call.value not in run.story.conflicts
    ]
    assert not failed, [e.error for e in run.story.errors if e.result != "conflict"][:5]
    assert (counts.failed, counts.held_back) == (0, 0)


async def test_flapping_instance(cluster: Cluster, running: Running) -> None:
    """It dies again as soon as it serves, several times; the others must not be drawn in."""
    async with running("flapping") as run:
        victim, _ = await cluster.most_loaded(run.load.log)
        party = cluster.parties[victim]
        for _ in range(FLAPS):
            await party.kill()
            await party.start()
            async with asyncio.timeout(30):
                await party.ready.wait()
        flapped_s = time.monotonic()
        for acks in run.load.acks.values():
            await acks.first_after(flapped_s, 30.0)
