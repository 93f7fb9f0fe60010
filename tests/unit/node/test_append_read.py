"""One instance: appends, dedupe, versions, reads, bad input (I6)."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from logstore.engine.batch import FLAG_OFFSETS, decode_payload
from logstore.proto.v1 import log_pb2
from sharder.keys import KeyRange
from tests.support.nodes import append, batch_of, nodes

if TYPE_CHECKING:  # the stubs' own name
    from logstore.proto.v1.log_pb2_grpc import LogServiceAsyncStub


async def read_all(
    stub: "LogServiceAsyncStub", request: log_pb2.ReadRequest
) -> list[tuple[int, bytes]]:
    rows: list[tuple[int, bytes]] = []
    async for answer in stub.Read(request):
        batch = decode_payload(answer.payload, answer.flags)
        keys = batch.column("key").to_pylist()
        if answer.flags & FLAG_OFFSETS:
            offsets = batch.column("offset").to_pylist()
        else:
            offsets = list(range(answer.base_offset, answer.base_offset + answer.count))
        rows.extend(zip(offsets, keys, strict=True))
    return rows


async def test_append_read_back(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        batches = [
            batch_of("orders/0", [b"k%d" % (j % 7) for j in range(i, i + 10)], i, 5, i)
            for i in range(1, 31)
        ]
        results = await append(stub, batches)
        assert [r.base_offset for r in results] == list(range(0, 300, 10))
        rows = await read_all(stub, log_pb2.ReadRequest(shard="orders/0"))
        assert [o for o, _ in rows] == list(range(300))
        expected = [k for b in batches for k in decode_payload(b.payload, 0)[0].to_pylist()]
        assert [k for _, k in rows] == expected
        of_key = await read_all(stub, log_pb2.ReadRequest(shard="orders/0", key=b"k3"))
        assert of_key == [(o, k) for o, k in rows if k == b"k3"]
        part = await read_all(
            stub, log_pb2.ReadRequest(shard="orders/0", start_offset=95, stop_offset=205, limit=50)
        )
        assert part == rows[95:145]


async def test_retry_is_stored_once_and_survives_restart(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        first = await append(n.log_stub("i1"), [batch_of("orders/0", [b"a", b"b"], 1, 9)])
        again = await append(n.log_stub("i1"), [batch_of("orders/0", [b"a", b"b"], 1, 9)])
        assert again[0].duplicate
        assert again[0].base_offset == first[0].base_offset
        assert again[0].timestamp_us == first[0].timestamp_us
        gap = await append(n.log_stub("i1"), [batch_of("orders/0", [b"c"], 3, 9)])
        assert gap[0].error.code == "out_of_sequence"
        await n.stop("i1")
        await n.start("i1")
        await n.until("orders/0", lambda r: r.epoch == 3)
        results = await append(
            n.log_stub("i1"),
            [batch_of("orders/0", [b"a", b"b"], 1, 9, 1), batch_of("orders/0", [b"c"], 2, 9, 2)],
        )
        assert [(r.duplicate, r.base_offset) for r in results] == [(True, 0), (False, 2)]


async def test_conditional_append(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        batches = []
        for i in range(4):
            batch = batch_of("orders/0", [b"k"], 0, 0, i + 1)
            batch.expected_version = i
            batches.append(batch)
        conflict = batch_of("orders/0", [b"k"], 0, 0, 9)
        conflict.expected_version = 2
        results = await append(n.log_stub("i1"), [*batches, conflict])
        assert [r.version for r in results[:4]] == [1, 2, 3, 4]
        assert results[4].error.code == "version_conflict"
        assert "has 4" in results[4].error.message
        await append(n.log_stub("i1"), [batch_of("orders/0", [b"k", b"x", b"k"])])
        conflict.expected_version = 6
        assert (await append(n.log_stub("i1"), [conflict]))[0].version == 7


async def test_bad_input_names_the_thing(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create("orders/0", "i1", KeyRange(b"a", b"m"))
        await n.until("orders/0", lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        good = batch_of("orders/0", [b"b"])
        bad_crc = batch_of("orders/0", [b"b"])
        bad_crc.crc32c ^= 1
        empty = batch_of("orders/0", [b"b"])
        empty.count = 0
        outside = batch_of("orders/0", [b"b", b"z"])
        unknown = batch_of("nothing/0", [b"b"])
        garbage = batch_of("orders/0", [b"b"])
        garbage.payload = garbage.payload[:-40]
        import google_crc32c

        garbage.crc32c = google_crc32c.value(garbage.payload)
        huge_key = batch_of("orders/0", [b"b" * 5000])
        cases = {
            "crc32c": (bad_crc, "corrupt_batch"),
            "count is 0": (empty, "invalid_argument"),
            "outside the shard's range": (outside, "wrong_shard"),
            "nothing/0": (unknown, "unknown_shard"),
            "payload": (garbage, "corrupt_batch"),
            "key is 5000 bytes, the limit is 4096 bytes": (huge_key, "limit_exceeded"),
        }
        for text, (batch, code) in cases.items():
            (result,) = await append(stub, [batch])
            assert (result.error.code, text in result.error.message) == (code, True), result
        import grpc.aio

        with pytest.raises(grpc.aio.AioRpcError, match="start_offset is 99"):
            await read_all(stub, log_pb2.ReadRequest(shard="orders/0", start_offset=99))
        (result,) = await append(stub, [good])
        assert result.base_offset == 0


async def test_unary_appends_are_merged_and_readable(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        answers = await asyncio.gather(
            *(
                stub.Append(
                    log_pb2.AppendRequest(
                        log="orders",
                        records=[log_pb2.Record(key=b"k%d" % i, value=b"v", headers={"h": b"1"})],
                    )
                )
                for i in range(64)
            )
        )
        assert sorted(a.base_offset for a in answers) == list(range(64))
        rows = dict(await read_all(stub, log_pb2.ReadRequest(shard="orders/0")))
        assert all(rows[a.base_offset] == b"k%d" % i for i, a in enumerate(answers))


async def test_capacity_is_enforced(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1, ops_per_s_max=50.0) as n:
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        results = await append(
            n.log_stub("i1"), [batch_of("orders/0", [b"k"] * 10, 0, 0, i) for i in range(1, 9)]
        )
        stored = [r for r in results if not r.HasField("error")]
        throttled = [r for r in results if r.error.code == "overloaded"]
        assert len(stored) == 5
        assert len(throttled) == 3
        assert all(r.error.retry_after_ms > 0 for r in throttled)
