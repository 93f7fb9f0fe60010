"""What the tests of endings share."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from logstore.base.errors import LogstoreError
from logstore.client.results import Records
from tests.support.scripted import Cluster

WAIT_S = 5.0
"""A wait that should end is bounded by it; without the rules it lasted for ever, or 60 s."""

SHARDS = pytest.mark.parametrize("shards", [1, 2])


async def drained(records: Any) -> list[Any]:
    return [record async for record in records]


async def ends(call: Awaitable[Any]) -> LogstoreError:
    """The error with which the call ends, in time."""
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(LogstoreError) as e:
            await call
    return e.value


async def begun(cluster: Cluster, tail: Records, shards: int = 1) -> None:
    """The tail knows where it begins: each shard returned its end and is asked for what follows."""
    reads = cluster.instances["a"].reads
    wanted = len(reads) + 2 * shards
    assert await tail.poll(0) == []
    await reads_begun(cluster, wanted)


async def reads_begun(cluster: Cluster, count: int) -> None:
    instance = cluster.instances["a"]
    async with asyncio.timeout(WAIT_S), instance.asked:
        await instance.asked.wait_for(lambda: len(instance.reads) >= count)
