"""Every driver stores what it is given and reads the same back."""

import pytest

from bench.peers import Peer, PeerError, Result, check_same, limits
from bench.peers.base import percentiles_of
from bench.peers.echo import EchoServer, stream_mb_per_s, unary_per_s
from bench.peers.kafka_java import KafkaJava
from bench.peers.kafka_python import AioKafka, ConfluentKafka
from bench.peers.nats import NatsJetStream
from bench.peers.redis import RedisStreams
from bench.workload import make_records


async def _round_trip(peer: Peer, count: int) -> None:
    records = make_records(count, seed=3)
    for _ in range(2):  # the second round must not see the first one's records
        appended = await peer.append(records)
        assert appended.records == count
        assert appended.seconds > 0
        read = await peer.consume(records)
        check_same(peer.name, records, read)
    assert all(setting.why for setting in peer.settings)


@pytest.mark.parametrize("sync_always", [False, True])
async def test_nats(sync_always: bool) -> None:
    async with NatsJetStream(sync_always=sync_always) as peer:
        await _round_trip(peer, 1_500)


async def test_redis() -> None:
    async with RedisStreams(appendfsync="always") as peer:
        await _round_trip(peer, 2_500)


@pytest.mark.slow
async def test_kafka_by_its_three_clients() -> None:
    async with ConfluentKafka() as confluent:
        await _round_trip(confluent, 5_000)
        aio = AioKafka(address=confluent.address)
        await _round_trip(aio, 2_000)
        java = KafkaJava(address=confluent.address, warm_up=10_000)
        records = make_records(20_000)
        appended = await java.append(records)
        assert appended.records == 20_000
        assert {"p50", "p99", "p999"} <= set(appended.latency_ms)
        check_same(java.name, records, await java.consume(records))


def test_a_lost_or_changed_record_is_an_error() -> None:
    records = make_records(10)
    with pytest.raises(PeerError, match="read 9"):
        check_same("x", records, Result(9, 900, 1.0))
    with pytest.raises(PeerError, match="not those"):
        check_same("x", records, Result(10, 1000, 1.0, digest=records.digest() + 1))


def test_the_perf_tools_line_is_read() -> None:
    line = (
        "500 records sent, 4 records/sec (0 MB/sec), 1.0 ms avg latency, 9.00 ms max latency, "
        "1 ms 50th, 3 ms 95th, 7 ms 99th, 8 ms 99.9th."
    )
    assert percentiles_of(line) == {"p50": 1.0, "p95": 3.0, "p99": 7.0, "p999": 8.0}


def test_limits_are_measured() -> None:
    assert limits.memcpy_mb_per_s(size_mb=4, rounds=2) > 100
    assert limits.loopback_mb_per_s(total_mb=8) > 10
    # which of the two is faster is the machine's business: some disks do not wait either
    assert limits.file_mb_per_s(seconds=0.1, sync=False) > 1
    assert limits.file_mb_per_s(seconds=0.1, sync=True) > 0.01


async def test_the_bare_echo_answers() -> None:
    async with EchoServer() as server:
        per_s = await unary_per_s(server.address, concurrency=4, payload=b"x" * 100, seconds=0.3)
        assert per_s > 50
        assert await stream_mb_per_s(server.address, message_bytes=65_536, count=200) > 1
