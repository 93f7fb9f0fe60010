"""The client against real instances: RocksDB, group commit, replication, moves by intents."""

import asyncio
from pathlib import Path

import pytest

import logstore
from coordinator.catalog.catalog import Catalog
from logstore.base.env import Env
from logstore.base.errors import LogstoreError, UnknownLogError, VersionConflictError
from logstore.client.options import PartitionerName
from logstore.meta.records import LogOptions
from sharder.keys import KeyRange
from tests.support.nodes import LogChoices, Nodes, nodes
from tests.unit.node.test_move_by_intents import SHARD, TARGET, in_sync_ids, learn


class Loader:
    """Single appends and batches of one key, many in flight; remembers what was acked."""

    def __init__(self, log: logstore.Log) -> None:
        self.log = log
        self.acked: list[tuple[bytes, int]] = []
        self.sent = 0
        self.progress = asyncio.Condition()
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            values = [b"%d" % (self.sent + i) for i in range(40)]
            self.sent += 40
            singles = [self.log.append(b"k", value) for value in values[:20]]
            many = self.log.append_many([b"k"] * 20, values[20:])
            acks, batches = await asyncio.gather(asyncio.gather(*singles), many)
            self.acked += [(v, a.offset) for v, a in zip(values, acks, strict=False)]
            rows = iter(values[20:])
            for ack in batches:
                self.acked += [(next(rows), ack.offset + i) for i in range(ack.count)]
            async with self.progress:
                self.progress.notify_all()

    async def more(self) -> None:
        """Until some more was acked."""
        before = len(self.acked)
        async with asyncio.timeout(20), self.progress:
            await self.progress.wait_for(lambda: len(self.acked) >= before + 80)

    async def stop(self, running: "asyncio.Task[None]") -> None:
        self._stop = True
        await running


async def check(log: logstore.Log, loader: Loader) -> None:
    records = [r async for r in log.read(key=b"k")]
    assert [r.value for r in records] == [b"%d" % i for i in range(loader.sent)]
    assert [(r.value, r.offset) for r in records] == loader.acked


async def addresses(n: Nodes) -> list[str]:
    return [server.address for server in n.servers.values()]


