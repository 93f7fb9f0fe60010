"""`--metadata etcd://…`: two coordinators and an instance; the leader dies (tests/cells: more)."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import logstore
from bench.services.paths import free_ports
from coordinator.cells.assignment import LOG_WIDE, owners
from logstore.base.errors import LogstoreError
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.port import WatchEvent
from logstore.meta.records import cell_leader_key, decode_leader
from tests.support.services import etcd_target

READY_S = 30.0
FOLLOWED_S_MAX = 15.0
"""The budget is 5 s; a test machine may be busy. docs/design/0002-metadata.md has the figures."""


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
    if owners([LOG_WIDE], addresses)[LOG_WIDE] != addresses[0]:  # the first one leads
        ports, addresses = ports[::-1], addresses[::-1]

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
        async with logstore.connect(",".join(addresses)) as db:
            log = await created(db, "before")
            await log.append(b"k", b"before")
        async with process(*coordinator(1)) as second, logstore.connect(addresses[1]) as db:
            assert await ready(second) == addresses[1]
            log = await db.log("before")
            fence = await store.get(cell_leader_key("0"))
            assert fence is not None
            assert decode_leader(fence.value).address == addresses[0]
            first.kill()
            await log.append(b"k", b"meanwhile")  # instances need no coordinator to serve
            gone = await changed(store, cell_leader_key("0"), fence.revision, FOLLOWED_S_MAX)
            assert gone.value is None
            followed = await changed(store, cell_leader_key("0"), gone.revision)
            assert decode_leader(followed.value or b"").address == addresses[1]
            await created(db, "after")
            await log.append(b"k", b"after")
            values = [record.value async for record in log.read(key=b"k")]
            assert values == [b"before", b"meanwhile", b"after"]
            second.terminate()
            assert await asyncio.wait_for(second.wait(), READY_S) == 0
    assert await store.get(cell_leader_key("0")) is None  # it resigned
    await store.close()


async def changed(
    store: EtcdMetadataStore, key: str, after_revision: int, within_s: float = READY_S
) -> WatchEvent:
    """The first change of `key` above a revision, now or soon."""
    watch = store.watch(key, after_revision)
    (event,) = await asyncio.wait_for(anext(watch), within_s)
    return event


async def created(db: "logstore.Client", name: str) -> "logstore.Log":
    """A log, as soon as a coordinator leads that has heard of the instance."""
    async with asyncio.timeout(READY_S):
        while True:
            try:
                return await db.create_log(name, partitioner="range", shards=2)
            except LogstoreError:
                await asyncio.sleep(0.05)
