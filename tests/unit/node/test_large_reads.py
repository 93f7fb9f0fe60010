"""Real instances: what was acked can be read, however large and however packed."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pytest

import logstore
from logstore.base.limits import MESSAGE_BYTES_MAX
from logstore.base.types import Compression, Durability
from logstore.feed.direct import encode_anchor
from logstore.meta.records import Member
from logstore.node.reads.answers import ANSWER_BYTES
from logstore.proto.v1 import log_pb2
from sharder.keys import Partitioner
from tests.support.nodes import LogChoices, Nodes, nodes
from tests.unit.node.test_bit_rot import PATIENT, engine_of

SHARD = "orders/0"


@dataclass(frozen=True)
class Way:
    """How a log is kept."""

    replicas: int = 1
    compression: str = "none"
    durability: str = "os"
    partitioner: str = "range"

    def __str__(self) -> str:
        return f"{self.replicas}-{self.compression}-{self.durability}-{self.partitioner}"

    @property
    def options(self) -> LogChoices:
        return {
            "compression": Compression(self.compression),
            "durability": Durability(self.durability),
            "partitioner": Partitioner(self.partitioner),
            "replicas": self.replicas,
        }


WAYS = [
    Way(),
    Way(compression="zstd", durability="fsync", partitioner="hash"),
    Way(replicas=3, compression="lz4", partitioner="hash"),
    Way(replicas=3, compression="zstd", durability="fsync"),
    Way(replicas=3),
]


@asynccontextmanager
async def one_log(folder: Path, way: Way) -> AsyncIterator[tuple[Nodes, logstore.Log]]:
    """A log of one shard with `way.replicas` in-sync copies, and a client of it."""
    async with nodes(folder, way.replicas, **PATIENT) as n:
        await n.create(SHARD, "i1", **way.options)
        await n.until(SHARD, lambda r: r.epoch == 2)
        if way.replicas > 1:
            learners = tuple(
                Member(f"i{i}", n.servers[f"i{i}"].instance.node.incarnation, 200 + i)
                for i in range(2, way.replicas + 1)
            )
            ids = tuple(m.replica_id for m in learners)
            await n.change(SHARD, learners=learners, admit=ids)
            await n.until(SHARD, lambda r: len(r.in_sync) == way.replicas)
        async with logstore.connect([s.address for s in n.servers.values()]) as db:
            yield n, await db.log("orders")


def access_log(first: int, count: int) -> list[bytes]:
    """Lines as web servers write them: zstd packs them by 30 or so."""
    return [
        json.dumps(
            {
                "time": f"2026-11-30T14:{i // 60 % 60:02}:{i % 60:02}Z",
                "remote": f"10.0.{i % 4}.{i % 250}",
                "method": "GET",
                "path": f"/api/v1/tenants/tenant-{i % 50}/orders/{i}",
                "status": 200,
                "bytes": 5_120,
                "agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                "Chrome/126.0.0.0 Safari/537.36",
                "referer": "https://shop.example.com/checkout/basket?step=payment&lang=en",
                "request_id": f"req-{i:012}", "upstream": "orders-v1.internal:8080",
                "tls": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "zone": "eu-central-1a",
            }
        ).encode()
        for i in range(first, first + count)
    ]  # fmt: skip


async def sizes_of(n: Nodes, request: log_pb2.ReadRequest) -> list[int]:
    """Bytes of the answers to one plain read."""
    return [a.ByteSize() async for a in n.log_stub("i1").Read(request)]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_key_of_more_than_a_message_is_read_by_key(tmp_path: Path, way: Way) -> None:
    """30 MB of one key."""
    async with one_log(tmp_path, way) as (n, log):
        block, count = os.urandom(1_000), 0
        for i in range(300):
            values = [b"%d" % (100 * i + j) + block for j in range(100)]
            count += sum(a.count for a in await log.append_many([b"device-7"] * 100, values))
        assert count == 30_000
        seen = 0
        async for record in log.read(key=b"device-7"):
            assert record.value == b"%d" % seen + block
            seen += 1
        assert seen == 30_000
        assert (await log.scan().to_arrow()).num_rows == 30_000
        first = [r.offset async for r in log.read(key=b"device-7", limit=10)]
        assert first == list(range(10))
        sizes = await sizes_of(n, log_pb2.ReadRequest(shard=SHARD, key=b"device-7"))
        assert max(sizes) <= ANSWER_BYTES + 1_000


@pytest.mark.parametrize("way", [w for w in WAYS if w.compression != "none"], ids=str)
async def test_a_well_packed_log_is_read(tmp_path: Path, way: Way) -> None:
    """1 MB stored, 30 MB unpacked."""
    async with one_log(tmp_path, way) as (_, log):
        for at in range(0, 60_000, 1_000):
            lines = access_log(at, 1_000)
            await log.append_many([b"host-%d" % (at // 1_000 % 7)] * 1_000, lines)
        table = await log.scan().to_arrow()
        assert table.num_rows == 60_000
        assert table.column("value").to_pylist()[-1000:] == access_log(59_000, 1_000)
        of_key = [r.value async for r in log.read(key=b"host-3")]
        assert of_key[:1_000] == access_log(3_000, 1_000)
        assert len(of_key) == len(range(3, 60, 7)) * 1_000
        tail = []
        async for record in log.tail(from_start=True):
            tail.append(record.offset)
            if len(tail) == 60_000:
                break
        assert tail == list(range(60_000))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
async def test_values_of_zeros_are_read(tmp_path: Path, compression: str) -> None:
    """Packed by 250 (lz4) to some thousands (zstd)."""
    async with one_log(tmp_path, Way(3, compression)) as (_, log):
        for _ in range(8):
            await log.append_many([b"a", b"b"] * 32, [bytes(100_000)] * 64)  # 6.4 MB
        assert [r.offset async for r in log.read(key=b"b")] == list(range(1, 512, 2))
        table = await log.scan(start=b"b").to_arrow()
        assert table.num_rows == 256
        assert set(table.column("value").to_pylist()) == {bytes(100_000)}


async def test_a_trimmed_log_of_many_keys_is_copied(tmp_path: Path) -> None:
    """Its anchor, a count for each trimmed key, is larger than a message."""
    async with one_log(tmp_path, Way()) as (n, log):
        names = [b"device-%0200d" % i for i in range(100_000)]
        await log.append_many(names, [b""] * len(names))
        await n.start("i2")
        engine, copy = engine_of(n, "i1"), 100
        base = engine.trim(copy, len(names))
        assert base.end == len(names)
        assert len(encode_anchor(engine.snapshot(copy, base.end).anchor)) > MESSAGE_BYTES_MAX
        await log.append_many([names[7]] * 10, [b"v"] * 10)
        learner = Member("i2", n.servers["i2"].instance.node.incarnation, 202)
        await n.change(SHARD, learners=(learner,), admit=(202,))
        await n.until(SHARD, lambda r: len(r.in_sync) == 2, 60.0)
        there = engine_of(n, "i2")
        assert there.count_key(202, names[7], len(names) + 10) == 11


async def test_ten_records_of_a_large_key_cost_no_more_than_ten_of_a_small(tmp_path: Path) -> None:
    async with one_log(tmp_path, Way()) as (_, log):
        values = [os.urandom(1_000)] * 1_000
        for _ in range(20):
            await log.append_many([b"large"] * 1_000, values)
        await log.append_many([b"small"] * 10, values[:10])
        took: dict[bytes, float] = {}
        for key in (b"large", b"small"):
            times = []
            for _ in range(20):
                began = perf_counter()
                assert len([r async for r in log.read(key=key, limit=10)]) == 10
                times.append(perf_counter() - began)
            took[key] = sorted(times)[len(times) // 2]
        assert took[b"large"] < 10 * took[b"small"]  # it was 20 MB of fetching
