"""Calls end when something breaks that is not ours, and steps that are cancelled lose nothing."""

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any

import pytest

import logstore
from logstore.base.errors import LimitExceededError, LogstoreError
from logstore.base.types import Record
from logstore.client import batching, directory, reader, stream
from logstore.client.pages import Page
from sharder.shard_map import ShardMapError
from tests.support.clients import Starter, client_of
from tests.unit.client.endings import SHARDS, WAIT_S, begun, drained, ends, reads_begun

# ---- what breaks and is not ours


def raising(error: Exception) -> Callable[..., Any]:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


@SHARDS
@pytest.mark.parametrize("kind", ["read", "tail", "batches", "order"])
async def test_a_broken_page_ends_a_read(
    start: Starter, monkeypatch: pytest.MonkeyPatch, kind: str, shards: int
) -> None:
    cluster = await start(("a",), hash_shards=shards)
    fault = TypeError("'NoneType' object is not iterable")
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        await log.append(b"k", b"v")
        monkeypatch.setattr(reader, "page_of", raising(fault))
        reads: dict[str, Callable[[], AsyncIterable[object]]] = {
            "read": lambda: log.read(),
            "tail": lambda: log.tail(from_start=True),
            "batches": lambda: log.scan().batches(),
            "order": lambda: log.read(order="key"),
        }
        error = await ends(drained(reads[kind]()))
    assert error.message.startswith("internal error: TypeError: 'NoneType'")
    assert error.__cause__ is fault


