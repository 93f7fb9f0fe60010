"""Real processes: a cluster comes up, survives kill -9, goes on with its data, refuses twice."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.local.cluster import ClusterOptions, local_cluster
from coordinator.local.process import FIRST_STARTS_MAX, Supervised, listen_flag
from logstore.base.errors import (
    AddressInUseError,
    ConfigError,
    DirectoryInUseError,
    UnavailableError,
)
from logstore.client.client import Client, connect
from logstore.meta.records import CapacityRecord


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def values(db: Client, log: str) -> list[bytes]:
    return [record.value async for record in (await db.log(log)).read()]


async def test_up_kill_down_and_up_again(tmp_path: Path) -> None:
    async with local_cluster(2, data=tmp_path) as cluster:
        pids = cluster.pids
        assert set(pids) == {"coordinator", "instance-1", "instance-2"}
        addresses = cluster.instance_addresses
        async with connect(cluster.addresses) as db:
            log = await db.create_log("orders", shards=2, instances=["instance-1", "instance-2"])
            await log.append(b"a", b"first")

            killed = cluster.kill("instance-1")
            assert killed == pids["instance-1"]
            await log.append(b"a", b"while it restarts")  # the client waits for it
            await cluster.wait_ready()
            assert cluster.restarts["instance-1"] == 1
            assert cluster.pids["instance-1"] != killed
            assert cluster.instance_addresses == addresses

            cluster.kill("coordinator")
            await log.append(b"a", b"without a coordinator")
            await cluster.wait_ready()
            assert cluster.restarts["coordinator"] == 1
        pids = cluster.pids
    assert not any(alive(pid) for pid in pids.values())

    async with local_cluster(2, data=tmp_path) as cluster, connect(cluster.address) as db:
        found = await values(db, "orders")
    assert found == [b"first", b"while it restarts", b"without a coordinator"]
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        "coordinator.log",
        "instance-1.log",
        "instance-2.log",
    }


async def test_a_stated_capacity_is_registered_and_enforced(tmp_path: Path) -> None:
    async with local_cluster(1, data=tmp_path) as cluster, connect(cluster.address) as db:
        log = await db.create_log("l")
        await log.append_many([b"k"] * 5_000, [b"v"] * 5_000)  # nothing is stated yet
        capacity = CapacityRecord(ops_per_s=50.0, bytes_per_s=1e6)
        await cluster.state_capacities([capacity])
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3):  # a second's capacity is saved up, so two seconds are needed
            await log.append_many([b"k"] * 50, [b"v"] * 50)
        assert loop.time() - began > 1.0
        assert len(await values(db, "l")) == 5_150


async def test_a_second_up_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async with local_cluster(1, data=tmp_path) as cluster:
        with pytest.raises(DirectoryInUseError, match=f"{tmp_path} is in use") as refused:
            async with local_cluster(1, data=tmp_path):
                pytest.fail("two clusters hold one directory")
        assert str(os.getpid()) in refused.value.message
        assert all(alive(pid) for pid in cluster.pids.values())


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"port {port} on 127.0.0.1 is in use"):
            async with local_cluster(1, data=tmp_path, port=port):
                pytest.fail("the port was taken")


async def test_a_setting_that_a_process_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threshold is '7'"):
        async with local_cluster(1, data=tmp_path, coordinator_settings={"threshold": 7}):
            pytest.fail("the setting is out of bounds")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"instances": 0}, "instances is 0"), ({"port": 70_000}, "port is 70000")],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterOptions(data=tmp_path, **options)


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli.main", "up", "--port", "0", "--json",
         "--data", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert supervisor.stdout is not None
    said = json.loads(supervisor.stdout.readline())
    pids = list(said["pids"].values())
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    watches = [os.pidfd_open(pid) for pid in pids]
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    for watch in watches:  # readable when the process has ended
        assert select.select([watch], [], [], 10.0)[0]
        os.close(watch)


async def test_a_process_that_never_serves_is_given_up(tmp_path: Path) -> None:
    process = Supervised("broken", "no.such.module", "h:1", listen_flag, {}, tmp_path / "log")
    try:
        with pytest.raises(UnavailableError, match=r"broken does not start: .*No module named"):
            await process.start(30.0)
    finally:
        await process.stop()
    assert process.restarts == FIRST_STARTS_MAX - 1
