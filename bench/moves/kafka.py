"""Kafka's reassignment: one partition of the same size, moved between brokers by Kafka's tool.

The same load runs at the same time: a topic with a partition on each of the two brokers
involved, appended to and read at the same rate.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.moves.ours import LOAD_RECORDS, RECORD_BYTES, RETENTION_BYTES, Reached
from bench.moves.probe import Probe, ProbeSamples
from bench.peers.kafka_java import admin
from bench.services.base import ServiceError
from bench.services.kafka import KafkaCluster, java_tool

TOOL = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
TOPIC, BESIDE = "moved", "beside"
HEAP_MB = 384
MOVE_DEADLINE_S = 300.0
BATCH_RECORDS = 2_000
MOVE_BETWEEN = (1, 2)
PRODUCER = {"acks": "all", "linger.ms": 5, "batch.size": 1_048_576, "log_level": 0}


def _create(address: str, name: str, brokers: list[int], **config: str) -> None:
    from confluent_kafka.cimpl import NewTopic

    homes = [[broker] for broker in brokers]
    config["min.insync.replicas"] = "1"
    new = NewTopic(name, replica_assignment=homes, num_partitions=len(homes), config=config)
    client = admin(address)  # it ends its request when it is collected
    client.create_topics([new])[name].result(30)


def _fill(address: str, megabytes: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, **PRODUCER})
    rng = np.random.default_rng(1)
    for at in range(megabytes * 1_000_000 // RECORD_BYTES):
        producer.produce(TOPIC, rng.bytes(RECORD_BYTES), partition=0)
        if at % BATCH_RECORDS == 0:
            producer.flush(30)
    if producer.flush(60):
        raise ServiceError("Kafka did not take the records")


class _Load:
    """Appends and reads at a steady rate, each in a thread of its own (librdkafka)."""

    def __init__(self, address: str, mb_per_s: float) -> None:
        self._address, self._per_s = address, mb_per_s * 1e6 / RECORD_BYTES
        self._stop = threading.Event()
        self.sent = self.read = 0
        self.error: str = ""

    def append(self) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self._address, **PRODUCER})
        value, begin = bytes(RECORD_BYTES), time.monotonic()

        def acked(error: Any, message: Any) -> None:
            self.sent += error is None
            self.error = self.error or str(error or "")

        at = 0
        while not self._stop.wait(0.005):
            due = int((time.monotonic() - begin) * self._per_s)
            while at < due:
                partition = at // LOAD_RECORDS % len(MOVE_BETWEEN)
                with contextlib.suppress(BufferError):  # the queue is full: later
                    producer.produce(BESIDE, value, partition=partition, on_delivery=acked)
                at += 1
            producer.poll(0)
        producer.flush(30)

    def consume(self) -> None:
        from confluent_kafka import OFFSET_END, Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self._address, "group.id": BESIDE,
                             "enable.auto.commit": False, "log_level": 0})  # fmt: skip
        consumer.assign([TopicPartition(BESIDE, n, OFFSET_END) for n in range(len(MOVE_BETWEEN))])
        while not self._stop.is_set():
            self.read += len(consumer.consume(BATCH_RECORDS, 0.05))
        consumer.close()

    def stop(self) -> None:
        self._stop.set()


@contextlib.asynccontextmanager
async def _load(address: str, mb_per_s: float) -> AsyncIterator[Reached]:
    await asyncio.to_thread(
        _create, address, BESIDE, list(MOVE_BETWEEN), **{"retention.bytes": str(RETENTION_BYTES)}
    )
    work, reached, begin = _Load(address, mb_per_s), Reached(), time.monotonic()
    threads = [asyncio.create_task(asyncio.to_thread(f)) for f in (work.append, work.consume)]
    try:
        yield reached
    finally:
        seconds = time.monotonic() - begin
        reached.append_mb_per_s = work.sent * RECORD_BYTES / seconds / 1e6
        reached.read_mb_per_s = work.read * RECORD_BYTES / seconds / 1e6
        work.stop()
        await asyncio.gather(*threads)
    if work.error:
        raise ServiceError(f"the load beside Kafka's moves failed: {work.error}")


def _home(client: Any) -> int:
    """The only replica of the moved partition, once it leads; -1 meanwhile."""
    found = client.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0]
    return int(found.leader) if found.replicas == [found.leader] else -1


async def _reassign(address: str, folder: Path, broker: int) -> tuple[float, float]:
    """Move the partition; returns when it was ordered, and when only `broker` held it."""
    plan = folder / "reassign.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": TOPIC, "partition": 0, "replicas": [broker]}]}))  # fmt: skip
    command = java_tool(TOOL, "--bootstrap-server", address, "--reassignment-json-file", str(plan),
                        "--execute", heap_mb=128)  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    client, ordered_s = admin(address), time.monotonic()
    output = asyncio.create_task(process.communicate())
    begin: float | None = None
    async with asyncio.timeout(MOVE_DEADLINE_S):
        while (home := await asyncio.to_thread(_home, client)) != broker:
            # The tool's own start is a JVM's, no part of the move: that begins when the
            # partition is first seen with two replicas.
            if begin is None and home == -1:
                begin = time.monotonic()
            if output.done() and (process.returncode != 0 or b"rror" in output.result()[0]):
                text = output.result()[0].decode()[-500:]
                raise ServiceError(f"Kafka refused the reassignment: {text}")
            await asyncio.sleep(0.02)
    end = time.monotonic()
    await output
    return begin or ordered_s, end


async def reassignments(
    folder: Path,
    *,
    megabytes: int,
    count: int,
    mb_per_s: float,
    still_s: float,
    say: Callable[[str], None],
) -> tuple[list[tuple[float, float]], ProbeSamples, list[tuple[float, float]], Reached]:
    """Start and end of each move, what the probe saw, the still times around each, the load."""
    moves: list[tuple[float, float]] = []
    edges: list[tuple[float, float]] = []
    async with KafkaCluster(3, heap_mb=HEAP_MB) as service:
        address = service.address
        await asyncio.to_thread(_create, address, TOPIC, [MOVE_BETWEEN[0]])
        await asyncio.to_thread(_fill, address, megabytes)
        async with (
            _load(address, mb_per_s) as reached,
            Probe("kafka", address, TOPIC, folder / "kafka.npz") as probe,
        ):
            await asyncio.sleep(still_s)
            for number in range(count):
                before_s = time.monotonic()
                await asyncio.sleep(still_s)
                moves.append(
                    await _reassign(address, folder, MOVE_BETWEEN[(number + 1) % len(MOVE_BETWEEN)])
                )
                took_s = moves[-1][1] - moves[-1][0]
                say(f"kafka: reassignment {number + 1} of {count}: {took_s:.1f} s")
                await asyncio.sleep(still_s)
                edges.append((before_s, time.monotonic()))
            seen = await probe.stop()
    return moves, seen, edges, reached