@pytest.mark.parametrize("shape", ["records", "arrow"])
async def test_a_page_that_makes_no_records_ends_a_read(
    start: Starter, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    cluster = await start()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        await log.append(b"k", b"v")
        monkeypatch.setattr(Page, shape, raising(KeyError("headers")))
        call = log.scan().batches() if shape == "arrow" else log.tail(from_start=True)
        assert "KeyError" in (await ends(drained(call))).message


async def test_a_watch_that_breaks_ends_what_relies_on_it(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await start()
    fault = ValueError("'new' is not a valid ShardStatus")
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        waiting = asyncio.ensure_future(drained(log.tail()))
        await reads_begun(cluster, 2)
        with monkeypatch.context() as broken:
            broken.setattr(directory, "map_of", raising(fault))
            await cluster.change()
            error = await ends(waiting)
            assert error.__cause__ is fault
            assert (await ends(log.shard_map())).__cause__ is fault
            assert (await ends(log.append(b"k", b"v"))).__cause__ is fault
        await log.append(b"k", b"v")  # what heals is used again
        assert len(await drained(log.read())) == 1


async def test_a_party_that_tells_nonsense_is_not_the_only_one(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await start(("a", "b"))
    faults, right = [ValueError("nonsense")], directory.map_of

    def map_of(routes: Any) -> Any:
        if faults:
            raise faults.pop()
        return right(routes)

    monkeypatch.setattr(directory, "map_of", map_of)
    async with logstore.connect(list(cluster.addresses.values()), client_group="tests") as db:
        assert (await (await db.log("orders")).append(b"k", b"v")).count == 1
    assert not faults


async def test_a_map_that_is_not_whole_is_asked_for_again(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        tail = log.tail()
        await begun(cluster, tail)
        with monkeypatch.context() as broken:
            broken.setattr(directory, "map_of", raising(ShardMapError("a gap")))
            await cluster.change()
            assert "a gap" in (await ends(log.shard_map())).message
        await log.append(b"k", b"v")
        assert [r.value for r in await tail.poll(WAIT_S)] == [b"v"]


@pytest.mark.parametrize("step", ["build", "stored", "write"])
async def test_what_breaks_in_a_lane_ends_its_appends_and_no_others(
    start: Starter, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    cluster = await start()
    fault = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    broken_at = {
        "build": (batching.Gathering, "build"),
        "stored": (batching.SingleSink, "stored"),
        "write": (stream.AppendStream, "send"),
    }[step]
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        await log.append(b"k", b"before")
        with monkeypatch.context() as broken:
            broken.setattr(*broken_at, raising(fault))
            calls = [log.append(b"k", b"%d" % i) for i in range(3)]
            errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT_S)
        assert all(isinstance(e, LogstoreError) for e in errors)
        assert all("surrogates not allowed" in str(e) for e in errors)
        if step == "build":
            assert all("not stored" in str(e) for e in errors)
        await log.append(b"k", b"after")  # the lane is not poisoned
        assert [r.value async for r in log.read()][-1] == b"after"


async def test_a_stream_that_cannot_write_ends_its_appends(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await start()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        with monkeypatch.context() as broken:

            async def write(self: Any, call: Any) -> None:
                await self._wake.wait()
                raise TypeError("no message")

            broken.setattr(stream.AppendStream, "_write", write)
            error = await ends(log.append(b"k", b"v"))
            assert "internal error: TypeError: no message" in error.message
        await log.append(b"k", b"after")


@pytest.mark.parametrize("way", ["read", "tail", "append"])
async def test_a_message_that_grpc_refuses_for_its_size_is_not_sent_again(
    start: Starter, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """gRPC says RESOURCE_EXHAUSTED, as for a full queue, and it was tried again for 60 s."""
    cluster = await start()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        value = b"v" * 1_000_000
        if way == "append":
            monkeypatch.setattr(batching, "BATCH_BYTES_GOAL", 1 << 30)
            monkeypatch.setattr(batching.chunks, "__defaults__", (1 << 30, 1 << 30))
            call = log.append_many([b"k"] * 20, [value] * 20)
        else:
            for _ in range(20):
                await log.append(b"k", value)
            call = drained(log.read() if way == "read" else log.tail(from_start=True))
        error = await ends(call)
    cause = getattr(error, "cause", error)
    assert "message is 200" in cause.message
    assert "the limit is 16777216 bytes" in cause.message
    if way != "append":
        assert isinstance(error, LimitExceededError)


# ---- steps that are cancelled, polls, idle times


@SHARDS
async def test_a_step_that_is_cancelled_loses_nothing(start: Starter, shards: int) -> None:
    cluster = await start(("a",), hash_shards=shards)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        tail = log.tail()
        await begun(cluster, tail, shards)
        found: list[Record] = []
        for number in range(40):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(tail), 0.001)
            await log.append(b"%d" % number, b"%d" % number)
            while len(found) <= number:
                try:
                    found.append(await asyncio.wait_for(anext(tail), 0.002))
                except TimeoutError:
                    continue
        assert [r.value for r in found] == [b"%d" % n for n in range(40)]
        await tail.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(tail)


async def test_reads_survive_cancelled_steps_too(start: Starter) -> None:
    cluster = await start(("a",), hash_shards=3)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        keys = [b"%d" % i for i in range(2_000)]
        await log.append_many(keys, keys)
        for order in ("any", "key"):
            records = log.read(order=order)
            found: list[bytes] = []
            while not records.ended:
                step = asyncio.ensure_future(anext(records))
                await asyncio.sleep(0)
                if len(found) % 97 == 0:
                    step.cancel()
                done = (await asyncio.gather(step, return_exceptions=True))[0]
                if isinstance(done, Record):
                    found.append(done.key)
                elif len(found) % 97 == 0 and not records.ended:
                    found += [r.key for r in await records.poll(WAIT_S)]
            assert sorted(found) == sorted(keys)


async def test_poll_gives_what_comes_in_time(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        async with log.tail(limit=4) as tail:
            await begun(cluster, tail)
            assert await tail.poll(0.01) == []
            await log.append_many([b"k"] * 3, [b"1", b"2", b"3"])
            assert (await anext(tail)).value == b"1"
            assert [r.value for r in await tail.poll(0)] == [b"2", b"3"]
            assert not tail.ended
            await log.append_many([b"k"] * 3, [b"4", b"5", b"6"])
            assert [r.value for r in await tail.poll(WAIT_S)] == [b"4"]
            assert (await tail.poll(WAIT_S), tail.ended) == ([], True)
            assert [r async for r in tail] == []


async def test_an_idle_tail_ends_after_its_time(start: Starter) -> None:
    cluster = await start()
    loop = asyncio.get_running_loop()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many([b"k"] * 3, [b"1", b"2", b"3"])
        begin = loop.time()
        found = [r.value async for r in log.tail(from_start=True, idle_timeout_s=0.2)]
        assert found == [b"1", b"2", b"3"]
        assert 0.2 <= loop.time() - begin < WAIT_S
        tail = log.tail(idle_timeout_s=0.3)
        begin = loop.time()
        while not tail.ended:  # steps that are cancelled count
            assert await tail.poll(0.1) == []
        assert 0.3 <= loop.time() - begin < WAIT_S


async def test_a_cancelled_append_leaves_the_lane_as_it_was(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        for place in range(6):
            call = (
                log.append(b"k", b"single %d" % place)
                if place % 2
                else log.append_many([b"k"] * 5, [b"many %d" % place] * 5)
            )
            step = asyncio.ensure_future(call)
            await asyncio.sleep(0.005 * (place // 2))
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        instance.gate.set()
        await log.append(b"k", b"last")
        values = [r.value async for r in log.read()]
    assert values[-1] == b"last"
    assert len(values) == len(set(values)) + 4 * sum(v.startswith(b"many") for v in set(values))
