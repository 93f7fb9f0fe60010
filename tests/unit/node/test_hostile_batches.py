"""Hostile batches at a real instance, and older stored batches that cannot be read."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Unpack

import google_crc32c
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import logstore
from logstore.base.errors import UnreadableBatchError
from logstore.base.types import Record
from logstore.client.sync_client import connect_sync
from logstore.engine.batch import HEADERS, encode_payload
from logstore.feed.memory import MemoryBroker
from logstore.node.appends.writer import new_future
from logstore.node.intake.appends import PendingAppend
from logstore.proto.v1 import log_pb2
from tests.support.largest import SLOW, Kind, create, kinds
from tests.support.nodes import LogChoices, Nodes, append, batch_of, nodes
from tests.unit.engine.test_wire import HOSTILE, binary, lists, payload_of

KINDS = kinds()
TOPIC = "changes"
LIMIT_S = 20.0


def sent(shard: str, payload: bytes, flags: int, count: int, id_: int) -> log_pb2.AppendBatch:
    return log_pb2.AppendBatch(
        id=id_, shard=shard, count=count, flags=flags, payload=payload,
        crc32c=google_crc32c.value(payload),
    )  # fmt: skip


async def test_every_hostile_batch_is_refused_and_the_stream_goes_on(tmp_path: Path) -> None:
    """One stream, a good batch behind each bad one; every kind of log, one and three replicas."""
    async with nodes(tmp_path, 3, **SLOW) as n:
        await asyncio.gather(*(create(n, kind) for kind in KINDS))
        for kind in KINDS:
            batches: list[log_pb2.AppendBatch] = []
            for flags, count, columns, _ in HOSTILE.values():
                payload = payload_of(kind.compression.value, **columns)
                batches.append(sent(kind.shard, payload, flags, count, len(batches)))
                batches.append(batch_of(kind.shard, [b"%032d" % len(batches)], id_=len(batches)))
            results = await append(n.log_stub("i1"), batches)
            for what, refused in zip(HOSTILE, results[::2], strict=True):
                assert refused.error.code in ("corrupt_batch", "limit_exceeded"), (what, refused)
                assert HOSTILE[what][3] in refused.error.message, (what, refused)
                assert not refused.error.retriable
            assert [r.base_offset for r in results[1::2]] == list(range(len(HOSTILE)))


@pytest.mark.parametrize("flags", [0, 3])
async def test_mutated_batches_are_refused_or_can_be_read(tmp_path: Path, flags: int) -> None:
    async with nodes(tmp_path, 1) as n:
        kind = KINDS[0]
        await create(n, Kind(kind.number))
        loop = asyncio.get_running_loop()
        columns: dict[str, Any] = {
            "key": binary(b"a", b"bc", b""),
            "value": binary(b"", b"x", b"yz"),
        }
        if flags:
            headers = lists([{"name": "n", "value": b"v"}], [], [{"name": "m", "value": b""}])
            columns |= {"timestamp": pa.array([1, 2, 3]), "headers": headers}
        payload = payload_of(**columns)
        async with logstore.connect(n.servers["i1"].address, timeout_s=5) as db:
            log = await db.log(kind.log)

            async def try_one(mutated: bytes) -> None:
                (result,) = await append(n.log_stub("i1"), [sent(kind.shard, mutated, flags, 3, 1)])
                if result.HasField("error"):
                    assert result.error.code in ("corrupt_batch", "limit_exceeded")
                    return
                at = result.base_offset
                found = [r async for r in log.read(shard=kind.shard, offset=at)]
                assert [r.offset for r in found] == [at, at + 1, at + 2]
                assert {type(r.key) for r in found} == {bytes}
                table = await log.scan(key=found[1].key).to_arrow()
                assert at + 1 in table["offset"].to_pylist()

            @settings(
                max_examples=60, deadline=None, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture],
            )  # fmt: skip
            @given(
                changes=st.lists(
                    st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)),
                    min_size=1, max_size=4,
                )
            )  # fmt: skip
            def mutate(changes: list[tuple[int, int]]) -> None:
                data = bytearray(payload)
                for place, byte in changes:
                    data[place] = byte
                asyncio.run_coroutine_threadsafe(try_one(bytes(data)), loop).result(LIMIT_S)

            await asyncio.to_thread(mutate)


# ---- what an older door let in --------------------------------------------------------------


def poisons() -> dict[str, tuple[int, bytes]]:
    """(flags, payload) of batches of 3 records that are stored whole and cannot be read."""
    fine = binary(b"k1", b"k2", b"k3")
    null_struct = lists([], [None], [])
    null_name = lists([], [{"name": None, "value": b""}], [])
    return {
        "null key": (0, payload_of(key=binary(b"k1", None, b"k3"), value=fine)),
        "null value": (0, payload_of(key=fine, value=binary(None, None, b""))),
        "null header": (1, payload_of(key=fine, value=fine, headers=null_struct)),
        "null name": (1, payload_of("zstd", key=fine, value=fine, headers=null_name)),
        "large_binary": (0, payload_of(key=pa.array([b"k"] * 3, pa.large_binary()), value=fine)),
        "garbage": (0, bytes(range(200))),
        "empty": (2, b"\xff" * 8),
        "cut": (0, payload_of(key=fine, value=fine)[:-24]),
        "fewer rows": (0, payload_of(key=fine[:1], value=fine[:1])),
    }


POISONS = poisons()


async def store_as_it_came(n: Nodes, shard: str, flags: int, payload: bytes) -> None:
    """Past the door, as an instance of before stored it: a whole envelope around what it holds."""
    replica = n.servers["i1"].instance.replicas[shard]
    looks = pa.RecordBatch.from_arrays(
        [binary(b"k1", b"k2", b"k3"), binary(b"", b"", b"")], names=["key", "value"]
    )
    append_ = PendingAppend(
        payload=payload, count=3, flags=flags & ~2, size=len(payload), weight=len(payload),
        time_min_us=None, time_max_us=None, producer_id=0, sequence=0, expected_version=None,
        done=new_future(), received_s=0.0, arrow=looks,
    )  # fmt: skip
    replica.append_gate.submit(append_)
    async with asyncio.timeout(LIMIT_S):
        await append_.done


async def good(n: Nodes, shard: str, *keys: bytes) -> None:
    (result,) = await append(n.log_stub("i1"), [batch_of(shard, list(keys))])
    assert not result.HasField("error"), result.error


async def scene(n: Nodes, kind: Kind, what: str, **options: Unpack[LogChoices]) -> None:
    """Records 0 and 1, the poison at 2..4, records 5 and 6, each in a stored batch of its own."""
    if options:
        await n.create(kind.shard, "i1", **options)
        await n.until(kind.shard, lambda r: r.epoch == 2)
    else:
        await create(n, kind)
    await good(n, kind.shard, b"k1", b"k9")
    await store_as_it_came(n, kind.shard, *POISONS[what])
    await good(n, kind.shard, b"k1", b"k9")


@pytest.mark.parametrize(
    ("what", "replicas"), [*((what, 1) for what in POISONS), ("null key", 3), ("garbage", 3)]
)
async def test_a_reader_names_what_it_cannot_read_and_goes_on_behind_it(
    tmp_path: Path, what: str, replicas: int
) -> None:
    kind = Kind(0, replicas=replicas)
    async with nodes(tmp_path, replicas, **SLOW) as n:
        await scene(n, kind, what)
        addresses = [s.address for s in n.servers.values()]
        async with logstore.connect(addresses, timeout_s=5) as db:
            log = await db.log(kind.log)

            async def records(**options: Any) -> list[int]:
                return await collect(log.read(**options))

            async def scanned(**options: Any) -> list[int]:
                return await collect(log.scan(**options).batches())

            async def tailed(**options: Any) -> list[int]:
                return await collect(log.tail(from_start=True, **options))

            for read in (records, scanned, tailed):
                await names_it(read, kind.shard, [0, 1])
                await names_it(read, kind.shard, [0], key=b"k1")
                await names_it(read, kind.shard, [0], start=b"k0", end=b"k2")
            await names_it(records, kind.shard, None, order="key")
            await names_it(scanned, kind.shard, None, order="key")
            await names_it(records, kind.shard, [], shard=kind.shard, offset=3)
            for read in (records, scanned):
                assert await read(shard=kind.shard, offset=5) == [5, 6]
                assert await read(shard=kind.shard, offset=5, key=b"k9") == [6]
                assert await read(shard=kind.shard, offset=0, limit=2) == [0, 1]
            ack = await log.append(b"k1", b"more", expected_version=2)
            assert (ack.offset, ack.version) == (7, 3), "it counts for no key"
        await asyncio.to_thread(sync_reads, addresses, kind)


async def collect(items: Any) -> list[int]:
    """Offsets of records or Arrow batches; those before an error are returned with it."""
    found: list[int] = []
    try:
        async with asyncio.timeout(LIMIT_S), aclosing(items):
            async for item in items:
                if isinstance(item, Record):
                    found.append(item.offset)
                else:
                    found += item.column("offset").to_pylist()
    except UnreadableBatchError as e:
        raise NamedError(found, e.message) from e
    return found


class NamedError(Exception):
    def __init__(self, found: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.found = list(found)


async def names_it(
    read: Callable[..., Any], where: str, before: list[int] | None, **options: Any,
) -> None:  # fmt: skip
    with pytest.raises(NamedError) as caught:
        await read(**options)
    assert f"shard {where}: " in str(caught.value)
    assert "at offsets 2..4 cannot be read" in str(caught.value)
    assert "reading goes on at offset 5" in str(caught.value)
    if before is not None:
        assert caught.value.found == before, "what lies before it comes first"


def sync_reads(addresses: list[str], kind: Kind) -> None:
    with connect_sync(addresses, timeout_s=5) as db:
        log = db.log(kind.log)
        with pytest.raises(UnreadableBatchError, match=r"offsets 2\.\.4"):
            list(log.read())
        with pytest.raises(UnreadableBatchError, match=r"offsets 2\.\.4"):
            list(log.tail(from_start=True, limit=9))
        assert [r.offset for r in log.read(shard=kind.shard, offset=5, limit=2)] == [5, 6]


@pytest.mark.parametrize("what", ["null header", "garbage"])
async def test_the_key_index_shows_it_to_every_lookup_also_after_a_restart(
    tmp_path: Path, what: str
) -> None:
    kind = Kind(0)
    async with nodes(tmp_path, 1) as n:
        await scene(n, kind, what, key_index=True)
        for _ in range(2):
            replica = n.servers["i1"].instance.replicas[kind.shard]
            engine, me = replica.node.engine, replica.member.replica_id
            for key in (b"k1", b"k9", b"nobody"):
                shown = [b.base_offset for b in engine.read_key(me, key, 0, 7)]
                assert shown == ([2] if key == b"nobody" else [0, 2, 5])
                assert engine.count_key(me, key, 7) == (0 if key == b"nobody" else 2)
            assert [b.base_offset for b in engine.read_key(me, b"k1", 4, 7)] == [2, 5]
            assert [b.base_offset for b in engine.read_key(me, b"k1", 5, 7)] == [5]
            while engine.index_step(1_000):
                pass
            assert replica.node.broken is None
            await n.stop("i1")
            await n.start("i1")
            await n.until(kind.shard, lambda r: r.epoch >= 3)


@pytest.mark.parametrize("what", ["null name", "garbage"])
async def test_the_changefeed_tells_it_and_goes_on(tmp_path: Path, what: str) -> None:
    kind = Kind(0)
    broker = MemoryBroker()
    async with nodes(tmp_path, 0) as n:
        n.broker = broker
        await n.start("i1")
        await scene(n, kind, what, changefeed=TOPIC)
        async with asyncio.timeout(LIMIT_S):
            while len(broker.changes.get(TOPIC, ())) < 4:
                await asyncio.sleep(0.01)
        assert [c.offset for _, c in broker.changes[TOPIC]] == [0, 1, 5, 6]


async def test_trim_passes_it(tmp_path: Path) -> None:
    kind = Kind(0)
    async with nodes(tmp_path, 1) as n:
        await scene(n, kind, "garbage")
        replica = n.servers["i1"].instance.replicas[kind.shard]
        engine, me = replica.node.engine, replica.member.replica_id
        assert engine.trim(me, 5).end == 5
        assert engine.count_key(me, b"k1", 7) == 2


async def test_a_null_list_of_before_reads_as_no_headers(tmp_path: Path) -> None:
    """The client once sent null for the records without headers beside those that had some."""
    kind = Kind(0)
    rows = pa.RecordBatch.from_arrays(
        [binary(b"k1", b"k2", b"k3"), binary(b"", b"", b""),
         pa.array([None, [{"name": "n", "value": b"v"}], None], HEADERS.type)],
        names=["key", "value", "headers"],
    )  # fmt: skip
    async with nodes(tmp_path, 1) as n:
        await create(n, kind)
        await store_as_it_came(n, kind.shard, 1, encode_payload(rows))
        async with logstore.connect(n.servers["i1"].address, timeout_s=5) as db:
            log = await db.log(kind.log)
            assert [r.headers async for r in log.read()] == [{}, {"n": b"v"}, {}]
