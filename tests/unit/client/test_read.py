import asyncio
import contextlib
import datetime
import importlib.util

import pyarrow as pa
import pytest

from logstore.base.errors import (
    CorruptStorageError,
    FencedError,
    InvalidArgumentError,
    LimitExceededError,
    NotServingError,
    OutOfRangeError,
    UnavailableError,
    UnknownShardError,
)
from logstore.base.types import Record
from logstore.client import ordered
from logstore.client.client import Log
from logstore.client.pages import SCAN_SCHEMA
from tests.support.clients import Starter, client_of
from tests.support.scripted import STAMP_US, Cluster

KEYS = [b"key-%02d" % (i * 7 % 20) for i in range(2_000)]
VALUES = [b"%d" % i for i in range(2_000)]


async def filled(log: Log) -> None:
    await log.append_many(KEYS, VALUES, list(range(1_000, 3_000)))


def per_key(records: list[Record]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record.value)
    return found


WANTED: dict[bytes, list[bytes]] = {}
for _key, _value in zip(KEYS, VALUES, strict=True):
    WANTED.setdefault(_key, []).append(_value)


async def three(start: Starter, hashed: bool = False) -> Cluster:
    if hashed:
        return await start(("a", "b"), hash_shards=3)
    return await start(("a", "b"), (b"key-07", b"key-14"))


@pytest.mark.parametrize("hashed", [False, True])
async def test_reads_by_key_range_time_and_shard(start: Starter, hashed: bool) -> None:
    cluster = await three(start, hashed)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        assert per_key([r async for r in log.read()]) == WANTED
        assert [r.value async for r in log.read(key=b"key-03")] == WANTED[b"key-03"]
        some = per_key([r async for r in log.read(start=b"key-05", end=b"key-16")])
        assert some == {k: v for k, v in WANTED.items() if b"key-05" <= k < b"key-16"}
        late = [r.timestamp async for r in log.read(since=2_500)]
        assert sorted(late) == list(range(2_500, 3_000))
        moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        moment += datetime.timedelta(microseconds=2_990)
        assert len([r async for r in log.read(since=moment)]) == 10
        shard = cluster.shards["orders/1"]
        tail = [r async for r in log.read(shard="orders/1", offset=5, limit=7)]
        assert [r.offset for r in tail] == list(range(5, 12))
        assert [r.value for r in tail] == [r.value for r in shard.records[5:12]]
        assert len([r async for r in log.read(limit=33)]) == 33


@pytest.mark.parametrize("hashed", [False, True])
async def test_order_key_gives_key_then_offset(start: Starter, hashed: bool) -> None:
    cluster = await three(start, hashed)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        records = [r async for r in log.read(order="key")]
        wanted = [(key, value) for key in sorted(WANTED) for value in WANTED[key]]
        assert [(r.key, r.value) for r in records] == wanted
        first = [(r.key, r.value) async for r in log.read(order="key", limit=150)]
        assert first == wanted[:150]


async def test_order_key_is_bounded(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "ORDERED_READ_BYTES_MAX", 1_000)
    cluster = await three(start)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        with pytest.raises(LimitExceededError, match="the limit is 1000 bytes"):
            await log.scan(order="key").to_arrow()


async def test_scan_hands_over_tables(start: Starter) -> None:
    cluster = await three(start)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        await log.append(b"key-00", b"with", headers={"h": b"1"}, timestamp=9)
        table = await log.scan(start=b"key-00", end=b"key-01", order="key").to_arrow()
        assert table.schema == SCAN_SCHEMA
        assert table.column("value").to_pylist() == [*WANTED[b"key-00"], b"with"]
        assert table.column("headers").to_pylist()[-1] == [{"name": "h", "value": b"1"}]
        assert set(table.column("shard").to_pylist()) == {"orders/0"}
        rows = sum([b.num_rows async for b in log.scan().batches()])
        assert rows == 2_001
        empty = await log.scan(start=b"zzz").to_arrow()
        assert (empty.num_rows, empty.schema) == (0, SCAN_SCHEMA)
        (record,) = [
            r async for r in log.read(key=b"key-00", since=9, shard="orders/0") if r.headers
        ]
        assert record.headers == {"h": b"1"}


async def test_scan_to_frames(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"v")
        for name in ("polars", "pandas"):
            convert = getattr(log.scan(), f"to_{name}")
            if importlib.util.find_spec(name) is not None:
                assert list((await convert())["value"]) == [b"v"]
            elif name == "polars":
                with pytest.raises(InvalidArgumentError, match="needs polars"):
                    await convert()


