"""Three real etcd members of which one dies or freezes; one member with TLS and a login."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bench.services.etcd import EtcdCluster
from coordinator.config import CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.base.errors import ConfigError, UnavailableError
from logstore.meta.election import Election
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.open import open_etcd
from logstore.meta.port import Compare, MetadataStore, Put
from tests.process.meta.etcd_members import TlsEtcd, enable_login, freeze, leader_of, thaw

ROUNDS_AFTER = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as three:
        yield three


@pytest.fixture
async def store(cluster: EtcdCluster) -> AsyncIterator[EtcdMetadataStore]:
    """A client that asks the leader first, so that losing it is felt."""
    leader = await leader_of(cluster)
    endpoints = cluster.address.split(",")
    order = endpoints[leader:] + endpoints[:leader]
    client = EtcdMetadataStore(EtcdTarget(tuple(order), f"/cluster-{id(order)}"))
    yield client
    await client.close()
    cluster.wait_ready()


class Counter:
    """Counts `/n` up by compare-and-swap, one value a success; rides out failures by reading."""

    def __init__(self, store: EtcdMetadataStore) -> None:
        self._store = store
        self.revisions: list[int] = []
        """Of each value in order; an unknown outcome was resolved by reading."""
        self.longest_s = 0.0

    async def step(self) -> None:
        loop = asyncio.get_running_loop()
        started_s, value, unknown = loop.time(), b"%d" % (len(self.revisions) + 1), False
        while True:
            try:
                found = await self._store.get("/n")
                if unknown and found is not None and found.value == value:
                    self.revisions.append(found.revision)
                    break
                before = 0 if found is None else found.revision
                result = await self._store.txn([Compare("/n", before)], [Put("/n", value)])
                if result.succeeded:
                    self.revisions.append(result.revision)
                    break
            except UnavailableError:
                unknown = True
                await asyncio.sleep(0.02)
        self.longest_s = max(self.longest_s, loop.time() - started_s)


async def watched(store: EtcdMetadataStore, after: int, seen: list[tuple[int, bytes]]) -> None:
    async for answer in store.watch("/n", after):
        seen += [(event.revision, event.value or b"") for event in answer]


async def test_a_killed_leader_loses_nothing_and_leaves_no_gap(
    cluster: EtcdCluster, store: EtcdMetadataStore
) -> None:
    start = (await store.range("/")).revision
    seen: list[tuple[int, bytes]] = []
    watching = asyncio.create_task(watched(store, start, seen))
    counter = Counter(store)
    for _ in range(10):
        await counter.step()
    killed = await leader_of(cluster)
    await asyncio.to_thread(cluster.kill_member, killed)
    for _ in range(ROUNDS_AFTER):
        await counter.step()
    expected = [(revision, b"%d" % (i + 1)) for i, revision in enumerate(counter.revisions)]
    async with asyncio.timeout(10):
        while len(seen) < len(expected):
            await asyncio.sleep(0.01)
    assert seen == expected
    assert counter.longest_s < 10
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await asyncio.to_thread(cluster.start_member, killed)


async def test_a_frozen_leader_is_left_by_calls_watches_and_elections(
    cluster: EtcdCluster, store: EtcdMetadataStore
) -> None:
    election = Election(store, "/cells/a/leader", "a", Env(), ttl_s=5)
    leadership = await election.campaign()
    counter = Counter(store)
    await counter.step()
    watch = store.watch("/n", counter.revisions[0] - 1)
    await anext(watch)
    frozen = cluster.members[await leader_of(cluster)]
    freeze(frozen)
    try:
        waiting = asyncio.ensure_future(anext(watch))
        await counter.step()
        (event,) = await asyncio.wait_for(waiting, 10)
        assert event.revision == counter.revisions[1]
        assert counter.longest_s < 10
        assert leadership.held()  # kept alive at another member, which promises a full length again
    finally:
        thaw(frozen)
    found = await store.get("/cells/a/leader")
    assert found is not None
    assert found.revision == leadership.fence.revision
    await election.resign()


async def test_tls_and_login(tmp_path: Path) -> None:
    with TlsEtcd(tmp_path) as member:
        await enable_login(member.address, member.client(), "right")
        url = f"etcds://{member.address}"
        store = open_etcd(url, member.client(), user="root", password="right")
        done = await store.txn([], [Put("/a", b"1")])
        assert done.succeeded
        (event,) = await anext(store.watch("/a", done.revision - 1))
        assert event.value == b"1"
        lease = await store.lease_grant(60)
        assert await store.lease_keep_alive(lease.id) == lease

        await refused(open_etcd(url, member.client(), user="root", password="wrong"), ConfigError)
        await refused(open_etcd(url, member.client()), ConfigError)
        stranger = open_etcd(url, member.client("other-ca"), user="root", password="right")
        await refused(stranger, UnavailableError)
        await refused(open_etcd(f"etcd://{member.address}"), UnavailableError)

        # A restarted member has forgotten every login; the client logs in again by itself.
        await asyncio.to_thread(member.kill_member, 0)
        await asyncio.to_thread(member.start_member, 0)
        await asyncio.to_thread(member.wait_ready)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(UnavailableError):
                    watch = store.watch("/a", done.revision - 1)
                    (event,) = await anext(watch)
                    break
        assert event.value == b"1"
        assert (await store.txn([Compare("/a", done.revision)], [Put("/a", b"2")])).succeeded
        await store.close()


async def refused(store: MetadataStore, cause: type[Exception]) -> None:
    with pytest.raises(cause):
        await store.get("/a")
    await store.close()


async def test_a_coordinator_that_starts_before_its_store_waits_for_it(
    cluster: EtcdCluster, tmp_path: Path
) -> None:
    config = CoordinatorConfig(data=tmp_path, port=0, metadata=f"etcd://{cluster.address}/waits")
    for index in range(len(cluster.members)):
        cluster.kill_member(index)
    server = CoordinatorServer(config, Env())
    starting = asyncio.create_task(server.start())
    done, _ = await asyncio.wait({starting}, timeout=1.0)
    for index in range(len(cluster.members)):
        cluster.start_member(index)
    try:
        assert not done
        assert await starting == server.address
    finally:
        await server.stop()
        cluster.wait_ready()
