"""Trims and what comes late: a learner that was away, an append that is sent again."""

from pathlib import Path

import pytest

from logstore.proto.v1 import log_pb2
from tests.support.engine import append as store
from tests.support.nodes import Nodes, append, batch_of, nodes
from tests.unit.node.test_append_read import read_all
from tests.unit.node.test_failover import three
from tests.unit.node.test_move_by_intents import SHARD, in_sync_ids


@pytest.mark.parametrize("never_committed", [0, 20])
async def test_it_begins_anew_at_the_base_and_joins(tmp_path: Path, never_committed: int) -> None:
    """Also when records that were never committed reach above the source's end."""
    async with nodes(tmp_path, 3) as n:
        await three(n)
        record = await n.record(SHARD)
        leader = record.primary.instance
        away = next(m for m in record.in_sync if m.instance != leader)
        await fill(n, 1, 5)
        if never_committed:
            old = n.servers[away.instance].instance.node.engine
            store(old, away.replica_id, [b"lost"] * never_committed)
        await n.stop(away.instance)
        await n.until(SHARD, lambda r: away.replica_id not in in_sync_ids(r))
        await fill(n, 5, 11)
        for server in n.servers.values():
            replica = server.instance.replicas[SHARD]
            assert server.instance.node.engine.trim(replica.member.replica_id, 8).end == 8

        server = await n.start(away.instance)
        await n.change(SHARD, admit=(away.replica_id,))
        await n.until(SHARD, lambda r: away.replica_id in in_sync_ids(r))
        engine = server.instance.node.engine
        assert engine.base(away.replica_id).end == 8
        assert engine.end(away.replica_id).end == 10

        await fill(n, 11, 12)
        request = log_pb2.ReadRequest(shard=SHARD, start_offset=8, min_high_watermark=11)
        rows = await read_all(n.log_stub(away.instance), request)
        assert [key for _, key in rows] == [b"k9", b"k10", b"k11"]


async def test_an_append_that_comes_again_after_its_record_was_trimmed_is_told_its_place(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        await fill(n, 1, 4)
        instance = n.servers["i1"].instance
        replica = instance.replicas[SHARD]
        assert instance.node.engine.trim(replica.member.replica_id, 2).end == 2
        (again,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"k1"], 1, 7)])
        assert (again.duplicate, again.base_offset) == (True, 0)
        await fill(n, 4, 5)
        assert instance.node.broken is None


async def fill(n: Nodes, first: int, last: int) -> None:
    """Append k<first> to k<last - 1> where the shard is led."""
    leader = (await n.record(SHARD)).primary.instance
    for i in range(first, last):
        (result,) = await append(n.log_stub(leader), [batch_of(SHARD, [b"k%d" % i], i, 7)])
        assert not result.HasField("error")
