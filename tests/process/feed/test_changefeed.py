"""A log's change stream for others: everything, per key in order, through changes of primary."""

import asyncio
from collections import defaultdict
from pathlib import Path

import aiokafka
import pytest

import logstore
from bench.services.kafka import KafkaCluster
from coordinator.local.cluster import local_cluster
from logstore.base.errors import InvalidArgumentError
from logstore.engine.batch import StoredBatch
from logstore.feed.kafka import OFFSET_HEADER, SHARD_HEADER
from logstore.feed.memory import MemoryBroker
from logstore.meta.records import changefeed_key
from logstore.node.publish.changefeed import changes_of
from tests.support.feeds import SHARD, WAIT_S
from tests.support.nodes import Nodes, append, batch_of, nodes

TOPIC = "orders-changes"


async def add(n: Nodes, first: int, count: int) -> None:
    for number in range(first, first + count):
        keys = [b"key-%d" % (number % 3)] * 5
        (result,) = await append(n.log_stub("i1"), [batch_of(SHARD, keys, number, 9)])
        assert not result.HasField("error"), result.error


async def until(broker: MemoryBroker, records: int) -> list[int]:
    """Offsets in the topic, as they came, once it holds every one below `records`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            offsets = [change.offset for _, change in broker.changes.get(TOPIC, [])]
            if set(offsets) >= set(range(records)):
                return offsets
            await asyncio.sleep(0.01)


async def test_it_goes_on_from_its_cursor_after_a_restart(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with nodes(tmp_path, 0) as n:
        n.broker = broker
        await n.start("i1")
        await n.create(SHARD, "i1", changefeed=TOPIC)
        await n.until(SHARD, lambda r: r.epoch == 2)
        await add(n, 1, 10)
        assert await until(broker, 50) == list(range(50))
        async with asyncio.timeout(WAIT_S):
            while (found := await n.store.get(changefeed_key(SHARD))) is None or (
                found.value != b'{"offset":50}'
            ):
                await asyncio.sleep(0.01)
        await n.stop("i1")
        await n.start("i1")
        await n.until(SHARD, lambda r: r.epoch == 3)
        await add(n, 11, 4)
        assert await until(broker, 70) == list(range(70)), "nothing below the cursor came again"


async def test_a_broker_that_was_away_gets_all_of_it(tmp_path: Path) -> None:
    broker = MemoryBroker()
    broker.away = True
    async with nodes(tmp_path, 0) as n:
        n.broker = broker
        await n.start("i1")
        await n.create(SHARD, "i1", changefeed=TOPIC)
        await n.until(SHARD, lambda r: r.epoch == 2)
        await add(n, 1, 4)
        broker.away = False
        await until(broker, 20)
        broker.away = True
        await add(n, 5, 4)
        broker.away = False
        offsets = await until(broker, 40)
        firsts = [o for i, o in enumerate(offsets) if o not in offsets[:i]]
        assert firsts == list(range(40))


async def test_a_change_tells_key_value_time_and_place(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with nodes(tmp_path, 0) as n:
        n.broker = broker
        await n.start("i1")
        await n.create(SHARD, "i1", changefeed=TOPIC)
        await n.until(SHARD, lambda r: r.epoch == 2)
        await add(n, 1, 1)
        await until(broker, 5)
        replica = n.servers["i1"].instance.replicas[SHARD]
        (batch,) = replica.node.engine.read(replica.member.replica_id, 0, 5, 1)
        assert isinstance(batch, StoredBatch)
        assert [c for _, c in broker.changes[TOPIC]] == changes_of(batch, 0)
        change = changes_of(batch, 3)[0]
        assert (change.offset, change.key, change.value) == (3, b"key-1", b"value of key-1")
        assert change.timestamp_us == batch.append_time_us


@pytest.mark.timeout(300)
async def test_through_a_real_kafka_and_a_killed_primary(
    tmp_path: Path, kafka: KafkaCluster
) -> None:
    topic = f"{TOPIC}-{tmp_path.name}"
    written: dict[bytes, list[bytes]] = defaultdict(list)
    async with (
        local_cluster(2, data=tmp_path, kafka=kafka.address, autopilot="off") as cluster,
        logstore.connect(cluster.addresses, timeout_s=60) as db,
    ):
        log = await db.create_log("orders", shards=2, replicas=2, changefeed=topic)
        for number in range(300):
            key, value = b"%c-key" % (32 + 7 * (number % 30)), b"%d" % number
            await log.append(key, value, headers={"n": value})
            written[key].append(value)
            if number == 150:
                (first, *_) = (await log.shard_map()).open_shards
                cluster.kill(first.primary)
        got = await read_changes(kafka.address, topic, 300)
    assert got == dict(written)


async def read_changes(address: str, topic: str, records: int) -> dict[bytes, list[bytes]]:
    """Key -> values, in order and without what came twice, until there are so many."""
    consumer = aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False
    )
    found: dict[bytes, list[bytes]] = defaultdict(list)
    newest: dict[tuple[int, bytes], int] = {}
    await consumer.start()
    try:
        async with asyncio.timeout(90):
            while sum(len(v) for v in found.values()) < records:
                message = await consumer.getone()
                headers = dict(message.headers)
                place = (message.partition, headers[SHARD_HEADER])
                offset = int(headers[OFFSET_HEADER])
                if offset > newest.get(place, -1):
                    newest[place] = offset
                    found[message.key].append(message.value)
                    assert headers["n"] == message.value
    finally:
        await consumer.stop()
    return dict(found)


async def test_without_a_broker_it_is_refused(tmp_path: Path) -> None:
    async with (
        local_cluster(1, data=tmp_path, autopilot="off") as cluster,
        logstore.connect(cluster.addresses) as db,
    ):
        with pytest.raises(InvalidArgumentError, match="no broker is configured"):
            await db.create_log("orders", changefeed=TOPIC)
