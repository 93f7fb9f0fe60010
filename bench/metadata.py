"""`python -m bench metadata`: transactions, watches and failover of each metadata store."""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from bench.services.etcd import EtcdCluster
from coordinator.catalog.metadata_service import MetadataService
from logstore.base.env import Env
from logstore.base.errors import UnavailableError
from logstore.meta.election import Election
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.port import Compare, MetadataStore, Put
from logstore.meta.remote import RemoteMetadataStore
from logstore.meta.rocks import RocksMetadataStore
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import add_MetadataServicer_to_server

VALUE = bytes(500)
"""About the size of a shard's record."""
ALONE, TOGETHER, IN_FLIGHT = 300, 3_000, 64
KEY = "/cells/bench/leader"
_CANDIDATE = """
import asyncio, sys
from logstore.base.env import Env
from logstore.meta.election import Election
from logstore.meta.open import open_etcd
async def main():
    await Election(open_etcd(sys.argv[1]), sys.argv[2], "first", Env()).campaign()
    print("leads", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def _swap(store: MetadataStore, key: str, revision: int) -> int:
    result = await store.txn([Compare(key, revision)], [Put(key, VALUE)])
    assert result.succeeded
    return result.revision


async def _figures(store: MetadataStore) -> dict[str, float]:
    """Compare-and-swaps a second with 1 and with 64 in flight; ms until a watch shows a change."""
    revision = 0
    for _ in range(ALONE):  # a store's first second is several times slower
        revision = await _swap(store, "/bench/warm", revision)
    revision = 0
    began = time.perf_counter()
    for _ in range(ALONE):
        revision = await _swap(store, "/bench/alone", revision)
    alone_s = time.perf_counter() - began

    async def worker(key: str) -> None:
        at = 0
        for _ in range(TOGETHER // IN_FLIGHT):
            at = await _swap(store, key, at)

    began = time.perf_counter()
    await asyncio.gather(*(worker(f"/bench/{i}") for i in range(IN_FLIGHT)))
    together_s = time.perf_counter() - began
    seen_ms = []
    watch = store.watch("/bench/alone", revision)
    for _ in range(ALONE):
        began = time.perf_counter()
        swap = asyncio.create_task(_swap(store, "/bench/alone", revision))
        (event,) = await anext(watch)
        seen_ms.append((time.perf_counter() - began) * 1e3)
        revision = event.revision
        await swap
    cuts = statistics.quantiles(seen_ms, n=100)
    return {
        "txn_per_s_1": ALONE / alone_s,
        "txn_per_s_64": (TOGETHER // IN_FLIGHT) * IN_FLIGHT / together_s,
        "watch_p50_ms": cuts[49],
        "watch_p99_ms": cuts[98],
    }


@asynccontextmanager
async def _embedded(folder: Path, *, remote: bool) -> AsyncIterator[MetadataStore]:
    rocks = RocksMetadataStore(folder)
    if not remote:
        yield rocks
        await rocks.close()
        return
    server = make_server()
    add_MetadataServicer_to_server(MetadataService(rocks), server)
    port = listen(server, "127.0.0.1:0")
    await server.start()
    client = RemoteMetadataStore([f"127.0.0.1:{port}"])
    yield client
    await client.close()
    await rocks.close()
    await server.stop(None)


async def _fail_over(cluster: EtcdCluster, url: str, member: int) -> float:
    """Seconds from kill -9 of the member that we talk to until a transaction is done again."""
    store = EtcdMetadataStore(EtcdTarget.of(url))
    await store.txn([], [Put("/bench/f", VALUE)])
    await asyncio.to_thread(cluster.kill_member, member)
    began = time.perf_counter()
    while True:
        try:
            await store.txn([], [Put("/bench/f", VALUE)])
            break
        except UnavailableError:
            await asyncio.sleep(0.01)
    took_s = time.perf_counter() - began
    await store.close()
    await asyncio.to_thread(cluster.start_member, member)
    await asyncio.to_thread(cluster.wait_ready)
    return took_s


async def _follow(url: str) -> float:
    """Seconds from kill -9 of a leader (our own election) to the standby that leads."""
    leader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CANDIDATE, url, KEY, stdout=asyncio.subprocess.PIPE
    )
    assert leader.stdout is not None
    async for line in leader.stdout:  # its own log lines come here too
        if line == b"leads\n":
            break
    store = EtcdMetadataStore(EtcdTarget.of(url))
    election = Election(store, KEY, "second", Env())
    campaign = asyncio.create_task(election.campaign())
    await asyncio.wait({campaign}, timeout=1.0)
    leader.kill()
    began = time.perf_counter()
    await campaign
    took_s = time.perf_counter() - began
    await leader.wait()
    await election.resign()
    await store.close()
    return took_s


async def _all(rounds: int) -> dict[str, object]:
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name in ("rocks", "remote"):
            async with _embedded(Path(folder) / name, remote=name == "remote") as store:
                found[name] = await _figures(store)
    for members in (1, 3):
        async with EtcdCluster(members) as cluster:
            url = f"etcd://{cluster.address}"
            etcd = EtcdMetadataStore(EtcdTarget.of(url))
            found[f"etcd-{members}"] = await _figures(etcd)
            await etcd.close()
            if members == 3:
                found["election_follow_s"] = [await _follow(url) for _ in range(rounds)]
                addresses = cluster.address.split(",")
                found["member_killed_s"] = [
                    await _fail_over(cluster, f"etcd://{','.join(turned)}", i)
                    for i in range(3)
                    for turned in [addresses[i:] + addresses[:i]]
                ]
    return found


def command(
    rounds: Annotated[int, typer.Option(help="Leaders killed to measure the election.")] = 5,
) -> None:
    """Compare-and-swaps a second, watch latency and failover, embedded and etcd; prints JSON.

    Example: python -m bench metadata
    """
    print(json.dumps(asyncio.run(_all(rounds)), indent=2))
