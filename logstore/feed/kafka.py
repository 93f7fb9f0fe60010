"""Kafka as the feed's broker. The only module that imports aiokafka.

One partition a topic, acks=all, an idempotent producer for each writer, no retention limit, no
automatic offset reset (F3). A message's value is the stored envelope; its headers hold what a
reader needs to judge it without opening it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, for_code

from logstore.base.background import Background, end
from logstore.base.limits import BATCH_BYTES_MAX, MESSAGE_BYTES_MAX
from logstore.feed.port import (
    BrokerAwayError,
    Change,
    ChangeWriter,
    FeedMessage,
    TopicWriter,
)

CALL_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 15.0
"""An election of a new leader may take this long; until then the producer tries again."""
CLOSE_TIMEOUT_S = 2.0
IDLE_MS = 200
READ_MESSAGES = 512
COPIES_MAX = 3

_UNKNOWN_TOPIC, _EXISTS = 3, 36
TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MESSAGE_BYTES_MAX),
    "message.timestamp.type": "CreateTime",
}

CHANGEFEED_PARTITIONS = 8
"""Partitions of a topic that we create; their number must not change, or keys change partitions."""
CHANGEFEED_CONFIG = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
CHANGES_IN_FLIGHT = 2_000
SHARD_HEADER, OFFSET_HEADER = "logstore-shard", "logstore-offset"

_log = structlog.get_logger(__name__)
_TASKS = Background("the Kafka client")
# Our own errors report a broker that is away; the client would repeat it all the time.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class KafkaBroker:
    """A Broker at `servers` (host:port,…). Use it in one event loop; close it at the end."""

    def __init__(self, servers: str) -> None:
        assert MESSAGE_BYTES_MAX > BATCH_BYTES_MAX
        self.servers = servers
        self._admin: AIOKafkaAdminClient | None = None
        self._copies = 1
        self._admin_lock = asyncio.Lock()

    # ---- topics ------------------------------------------------------------------------------

    async def ensure(self, topic: str) -> None:
        await self.create(topic, partitions=1, config=TOPIC_CONFIG)

    async def create(self, topic: str, *, partitions: int, config: dict[str, str]) -> None:
        """Make a topic; an existing one is left as it is."""
        async with self._ask() as admin:
            new = NewTopic(topic, partitions, self._copies, topic_configs=config)
            answer = await admin.create_topics([new])
            for _, code, *_ in answer.topic_errors:
                if code not in (0, _EXISTS):
                    raise for_code(code)(f"topic {topic} was not created")

    async def topics(self, prefix: str) -> list[str]:
        async with self._ask() as admin:
            return sorted(t for t in await admin.list_topics() if t.startswith(prefix))
        raise AssertionError("_ask() raises what it does not pass on")

    async def delete(self, topic: str) -> None:
        async with self._ask() as admin:
            answer = await admin.delete_topics([topic])
            for _, code, *_ in answer.topic_error_codes:
                if code not in (0, _UNKNOWN_TOPIC):
                    raise for_code(code)(f"topic {topic} was not deleted")

    @asynccontextmanager
    async def _ask(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """The one administrative connection; a failed one is not used again."""
        async with self._admin_lock:
            try:
                async with _answering(self.servers):
                    if self._admin is None:
                        self._admin = AIOKafkaAdminClient(
                            bootstrap_servers=self.servers,
                            request_timeout_ms=int(CALL_TIMEOUT_S * 1e3),
                        )
                        await _started(self._admin)
                        brokers = (await self._admin.describe_cluster())["brokers"]
                        self._copies = max(1, min(COPIES_MAX, len(brokers)))
                    yield self._admin
            except BrokerAwayError:
                await self._close_admin()
                raise

    async def _close_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await _quietly(admin.close())

    async def close(self) -> None:
        await self._close_admin()

    # ---- writing -----------------------------------------------------------------------------

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """An idempotent producer that waits for every in-sync broker."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.servers,
            enable_idempotence=True,
            acks="all",
            max_request_size=MESSAGE_BYTES_MAX,
            max_batch_size=1024 * 1024,
            request_timeout_ms=int(WRITE_TIMEOUT_S * 1e3),
        )
        try:
            async with _answering(self.servers):
                await _started(producer)
            yield producer
        finally:
            await _quietly(producer.stop())

    @asynccontextmanager
    async def writer(self, topic: str) -> AsyncIterator[TopicWriter]:
        async with self.producer() as producer:
            yield _KafkaWriter(producer, topic, self.servers)

    async def ensure_changefeed(self, topic: str) -> None:
        await self.create(topic, partitions=CHANGEFEED_PARTITIONS, config=CHANGEFEED_CONFIG)

    @asynccontextmanager
    async def change_writer(self, topic: str) -> AsyncIterator[ChangeWriter]:
        async with self.producer() as producer:
            yield _KafkaChangeWriter(producer, topic, self.servers)

    # ---- reading -----------------------------------------------------------------------------

    async def last(self, topic: str) -> FeedMessage | None:
        async with self._consumer(topic) as (consumer, partition), _answering(self.servers):
            first = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            if end <= first:
                return None
            consumer.seek(partition, end - 1)
            return _message(await consumer.getone(partition))
        raise AssertionError("_answering() raises what it does not pass on")

    async def read(self, topic: str, cursor: int | None) -> AsyncGenerator[list[FeedMessage], None]:
        async with self._consumer(topic) as (consumer, partition):
            await self._start_at(consumer, partition, cursor)
            while True:
                try:
                    async with _answering(self.servers):
                        found = await consumer.getmany(
                            partition, timeout_ms=IDLE_MS, max_records=READ_MESSAGES
                        )
                        if not found:  # silence of the topic, or of the broker?
                            await consumer.end_offsets([partition])
                except _CursorLostError:
                    await self._start_at(consumer, partition, None)
                    continue
                yield [_message(record) for record in found.get(partition, ())]

    @asynccontextmanager
    async def _consumer(self, topic: str) -> AsyncIterator[tuple[AIOKafkaConsumer, TopicPartition]]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=IDLE_MS,
            max_partition_fetch_bytes=MESSAGE_BYTES_MAX,
            request_timeout_ms=int(CALL_TIMEOUT_S * 1e3),
        )
        partition = TopicPartition(topic, 0)
        try:
            async with _answering(self.servers):
                await _started(consumer)
                consumer.assign([partition])
            yield consumer, partition
        finally:
            await _quietly(consumer.stop())

    async def _start_at(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, cursor: int | None
    ) -> None:
        async with _answering(self.servers):
            first = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            known = cursor is not None and first <= cursor <= end
            consumer.seek(partition, cursor if known else first)


