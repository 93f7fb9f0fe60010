"""Each rule of deploy/prometheus/alerts.yml fires once, in a real Prometheus, by its condition.

The rules are the shipped ones; only LogstoreMoveStuck's ten minutes are ten seconds here
(`tests.compose.__main__`). The cluster is healed after each condition.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from logstore.base.errors import LogstoreError
from logstore.client.client import Client, connect
from tests.cluster.cluster import NotConverged, eventually
from tests.compose import cli
from tests.compose.__main__ import ALERTS, SMALL_DISK, rules_for_the_test
from tests.compose.docker import command
from tests.compose.stack import Stack, fetch

pytestmark = pytest.mark.alerts

LOG = "alerts"
FIRES_S = 120.0
FIRED: set[str] = set()
SHARDS = 6


@contextlib.asynccontextmanager
async def appends(stack: Stack, log: str, *, records: int, pause_s: float) -> AsyncIterator[None]:
    """Batches go on being appended to all shards of the log; what fails is of no interest here."""

    async def work(client: Client) -> None:
        keys = [b"%c-%d" % (1 + n * 251 // records, n) for n in range(records)]
        while True:
            with contextlib.suppress(TimeoutError, LogstoreError):
                async with asyncio.timeout(10):
                    await (await client.log(log)).append_many(keys, [b"v" * 64] * records)
            await asyncio.sleep(pause_s)

    async with connect(stack.addresses, timeout_s=5.0) as client:
        task = asyncio.create_task(work(client))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def firing() -> dict[str, str]:
    """Alert -> what it says."""
    found = json.loads(await fetch("prometheus", 9090, "/api/v1/alerts"))
    return {
        a["labels"]["alertname"]: a["annotations"]["summary"]
        for a in found["data"]["alerts"] if a["state"] == "firing"
    }  # fmt: skip


async def expect(*names: str, since_s: float) -> None:
    """Wait until each fires."""
    for name in names:

        async def look(wanted: str = name) -> str:
            found = await firing()
            if wanted not in found:
                raise NotConverged(f"{wanted} does not fire; these do: {sorted(found)}")
            return found[wanted]

        text = await eventually(look, FIRES_S)
        FIRED.add(name)
        print(f"\n{name} fires after {time.monotonic() - since_s:.0f} s: {text}", flush=True)


async def calm(*names: str) -> None:
    """Wait until none of these fires."""

    async def look() -> None:
        still = set(names) & (await firing()).keys()
        if still:
            raise NotConverged(f"still firing: {sorted(still)}")

    await eventually(look, FIRES_S)


def fill(file: Path) -> None:
    """Take what is left of its disk."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(64 * 1024))


@pytest.fixture
async def log(stack: Stack) -> AsyncIterator[str]:
    async with connect(stack.addresses) as client:
        await client.create_log(LOG, shards=SHARDS, replicas=3, min_in_sync=2)
    await stack.converge(LOG)
    yield LOG
    async with connect(stack.addresses) as client:
        await client.delete_log(LOG)


def test_promtool_accepts_rules_and_configuration() -> None:
    answer = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rules = len(re.findall("- alert:", ALERTS.read_text()))
    assert f"SUCCESS: {rules} rules found" in answer.stdout
    changed = [
        (a, b)
        for a, b in zip(ALERTS.read_text().splitlines(), rules_for_the_test().splitlines(),
                        strict=True) if a != b
    ]  # fmt: skip
    assert len(changed) == 1
    assert (changed[0][0].split()[-1], changed[0][1].split()[-1]) == ("600", "10")


async def test_nothing_fires_on_a_whole_cluster(stack: Stack, log: str) -> None:
    async with appends(stack, log, records=20, pause_s=0.2):
        await asyncio.sleep(30)  # longer than any rule waits
        assert await firing() == {}


