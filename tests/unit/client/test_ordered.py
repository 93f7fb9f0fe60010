"""Reads in key order: groups of shards, read ahead within bounds, given in their order."""

import asyncio
from collections.abc import AsyncGenerator

import pyarrow as pa
import pytest

from logstore.base.errors import UnavailableError
from logstore.client import ordered
from logstore.client.lifetime import Lifetime
from logstore.client.ordered import Group, groups_of, in_key_order
from logstore.client.pages import Page
from sharder.keys import KeyRange
from sharder.shard_map import Shard

ROWS = 4


def shard(
    number: int,
    keys: KeyRange | None = None,
    predecessors: tuple[str, ...] = (),
    successors: tuple[str, ...] = (),
) -> Shard:
    return Shard(
        id=f"l/{number}", log="l", range=keys or KeyRange(b"%02d" % number, b"%02d" % (number + 1)),
        epoch=1, primary="a", in_sync=("a",), predecessors=predecessors, successors=successors,
    )  # fmt: skip


def page(of: Shard, size: int) -> Page:
    rows = pa.record_batch(
        {
            "key": pa.array([of.range.start] * ROWS, pa.binary()),
            "value": pa.array([b"x" * size] * ROWS, pa.binary()),
        }
    )
    return Page(of.id, 0, 0, 0, rows, ROWS)


class Source:
    """Shards of one page each; reads them as they are allowed to."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.begun: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.failing = ""

    async def read(self, group: Group) -> AsyncGenerator[Page, None]:
        self.begun.append(group[0].id)
        await self.held.wait()
        for one in group:
            if one.id == self.failing:
                raise UnavailableError("no replica answers")
            yield page(one, self.size)


@pytest.fixture
async def lifetime() -> Lifetime:
    async def close() -> None: ...

    found = Lifetime("a test")
    found.open(close)
    return found


def test_a_split_joins_its_own_family_only() -> None:
    parent = shard(1, successors=("l/3", "l/4"))
    low = shard(3, KeyRange(b"01", b"015"), predecessors=("l/1",))
    high = shard(4, KeyRange(b"015", b"02"), predecessors=("l/1",))
    groups = groups_of([parent, shard(0), shard(2), low, high], False)
    assert [[s.id for s in group] for group in groups] == [["l/0"], ["l/1", "l/3", "l/4"], ["l/2"]]
    assert len(groups_of([shard(0), shard(1)], True)) == 1


async def test_groups_are_read_ahead_and_given_in_order(lifetime: Lifetime) -> None:
    source = Source()
    source.held.clear()
    groups = [[shard(n)] for n in range(20)]
    found = in_key_order(lifetime, groups, source.read, None)
    first = asyncio.ensure_future(anext(found))
    while len(source.begun) < ordered.GROUPS_READ_MAX:
        await asyncio.sleep(0)
    assert source.begun == [f"l/{n}" for n in range(ordered.GROUPS_READ_MAX)]
    source.held.set()
    batches = [await first, *[batch async for batch in found]]
    assert [b.column("key")[0].as_py() for b in batches] == [b"%02d" % n for n in range(20)]


async def test_those_ahead_wait_while_too_many_bytes_are_held(
    lifetime: Lifetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1_000
    source = Source(size)
    one = page(shard(0), size).batch.nbytes
    monkeypatch.setattr(ordered, "AHEAD_BYTES_MAX", 2 * one)
    taken: list[int] = []
    take = ordered._Room.take

    async def counted(room: ordered._Room, place: int, count: int) -> None:
        await take(room, place, count)
        taken.append(place)

    monkeypatch.setattr(ordered._Room, "take", counted)
    found = in_key_order(lifetime, [[shard(n)] for n in range(8)], source.read, None)
    await anext(found)
    assert taken == [0, 1]  # the others read one page and wait
    assert len([batch async for batch in found]) == 7


async def test_a_limit_reads_no_further_than_it_needs(lifetime: Lifetime) -> None:
    source = Source()
    groups = [[shard(n)] for n in range(20)]
    few = [b async for b in in_key_order(lifetime, groups, source.read, 3)]
    assert sum(b.num_rows for b in few) == 3
    assert source.begun == ["l/0"]
    source.begun.clear()
    more = [b async for b in in_key_order(lifetime, groups, source.read, 11)]
    assert sum(b.num_rows for b in more) == 11
    assert source.begun == ["l/0", "l/1", "l/2"]


async def test_a_failure_comes_when_it_is_its_turn(lifetime: Lifetime) -> None:
    source = Source()
    source.failing = "l/2"
    found = in_key_order(lifetime, [[shard(n)] for n in range(5)], source.read, None)
    assert (await anext(found)).num_rows == ROWS
    assert (await anext(found)).num_rows == ROWS
    with pytest.raises(UnavailableError, match="no replica answers"):
        await anext(found)
