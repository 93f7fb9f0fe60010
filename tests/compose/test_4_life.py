"""Restarts, growing and shrinking, everything stopped and started."""

import asyncio
import time

from logstore.meta.records import SHARDS, decode_shard
from tests.cluster.cluster import NotConverged, eventually
from tests.compose import cli
from tests.compose.conftest import Run, Running
from tests.compose.stack import COORDINATORS, ETCD, Stack
from tests.support.checkers.history import Outcome


def check_no_call_failed(run: Run) -> None:
    """Conflicts of appenders that contend are answers; nothing else but acks."""
    assert run.story is not None
    failed = [
        call for call in run.story.appends
        if call.outcome is not Outcome.ACKED and call.value not in run.story.conflicts
    ]  # fmt: skip
    assert not failed, [e.error for e in run.story.errors if e.result != "conflict"][:5]
    assert (run.load.counts.failed, run.load.counts.held_back) == (0, 0)


async def test_rolling_restart(stack: Stack, running: Running) -> None:
    """Each container in its turn by SIGTERM, as an upgrade does it: no call fails."""
    stopped: list[float] = []
    async with running("rolling") as run:
        for party in (*stack.instances, *COORDINATORS, *ETCD, "kafka"):
            run.load.recorder.fault(f"restart {party}")
            took_s = await stack.stop(party)
            if party in stack.instances:
                stopped.append(took_s)
            await stack.start(party)
            await stack.whole()
            await stack.converge("rolling")
    check_no_call_failed(run)
    slowest_s = max(r - c for acks in run.load.acks.values() for c, r in acks.times)
    print(
        f"\nrolling restart: an instance stops in {min(stopped):.1f}-{max(stopped):.1f} s, the "
        f"slowest append of all took {slowest_s:.2f} s, none failed"
    )


async def test_grow_and_shrink(stack: Stack, running: Running) -> None:
    """Five instances, then six; one of the old ones is emptied; no call fails."""
    async with running("grown") as run:
        began_s = time.monotonic()
        await stack.compose.run("--profile", "grow", "up", "-d", "--no-build", "i6")
        stack.instances.append("i6")
        await stack.whole()
        print(f"\ni6 serves after {time.monotonic() - began_s:.1f} s")
        victim, _ = await stack.most_loaded("grown")
        run.load.recorder.fault(f"drain {victim}")
        drained_s = time.monotonic()
        answer = await cli.logstore(stack.addresses, "drain", victim, "--wait")
        assert answer["left"] == 0, answer

        async def empty() -> None:
            held = [
                r.shard
                for r in (decode_shard(i.value) for i in (await stack.store.range(SHARDS)).items)
                if r.member_on(victim) is not None
            ]
            if held:
                raise NotConverged(f"{victim} still holds {held}")

        await eventually(empty)
        print(f"{victim} is empty after {time.monotonic() - drained_s:.1f} s")
        await cli.logstore(stack.addresses, "drain", victim, "--cancel")
    check_no_call_failed(run)


async def test_full_stop_and_start(stack: Stack, running: Running) -> None:
    """Everything ends by SIGTERM within its grace period, and all data is there afterwards."""
    async with running("full-stop") as run:
        run.load.recorder.fault("stop all")
        began_s = time.monotonic()
        await stack.compose.run("--profile", "grow", "stop")
        took_s = time.monotonic() - began_s
        for party in (*COORDINATORS, *stack.instances):
            answer = (await stack.compose.inspect(party))["State"]
            assert (answer["Running"], answer["ExitCode"]) == (False, 0), (party, answer)
        began_s = time.monotonic()
        await stack.compose.run("--profile", "grow", "up", "-d", "--no-build")
        await stack.whole()
        up_s = time.monotonic() - began_s
        acked = [acks.first_after(began_s, 60.0) for acks in run.load.acks.values()]
        served_s = max(await asyncio.gather(*acked)) - began_s
        print(
            f"\nfull stop in {took_s:.1f} s, all serve {up_s:.1f} s after the start, every shard "
            f"acks after {served_s:.1f} s"
        )