async def test_no_call_fails_and_nothing_is_lost_through_a_move_and_back(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        async with logstore.connect(await addresses(n)) as db:
            log = await db.log("orders")
            loader = Loader(log)
            running = asyncio.create_task(loader.run())
            await learn(n)
            await n.change(SHARD, admit=(TARGET,))
            record = await n.until(SHARD, lambda r: TARGET in in_sync_ids(r))
            source = record.primary.replica_id
            for share in (0.5, 1.0):
                await n.change(SHARD, route={"i2": share})
                await loader.more()
                assert [r async for r in log.read(key=b"k", limit=1)]
            await n.change(SHARD, hand_over=TARGET)
            await n.until(SHARD, lambda r: r.primary.replica_id == TARGET)
            await n.change(SHARD, route={})
            await loader.more()
            await n.change(SHARD, hand_over=source)
            await n.until(SHARD, lambda r: r.primary.replica_id == source)
            await loader.more()
            await n.change(SHARD, remove=(TARGET,))
            await n.until(SHARD, lambda r: in_sync_ids(r) == {source})
            await loader.more()
            await loader.stop(running)
            await check(log, loader)


async def test_an_instance_that_restarts_under_load_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create(SHARD, "i1")
        await n.until(SHARD, lambda r: r.epoch == 2)
        address = n.servers["i1"].address
        async with logstore.connect(address) as db:
            log = await db.log("orders")
            loader = Loader(log)
            running = asyncio.create_task(loader.run())
            for _ in range(2):
                await loader.more()
                await n.stop("i1")
                await n.start("i1", listen=address)
            await loader.more()
            await loader.stop(running)
            await check(log, loader)


@pytest.mark.parametrize("partitioner", ["range", "hash"])
async def test_reads_of_a_log_on_several_instances(
    tmp_path: Path, partitioner: PartitionerName
) -> None:
    async with nodes(tmp_path, 2) as n:
        half = b"\x80" if partitioner == "hash" else b"k-3"
        options: LogChoices = {"partitioner": partitioner, "compression": "lz4"}
        await n.create("orders/0", "i1", KeyRange(b"", half), **options)
        await n.create("orders/1", "i2", KeyRange(half, None), **options)
        await n.until("orders/0", lambda r: r.epoch == 2)
        await n.until("orders/1", lambda r: r.epoch == 2)
        keys = [b"k-%d" % (i % 6) for i in range(6_000)]
        values = [b"%d" % i for i in range(6_000)]
        async with logstore.connect(await addresses(n)) as db:
            log = await db.log("orders")
            tail = log.tail(key=b"k-5", from_start=True, limit=1_001)
            acks = await log.append_many(keys, values, list(range(6_000)))
            assert {ack.shard for ack in acks} == {"orders/0", "orders/1"}
            ordered = [(r.key, r.value) async for r in log.read(order="key")]
            assert ordered == sorted(
                zip(keys, values, strict=True), key=lambda row: (row[0], int(row[1]))
            )
            table = await log.scan(start=b"k-2", end=b"k-4").to_arrow()
            assert table.num_rows == 2_000
            assert len([r async for r in log.read(since=5_000)]) == 1_000
            ack = await log.append(
                b"k-5", b"last", headers={"h": b"1"}, timestamp=7, expected_version=1_000
            )
            assert (ack.version, ack.timestamp) == (1_001, 7)
            with pytest.raises(VersionConflictError, match="expected_version is 1000"):
                await log.append(b"k-5", b"again", expected_version=1_000)
            found = [r async for r in tail]
            assert [r.value for r in found] == [*values[5::6], b"last"]
            assert found[-1].headers == {"h": b"1"}
            with pytest.raises(UnknownLogError):
                await db.log("nothing")


@pytest.mark.parametrize("remade", [False, True])
@pytest.mark.parametrize(("replicas", "shards"), [(1, 1), (2, 3)])
async def test_what_uses_a_log_ends_within_a_second_of_its_deletion(
    tmp_path: Path, replicas: int, shards: int, remade: bool
) -> None:
    async with nodes(tmp_path, 2) as n:
        catalog, options = Catalog(n.store, Env(), "c"), LogOptions(replicas=replicas)
        await catalog.create("orders", options, shards)
        async with logstore.connect(await addresses(n)) as db:
            log = await db.log("orders")
            await log.append_many([b"%d" % i for i in range(3_000)], [b"v"] * 3_000)
            tails = [log.tail(), log.tail(from_start=True), log.tail(key=b"7")]
            tails += [log.tail(shard="orders/0"), log.tail(shard="orders/0", offset=5)]
            for tail in tails:
                while await tail.poll(0.3):
                    continue
            waiting = [asyncio.ensure_future(tail.poll(600)) for tail in tails]
            loop = asyncio.get_running_loop()
            deleted_s = loop.time()
            await catalog.delete("orders")
            if remade:
                await catalog.create("orders", options, shards)
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert loop.time() - deleted_s < 1.0
            assert {type(e) for e in errors} == {UnknownLogError}
            if remade:
                assert all("that was created at" in str(e) for e in errors)
                with pytest.raises(UnknownLogError, match="is another one"):
                    await log.append(b"k", b"v")
                new = await db.log("orders")
                await new.append(b"k", b"new")
                assert [r.value async for r in new.read()] == [b"new"]
            else:
                with pytest.raises(UnknownLogError):
                    await log.append(b"k", b"v")


async def test_appends_of_a_log_that_is_deleted_and_made_anew_are_not_in_the_new_one(
    tmp_path: Path,
) -> None:
    async with nodes(tmp_path, 1) as n:
        catalog = Catalog(n.store, Env(), "c")
        await catalog.create("orders", LogOptions(), 2)
        async with logstore.connect(await addresses(n)) as db:
            log = await db.log("orders")

            async def write(number: int) -> LogstoreError:
                for count in range(100_000):
                    try:
                        await log.append(b"%d-%d" % (number, count), b"old")
                    except LogstoreError as e:
                        return e
                raise AssertionError("it ends with the log")

            writers = [asyncio.ensure_future(write(number)) for number in range(20)]
            while len([r async for r in log.read(limit=100)]) < 100:
                continue
            await catalog.delete("orders")
            await catalog.create("orders", LogOptions(), 2)
            errors = await asyncio.wait_for(asyncio.gather(*writers), 10)
            assert all("was deleted" in str(e) for e in errors)
            new = await db.log("orders")
            assert [r async for r in new.read()] == []


async def test_a_copy_of_one_log_serves_no_other_of_its_name(tmp_path: Path) -> None:
    """What a map names and what a copy belongs to are compared at the door of the copy."""
    async with nodes(tmp_path, 1) as n:
        catalog = Catalog(n.store, Env(), "c")
        await catalog.create("orders", LogOptions())
        async with logstore.connect(await addresses(n), timeout_s=1) as db:
            log = await db.log("orders")
            await log.append(b"k", b"v")
            router = db._directory.cached("orders")
            assert router is not None
            router.created_us += (
                1  # as if the map were of a log that the instance does not know yet
            )
            log = await db.log("orders")
            with pytest.raises(LogstoreError, match="the call means that of"):
                await log.append(b"k", b"another's")
            with pytest.raises(LogstoreError, match="the call means that of"):
                assert [r async for r in log.read()] == []
        async with logstore.connect(await addresses(n)) as db:
            assert [r.value async for r in (await db.log("orders")).read()] == [b"v"]
