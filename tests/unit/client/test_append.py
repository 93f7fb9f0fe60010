import asyncio

import numpy as np
import pyarrow as pa
import pytest

from logstore.base.errors import (
    AppendManyError,
    CorruptBatchError,
    FencedError,
    InvalidArgumentError,
    LimitExceededError,
    NotServingError,
    OutcomeUnknownError,
    OverloadedError,
    StorageFullError,
    UnavailableError,
    UnknownLogError,
    VersionConflictError,
)
from logstore.base.types import Ack
from logstore.client import appender
from logstore.client.client import Log
from tests.support.clients import Starter, client_of
from tests.support.scripted import STAMP_US, Cluster


def values_of(cluster: Cluster, key: bytes) -> list[bytes]:
    return [r.value for r in cluster.all_records() if r.key == key]


async def test_append_returns_place_and_time(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        assert await log.append(b"k", b"v") == Ack("orders/0", 0, STAMP_US)
        assert await log.append(b"k", b"w", headers={"h": b"1"}, timestamp=5) == Ack(
            "orders/0", 1, 5
        )
    assert cluster.shards["orders/0"].records[1].headers == {"h": b"1"}


async def test_concurrent_appends_gather_into_few_batches_in_order(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        acks = await asyncio.gather(*(log.append(b"k", b"%d" % i) for i in range(2_000)))
    assert [ack.offset for ack in acks] == list(range(2_000))
    assert values_of(cluster, b"k") == [b"%d" % i for i in range(2_000)]
    assert len(cluster.instances["a"].messages) < 20


async def test_append_many_splits_over_shards_and_keeps_key_order(start: Starter) -> None:
    cluster = await start(("a", "b"), (b"key-3", b"key-6"))
    keys = [b"key-%d" % (i % 10) for i in range(20_000)]
    values = [b"%d" % i for i in range(20_000)]
    async with client_of(cluster) as db:
        log = await db.log("orders")
        acks = await log.append_many(keys, values)
    assert sum(ack.count for ack in acks) == 20_000
    assert {ack.shard for ack in acks} == set(cluster.shards)
    for digit in range(10):
        wanted = [v for k, v in zip(keys, values, strict=True) if k == b"key-%d" % digit]
        assert values_of(cluster, b"key-%d" % digit) == wanted


@pytest.mark.parametrize("kind", ["list", "numpy-object", "arrow", "large", "chunks"])
async def test_append_many_takes_columns_of_many_kinds(start: Starter, kind: str) -> None:
    cluster = await start()
    data = [b"a", b"bb", b"ccc"]
    columns: dict[str, object] = {
        "list": data,
        "numpy-object": np.array(data, dtype=object),
        "arrow": pa.array([b"x", *data])[1:],
        "large": pa.array(data, pa.large_binary()),
        "chunks": pa.chunked_array([[b"a"], [b"bb", b"ccc"]], pa.binary()),
    }
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many(columns[kind], columns[kind], np.array([1, 2, 3]))
    records = cluster.shards["orders/0"].records
    assert [(r.key, r.value, r.timestamp) for r in records] == [
        (item, item, stamp) for item, stamp in zip(data, (1, 2, 3), strict=True)
    ]


async def appended_exactly_once(cluster: Cluster, log: Log, count: int = 400) -> None:
    """Append in parts that are in flight together; then everything is there once and in order."""
    parts = [
        log.append_many([b"k"] * 10, [b"%d" % (part * 10 + i) for i in range(10)])
        for part in range(count // 10)
    ]
    acks = [ack for part in await asyncio.gather(*parts) for ack in part]
    stored = values_of(cluster, b"k")
    assert sorted(stored, key=int) == [b"%d" % i for i in range(count)]
    assert stored == [b"%d" % i for i in range(count)]
    assert sorted(ack.offset for ack in acks) == list(range(0, count, 10))


@pytest.mark.parametrize("place", [0, 1, 7])
@pytest.mark.parametrize(
    "verdict",
    [
        "lose",
        "lose_ack",
        FencedError("moved"),
        NotServingError("starting"),
        OverloadedError("busy", retry_after_ms=20),
        UnavailableError("unknown"),
        StorageFullError("full"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.code,
)
async def test_a_failure_in_flight_loses_and_doubles_nothing(
    start: Starter, verdict: object, place: int
) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.faults.extend([lambda m: None] * place)
    instance.faults.append(lambda m: verdict)  # type: ignore[arg-type,return-value]
    async with client_of(cluster) as db:
        await appended_exactly_once(cluster, await db.log("orders"))
    assert not instance.faults
    assert len({m.producer_id for m in instance.messages}) == 1


async def test_many_failures_in_a_row(start: Starter) -> None:
    cluster = await start()
    verdicts: list[object] = ["lose_ack", None, "lose", FencedError("x"), None, None, "lose_ack"]
    verdicts += [OverloadedError("busy", retry_after_ms=5), None, NotServingError("y"), "lose"]
    for verdict in verdicts * 2:
        cluster.instances["a"].faults.append(lambda m, v=verdict: v)  # type: ignore[misc]
    async with client_of(cluster) as db:
        await appended_exactly_once(cluster, await db.log("orders"))


async def test_a_refused_batch_fails_alone_and_the_rest_is_renumbered(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.faults.extend([lambda m: None, lambda m: CorruptBatchError("flipped")])
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await db.log("orders")
        jobs = [log.append_many([b"k"], [b"%d" % i]) for i in range(10)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        await log.append_many([b"k"], [b"10"])
    assert isinstance(results[1], AppendManyError)
    assert isinstance(results[1].cause, CorruptBatchError)
    assert results[1].not_stored == [(0, 1)]
    assert [type(r) for i, r in enumerate(results) if i != 1] == [list] * 9
    assert values_of(cluster, b"k") == [b"%d" % i for i in range(11) if i != 1]
    assert len({m.producer_id for m in instance.messages}) == 1


async def test_refusal_after_an_unknown_outcome_starts_a_new_producer(start: Starter) -> None:
    """Lane rule 3: numbers are not given again while a copy of their batch may be under way."""
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    instance.faults.extend([lambda m: "lose", lambda m: CorruptBatchError("flipped")])
    async with client_of(cluster) as db:
        log = await db.log("orders")
        jobs = asyncio.gather(
            *(log.append_many([b"k"], [b"%d" % i]) for i in range(3)), return_exceptions=True
        )
        instance.gate.set()
        results = await jobs
        for result in results:
            assert isinstance(result, AppendManyError)
            assert isinstance(result.cause, OutcomeUnknownError)
            assert result.unknown == [(0, 1)]
        await log.append(b"k", b"after")
    assert values_of(cluster, b"k") == [b"after"]
    assert len({m.producer_id for m in instance.messages}) == 2


async def test_follows_the_shard_to_another_instance(start: Starter) -> None:
    cluster = await start(("a", "b"))
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"0")
        await cluster.change(s0={"primary": "b", "epoch": 2})
        acks = await asyncio.gather(*(log.append(b"k", b"%d" % i) for i in range(1, 300)))
    assert [ack.offset for ack in acks] == list(range(1, 300))
    assert values_of(cluster, b"k") == [b"%d" % i for i in range(300)]
    assert cluster.shards["orders/0"].appends_by["b"] > 0


async def test_moves_while_appending_keep_order_and_count(start: Starter) -> None:
    cluster = await start(("a", "b", "c"))
    async with client_of(cluster) as db:
        log = await db.log("orders")

        async def load() -> None:
            for part in range(60):
                await asyncio.gather(
                    *(log.append(b"k", b"%d" % (part * 20 + i)) for i in range(20))
                )

        loader = asyncio.create_task(load())
        for epoch, primary in enumerate(("b", "c", "a", "c", "b"), 2):
            async with cluster.instances[cluster.shards["orders/0"].primary].appended:
                await cluster.instances[cluster.shards["orders/0"].primary].appended.wait()
            await cluster.change(s0={"primary": primary, "epoch": epoch})
        await loader
    assert values_of(cluster, b"k") == [b"%d" % i for i in range(1_200)]


async def test_ramp_sends_a_producer_to_the_target_and_back(start: Starter) -> None:
    cluster = await start(("a", "b"))
    await cluster.change(s0={"shares": {"b": 1.0}})
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"0")
        assert cluster.shards["orders/0"].appends_by == {"b": 1}
        await cluster.change(s0={"shares": {}})
        await log.shard_map()
        await log.append(b"k", b"1")
    assert cluster.shards["orders/0"].appends_by == {"a": 1, "b": 1}
    assert values_of(cluster, b"k") == [b"0", b"1"]


async def test_split_re_routes_what_was_not_stored(start: Starter) -> None:
    cluster = await start(("a", "b"))
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"a", b"0")
        parent = cluster.shards["orders/0"]
        low, high = parent.range.split(b"m")
        for name, keys, primary in (("1", low, "a"), ("2", high, "b")):
            child = type(parent)(f"orders/{name}", keys, primary, predecessors=[parent.id])
            cluster.shards[child.id] = child
        await cluster.change(s0={"status": "sealed", "successors": ["orders/1", "orders/2"]})
        acks = await log.append_many([b"a", b"z", b"b", b"y"], [b"1", b"2", b"3", b"4"])
        assert sum(a.count for a in acks) == 4
        read = [(r.key, r.value) async for r in log.read(order="key")]
    assert [r.value for r in cluster.shards["orders/1"].records] == [b"1", b"3"]
    assert [r.value for r in cluster.shards["orders/2"].records] == [b"2", b"4"]
    assert read == [(b"a", b"0"), (b"a", b"1"), (b"b", b"3"), (b"y", b"4"), (b"z", b"2")]


async def test_an_append_many_that_meets_a_split_half_way_ends_whole(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its later batches are routed by the map of its start, when the shard is gone already."""
    monkeypatch.setattr(appender, "BUFFER_BYTES_MAX", 50_000)
    cluster = await start()
    keys = [b"%c%d" % (97 + i % 26, i) for i in range(20_000)]
    async with client_of(cluster) as db:
        log = await db.log("orders")
        call = asyncio.create_task(log.append_many(keys, [b"v" * 100] * 20_000))
        async with cluster.instances["a"].appended:
            await cluster.instances["a"].appended.wait()
        parent = cluster.shards["orders/0"]
        for name, keys_of in zip("12", parent.range.split(b"m"), strict=True):
            child = type(parent)(f"orders/{name}", keys_of, "a", predecessors=[parent.id])
            cluster.shards[child.id] = child
        await cluster.change(s0={"status": "sealed", "successors": ["orders/1", "orders/2"]})
        assert sum(ack.count for ack in await call) == 20_000
    assert sorted(r.key for r in cluster.all_records()) == sorted(keys)
    assert cluster.shards["orders/2"].records


async def test_expected_version_wins_once(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        first = await log.append(b"k", b"0", expected_version=0)
        assert first.version == 1
        results = await asyncio.gather(
            *(log.append(b"k", b"%d" % i, expected_version=1) for i in range(5)),
            log.append(b"other", b"x"),
            return_exceptions=True,
        )
        assert (await log.append(b"k", b"last", expected_version=2)).version == 3
    assert sum(isinstance(r, VersionConflictError) for r in results) == 4
    assert len(values_of(cluster, b"k")) == 3
    assert values_of(cluster, b"other") == [b"x"]


async def test_lost_ack_of_a_conditional_append_is_stored_once(start: Starter) -> None:
    cluster = await start()
    cluster.instances["a"].faults.append(lambda m: "lose_ack")
    async with client_of(cluster) as db:
        log = await db.log("orders")
        ack = await log.append(b"k", b"0", expected_version=0)
    assert ack.offset == 0
    assert values_of(cluster, b"k") == [b"0"]


async def test_deadline_of_a_sent_append_says_unknown(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    async with client_of(cluster, timeout_s=0.3) as db:
        log = await db.log("orders")
        with pytest.raises(OutcomeUnknownError, match="outcome of the append is unknown"):
            await log.append(b"k", b"0")
        instance.gate.set()
        await log.append(b"k", b"1")
    assert values_of(cluster, b"k") == [b"0", b"1"]


async def test_deadline_of_a_refused_append_says_not_stored(start: Starter) -> None:
    cluster = await start()
    busy = [lambda m: OverloadedError("queue is full", retry_after_ms=5)] * 10_000
    cluster.instances["a"].faults.extend(busy)
    async with client_of(cluster, timeout_s=0.3) as db:
        log = await db.log("orders")
        with pytest.raises(OverloadedError, match="not stored, gave up at the deadline"):
            await log.append(b"k", b"0")
        assert len(cluster.instances["a"].messages) < 60
        cluster.instances["a"].faults.clear()
        await log.append(b"k", b"1")
    assert values_of(cluster, b"k") == [b"1"]


async def test_a_full_disk_is_told_soon(start: Starter) -> None:
    cluster = await start()
    full = [lambda m: StorageFullError("no space left in data")] * 100
    cluster.instances["a"].faults.extend(full)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(StorageFullError, match="no space left in data"):
            await log.append(b"k", b"0")
        cluster.instances["a"].faults.clear()
        await log.append(b"k", b"1")
    assert values_of(cluster, b"k") == [b"1"]


async def test_server_that_forgot_the_producer_is_met_with_a_new_one(start: Starter) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"0")
        cluster.shards["orders/0"].producers.clear()
        await log.append(b"k", b"1")
    assert values_of(cluster, b"k") == [b"0", b"1"]


async def test_instance_restart_is_survived(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"0")
        await instance.stop()
        waiting = asyncio.create_task(log.append(b"k", b"1"))
        await instance.start()
        assert (await waiting).offset == 1
    assert values_of(cluster, b"k") == [b"0", b"1"]


async def test_goes_on_when_the_given_address_is_gone(start: Starter) -> None:
    cluster = await start(("a", "b"))
    await cluster.change(s0={"primary": "b"})
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await cluster.instances["a"].stop()
        await cluster.change(s0={"epoch": 2})
        assert (await log.append(b"k", b"0")).offset == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("user", b"v"), "key is str, expected bytes"),
        ((b"k", "v"), "value is str, expected bytes"),
        ((b"k" * 5000, b"v"), "key is 5000 bytes, the limit is 4096 bytes"),
        ((b"k", b"v" * (1 << 20)), "record is 1048577 bytes, the limit is 1048576 bytes"),
    ],
)
async def test_bad_records_are_refused_before_sending(
    start: Starter, arguments: tuple[bytes, bytes], message: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(InvalidArgumentError, match=message):
            await log.append(*arguments)
        with pytest.raises(LimitExceededError, match="headers is 33 headers"):
            await log.append(b"k", b"v", headers={str(i): b"" for i in range(33)})
        with pytest.raises(InvalidArgumentError, match="timestamp is 'x'"):
            await log.append(b"k", b"v", timestamp="x")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="expected_version is -1"):
            await log.append(b"k", b"v", expected_version=-1)
        await log.append(b"k", b"good")
    assert len(cluster.instances["a"].messages) == 1


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        ([], [], "keys is empty"),
        ([b"a"], [b"a", b"b"], "values has 2 rows, keys has 1"),
        ([b"a", "b"], [b"a", b"b"], "keys in row 1 is str, expected bytes"),
        (np.array(["a"]), [b"a"], "keys is an array of str"),
        (pa.array(["a"]), [b"a"], "keys has type string, expected bytes"),
        ([b"a"], pa.array([None], pa.binary()), "values has 1 nulls"),
        (b"abc", [b"a"], "keys is bytes, expected a sequence of bytes"),
        ([b"a", b"k" * 5000], [b"a", b"b"], "key in row 1 is 5000 bytes, the limit is 4096"),
        ([b"a"], [b"v" * (1 << 20)], "record in row 0 is 1048577 bytes"),
        (7, [b"a"], "keys is no sequence of bytes"),
    ],
)
async def test_bad_columns_are_refused_before_sending(
    start: Starter, keys: object, values: object, message: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(InvalidArgumentError, match=message):
            await log.append_many(keys, values)
    assert not cluster.instances["a"].messages


async def test_logs_are_created_listed_and_deleted(start: Starter) -> None:
    cluster = await start(("a", "b"))
    cluster.exists = False
    async with client_of(cluster) as db:
        with pytest.raises(UnknownLogError):
            await db.log("trades")
        log = await db.create_log(
            "trades", partitioner="hash", shards=4, compression="lz4", instances=["b"]
        )
        shards = (await log.shard_map()).shards
        assert [s.primary for s in shards] == ["b"] * 4
        await log.append_many([b"%d" % i for i in range(100)], [b"v" * 100] * 100)
        assert await db.list_logs() == ["trades"]
        await db.delete_log("trades")
        with pytest.raises(UnknownLogError):
            await log.append(b"k", b"v")
        again = await db.create_log("trades", shards=1)
        assert [r async for r in again.read()] == []
        with pytest.raises(InvalidArgumentError, match="a log has no option color"):
            await db.create_log("x", color="red")  # type: ignore[call-arg]
        with pytest.raises(InvalidArgumentError, match="compression"):
            await db.create_log("x", compression="rar")  # type: ignore[arg-type]
    assert cluster.all_records() == []


async def test_closing_fails_what_is_not_acked(start: Starter) -> None:
    cluster = await start()
    instance = cluster.instances["a"]
    instance.gate = asyncio.Event()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        waiting = asyncio.create_task(log.append(b"k", b"0"))
        async with instance.received:
            await instance.received.wait_for(lambda: bool(instance.messages))
    with pytest.raises(OutcomeUnknownError, match="closed"):
        await waiting
    with pytest.raises(UnavailableError, match="the client is closed"):
        await log.append(b"k", b"1")
    instance.gate.set()


async def test_the_buffer_is_bounded(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender, "BUFFER_BYTES_MAX", 1_000_000)
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        values = [b"%05d" % i + b"v" * 1_000 for i in range(5_000)]
        acks = await log.append_many([b"k"] * 5_000, values)
        singles = [log.append(b"s", b"%03d" % i + b"v" * 100_000) for i in range(100)]
        offsets = [ack.offset for ack in await asyncio.gather(*singles)]
    assert sum(ack.count for ack in acks) == 5_000
    assert values_of(cluster, b"k") == values
    assert offsets == list(range(5_000, 5_100))
