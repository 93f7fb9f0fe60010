"""Calls end when the client does and when the log does, and say so where neither is theirs."""

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
    LogstoreError,
    NotServingError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownLogError,
)
from logstore.client.client import Client, Log, Scan
from logstore.client.sync_client import SyncClient, SyncLog, SyncScan
from tests.support.clients import Starter, client_of
from tests.unit.client.endings import SHARDS, WAIT_S, begun, drained, ends, reads_begun

Call = Callable[[Client, Log], Awaitable[Any]]


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
    "Log.place": lambda db, log: log.place(b"k"),
    "Log.shard_map": lambda db, log: log.shard_map(),
    "Scan.batches": lambda db, log: drained(log.scan(order="key").batches()),
    "Scan.to_arrow": lambda db, log: log.scan().to_arrow(),
    "Scan.to_pandas": lambda db, log: log.scan().to_pandas(),
    "Records.poll": lambda db, log: log.tail().poll(1.0),
}
if importlib.util.find_spec("polars") is not None:  # without it the call says so first
    CALLS["Scan.to_polars"] = lambda db, log: log.scan().to_polars()
WAITING: dict[str, Callable[[Log], Awaitable[Any]]] = {
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
        assert {n for n in vars(mine) if not n.startswith("_")} <= set(dir(mirror))


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
        assert "not stored" not in str(sent.exception())  # unknown
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
        calls: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(log.append(b"k", b"%d" % i)) for i in range(3)
        ]
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
        cluster.created_us, newest_us = created_us, cluster.created_us  # notified late
        instance.read_faults.append((0, UnavailableError("cut")))
        async with instance.appended:
            instance.appended.notify_all()
        await asyncio.sleep(0.05)
        cluster.created_us = newest_us
        await cluster.change()
        error = await ends(waiting)
    assert isinstance(error, UnknownLogError)


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
