"""Containers that are killed, paused, cut off; the etcd leader stops."""

import asyncio
import time

from logstore.node.config import NodeConfig
from tests.cluster.cluster import NotConverged, eventually
from tests.compose.conftest import Run, Running
from tests.compose.figures import longest_gap_ms
from tests.compose.stack import Stack

KILLS = 3
STUCK_S = 30.0
"""No machine is so busy: what takes longer waits for something that does not come."""
HELD_S = 3 * NodeConfig.model_fields["lease_s"].default


async def next_acks(run: Run, shards: list[str], since_s: float) -> list[float]:
    """Seconds until each shard acked an append that was called after the moment."""
    acks = run.load.acks
    return [await acks[s].first_after(since_s, STUCK_S) - since_s for s in shards]


def seconds_text(seconds: list[float]) -> str:
    return ", ".join(f"{s:.2f} s" for s in sorted(seconds))


async def test_killed_containers(stack: Stack, running: Running) -> None:
    samples: list[float] = []
    async with running("killed") as run:
        for _ in range(KILLS):
            victim, shards = await stack.most_loaded("killed")
            run.load.recorder.fault(f"kill {victim}, which led {shards}")
            await stack.kill(victim)
            samples += await next_acks(run, shards, await stack.ended_s(victim))
            await stack.start(victim)
            await stack.whole()
            await stack.converge("killed")
    print(
        f"\nfail-over in containers: {KILLS} kills, {len(samples)} shards: from the end of the "
        f"container to the next acked append {seconds_text(samples)}"
    )


async def test_paused_container(stack: Stack, running: Running) -> None:
    """It wakes up as a deposed primary and must not ack."""
    async with running("paused") as run:
        victim, shards = await stack.most_loaded("paused")
        run.load.recorder.fault(f"pause {victim}, which led {shards}")
        await stack.pause(victim)
        paused_s = time.monotonic()
        took = await next_acks(run, shards, paused_s)
        print(f"\npaused: next acks {seconds_text(took)} after the pause had begun")
        await asyncio.sleep(max(0.0, paused_s + HELD_S - time.monotonic()))  # the fault, held
        await stack.unpause(victim)


async def test_disconnected_container(stack: Stack, running: Running) -> None:
    """Cut off from everybody, clients too; then it comes back and learns what it missed."""
    async with running("cut-off") as run:
        victim, shards = await stack.most_loaded("cut-off")
        run.load.recorder.fault(f"disconnect {victim}, which led {shards}")
        await stack.disconnect(victim)
        took = await next_acks(run, shards, time.monotonic())
        print(f"\ncut off: next acks {seconds_text(took)} after the cut")
        await stack.connect(victim)


async def test_stopped_etcd_leader(stack: Stack, running: Running) -> None:
    """Appends do not notice; a primary that dies meanwhile is followed as ever."""
    async with running("etcd-leader") as run:
        leader = await stack.etcd_leader()
        run.load.recorder.fault(f"stop {leader}")
        asked_s = time.monotonic()
        await stack.stop(leader)

        async def another() -> str:
            found = await stack.etcd_leader()
            if found == leader:
                raise NotConverged(f"{leader} still leads")
            return found

        await eventually(another, STUCK_S)
        await next_acks(run, sorted(run.load.acks), time.monotonic())
        gaps_ms = [longest_gap_ms(acks, asked_s) for acks in run.load.acks.values()]
        victim, shards = await stack.most_loaded("etcd-leader")
        run.load.recorder.fault(f"kill {victim}, which led {shards}")
        await stack.kill(victim)
        after = await next_acks(run, shards, await stack.ended_s(victim))
        print(
            f"\netcd's leader stopped: longest time between two acks of a shard "
            f"{max(gaps_ms):.0f} ms; a primary killed then: next acks after {seconds_text(after)}"
        )
