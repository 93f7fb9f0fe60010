"""Reads and tails of a shard whose first records were trimmed: they begin at what is kept.

The rule: who names no offset gets what is there, and is told where it begins; who names one that is
gone is refused, with the offset that is kept. A table tries every way to read.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.base.errors import OutOfRangeError
from logstore.proto.channel import open_channel
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.support.nodes import Nodes, nodes

SHARD, RECORDS, BASE = "orders/0", 100, 60


async def trim(n: Nodes, offset: int) -> int:
    async with open_channel(n.servers["i1"].address) as channel:
        request = node_pb2.TrimRequest(shard=SHARD, offset=offset)
        return int((await NodeAdminStub(channel).Trim(request)).base)


@contextlib.asynccontextmanager
async def trimmed_log(folder: Path, base: int) -> AsyncIterator[logstore.Log]:
    """100 records, ten keys, ten a stored batch; those below `base` are trimmed."""
    async with nodes(folder, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        async with logstore.connect(n.servers["i1"].address) as db:
            log = await db.log("orders")
            for start in range(0, RECORDS, 10):
                rows = range(start, start + 10)
                await log.append_many(
                    [b"k%d" % (i % 10) for i in rows], [b"%d" % i for i in rows], list(rows)
                )
            assert await trim(n, base) == base
            yield log


async def offsets(records: Any, count: int | None = None) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(10), contextlib.aclosing(records):
        async for record in records:
            found.append(record.offset)
            if len(found) == count:
                break
    return found


KEPT = list(range(BASE, RECORDS))


async def test_what_names_no_offset_begins_at_what_is_kept_and_says_so(tmp_path: Path) -> None:
    async with trimmed_log(tmp_path, BASE) as log:
        assert log.trimmed == {}
        assert await offsets(log.read()) == KEPT
        assert log.trimmed == {SHARD: BASE}
        assert await offsets(log.read(limit=3)) == KEPT[:3]
        assert await offsets(log.read(key=b"k4")) == [64, 74, 84, 94]
        assert await offsets(log.read(start=b"k4", end=b"k5")) == [64, 74, 84, 94]
        assert await offsets(log.read(since=30)) == KEPT
        assert await offsets(log.read(since=95)) == KEPT[-5:]
        assert await offsets(log.read(shard=SHARD)) == KEPT
        assert sorted(await offsets(log.read(order="key"))) == KEPT
        assert (await log.scan().to_arrow()).column("offset").to_pylist() == KEPT
        assert await offsets(log.tail(from_start=True), len(KEPT)) == KEPT
        assert await offsets(log.tail(since=0), len(KEPT)) == KEPT
        assert await offsets(log.tail(shard=SHARD, from_start=True), len(KEPT)) == KEPT
        tail = log.tail(limit=1)
        waiting = asyncio.ensure_future(anext(tail))
        while not waiting.done():  # the tail begins at some moment: each append may be its first
            await log.append(b"k", b"later")
        assert waiting.result().offset >= RECORDS
        await tail.aclose()


@pytest.mark.parametrize("offset", [0, 1, BASE - 1])
async def test_an_offset_that_is_gone_is_refused_with_the_one_that_is_kept(
    tmp_path: Path, offset: int
) -> None:
    async with trimmed_log(tmp_path, BASE) as log:
        answer = f"start_offset is {offset}, .* trimmed below {BASE}"
        for records in (
            log.read(shard=SHARD, offset=offset),
            log.read(shard=SHARD, offset=offset, key=b"k4"),
            log.read(shard=SHARD, offset=offset, since=99),
            log.tail(shard=SHARD, offset=offset),
        ):
            with pytest.raises(OutOfRangeError, match=answer):
                await offsets(records)
        assert await offsets(log.read(shard=SHARD, offset=BASE)) == KEPT
        assert await offsets(log.read(shard=SHARD, offset=RECORDS)) == []


async def test_a_log_that_is_trimmed_to_its_end_reads_empty_and_is_followed(tmp_path: Path) -> None:
    async with trimmed_log(tmp_path, RECORDS) as log:
        assert await offsets(log.read()) == []
        assert log.trimmed == {SHARD: RECORDS}
        await log.append(b"k", b"next")
        assert await offsets(log.read()) == [RECORDS]
        assert await offsets(log.tail(from_start=True), 1) == [RECORDS]
