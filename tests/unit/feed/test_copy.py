"""A snapshot copy: resumable at the chunk it reached, within its bound, counted as load."""

import asyncio
from contextlib import closing
from pathlib import Path

from logstore.base.limits import MESSAGE_BYTES_MAX
from logstore.feed.direct import encode_anchor
from logstore.meta.records import Member
from logstore.node.replication.catch_up import CatchUp
from tests.support.feeds import SHARD, WAIT_S
from tests.support.nodes import Nodes, append, batch_of, nodes

TARGET = 777
BATCHES, RECORDS = 40, 2_000
BYTES_PER_S = 1_500_000


async def learner_of(n: Nodes) -> CatchUp:
    async with asyncio.timeout(WAIT_S):
        while (replica := n.servers["i2"].instance.replicas.get(SHARD)) is None or (
            replica.catch_up.newest is None
        ):
            await asyncio.sleep(0.01)
    return replica.catch_up.newest


async def copied(learner: CatchUp, size: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while learner.bytes_copied < size:
            await asyncio.sleep(0.01)


async def test_a_killed_copy_goes_on_at_the_chunk_it_reached(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        for number in range(1, BATCHES + 1):
            keys = [b"key-%d" % i for i in range(RECORDS)]
            await append(n.log_stub("i1"), [batch_of(SHARD, keys, number, 5)])
        source = n.servers["i1"].instance.replicas[SHARD]
        total = source.node.engine.bytes_stored(source.member.replica_id)
        incarnation = n.servers["i2"].instance.node.incarnation
        before = n.servers["i2"].instance.node.reporter.status(0, 1.0)
        await n.change(
            SHARD, learners=(Member("i2", incarnation, TARGET),), copy_bytes_per_s=BYTES_PER_S
        )
        first = await learner_of(n)
        await copied(first, total // 4)
        status = n.servers["i2"].instance.node.reporter.status(0, 1.0)
        assert before.bytes_per_s == 0
        assert status.bytes_per_s >= total // 4, "what is copied is load of the target"
        await n.stop("i2")
        reached = first.bytes_copied
        assert reached < total, "the bound was kept: the copy was not done yet"
        await n.start("i2")
        second = await learner_of(n)
        async with asyncio.timeout(WAIT_S):
            while second.phase != "feed":
                await asyncio.sleep(0.01)
        assert second.bytes_copied <= total - reached
        engine, me = n.servers["i2"].instance.node.engine, TARGET
        assert engine.end(me) == source.node.engine.end(source.member.replica_id)
        assert engine.verify_chain(me, engine.replicas()[0].base, engine.end(me).end) == (
            engine.end(me)
        )


async def test_an_anchor_larger_than_any_message_is_copied_in_pieces(tmp_path: Path) -> None:
    """It names all keys that were trimmed: 20 MB of them could never be copied nor moved."""
    async with nodes(tmp_path, 2) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        for number in range(1, 11):
            keys = [b"%04d" % (number * 1_000 + i) * 1_000 for i in range(500)]
            keys = [key[:4_000] for key in keys]
            (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, keys, number, 5)])
            assert not result.HasField("error"), result.error
        source = n.servers["i1"].instance.replicas[SHARD]
        engine, me = source.node.engine, source.member.replica_id
        assert engine.trim(me, 4_500).end == 4_500
        with closing(engine.snapshot(me, source.high_watermark)) as snapshot:
            anchor = snapshot.anchor
        assert len(encode_anchor(anchor)) > MESSAGE_BYTES_MAX
        incarnation = n.servers["i2"].instance.node.incarnation
        await n.change(SHARD, learners=(Member("i2", incarnation, TARGET),))
        learner = await learner_of(n)
        async with asyncio.timeout(WAIT_S):
            while learner.phase != "feed":
                await asyncio.sleep(0.01)
        copy = n.servers["i2"].instance.node.engine
        assert copy.end(TARGET) == engine.end(me)
        assert copy.count_key(TARGET, next(iter(anchor.key_counts)), 5_000) == 1
