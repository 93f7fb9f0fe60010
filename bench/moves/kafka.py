"""Kafka's own way: one partition of the same size, reassigned between brokers by Kafka's tool."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.moves.ours import RECORD_BYTES
from bench.moves.probe import Probe, Seen
from bench.peers.kafka_java import admin
from bench.services.base import ServiceError
from bench.services.kafka import KafkaCluster, java_tool

TOOL = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
TOPIC = "moved"
HEAP_MB = 384
MOVE_DEADLINE_S = 300.0
BATCH_RECORDS = 2_000


def _create(address: str) -> None:
    from confluent_kafka.cimpl import NewTopic

    client = admin(address)
    config = {"min.insync.replicas": "1"}
    new = NewTopic(TOPIC, replica_assignment=[[1]], num_partitions=1, config=config)
    client.create_topics([new])[TOPIC].result(30)


def _fill(address: str, megabytes: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 20,
                         "batch.size": 1_048_576, "log_level": 0})  # fmt: skip
    rng = np.random.default_rng(1)
    for at in range(megabytes * 1_000_000 // RECORD_BYTES):
        producer.produce(TOPIC, rng.bytes(RECORD_BYTES), partition=0)
        if at % BATCH_RECORDS == 0:
            producer.flush(30)
    if producer.flush(60):
        raise ServiceError("Kafka did not take the records")


def _leader(address: str) -> int:
    found = admin(address).list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0]
    return int(found.leader) if found.replicas == [found.leader] else -1


async def _reassign(address: str, folder: Path, broker: int) -> float:
    """Move the partition; returns when only `broker` holds it. Seconds from the order."""
    plan = folder / "reassign.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": TOPIC, "partition": 0, "replicas": [broker]}]}))  # fmt: skip
    command = java_tool(TOOL, "--bootstrap-server", address, "--reassignment-json-file", str(plan),
                        "--execute", heap_mb=128)  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    begin = time.monotonic()  # the tool's own start is a JVM's, which is no part of the move
    if process.returncode != 0 or b"rror" in output:
        raise ServiceError(f"Kafka refused the reassignment: {output.decode()[-500:]}")
    async with asyncio.timeout(MOVE_DEADLINE_S):
        while await asyncio.to_thread(_leader, address) != broker:  # noqa: ASYNC110 another's state
            await asyncio.sleep(0.05)
    return time.monotonic() - begin


async def reassignments(
    folder: Path, *, megabytes: int, count: int, still_s: float, say: Callable[[str], None]
) -> tuple[list[tuple[float, float]], Seen]:
    """Start and end of each move, and what the probe saw. No other load is on these brokers."""
    service = KafkaCluster(3, heap_mb=HEAP_MB)
    moves: list[tuple[float, float]] = []
    async with service:
        address = service.address
        await asyncio.to_thread(_create, address)
        await asyncio.to_thread(_fill, address, megabytes)
        async with Probe("kafka", address, TOPIC, folder / "kafka.npz") as probe:
            await asyncio.sleep(2 * still_s)
            for number in range(count):
                begin = time.monotonic()
                took_s = await _reassign(address, folder, number % 2 + 2)
                moves.append((begin, time.monotonic()))
                say(f"kafka: reassignment {number + 1} of {count}: {took_s:.1f} s")
                await asyncio.sleep(2 * still_s)
            return moves, await probe.stop()