@pytest.mark.parametrize("pages", [0, 1, 5])
@pytest.mark.parametrize(
    "error", [UnavailableError("x"), NotServingError("y"), FencedError("z")], ids=lambda e: e.code
)
async def test_a_broken_read_goes_on_without_gap_or_double(
    start: Starter, error: UnavailableError, pages: int
) -> None:
    cluster = await three(start)
    for instance in cluster.instances.values():
        instance.read_faults.extend([(pages, error), (1, error)])
        instance.page_rows = 50
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        assert per_key([r async for r in log.read()]) == WANTED
    assert not any(instance.read_faults for instance in cluster.instances.values())


async def test_a_read_follows_a_move_and_ends_where_it_began(start: Starter) -> None:
    cluster = await start(("a", "b"))
    cluster.instances["a"].page_rows = 50
    cluster.instances["a"].read_faults.append((3, FencedError("moved")))
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        await cluster.change(s0={"primary": "b", "epoch": 2})
        found: list[Record] = []
        async for record in log.read(shard="orders/0"):
            found.append(record)
            if len(found) == 10:
                await log.append(b"later", b"not in this read")
    assert [r.value for r in found] == VALUES
    assert [r.offset for r in found] == list(range(2_000))


async def test_reads_that_cannot_be_served_say_why(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster, timeout_s=0.2) as db:
        log = await db.log("orders")
        with pytest.raises(OutOfRangeError, match="start_offset is 5"):
            await log.scan(shard="orders/0", offset=5).to_arrow()
        with pytest.raises(UnknownShardError, match="orders/7"):
            await log.scan(shard="orders/7").to_arrow()
        with pytest.raises(InvalidArgumentError, match="offset is given without shard"):
            log.scan(offset=5)
        with pytest.raises(InvalidArgumentError, match="end is b'a', it must be above"):
            log.scan(start=b"b", end=b"a")
        with pytest.raises(InvalidArgumentError, match="key is str"):
            log.scan(key="text")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="order is 'down'"):
            log.scan(order="down")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="limit is 0"):
            log.scan(limit=0)
        await log.append(b"k", b"v")
        bad = [(0, CorruptStorageError("batch at 0"))]
        cluster.instances["a"].read_faults.extend(bad)
        with pytest.raises(CorruptStorageError, match="batch at 0"):
            await log.scan().to_arrow()
        cluster.instances["a"].read_faults.extend([(0, NotServingError("starting"))] * 1_000)
        with pytest.raises(NotServingError, match="gave up: starting"):
            await log.scan().to_arrow()


async def test_a_client_asks_to_be_shown_what_it_wrote(start: Starter) -> None:  # P8
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many([b"k"] * 5, [b"v"] * 5)
        await log.scan().to_arrow()
    assert cluster.instances["a"].reads[-1].min_high_watermark == 5


async def test_reads_are_shared_during_a_ramp(start: Starter) -> None:
    cluster = await start(("a", "b"))
    await cluster.change(s0={"shares": {"b": 0.5}})
    async with client_of(cluster) as db:
        log = await db.log("orders")
        for _ in range(60):
            await log.scan().to_arrow()
    assert 15 < len(cluster.instances["b"].reads) < 45


async def test_tail_gives_what_comes_after_the_call(start: Starter) -> None:
    cluster = await start(("a", "b"), (b"m",))
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"a", b"before")
        tail = log.tail()
        first = asyncio.ensure_future(anext(tail))
        for instance in cluster.instances.values():  # the end was asked for, then the tail
            async with instance.asked:
                await instance.asked.wait_for(lambda i=instance: len(i.reads) >= 2)  # type: ignore[misc]
        await log.append(b"z", b"1")
        assert (await first).value == b"1"
        for instance in cluster.instances.values():
            instance.read_faults.append((1, UnavailableError("cut")))
        got = []
        for number in range(2, 40):
            await log.append(b"z", b"%d" % number)
            got.append((await anext(tail)).value)
        await tail.aclose()
    assert got == [b"%d" % n for n in range(2, 40)]


async def test_tail_from_the_start_filters_and_resumes(start: Starter) -> None:
    cluster = await start()
    cluster.instances["a"].read_faults.append((1, FencedError("moved")))
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many([b"a", b"b"] * 200, [b"%d" % i for i in range(400)])
        found = [r async for r in log.tail(start=b"b", from_start=True, limit=200)]
        assert [r.value for r in found] == [b"%d" % i for i in range(1, 400, 2)]
        assert found[0].timestamp == STAMP_US
        since = [r async for r in log.tail(key=b"a", since=0, limit=3)]
        assert [r.offset for r in since] == [0, 2, 4]


async def test_leaving_a_read_early_ends_its_calls(start: Starter) -> None:
    cluster = await three(start)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await filled(log)
        async with contextlib.aclosing(log.read()) as records:
            async for _ in records:
                break
        assert isinstance(await log.scan().to_arrow(), pa.Table)
