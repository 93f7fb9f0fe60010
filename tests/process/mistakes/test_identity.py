"""Mistakes with folders, stores and names: nothing is deleted, mixed up or led twice (note 0008).

Real processes, as `logstore up` runs them. The rules are P9 and P11.
"""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import pytest

import logstore
from coordinator.local.cluster import ClusterOptions, LocalCluster, running
from logstore.base.errors import LogstoreError
from logstore.node.instance.identity import IdentityFile
from tests.support.nodes import LogChoices

pytestmark = pytest.mark.mistakes

VALUES = [b"%d" % n for n in range(200)]
KEYS = [b"k%d" % (n % 10) for n in range(200)]


def options(data: Path, instances: int = 2, replicas: int = 1) -> ClusterOptions:
    return ClusterOptions(data, instances=instances, replicas=replicas, autopilot="off")


async def fill(
    address: str, log: str = "orders", instances: Sequence[str] = (), **options: Unpack[LogChoices]
) -> None:
    async with logstore.connect(address) as db:
        made = await db.create_log(log, instances=instances, **options)
        await made.append_many(KEYS, VALUES)


async def values(address: str, log: str = "orders") -> list[bytes]:
    async with logstore.connect(address) as db:
        return [record.value async for record in (await db.log(log)).read(order="any")]


async def check_whole(address: str, log: str = "orders") -> None:
    assert sorted(await values(address, log)) == sorted(VALUES)


async def refusal(given: ClusterOptions) -> str:
    with pytest.raises(LogstoreError) as refused:
        async with running(given):
            pass
    return refused.value.message


def copies(data: Path) -> dict[str, int]:
    """Folder -> bytes of its tables and logs: what a deleted copy would take away."""
    return {
        folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        for folder in sorted(data.glob("instance-*"))
    }


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a1_the_metadata_is_away(tmp_path: Path, replicas: int) -> None:
    """An empty store is no order to delete; with the folder back all is there."""
    given = options(tmp_path, 3, replicas)
    async with running(given) as cluster:
        await fill(cluster.address)
    away = tmp_path / "away"
    (tmp_path / "coordinator").rename(away)
    before = copies(tmp_path)
    said = await refusal(given)
    known = IdentityFile(tmp_path / "instance-1").load()
    assert known is not None
    assert known.cluster in said
    assert "recover" in said
    assert copies(tmp_path) == before
    assert not (tmp_path / "coordinator" / "store").exists(), "no store of another cluster is made"
    shutil.rmtree(tmp_path / "coordinator", ignore_errors=True)
    away.rename(tmp_path / "coordinator")
    async with running(given) as cluster:
        await check_whole(cluster.address)


async def test_a2_the_metadata_is_older(tmp_path: Path) -> None:
    """A store from before a move and a new log is refused; with the newest one all is there."""
    given = options(tmp_path)
    async with running(given) as cluster:
        await fill(cluster.address, "old", instances=["instance-1"])
    shutil.copytree(tmp_path / "coordinator", tmp_path / "older")
    async with running(given) as cluster:
        await fill(cluster.address, "new", instances=["instance-2"])
        await cli(cluster, "move", "old/0", "instance-2", "--watch")
    (tmp_path / "coordinator").rename(tmp_path / "newest")
    (tmp_path / "older").rename(tmp_path / "coordinator")
    said = await refusal(given)
    assert "older copy" in said
    shutil.rmtree(tmp_path / "coordinator")
    (tmp_path / "newest").rename(tmp_path / "coordinator")
    async with running(given) as cluster:
        await check_whole(cluster.address, "old")
        await check_whole(cluster.address, "new")


async def cli(cluster: LocalCluster, *words: str) -> str:
    """Run a command against the cluster; its standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", *words, "--address", cluster.address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a3_the_metadata_is_lost_while_instances_run(tmp_path: Path) -> None:
    """They serve on, the coordinator makes no other cluster, and a restart deletes nothing."""
    given = options(tmp_path)
    async with running(given) as cluster:
        await fill(cluster.address)
        addresses = ",".join(cluster.instance_addresses.values())
        (tmp_path / "coordinator").rename(tmp_path / "away")
        cluster.kill("coordinator")
        async with logstore.connect(addresses) as db:
            log = await db.log("orders")
            await log.append_many(KEYS, VALUES)
        assert len(await values(addresses)) == 2 * len(VALUES)
    before = copies(tmp_path)
    assert "is expected" in await refusal(given)
    assert copies(tmp_path) == before
    shutil.rmtree(tmp_path / "coordinator", ignore_errors=True)
    (tmp_path / "away").rename(tmp_path / "coordinator")
    async with running(given) as cluster:
        assert len(await values(cluster.address)) == 2 * len(VALUES)


async def test_a4_a_folder_of_another_cluster(tmp_path: Path) -> None:
    """A's instance under B is refused, and both clusters are whole afterwards."""
    for name in "ab":
        async with running(options(tmp_path / name, 1)) as cluster:
            await fill(cluster.address)
    (tmp_path / "b" / "instance-1").rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "a" / "instance-1", tmp_path / "b" / "instance-1")
    said = await refusal(options(tmp_path / "b", 1))
    assert "cluster" in said
    shutil.rmtree(tmp_path / "b" / "instance-1")
    (tmp_path / "kept").rename(tmp_path / "b" / "instance-1")
    for name in "ab":
        async with running(options(tmp_path / name, 1)) as cluster:
            await check_whole(cluster.address)


