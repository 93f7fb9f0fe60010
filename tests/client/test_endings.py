"""Calls end: when the client does, when the log does, and when something breaks that is not ours.

A wait that should end is bounded by WAIT_S; without the rules it lasted for ever, or for the
client's timeout of 60 s.
"""

import asyncio
import gc
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import logstore
from logstore.base.errors import (
    ClientClosedError,
    ClientUseError,
    LimitExceededError,
    LogstoreError,
    NotServingError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownLogError,
)
from logstore.base.types import Record
from logstore.client import batching, directory, reader, stream
from logstore.client.client import Client, Log, Scan
from logstore.client.results import Records
from logstore.client.sync_client import SyncClient, SyncLog, SyncScan
from tests.client.cluster import Cluster
from tests.client.conftest import Starter, client_of

WAIT_S = 5.0
SHARDS = pytest.mark.parametrize("shards", [1, 2])

Call = Callable[[Client, Log], Awaitable[Any]]


async def drained(records: Any) -> list[Any]:
    return [record async for record in records]


CALLS: dict[str, Call] = {
    "Client.create_log": lambda db, log: db.create_log("more"),
    "Client.log": lambda db, log: db.log("orders"),
    "Client.list_logs": lambda db, log: db.list_logs(),
    "Client.delete_log": lambda db, log: db.delete_log("orders"),
    "Log.append": lambda db, log: log.append(b"k", b"v"),
    "Log.append_many": lambda db, log: log.append_many([b"k"], [b"v"]),
    "Log.read": lambda db, log: drained(log.read()),
    "Log.tail": lambda db, log: drained(log.tail()),
    "Log.scan": lambda db, log: drained(log.scan().batches()),
    "Log.lists": lambda db, log: drained(log.lists(tail=True)),
    "Log.shard_map": lambda db, log: log.shard_map(),
    "Scan.batches": lambda db, log: drained(log.scan(order="key").batches()),
    "Scan.to_arrow": lambda db, log: log.scan().to_arrow(),
    "Scan.to_pandas": lambda db, log: log.scan().to_pandas(),
    "Records.poll": lambda db, log: log.tail().poll(1.0),
}
if importlib.util.find_spec("polars") is not None:  # without it the call says so first
    CALLS["Scan.to_polars"] = lambda db, log: log.scan().to_polars()
WAITING = {
    "tail": lambda log: drained(log.tail()),
    "tail from the start": lambda log: drained(log.tail(from_start=True)),
    "tail of a key": lambda log: drained(log.tail(key=b"k")),
    "tail of a shard": lambda log: drained(log.tail(shard="orders/0")),
    "lists": lambda log: drained(log.lists(tail=True)),
    "poll": lambda log: log.tail().poll(600),
    "idle": lambda log: drained(log.tail(idle_timeout_s=600)),
}


def test_the_table_has_every_public_call() -> None:
    found = {
        f"{kind.__name__}.{name}"
        for kind in (Client, Log, Scan)
        for name in vars(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    }
    assert found - {"Client.close", "Scan.to_polars"} <= set(CALLS)
    for mine, mirror in ((Client, SyncClient), (Log, SyncLog), (Scan, SyncScan)):
        public = {n for n in vars(mine) if not n.startswith("_")} - {"lists"}
        assert public <= {n for n in vars(mirror) if not n.startswith("_")}


async def ends(call: Awaitable[Any]) -> LogstoreError:
    """The error with which the call ends, in time."""
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(LogstoreError) as e:
            await call
    return e.value


# ---- use where the client is not


@pytest.mark.parametrize("name", CALLS)
async def test_use_after_close_is_one_clear_error_at_once(start: Starter, name: str) -> None:
    cluster = await start()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
    error = await ends(CALLS[name](db, log))
    assert isinstance(error, ClientClosedError)
    assert error.message == "the client is closed"
    assert not error.retriable
    assert not error.refresh_route


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("Client")])
async def test_use_before_opening_says_how_to_open(start: Starter, name: str) -> None:
    cluster = await start()
    db = client_of(cluster)
    async with client_of(cluster) as other:
        error = await ends(CALLS[name](db, await other.log("orders")))
    assert isinstance(error, ClientUseError)
    assert "async with connect" in error.message
    await db.close()


@pytest.mark.parametrize("name", CALLS)
async def test_use_in_another_loop_says_whose_client_it_is(start: Starter, name: str) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")

        def elsewhere() -> LogstoreError:
            return asyncio.run(ends(CALLS[name](db, log)))

        error = await asyncio.to_thread(elsewhere)
        assert isinstance(error, ClientUseError)
        assert cluster.addresses["a"] in error.message
        assert "open one client in each loop" in error.message
        assert (await log.append(b"k", b"v")).count == 1  # and it is none the worse for it


