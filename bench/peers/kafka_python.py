"""Kafka by the two Python clients: confluent-kafka (librdkafka) and aiokafka."""

import asyncio
import time
from typing import Any, Self

from bench.peers.base import PeerError, Result, Setting
from bench.peers.kafka_java import create_topic, delete_topic, topic_count
from bench.services.kafka import kafka
from bench.workload.records import RecordSet, digest_bytes

PARTITIONS = 4
READ_BATCH = 10_000  # aiokafka
READ_BATCH_CONFLUENT = 500
PRODUCE_BATCH = 10_000
READ_IDLE_S = 20.0

TOPIC_SETTINGS = (
    Setting("partitions", str(PARTITIONS), "two per core, keys spread over them"),
    Setting("flush.messages", "default (none)", "the page cache is durable enough for `os`"),
)


class _PythonKafka:
    durability = "os"
    processes = 2

    def __init__(self, *, address: str | None = None) -> None:
        self._given = address
        self._service = None if address else kafka(1)
        self._topic: str | None = None

    @property
    def address(self) -> str:
        return self._given or (self._service.address if self._service else "")

    async def __aenter__(self) -> Self:
        if self._service is not None:
            await self._service.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._service is not None:
            await self._service.__aexit__(*exc)

    async def _fresh_topic(self) -> str:
        if self._topic is not None:
            await asyncio.to_thread(delete_topic, self.address, self._topic)
        self._topic = await asyncio.to_thread(create_topic, self.address, 1, PARTITIONS)
        return self._topic

    def _last_topic(self) -> str:
        if self._topic is None:
            raise PeerError("nothing was appended")
        return self._topic

    async def _check_count(self, topic: str, wanted: int) -> None:
        stored = await asyncio.to_thread(topic_count, self.address, topic, PARTITIONS)
        if stored != wanted:
            raise PeerError(f"sent {wanted} records, stored {stored}")


class ConfluentKafka(_PythonKafka):
    name = "confluent-kafka"
    settings = (
        *TOPIC_SETTINGS,
        Setting("acks", "all", "the same promise as ours"),
        Setting("linger.ms", "10", "batches fill"),
        Setting("batch.size", "1000000", "librdkafka's own default, larger gains nothing"),
        Setting("queue.buffering.max.messages", "2000000", "produce() rarely finds a full queue"),
        Setting("call", "produce_batch(10000)", "faster than produce() in a loop"),
        Setting("delivery callback", "none", "a Python call per record halves the rate; the count "
                "is asked from the broker instead"),
        Setting("queued.min.messages, queued.max.messages.kbytes", "1000000", "the fetcher never "
                "stops: nine times the rate of the defaults"),
        Setting("fetch", "consume(500), assigned partitions", "no group; 10000 a call was slower"),
    )  # fmt: skip

    async def append(self, records: RecordSet) -> Result:
        topic = await self._fresh_topic()
        seconds = await asyncio.to_thread(self._produce, topic, records)
        await self._check_count(topic, records.count)
        return Result(records.count, records.total_bytes, seconds, digest=records.digest())

    def _produce(self, topic: str, records: RecordSet) -> float:
        from confluent_kafka import KafkaError, Producer

        producer = Producer(
            {
                "bootstrap.servers": self.address,
                "acks": "all",
                "linger.ms": 10,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
            }
        )
        producer.list_topics(topic, timeout=10)
        keys, values = records.key_list(), records.value_list()
        begin = time.perf_counter()
        for at in range(0, records.count, PRODUCE_BATCH):
            chunk = slice(at, at + PRODUCE_BATCH)
            pairs = zip(keys[chunk], values[chunk], strict=True)
            left_over = [{"key": k, "value": v} for k, v in pairs]
            while left_over:  # a full queue takes the rest once the broker has acked some
                producer.produce_batch(topic, left_over)
                full = KafkaError._QUEUE_FULL
                other = [m["_error"] for m in left_over if m.get("_error", full) != full]
                if other:
                    raise PeerError(f"{self.name}: {other[0]!r}")
                left_over = [
                    {"key": m["key"], "value": m["value"]} for m in left_over if "_error" in m
                ]
                if left_over:
                    producer.poll(0.05)
        left = producer.flush(60)
        seconds = time.perf_counter() - begin
        if left:
            raise PeerError(f"{self.name}: {left} records were not acked")
        return seconds

    async def consume(self, records: RecordSet) -> Result:
        return await asyncio.to_thread(self._consume, records)

    def _consume(self, records: RecordSet) -> Result:
        from confluent_kafka import Consumer, TopicPartition

        topic = self._last_topic()
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "bench",
                "enable.auto.commit": False,
                "queued.min.messages": 1_000_000,
                "queued.max.messages.kbytes": 1_000_000,
            }
        )
        try:
            begin = time.perf_counter()
            consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
            parts: list[bytes] = []
            got, last = 0, begin
            while got < records.count and time.perf_counter() - last < READ_IDLE_S:
                messages = consumer.consume(READ_BATCH_CONFLUENT, 0.05)
                for message in messages:
                    if message.error() is not None:
                        raise PeerError(f"{self.name}: {message.error()}")
                    parts.append(message.key() or b"")
                    parts.append(message.value() or b"")
                if messages:
                    got += len(messages)
                    last = time.perf_counter()
            seconds = time.perf_counter() - begin
        finally:
            consumer.close()
        digest = digest_bytes(b"".join(parts), records.record_bytes)
        return Result(got, records.record_bytes * got, seconds, digest=digest)


