"""`logstore recover` on a cluster whose metadata was lost: all acked records are back, told what is
not. Real processes, embedded metadata and a real etcd, one copy and three."""

import asyncio
import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import logstore
from bench.services.etcd import etcd
from coordinator.local.cluster import ClusterOptions, running
from logstore.base.errors import LogstoreError
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.port import Delete

pytestmark = pytest.mark.mistakes
KEYS = [b"k%d" % (n % 20) for n in range(400)]
VALUES = [b"%d" % n for n in range(400)]


async def recover(*words: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", "recover", *words, "--yes", "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    answer: dict[str, Any] = json.loads(out)
    return answer


async def fill(address: str) -> None:
    async with logstore.connect(address) as db:
        for log, more in (("orders", {"shards": 3, "partitioner": "hash"}), ("audit", {})):
            made = await db.create_log(log, **more)  # type: ignore[arg-type]
            await made.append_many(KEYS, VALUES)


async def check_whole(address: str) -> None:
    """Every record is back, and the logs go on: appends are taken and nothing is doubled."""
    async with logstore.connect(address) as db:
        assert await db.list_logs() == ["audit", "orders"]
        for name in ("orders", "audit"):
            log = await db.log(name)
            await log.append(b"new", b"after")
            found = [r.value async for r in log.read(order="any")]
            assert sorted(found) == sorted([*VALUES, b"after"])


async def empty(url: str) -> None:
    """A person wiped the namespace."""
    store = EtcdMetadataStore(EtcdTarget.of(url))
    keys = [item.key for item in (await store.range("/")).items]
    for at in range(0, len(keys), 100):
        await store.txn([], [Delete(key) for key in keys[at : at + 100]])
    await store.close()


@pytest.mark.parametrize("where", ["embedded", "etcd"])
@pytest.mark.parametrize("replicas", [1, 3])
async def test_lost_metadata_is_rebuilt_from_the_copies(
    tmp_path: Path, replicas: int, where: str
) -> None:
    data = tmp_path / "data"
    with ExitStack() as stack:
        options = ClusterOptions(data, instances=3, replicas=replicas, autopilot="off")
        if where == "etcd":
            url = f"etcd://{stack.enter_context(etcd()).address}/lost"
            options = replace(options, metadata=url)
        async with running(options) as cluster:
            await fill(cluster.address)
        if options.metadata is not None:
            await empty(options.metadata)
        else:
            shutil.rmtree(data / "coordinator")
        with pytest.raises(LogstoreError, match="recover"):
            async with running(options):
                pass
        if options.metadata is not None:
            answer = await recover("--data", str(data), "--metadata", options.metadata)
        else:
            answer = await recover("--data", str(data))
        assert not [t for t in answer["told"] if t["kind"] in ("lost", "possible")], answer
        async with running(options) as cluster:
            await check_whole(cluster.address)