async def test_steps_and_closing_in_another_loop_are_refused(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        tail = log.tail()
        await begun(cluster, tail)
        for call in (lambda: anext(tail), lambda: tail.aclose(), lambda: db.close()):
            error = await asyncio.to_thread(lambda c=call: asyncio.run(ends(c())))  # type: ignore[misc]
            assert isinstance(error, ClientUseError)
        await log.append(b"k", b"v")
        assert [r.value for r in await tail.poll(WAIT_S)] == [b"v"]


def test_a_client_whose_loop_was_closed_says_so(start: Starter) -> None:
    db = logstore.connect("127.0.0.1:1")

    async def leave_open() -> None:
        await db.__aenter__()

    async def use() -> LogstoreError:
        error = await ends(db.list_logs())
        await db.close()
        return error

    asyncio.run(leave_open())
    assert isinstance(asyncio.run(use()), ClientClosedError)  # asyncio.run closed it


async def test_a_client_is_opened_once(start: Starter) -> None:
    cluster = await start()
    db = client_of(cluster)
    async with db:
        with pytest.raises(ClientUseError, match="opened before"):
            await db.__aenter__()
        assert await db.list_logs() == ["orders"]
    with pytest.raises(ClientUseError, match="connect again"):
        await db.__aenter__()


# ---- the end of the client


@SHARDS
@pytest.mark.parametrize("name", WAITING)
async def test_closing_ends_what_waits(start: Starter, name: str, shards: int) -> None:
    cluster = await start(("a",), hash_shards=shards)
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        waiting = asyncio.ensure_future(WAITING[name](log))
        await reads_begun(cluster, shards if "shard" not in name and "key" not in name else 1)
        await db.close()
        error = await ends(waiting)
    assert isinstance(error, ClientClosedError)
    assert error.message == "the client is closed: it was closed during this call"


async def begun(cluster: Cluster, tail: Records, shards: int = 1) -> None:
    """The tail knows where it begins: each shard told its end and is asked for what follows."""
    reads = cluster.instances["a"].reads
    wanted = len(reads) + 2 * shards
    assert await tail.poll(0) == []
    await reads_begun(cluster, wanted)


async def reads_begun(cluster: Cluster, count: int) -> None:
    instance = cluster.instances["a"]
    async with asyncio.timeout(WAIT_S), instance.asked:
        await instance.asked.wait_for(lambda: len(instance.reads) >= count)


async def test_closing_ends_appends_and_says_which_are_not_stored(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        sent = asyncio.ensure_future(log.append(b"k", b"1"))
        async with instance.received:
            await instance.received.wait_for(lambda: instance.messages)
        many = asyncio.ensure_future(log.append_many([b"k"], [b"2"]))
        await asyncio.gather(db.close(), db.close())
        assert isinstance(await ends(sent), OutcomeUnknownError)
        assert isinstance(await ends(many), LogstoreError)
        assert "not stored" not in str(sent.exception())  # nobody knows
    instance.gate.set()


async def test_an_error_in_the_body_passes_the_end_of_the_client(start: Starter) -> None:
    cluster = await start()
    db = client_of(cluster)

    async def body() -> None:
        async with db:
            log = await db.log("orders")
            assert await drained(log.tail(idle_timeout_s=0.01)) == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert isinstance(await ends(db.list_logs()), ClientClosedError)


async def test_nothing_is_left_of_iterators_that_were_dropped(start: Starter) -> None:
    cluster = await start(("a",), hash_shards=3)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many([b"%d" % i for i in range(900)], [b"v"] * 900)
        before = set(db._lifetime._tasks)
        async for _ in log.read():
            break
        async for _ in log.tail(from_start=True):
            break
        batches = log.scan().batches()
        await anext(batches)
        tail = log.tail(from_start=True)
        assert await tail.poll(WAIT_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(drained(log.tail()), 0.05)
        del batches, tail
        gc.collect()
        async with asyncio.timeout(WAIT_S):
            while set(db._lifetime._tasks) - before:
                await asyncio.sleep(0.001)


# ---- the end of the log


@SHARDS
@pytest.mark.parametrize("name", WAITING)
async def test_deleting_a_log_ends_what_waits_for_it(
    start: Starter, name: str, shards: int
) -> None:
    cluster = await start(("a",), hash_shards=shards)
    async with client_of(cluster, timeout_s=60) as db:
        waiting = asyncio.ensure_future(WAITING[name](await db.log("orders")))
        await reads_begun(cluster, shards if "shard" not in name and "key" not in name else 1)
        await cluster.delete()
        async with asyncio.timeout(1.0):
            error = await ends(waiting)
    assert isinstance(error, UnknownLogError)
    assert error.message == "log 'orders' was deleted"


@SHARDS
@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("name", WAITING)
async def test_a_log_made_anew_under_the_name_is_another_and_is_named(
    start: Starter, name: str, shards: int, pause: bool
) -> None:
    cluster = await start(("a",), hash_shards=shards)
    async with client_of(cluster, timeout_s=60) as db:
        waiting = asyncio.ensure_future(WAITING[name](await db.log("orders")))
        await reads_begun(cluster, shards if "shard" not in name and "key" not in name else 1)
        async with asyncio.timeout(1.0):
            await cluster.delete()
            if pause:
                await asyncio.sleep(0.05)  # the end is heard of before the new log
            await cluster.remake()
            error = await ends(waiting)
    assert isinstance(error, UnknownLogError)
    assert "was deleted; the log 'orders' that was created at 2023-11-14T22:13:21Z" in error.message


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("Client")])
async def test_a_log_stays_the_log_that_it_was_opened_as(start: Starter, name: str) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"old")
        await cluster.remake()
        async with asyncio.timeout(WAIT_S):
            while (await db.log("orders"))._router.created_us != cluster.created_us:
                await asyncio.sleep(0.01)
        error = await ends(CALLS[name](db, log))
        assert isinstance(error, UnknownLogError)
        assert "open it with log()" in error.message
        new = await db.log("orders")
        assert (await new.append(b"k", b"new")).offset == 0
        assert [r.value for r in await drained(new.read())] == [b"new"]