async def test_three_of_five_instances_die(stack: Stack, log: str) -> None:
    async with appends(stack, log, records=200, pause_s=0.05):
        began_s = time.monotonic()
        for victim in ("i1", "i2", "i3"):
            await stack.kill(victim)
        await expect("LogstoreProcessDown", "LogstoreInstanceAway", "LogstoreCommitStalled",
                     "LogstoreUnderReplicated", since_s=began_s)  # fmt: skip
        await stack.heal()
        await stack.whole()
    await stack.converge(LOG)
    began_s = time.monotonic()
    for _ in range(3):
        await stack.compose.docker("restart", await stack.compose.container("i1"))
        await stack.whole()
        await asyncio.sleep(6)  # each life is seen by one scrape
    await expect("LogstoreRestarting", since_s=began_s)


async def test_etcd_loses_its_quorum(stack: Stack, log: str) -> None:
    async with appends(stack, log, records=20, pause_s=0.2):
        began_s = time.monotonic()
        for victim in ("e1", "e2"):
            await stack.kill(victim)
        await expect("EtcdWithoutQuorum", "LogstoreCellWithoutLeader", since_s=began_s)
        await stack.heal()
        await stack.whole()
    await calm("EtcdWithoutQuorum", "LogstoreCellWithoutLeader")


async def test_kafka_is_away(stack: Stack) -> None:
    began_s = time.monotonic()
    await stack.kill("kafka")
    await expect("KafkaAway", since_s=began_s)
    await stack.start("kafka")
    await calm("KafkaAway")


async def test_an_instance_at_its_capacity(stack: Stack, log: str) -> None:
    """3,000 records a second are admitted here; far more are sent."""
    began_s = time.monotonic()
    async with appends(stack, log, records=12_000, pause_s=0.0):
        await expect("LogstoreThrottled", "LogstoreSaturated", since_s=began_s)


async def test_a_full_disk(stack: Stack) -> None:
    """i5's disk is a small one here. A log with one copy there has nowhere else to go."""
    async with connect(stack.addresses) as client:
        await client.create_log("single", shards=10, replicas=1)
    shards = await stack.shards("single")
    assert {r.primary.instance for r in shards.values()} >= {"i5"}
    began_s = time.monotonic()
    async with appends(stack, "single", records=200, pause_s=0.05):
        await asyncio.to_thread(fill, SMALL_DISK / "ballast")
        await expect("LogstoreDiskFilling", "LogstoreErrors", since_s=began_s)
    (SMALL_DISK / "ballast").unlink()
    await stack.whole()
    await calm("LogstoreDiskFilling", "LogstoreErrors")


async def test_a_lost_disk(stack: Stack) -> None:
    """The only copy of a shard is gone: it must not come back empty."""
    began_s = time.monotonic()
    await stack.stop("i5")
    await asyncio.to_thread(command, "find", str(SMALL_DISK), "-mindepth", "1", "-delete")
    await stack.start("i5")
    await expect("LogstoreBrokenCopies", since_s=began_s)
    async with connect(stack.addresses) as client:
        await client.delete_log("single")
    await calm("LogstoreBrokenCopies")


async def test_a_move_that_is_stuck_and_goes_back(stack: Stack, log: str) -> None:
    async with appends(stack, log, records=200, pause_s=0.05):
        record = (await stack.shards(log))[f"{log}/0"]
        target = next(i for i in stack.instances if record.member_on(i) is None)
        began_s = time.monotonic()
        move = await cli.logstore(
            stack.addresses, "move", f"{log}/0", target, "--strategy", "shadow",
            "--option", "throttle_bytes_per_s=2000",
        )  # fmt: skip
        await cli.logstore(stack.addresses, "pause", move["id"])
        await expect("LogstoreMoveStuck", since_s=began_s)
        await cli.logstore(stack.addresses, "resume", move["id"])
        await cli.logstore(stack.addresses, "rollback", move["id"])
        await expect("LogstoreMoveRolledBack", since_s=began_s)

    async def free() -> None:
        if (await stack.shards(log))[f"{log}/0"].migration is not None:
            raise NotConverged("the move has not ended")

    await eventually(free)


def test_every_rule_fired() -> None:
    rules = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    assert rules == FIRED
