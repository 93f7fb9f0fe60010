"""Kafka by its own benchmark tools: kafka-producer-perf-test and kafka-consumer-perf-test."""

import asyncio
import os
import re
import shutil
import uuid
from typing import Any, Self

from bench.peers.base import PeerError, Result, Setting, percentiles_of
from bench.services.base import under_guard
from bench.services.kafka import java_tool, kafka
from bench.services.runs import RUN_VARIABLE, shared_run
from bench.workload.records import RecordSet

PRODUCER = "org.apache.kafka.tools.ProducerPerformance"
CONSUMER = "org.apache.kafka.tools.ConsumerPerformance"
PARTITIONS = 1
WARM_UP_RECORDS = (
    1_000_000  # each run of the tool is a new JVM: without it the compiler would be measured
)
CLIENT_HEAP_MB = 512
BROKER_HEAP_MB = 1024
TOOL_DEADLINE_S = 300

TOPIC_SETTINGS = (
    Setting(
        "partitions", str(PARTITIONS), "median rates of 3 turns: 818 k/s, with 4 it was 676 k/s"
    ),
    Setting("flush.messages", "default (none)", "the page cache is durable enough for `os`"),
)
BATCHING = (
    Setting("linger.ms", "20", "with the next: the best of six pairs tried in 3 turns"),
    Setting("batch.size", "1048576", "256 KiB and 10 ms gave 358 k/s, 1 MiB and 20 ms 818 k/s"),
)
BATCHING_LATENCY = (
    Setting("linger.ms", "5", "of 0, 2, 5 and 10 the lowest p99 at 350 k/s (10 ms, quiet machine)"),
    Setting("batch.size", "262144", "seldom filled within that linger"),
)
PRODUCER_SETTINGS = (
    Setting("acks", "all", "the same promise as ours: all in-sync replicas have it"),
    Setting("buffer.memory", "134217728", "the sender does not wait for memory"),
    Setting("compression.type", "none", "values are random, compression would only cost CPU"),
)


def admin(address: str) -> Any:
    from confluent_kafka.admin import AdminClient

    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
    return AdminClient({"bootstrap.servers": address, **quiet})


def create_topic(address: str, replicas: int, partitions: int) -> str:
    from confluent_kafka.cimpl import NewTopic

    topic = f"bench-{uuid.uuid4().hex[:8]}"
    client = admin(address)  # held: its futures fail when it is collected
    client.create_topics([NewTopic(topic, partitions, replicas)])[topic].result(30)
    return topic


def delete_topic(address: str, topic: str) -> None:
    client = admin(address)
    client.delete_topics([topic])[topic].result(30)


def topic_count(address: str, topic: str, partitions: int) -> int:
    """Records in the topic, by the brokers' own offsets."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "count", "log_level": 0})
    try:
        total = 0
        for partition in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            total += high - low
        return int(total)
    finally:
        consumer.close()


async def run_tool(command: list[str]) -> str:
    """Run one of Kafka's tools to its end; it ends with this process in any case."""
    run = shared_run()
    folder = run.member_folder(f"tool-{uuid.uuid4().hex[:8]}")
    process = await asyncio.create_subprocess_exec(
        *under_guard(command, folder / "pid", run),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, RUN_VARIABLE: run.run_id},
    )
    assert process.stdout is not None
    try:
        output = await asyncio.wait_for(process.stdout.read(), TOOL_DEADLINE_S)
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        shutil.rmtree(folder, ignore_errors=True)
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise PeerError(f"{command[-1]} ended with {process.returncode}: {text[-1000:]}")
    return text


class KafkaJava:
    """`warm_up`: records the tool sends before those it counts, while the JVM compiles."""

    durability = "os"

    def __init__(
        self, brokers: int = 1, *, address: str | None = None, warm_up: int = WARM_UP_RECORDS
    ) -> None:
        self.name = "kafka-perf-test" if brokers == 1 else f"kafka-perf-test-{brokers}"
        self.processes = brokers + 1
        self.settings = (*TOPIC_SETTINGS, *PRODUCER_SETTINGS, *BATCHING)
        self._warm_up = warm_up
        self._stored = 0
        self._brokers = brokers
        self._given = address
        self._service = None if address else kafka(brokers, heap_mb=BROKER_HEAP_MB)
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
        self._topic = await asyncio.to_thread(create_topic, self.address, self._brokers, PARTITIONS)
        return self._topic

    async def append(self, records: RecordSet) -> Result:
        return await self.append_at(records.count, records.record_bytes, None)

    async def append_at(self, count: int, record_bytes: int, rate_per_s: float | None) -> Result:
        """`count` records after the warm-up, at full speed or at a fixed rate.

        The tool makes its own keyless payloads. Its latencies run from the actual send, which
        favours Kafka over our open loop.
        """
        topic = await self._fresh_topic()
        warm_up = self._warm_up if rate_per_s is None else min(self._warm_up, int(rate_per_s * 2))
        batching = BATCHING if rate_per_s is None else BATCHING_LATENCY
        output = await run_tool(
            java_tool(
                PRODUCER,
                *("--topic", topic, "--num-records", str(count + warm_up)),
                *("--warmup-records", str(warm_up), "--record-size", str(record_bytes)),
                *("--throughput", "-1" if rate_per_s is None else str(int(rate_per_s))),
                *("--command-property", f"bootstrap.servers={self.address}"),
                *(f"{s.name}={s.value}" for s in (*PRODUCER_SETTINGS, *batching)),
                heap_mb=CLIENT_HEAP_MB,
            )
        )
        lines = [line for line in output.splitlines() if "99.9th" in line]
        if not lines:
            raise PeerError(f"{self.name}: no summary in {output[-500:]}")
        match = re.search(r"(\d+) (?:steady state )?records sent, ([\d.]+) records/sec", lines[-1])
        if match is None:
            raise PeerError(f"{self.name}: cannot read {lines[-1]!r}")
        stored = await asyncio.to_thread(topic_count, self.address, topic, PARTITIONS)
        if stored != count + warm_up:
            raise PeerError(f"{self.name}: sent {count + warm_up} records, stored {stored}")
        self._stored = stored
        sent, rate = int(match.group(1)), float(match.group(2))
        return Result(sent, sent * record_bytes, sent / rate, percentiles_of(lines[-1]))

    async def consume(self, records: RecordSet) -> Result:
        """Reads the whole topic, warm-up included. The rate is the tool's fetch rate, without the
        time for joining a group."""
        if self._topic is None:
            raise PeerError(f"{self.name}: nothing was appended")
        total = self._stored
        output = await run_tool(
            java_tool(
                CONSUMER,
                *("--bootstrap-server", self.address, "--topic", self._topic),
                *("--num-records", str(total), "--hide-header", "--timeout", "20000"),
                heap_mb=CLIENT_HEAP_MB,
            )
        )
        line = next((row for row in output.splitlines() if row.count(",") >= 9), "")
        fields = [word.strip() for word in line.split(",")]
        if len(fields) < 10 or int(fields[4]) != total:
            raise PeerError(f"{self.name}: {total} records were to be read: {output[-500:]}")
        seconds = float(fields[7]) / 1e3
        part = seconds * records.count / total
        return Result(records.count, records.total_bytes, part)