@pytest.mark.parametrize("remade", [False, True])
async def test_appends_that_wait_in_a_lane_end_with_their_log(start: Starter, remade: bool) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        calls = [asyncio.ensure_future(log.append(b"k", b"%d" % i)) for i in range(3)]
        async with instance.received:
            await instance.received.wait_for(lambda: instance.messages)
        calls += [asyncio.ensure_future(log.append_many([b"k"], [b"v"])) for _ in range(80)]
        calls.append(asyncio.ensure_future(log.append(b"k", b"v", expected_version=9)))
        async with asyncio.timeout(1.0):
            await (cluster.remake() if remade else cluster.delete())
            errors = await asyncio.gather(*calls, return_exceptions=True)
        causes = [getattr(e, "cause", e) for e in errors]
        assert all(isinstance(e, (OutcomeUnknownError, UnknownLogError)) for e in causes)
        assert any(isinstance(e, UnknownLogError) for e in causes)  # the window was full
        assert all("was deleted" in str(e) for e in causes)
        instance.gate.set()


async def test_a_read_in_progress_ends_with_its_log(start: Starter) -> None:
    cluster = await start()
    cluster.instances["a"].read_faults.extend([(1, NotServingError("moving"))] * 10_000)
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        await log.append_many([b"k"] * 500, [b"v"] * 500)
        records = log.read()
        assert (await anext(records)).offset == 0
        await cluster.remake()
        async with asyncio.timeout(2.0):
            error = await ends(drained(records))
    assert isinstance(error, UnknownLogError)
    assert "is another one" in error.message


async def test_a_tail_past_the_end_of_the_new_log_names_it(start: Starter) -> None:
    """The instance knows of the new log before the client's map does."""
    cluster = await start()
    instance = cluster.instances["a"]
    async with client_of(cluster, timeout_s=60) as db:
        log = await db.log("orders")
        await log.append_many([b"k"] * 500, [b"v"] * 500)
        waiting = asyncio.ensure_future(drained(log.tail()))
        await reads_begun(cluster, 2)
        created_us = cluster.created_us
        await cluster.remake()
        cluster.created_us, newest_us = created_us, cluster.created_us  # told late
        instance.read_faults.append((0, UnavailableError("cut")))
        async with instance.appended:
            instance.appended.notify_all()
        await asyncio.sleep(0.05)
        cluster.created_us = newest_us
        await cluster.change()
        error = await ends(waiting)
    assert isinstance(error, UnknownLogError)


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
        reads = {
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
        monkeypatch.setattr(reader.Page, shape, raising(KeyError("headers")))
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
            broken.setattr(directory, "map_of", raising(directory.ShardMapError("a gap")))
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
            found = []
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
            assert await tail.poll(WAIT_S) == []
            assert tail.ended
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


# ---- who is not there


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """A port that takes connections and never says a word."""
    held: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield "{}:{}".format(*server.sockets[0].getsockname())
    server.close()
    for writer in held:
        writer.close()


async def test_a_port_of_something_else_is_named(silent: str) -> None:
    async with logstore.connect(silent, timeout_s=1) as db:
        error = await ends(db.log("orders"))
    assert isinstance(error, UnavailableError)
    assert silent in error.message


async def test_a_coordinator_that_dies_leaves_no_call_waiting(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster, timeout_s=1) as db:
        log = await db.log("orders")
        tail = log.tail()
        await begun(cluster, tail)
        await cluster.stop()
        error = await ends(drained(tail))
        assert isinstance(error, LogstoreError)
        assert "gave up" in error.message
