"""A graceful stop: others lead before the instance goes, and nothing waits for it afterwards."""

import asyncio
from pathlib import Path

from logstore.meta.records import Member
from logstore.node.instance.graceful_stop import hand_over_all
from logstore.replication.events import Role
from tests.support.nodes import Nodes, append, batch_of, nodes

SHARD = "orders/0"


async def replicated(n: Nodes, *, shard: str = SHARD, min_in_sync: int = 2) -> None:
    """The shard on i1 (primary), i2 and i3, all in sync."""
    await n.create(shard, "i1")
    await n.change(shard, min_in_sync=min_in_sync)
    number = 500 + int(shard.split("/")[1]) * 10
    members = tuple(Member(f"i{i}", n.servers[f"i{i}"].instance.node.incarnation, number + i)
                    for i in (2, 3))  # fmt: skip
    await n.change(shard, learners=members, admit=tuple(m.replica_id for m in members))
    await n.until(shard, lambda r: len(r.in_sync) == 3)


async def test_others_lead_before_it_is_gone(tmp_path: Path) -> None:
    async with nodes(
        tmp_path, 3, stop_hand_over_s=10.0, grace_s=60.0, follower_timeout_s=30.0
    ) as n:
        await replicated(n)
        (first,) = await append(n.log_stub("i1"), [batch_of(SHARD, [b"a"], 1, 5, 1)])
        assert not first.HasField("error"), first.error
        leaving = n.servers["i1"]
        await hand_over_all(leaving.instance, 10.0)
        mine = (await n.record(SHARD)).learners[0].replica_id
        await n.change(SHARD, admit=(mine,))  # repair still hears of it: it must not be admitted
        await n.until(SHARD, lambda r: mine in r.admit)
        await n.stop("i1")
        record = await n.record(SHARD)
        assert record.primary.instance in ("i2", "i3")
        assert {m.instance for m in record.in_sync} == {"i2", "i3"}
        assert [m.instance for m in record.learners] == ["i1"]
        # With these time limits neither a fail-over nor the removal of a silent member can be over.
        async with asyncio.timeout(20):
            stub = n.log_stub(record.primary.instance)
            (second,) = await append(stub, [batch_of(SHARD, [b"b"], 2, 5, 2)])
        assert not second.HasField("error"), second.error
        assert (first.base_offset, second.base_offset) == (0, 1)
        await n.start("i1")
        await n.until(SHARD, lambda r: len(r.in_sync) == 3, 30.0)


async def test_a_member_that_is_needed_stays_in_sync(tmp_path: Path) -> None:
    """Leaving must not take a shard below `min_in_sync`: it waits for us instead (P2)."""
    async with nodes(
        tmp_path, 3, stop_hand_over_s=10.0, grace_s=60.0, follower_timeout_s=30.0
    ) as n:
        await replicated(n, min_in_sync=3)
        await n.stop("i3")
        assert len((await n.record(SHARD)).in_sync) == 3


async def test_all_stop_at_the_same_time(tmp_path: Path) -> None:
    """Each hands over once; no append waits for the limit, and the next start has every record."""
    async with nodes(tmp_path, 3, stop_hand_over_s=60.0) as n:
        for number in range(3):
            await replicated(n, shard=f"orders/{number}")
            batch = batch_of(f"orders/{number}", [b"a"] * (number + 1), 1, 5, 1)
            (result,) = await append(n.log_stub("i1"), [batch])
            assert not result.HasField("error"), result.error
        async with asyncio.timeout(30):
            await asyncio.gather(*(n.stop(f"i{i}") for i in (1, 2, 3)))
        await asyncio.gather(*(n.start(f"i{i}") for i in (1, 2, 3)))
        for number in range(3):
            record = await n.until(f"orders/{number}", lambda r: len(r.in_sync) >= 2, 40.0)
            instance = n.servers[record.primary.instance].instance
            async with asyncio.timeout(20):
                while (held := instance.replicas.get(record.shard)) is None or (
                    held.role is not Role.PRIMARY or held.high_watermark < number + 1
                ):
                    await asyncio.sleep(0.01)
            assert held.high_watermark == number + 1


async def test_the_only_copy_stays(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1, stop_hand_over_s=60.0) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        async with asyncio.timeout(30):
            await n.stop("i1")
        record = await n.record(SHARD)
        assert (record.primary.instance, record.hand_over) == ("i1", None)
