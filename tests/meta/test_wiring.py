"""`--metadata etcd://…`: two coordinators and an instance; the leader dies, or freezes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import logstore
from bench.services.paths import free_ports
from coordinator.leading import LOST
from logstore.base.errors import LogstoreError
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.port import WatchEvent
from logstore.meta.records import cell_leader_key, decode_leader
from tests.meta.conftest import etcd_target

pytestmark = pytest.mark.process
READY_S = 30.0
FOLLOWED_S_MAX = 15.0
"""The budget is 5 s; a test machine may be busy. docs/design/0002-metadata.md tells the figures."""


@asynccontextmanager
async def process(module: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m module flags`; killed at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *flags, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(started: asyncio.subprocess.Process, within_s: float = READY_S) -> str:
    """The address of its line `ready ADDRESS`."""
    assert started.stdout is not None
    line = await asyncio.wait_for(started.stdout.readline(), within_s)
    word, address = line.decode().split()
    assert word == "ready"
    return address


async def test_a_standby_follows_a_killed_leader(etcd_address: str, tmp_path: Path) -> None:
    target = etcd_target(etcd_address)
    url = f"etcd://{etcd_address}{target.namespace}"
    store = EtcdMetadataStore(target)
    ports = free_ports(2)
    addresses = [f"127.0.0.1:{port}" for port in ports]

    def coordinator(index: int) -> tuple[str, ...]:
        data = str(tmp_path / f"coordinator-{index}")
        return (
            "coordinator.main", "--data", data, "--port", str(ports[index]), "--metadata", url,
            "--report-interval-s", "0.2",
        )  # fmt: skip

    node = (
        "logstore.node.main", "--instance", "a", "--data", str(tmp_path / "a"), "--metadata", url,
        "--coordinators", *addresses, "--report-interval-s", "0.2",
    )  # fmt: skip
    async with process(*coordinator(0)) as first, process(*node) as instance:
        assert await ready(first) == addresses[0]
        await ready(instance)
        async with (
            process(*coordinator(1)) as second,
            logstore.connect(",".join(addresses)) as db,
        ):
            log = await created(db, "before")
            await log.append(b"k", b"before")
            fence = await store.get(cell_leader_key("0"))
            assert fence is not None
            assert decode_leader(fence.value).address == addresses[0]
            first.kill()
            await log.append(b"k", b"meanwhile")  # instances need no coordinator to serve
            assert await ready(second, FOLLOWED_S_MAX) == addresses[1]
            followed = await store.get(cell_leader_key("0"))
            assert followed is not None
            assert followed.revision > fence.revision
            await created(db, "after")
            await log.append(b"k", b"after")
            values = [record.value async for record in log.read(key=b"k")]
            assert values == [b"before", b"meanwhile", b"after"]
            second.terminate()
            assert await asyncio.wait_for(second.wait(), READY_S) == 0
    assert await store.get(cell_leader_key("0")) is None  # it resigned
    await store.close()


async def test_a_frozen_leader_goes_on_unless_it_was_followed(
    etcd_address: str, tmp_path: Path
) -> None:
    target = etcd_target(etcd_address)
    url = f"etcd://{etcd_address}{target.namespace}"
    store = EtcdMetadataStore(target)
    key = cell_leader_key("0")
    before = (await store.range(key)).revision

    def coordinator(name: str) -> tuple[str, ...]:
        return (
            "coordinator.main",
            "--data",
            str(tmp_path / name),
            "--port",
            "0",
            "--metadata",
            url,
        )

    async with process(*coordinator("first")) as first:
        await ready(first)
        led = await changed(store, key, before)
        first.send_signal(signal.SIGSTOP)
        gone = await changed(store, key, led.revision)
        assert gone.value is None  # its lease ended
        first.send_signal(signal.SIGCONT)
        again = await changed(store, key, gone.revision)
        assert again.value is not None
        assert decode_leader(again.value).candidate == decode_leader(led.value or b"").candidate
        async with process(*coordinator("second")) as second:
            first.send_signal(signal.SIGSTOP)
            await ready(second, FOLLOWED_S_MAX)
            first.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(first.wait(), READY_S) == LOST
            found = await store.get(key)
            assert found is not None
            assert decode_leader(found.value).candidate != decode_leader(led.value or b"").candidate
    await store.close()


async def changed(store: EtcdMetadataStore, key: str, after_revision: int) -> WatchEvent:
    """The first change of `key` above a revision, now or soon."""
    watch = store.watch(key, after_revision)
    (event,) = await asyncio.wait_for(anext(watch), READY_S)
    return event


async def created(db: "logstore.Client", name: str) -> "logstore.Log":
    """A log, as soon as a coordinator leads that has heard of the instance."""
    async with asyncio.timeout(READY_S):
        while True:
            try:
                return await db.create_log(name, partitioner="range", shards=2)
            except LogstoreError:
                await asyncio.sleep(0.05)