class AioKafka(_PythonKafka):
    name = "aiokafka"
    settings = (
        *TOPIC_SETTINGS,
        Setting("acks", "all", "the same promise as ours"),
        Setting("linger_ms", "10", "batches fill"),
        Setting("max_batch_size", "262144", "as Kafka's own producer here"),
        Setting("call", "send(), one future a record", "its documented way; send_batch() leaves "
                "routing by key to the caller"),
        Setting("fetch", "getmany(max_records=10000)", "many per call"),
    )  # fmt: skip

    async def append(self, records: RecordSet) -> Result:
        from aiokafka import AIOKafkaProducer

        topic = await self._fresh_topic()
        producer = AIOKafkaProducer(
            bootstrap_servers=self.address, acks="all", linger_ms=10, max_batch_size=262_144
        )
        await producer.start()
        try:
            keys, values = records.key_list(), records.value_list()
            await producer.partitions_for(topic)
            begin = time.perf_counter()
            last: Any = None
            for key, value in zip(keys, values, strict=True):
                last = await producer.send(topic, value, key)
            await producer.flush()
            await last
            seconds = time.perf_counter() - begin
        finally:
            await producer.stop()
        await self._check_count(topic, records.count)
        return Result(records.count, records.total_bytes, seconds, digest=records.digest())

    async def consume(self, records: RecordSet) -> Result:
        from aiokafka import AIOKafkaConsumer, TopicPartition

        topic = self._last_topic()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address, enable_auto_commit=False, fetch_max_wait_ms=10,
            auto_offset_reset="earliest",
        )  # fmt: skip
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, p) for p in range(PARTITIONS)])
            await consumer.seek_to_beginning()
            begin = time.perf_counter()
            parts: list[bytes] = []
            got, last = 0, begin
            while got < records.count and time.perf_counter() - last < READ_IDLE_S:
                fetched = await consumer.getmany(timeout_ms=200, max_records=READ_BATCH)
                for messages in fetched.values():
                    for message in messages:
                        parts += (message.key, message.value)
                    got += len(messages)
                    last = time.perf_counter()
            seconds = time.perf_counter() - begin
        finally:
            await consumer.stop()
        digest = digest_bytes(b"".join(parts), records.record_bytes)
        return Result(got, records.record_bytes * got, seconds, digest=digest)
