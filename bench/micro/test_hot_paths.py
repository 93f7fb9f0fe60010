"""What an append passes through, piece by piece; 1,000 records of 13 B key + 88 B value each."""

from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from logstore.base.types import Durability, Position, ProducerSpan
from logstore.client.router import Router
from logstore.engine.batch import StoredBatch, build, encode_payload, link, parse, schema_of
from logstore.engine.port import ReplicaMeta, ReplicaWrite
from logstore.engine.rocks import RocksEngine
from profiler.agent import Agent
from profiler.types import OpType
from sharder.keys import Partitioner, even_ranges
from sharder.shard_map import Shard, ShardMap

RECORDS = 1_000
KEYS = [b"%013d" % (i * 7919 % 1_000_003) for i in range(RECORDS)]
VALUES = [b"%088d" % i for i in range(RECORDS)]


def arrow() -> pa.RecordBatch:
    columns = [pa.array(KEYS, pa.binary()), pa.array(VALUES, pa.binary())]
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(0))


def stored(before: Position, payload: bytes) -> StoredBatch:
    return build(
        base_offset=before.end,
        epoch=1,
        chain_before=before.chain,
        count=RECORDS,
        append_time_us=1,
        time_min_us=1,
        time_max_us=1,
        flags=0,
        spans=[ProducerSpan(1, before.end // RECORDS + 1, RECORDS)],
        payload=payload,
    )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    opened = RocksEngine.open(tmp_path / "db")
    opened.create_replica(ReplicaMeta(replica_id=1, shard="bench/0"))
    yield opened
    opened.close()


def test_batch_build(benchmark: BenchmarkFixture) -> None:
    payload = benchmark(lambda: encode_payload(arrow()))
    assert len(payload) > RECORDS * 101


def test_checksum(benchmark: BenchmarkFixture) -> None:
    payload = encode_payload(arrow())
    assert benchmark(google_crc32c.value, payload) > 0


def test_envelope_and_chain(benchmark: BenchmarkFixture) -> None:
    payload = encode_payload(arrow())
    assert benchmark(stored, Position(), payload).count == RECORDS


def test_chain_link(benchmark: BenchmarkFixture) -> None:
    batch = stored(Position(), encode_payload(arrow()))
    assert benchmark(link, batch.chain_before, batch.data) == batch.chain_after


def test_parse(benchmark: BenchmarkFixture) -> None:
    batch = stored(Position(), encode_payload(arrow()))
    assert benchmark(parse, batch.data, batch.chain_before) == batch


@pytest.mark.parametrize("shards", [1, 4, 64])
def test_route(benchmark: BenchmarkFixture, shards: int) -> None:
    ranges = even_ranges(Partitioner.RANGE, shards)
    mapped = ShardMap(
        "bench",
        1,
        Partitioner.RANGE,
        tuple(
            Shard(f"bench/{i}", "bench", keys, 1, "i1", ("i1",)) for i, keys in enumerate(ranges)
        ),
    )
    keys = pa.array(KEYS, pa.binary())
    parts = benchmark(Router(mapped).split, keys)
    assert sum(RECORDS if p.rows is None else len(p.rows) for p in parts) == RECORDS


def test_group_commit_write(benchmark: BenchmarkFixture, engine: RocksEngine) -> None:
    payload = encode_payload(arrow())

    def write() -> None:
        batch = stored(engine.end(1), payload)
        engine.write([ReplicaWrite(1, [batch])], Durability.OS)

    benchmark(write)
    assert engine.end(1).end > 0


def test_key_index(benchmark: BenchmarkFixture, engine: RocksEngine) -> None:
    payload = encode_payload(arrow())

    def fill() -> tuple[tuple[int], dict[str, int]]:
        for _ in range(65):
            engine.write([ReplicaWrite(1, [stored(engine.end(1), payload)])], Durability.OS)
        return (65_000,), {}

    benchmark.pedantic(engine.index_step, setup=fill, rounds=20)  # type: ignore[no-untyped-call]
    assert engine.index_backlog(1) < 65_000


def test_agent(benchmark: BenchmarkFixture) -> None:
    agent = Agent("i1", 1_000_000, np.random.default_rng(1))
    keys = pa.array(KEYS, pa.binary())
    benchmark(agent.record, "bench/0", OpType.APPEND, RECORDS, 101_000, 0.001, 5, None, keys)
    assert agent.drain(10)[0].query_count >= RECORDS
