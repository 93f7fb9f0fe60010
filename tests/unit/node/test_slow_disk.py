"""A primary whose own disk is slow: what its followers acked meanwhile counts, so it must stay."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from logstore.base.types import Durability
from logstore.engine.port import ReplicaWrite
from logstore.meta.records import Member
from logstore.replication.progress import ProgressMode
from tests.support.nodes import append, batch_of, nodes
from tests.unit.node.test_move_by_intents import SHARD

PATIENT = {"follower_timeout_s": 20.0, "lease_s": 20.0, "grace_s": 26.0}


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.005)


async def test_a_follower_that_restarts_keeps_what_its_primary_is_still_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, 2, **PATIENT) as n:
        await n.create(SHARD, "i1", durability=Durability.FSYNC)
        await n.until(SHARD, lambda r: r.epoch == 2)
        member = Member("i2", n.servers["i2"].instance.node.incarnation, 200)
        await n.change(SHARD, learners=(member,), admit=(200,))
        await n.until(SHARD, lambda r: len(r.in_sync) == 2)
        engine, slow = n.servers["i1"].instance.node.engine, threading.Event()
        write = engine.write

        def held(writes: Sequence[ReplicaWrite], durability: Durability) -> None:
            slow.wait(20)
            write(writes, durability)

        monkeypatch.setattr(engine, "write", held)
        answer = asyncio.create_task(append(n.log_stub("i1"), [batch_of(SHARD, [b"a"])]))
        peers = n.servers["i1"].instance.replicas[SHARD].machine.peers
        await until(lambda: peers[200].match.end == 1)
        await n.stop("i2")
        await until(lambda: peers[200].mode is ProgressMode.PROBE)
        await n.start("i2")
        await until(lambda: peers[200].mode is ProgressMode.REPLICATE)
        assert engine.end(100).end == 0
        assert n.servers["i2"].instance.node.engine.end(200).end == 1
        slow.set()
        (result,) = await answer
        assert (result.base_offset, result.HasField("error")) == (0, False)