async def node(metadata: str, instance: str, data: Path, *more: str) -> tuple[int, str]:
    """Run one instance to its end; (status, standard error). It is given 60 s."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "logstore.node.main", "--instance", instance, "--data", str(data),
        "--metadata", metadata, *more,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, err.decode()


async def test_a5_an_instance_of_another_cluster_by_hand(tmp_path: Path) -> None:
    """Refused before anything is written, with the real instance down as well."""
    for name in "ab":
        async with running(options(tmp_path / name, 1)) as cluster:
            await fill(cluster.address)
    before = copies(tmp_path / "a")
    async with running(options(tmp_path / "b", 1)) as cluster:
        cluster.lose("instance-1")
        status, said = await node(cluster.address, "instance-1", tmp_path / "a" / "instance-1")
        assert status == 2
        assert "error: " in said
        assert "belongs to cluster" in said
    assert copies(tmp_path / "a") == before
    for name in "ab":
        async with running(options(tmp_path / name, 1)) as cluster:
            await check_whole(cluster.address)


async def test_a6_a_second_process_and_a_twin(tmp_path: Path) -> None:
    """Who has the name keeps it; a second one, with a twin of its folder too, is refused."""
    given = options(tmp_path, 1)
    async with running(given) as cluster:
        await fill(cluster.address)
        twin = tmp_path / "twin"
        shutil.copytree(tmp_path / "instance-1", twin)
        (empty, empty_said), (twins, twin_said) = await asyncio.gather(
            node(cluster.address, "instance-1", tmp_path / "fresh"),
            node(cluster.address, "instance-1", twin),
        )
        assert (empty, twins) == (2, 2), (empty_said, twin_said)
        assert "run by another process" in empty_said
        assert "run by another process" in twin_said
        assert cluster.restarts["instance-1"] == 0
        await check_whole(cluster.address)


async def test_a6_a_process_whose_name_was_taken_stops(tmp_path: Path) -> None:
    """A process that was stopped beyond its lease, and replaced, serves nothing afterwards."""
    given = options(tmp_path, 1)
    async with running(given) as cluster:
        await fill(cluster.address)
        shutil.copytree(tmp_path / "instance-1", tmp_path / "twin")
        address = cluster.instance_addresses["instance-1"]
        pid = cluster.pids["instance-1"]
        process = cluster._process("instance-1")
        process.kill(signal.SIGSTOP)
        twin = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "logstore.node.main", "--instance", "instance-1",
            "--data", str(tmp_path / "twin"), "--metadata", cluster.address,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert twin.stdout is not None
            async with asyncio.timeout(60):
                assert (await twin.stdout.readline()).startswith(b"ready ")
            process.kill(signal.SIGCONT)
            async with asyncio.timeout(30):
                while cluster.pids.get("instance-1") == pid:
                    await asyncio.sleep(0.1)
            log = (tmp_path / "logs" / "instance-1.log").read_text()
            assert "another process runs instance instance-1" in log, address
            await check_whole(cluster.address)
        finally:
            twin.terminate()
            await twin.wait()


@pytest.mark.parametrize(
    ("replicas", "log"),
    [
        (1, {"durability": "os", "partitioner": "range", "compression": "none"}),
        (1, {"durability": "fsync", "partitioner": "hash", "compression": "lz4"}),
        (3, {"durability": "os", "partitioner": "hash", "compression": "zstd"}),
        (3, {"durability": "fsync", "partitioner": "range", "compression": "none"}),
    ],
)
async def test_a7_yesterdays_folder_of_the_primary(
    tmp_path: Path, replicas: int, log: LogChoices
) -> None:
    """An old folder never leads while a whole copy is there; with one copy the loss is recorded."""
    given = options(tmp_path, max(2, replicas), replicas)
    async with running(given) as cluster:
        await fill(cluster.address, instances=["instance-1"], **log)
    shutil.copytree(tmp_path / "instance-1", tmp_path / "yesterday")
    async with running(given) as cluster, logstore.connect(cluster.address) as db:
        await (await db.log("orders")).append_many(KEYS, VALUES)
    shutil.rmtree(tmp_path / "instance-1")
    (tmp_path / "yesterday").rename(tmp_path / "instance-1")
    async with running(given) as cluster:
        found = await values(cluster.address)
        (shard,) = json.loads(await cli(cluster, "shards", "orders", "--json"))
        if replicas > 1:
            assert len(found) == 2 * len(VALUES)
        else:
            assert len(found) == len(VALUES)
            assert shard["possible_loss"], "an old copy leads only with a told loss"


async def test_an_empty_folder_under_a_name_with_copies(tmp_path: Path) -> None:
    """A disk that is not mounted is refused; with --replace its copies are built again."""
    given = options(tmp_path, 3, 3)
    async with running(given) as cluster:
        await fill(cluster.address)
    (tmp_path / "instance-2").rename(tmp_path / "unmounted")
    said = await refusal(given)
    assert "--replace" in said
    shutil.rmtree(tmp_path / "instance-2", ignore_errors=True)
    replaced = ClusterOptions(
        tmp_path, instances=3, replicas=3, autopilot="off", node_settings={"replace": True}
    )
    async with running(replaced) as cluster:
        await check_whole(cluster.address)
