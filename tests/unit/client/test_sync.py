import asyncio
import threading

import pytest

import logstore
from logstore.base.errors import (
    ClientClosedError,
    ClientUseError,
    InvalidArgumentError,
    UnavailableError,
)
from logstore.client import directory
from tests.support.clients import Starter


async def test_sync_client_mirrors_the_async_one(start: Starter) -> None:
    cluster = await start(("a", "b"), (b"m",))
    address = cluster.addresses["a"]
    threads_before = threading.active_count()

    def use() -> None:
        with logstore.connect_sync(address, client_group="tests") as db:
            assert db.list_logs() == ["orders"]
            log = db.log("orders")
            assert log.append(b"a", b"0").offset == 0
            acks = log.append_many([b"b"] * 3_000, [b"%d" % i for i in range(3_000)])
            assert sum(ack.count for ack in acks) == 3_000
            assert [r.value for r in log.read(key=b"b")] == [b"%d" % i for i in range(3_000)]
            for record in log.read():
                assert record.key == b"a"
                break
            assert log.scan().to_arrow().num_rows == 3_001
            assert sum(b.num_rows for b in log.scan(key=b"b").batches()) == 3_000
            assert [r.value for r in log.tail(from_start=True, key=b"b", limit=2)] == [b"0", b"1"]
            assert len(log.shard_map().shards) == 2
            with pytest.raises(InvalidArgumentError, match="key is str"):
                log.append("a", b"0")  # type: ignore[arg-type]
            results: list[int] = []
            workers = [
                threading.Thread(target=lambda: results.append(log.append(b"t", b"").offset))
                for _ in range(8)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert sorted(results) == list(range(8))
        with pytest.raises(UnavailableError, match="the client is closed"):
            log.append(b"a", b"1")

    await asyncio.to_thread(use)
    assert threading.active_count() <= threads_before + 1


async def test_sync_iterators_are_polled_left_and_closed(start: Starter) -> None:
    cluster = await start(("a", "b"), (b"m",))
    address = cluster.addresses["a"]

    def use() -> None:
        with logstore.connect_sync(address, client_group="tests") as db:
            log = db.log("orders")
            log.append_many([b"b"] * 3, [b"0", b"1", b"2"])
            with log.tail(from_start=True) as tail:
                assert next(tail).value == b"0"
                assert [r.value for r in tail.poll(0)] == [b"1", b"2"]
                assert tail.poll(0.01) == []
                log.append(b"b", b"3")
                assert [r.value for r in tail.poll(20)] == [b"3"]
                assert not tail.ended
            assert (tail.ended, list(tail)) == (True, [])
            found = [r.value for r in log.tail(from_start=True, idle_timeout_s=0.1)]
            assert found == [b"0", b"1", b"2", b"3"]
            with log.scan().batches() as batches:
                assert next(batches).num_rows
            assert list(batches) == []
            with pytest.raises(InvalidArgumentError, match="timeout_s is nan"):
                tail.poll(float("nan"))
            with pytest.raises(InvalidArgumentError, match="since is"):
                log.read(since=2**63)
            left = log.read()
            next(left)
        db.close()
        left.close()
        tail.close()
        for call in (db.list_logs, lambda: db.log("x"), lambda: next(log.read()), log.shard_map):
            with pytest.raises(ClientClosedError, match="the client is closed"):
                call()
        with pytest.raises(ClientUseError, match="opened before"):
            db.__enter__()

    await asyncio.to_thread(use)


async def test_a_loop_that_stops_ends_the_calls_that_wait_for_it(start: Starter) -> None:
    cluster = await start()

    def use() -> None:
        with logstore.connect_sync(cluster.addresses["a"], client_group="tests") as db:
            tail = db.log("orders").tail()
            assert tail.poll(0.01) == []
            assert db._loop is not None
            loop = db._loop._loop
            timer = threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,))
            timer.start()
            with pytest.raises(ClientClosedError):
                next(tail)
            timer.join()
            with pytest.raises(ClientClosedError):
                db.list_logs()

    await asyncio.wait_for(asyncio.to_thread(use), 20)


def test_sync_client_needs_with() -> None:
    db = logstore.connect_sync("127.0.0.1:1")
    with pytest.raises(InvalidArgumentError, match="not open"):
        db.list_logs()


@pytest.mark.parametrize("address", ["", "localhost", "host:", ":80", "host:99999", "a:1,b"])
def test_bad_addresses_are_named(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="address"):
        logstore.connect(address)


async def test_nobody_answers(start: Starter) -> None:
    cluster = await start()
    address = cluster.addresses["a"]
    await cluster.stop()
    async with logstore.connect(address, timeout_s=0.5) as db:
        with pytest.raises(UnavailableError, match=address):
            await db.log("orders")
        with pytest.raises(UnavailableError, match="no coordinator answered"):
            await db.list_logs()


@pytest.mark.parametrize("refusals", [1, 3, 4])
async def test_a_call_that_reached_nobody_is_made_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Connections that were refused while all restarted are opened again within a second."""
    monkeypatch.setattr(directory, "FENCED_WAITS_S", (0.0,) * len(directory.FENCED_WAITS_S))
    asked = 0

    async def once(*_: object) -> str:
        nonlocal asked
        asked += 1
        if asked <= refusals:
            raise directory._NobodyReachedError("no coordinator answered")
        return "answer"

    async with logstore.connect("127.0.0.1:1") as db:
        monkeypatch.setattr(db._directory, "_coordinator_once", once)
        if refusals <= directory.UNREACHED_RETRIES:
            assert await db._directory.catalog("ListLogs", None) == "answer"
        else:
            with pytest.raises(UnavailableError, match="no coordinator answered"):
                await db._directory.catalog("ListLogs", None)
        assert asked == min(refusals, directory.UNREACHED_RETRIES) + 1