class _CursorLostError(Exception):
    """The topic does not have the offset that we stand at (any more)."""


class _KafkaWriter:
    def __init__(self, producer: AIOKafkaProducer, topic: str, servers: str) -> None:
        self._producer, self._topic, self._servers = producer, topic, servers

    async def write(self, messages: Sequence[FeedMessage]) -> None:
        async with _answering(self._servers, WRITE_TIMEOUT_S):
            sent = [
                await self._producer.send(
                    self._topic, value=m.data, partition=0, headers=_headers(m)
                )
                for m in messages
            ]
            await asyncio.gather(*sent)


class _KafkaChangeWriter:
    """The client's partitioner is Kafka's own (murmur2 of the key): a key stays in its place."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, servers: str) -> None:
        self._producer, self._topic, self._servers = producer, topic, servers

    async def write(self, shard: str, changes: Sequence[Change]) -> None:
        where = (SHARD_HEADER, shard.encode())
        for at in range(0, len(changes), CHANGES_IN_FLIGHT):
            async with _answering(self._servers, WRITE_TIMEOUT_S):
                sent = [
                    await self._producer.send(
                        self._topic,
                        key=c.key,
                        value=c.value,
                        timestamp_ms=c.timestamp_us // 1_000,
                        headers=[where, (OFFSET_HEADER, b"%d" % c.offset), *c.headers],
                    )
                    for c in changes[at : at + CHANGES_IN_FLIGHT]
                ]
                await asyncio.gather(*sent)


@asynccontextmanager
async def _answering(servers: str, timeout_s: float = CALL_TIMEOUT_S) -> AsyncIterator[None]:
    """The client's errors, and its silence, as our errors."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except OffsetOutOfRangeError as e:
        raise _CursorLostError from e
    except KafkaError as e:
        raise BrokerAwayError(f"Kafka at {servers}: {type(e).__name__}: {e}") from e
    except (TimeoutError, OSError) as e:
        why = f"no answer in {timeout_s:g} s" if isinstance(e, TimeoutError) else str(e)
        raise BrokerAwayError(f"Kafka at {servers}: {why}") from e


async def _started(client: AIOKafkaAdminClient | AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Start a client to the end also when we are cancelled: half-way its connections would leak."""
    starting = _TASKS.answer(client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        raise


async def _quietly(closing: Coroutine[Any, Any, None]) -> None:
    """Close a client of a broker that may be gone: within a bound, ignoring its errors.

    In a task of its own: closing cancels the client's own tasks, which may reach us.
    """
    task = _TASKS.answer(closing)
    await asyncio.wait({task}, timeout=CLOSE_TIMEOUT_S)
    await end(task)


def _headers(message: FeedMessage) -> list[tuple[str, bytes]]:
    return [
        ("base", b"%d" % message.base_offset),
        ("count", b"%d" % message.count),
        ("epoch", b"%d" % message.epoch),
        ("mark", b"%d" % message.high_watermark),
        ("crc32c", b"%d" % message.crc32c),
        ("before", message.chain_before),
        ("after", message.chain_after),
    ]


def _message(record: Any) -> FeedMessage:
    headers = dict(record.headers)
    return FeedMessage(
        base_offset=int(headers["base"]),
        count=int(headers["count"]),
        epoch=int(headers["epoch"]),
        high_watermark=int(headers["mark"]),
        crc32c=int(headers["crc32c"]),
        chain_before=headers["before"],
        chain_after=headers["after"],
        data=record.value or b"",
        cursor=record.offset + 1,
    )
