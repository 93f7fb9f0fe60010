import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from logstore.base.env import Env
from logstore.client.client import Client, connect
from sharder.keys import Partitioner, even_ranges, ranges_from_cuts
from tests.support.scripted import Cluster

Starter = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def start() -> AsyncIterator[Starter]:
    """Start a cluster: instance names, cut keys (or a number of even hash shards)."""
    running: list[Cluster] = []

    async def starter(
        names: tuple[str, ...] = ("a",),
        cuts: tuple[bytes, ...] = (),
        hash_shards: int = 0,
    ) -> Cluster:
        kind = Partitioner.HASH if hash_shards else Partitioner.RANGE
        ranges = even_ranges(kind, hash_shards) if hash_shards else ranges_from_cuts(list(cuts))
        cluster = Cluster(kind)
        running.append(cluster)
        return await cluster.start(list(names), ranges)

    yield starter
    for cluster in running:
        await cluster.stop()


def client_of(cluster: Cluster, *, timeout_s: float = 20.0, seed: int = 1) -> Client:
    """A client with seeded dice that knows the first instance only."""
    first = next(iter(cluster.addresses.values()))
    env = Env(rng=random.Random(seed))
    return connect(first, client_group="tests", timeout_s=timeout_s, env=env)
