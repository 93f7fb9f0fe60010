"""Every answer is cut by its bytes as sent, whatever was asked, however it is stored."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.base.errors import LimitExceededError, UnreadableBatchError
from logstore.base.limits import MESSAGE_BYTES_MAX
from logstore.base.types import Durability, Position
from logstore.engine.batch import (
    FLAG_HEADERS,
    FLAG_OFFSETS,
    FLAG_TIMES,
    StoredBatch,
    build,
    decode_payload,
    encode_payload,
    schema_of,
)
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import ReplicaMeta, ReplicaWrite
from logstore.engine.shard_log import ShardLog
from logstore.node.reads.answers import ANSWER_BYTES, Query, ReadAnswer, answers_of, pieces
from logstore.node.reads.reads import STEP_BYTES, Steps
from logstore.node.replication.messages import (
    BATCHES_BYTES_MAX,
    batch_message,
    fitting,
    parts_of,
    sent_bytes,
)
from logstore.proto.v1 import log_pb2, node_pb2

SHARD = "orders/0"
Row = tuple[int, bytes, bytes, int, list[tuple[str, bytes]]]
MIB = 1024 * 1024


def stored(
    before: Position,
    rows: Sequence[tuple[bytes, bytes]],
    *,
    compression: str = "none",
    flags: int = 0,
    time_us: int = 1_000,
) -> StoredBatch:
    """One batch; records have timestamps and headers as `flags` says."""
    count = len(rows)
    schema = schema_of(flags)
    columns: list[pa.Array] = [
        pa.array([k for k, _ in rows], pa.binary()),
        pa.array([v for _, v in rows], pa.binary()),
    ]
    if flags & FLAG_TIMES:
        columns.append(pa.array([time_us + i for i in range(count)], pa.int64()))
    if flags & FLAG_HEADERS:
        headers = [[{"name": "n", "value": b"%d" % i}] * (i % 3) for i in range(count)]
        columns.append(pa.array(headers, schema.field("headers").type))
    payload = encode_payload(pa.RecordBatch.from_arrays(columns, schema=schema), compression)
    return build(
        base_offset=before.end,
        epoch=1,
        chain_before=before.chain,
        count=count,
        append_time_us=time_us,
        time_min_us=time_us,
        time_max_us=time_us + count,
        flags=flags,
        spans=(),
        payload=payload,
    )


def log_of(
    batches: Sequence[Sequence[tuple[bytes, bytes]]], compression: str = "none", flags: int = 0
) -> list[StoredBatch]:
    made: list[StoredBatch] = []
    at = Position()
    for rows in batches:
        made.append(stored(at, rows, compression=compression, flags=flags))
        at = Position(made[-1].end, made[-1].chain_after)
    return made


def query(
    *,
    start: int = 0,
    stop: int | None = None,
    key: bytes | None = None,
    low: bytes | None = None,
    high: bytes | None = None,
    since_us: int | None = None,
    limit: int = 0,
) -> Query:
    return Query(start, stop, key, low, high, since_us, limit)


def rows_of(answer: log_pb2.ReadResponse, stream: bool = False) -> list[Row]:
    """As a client opens it, in any language."""
    if stream:
        with pa.ipc.open_stream(answer.payload) as reader:
            (batch,) = list(reader)
        assert batch.schema == schema_of(answer.flags)
        assert answer.flags & (FLAG_OFFSETS | FLAG_TIMES) == FLAG_OFFSETS | FLAG_TIMES
    else:
        batch = decode_payload(answer.payload, answer.flags)
    assert batch.num_rows == answer.count
    offsets = (
        batch.column("offset").to_pylist()
        if answer.flags & FLAG_OFFSETS
        else range(answer.base_offset, answer.base_offset + answer.count)
    )
    times = (
        batch.column("timestamp").to_pylist()
        if answer.flags & FLAG_TIMES
        else [answer.append_time_us] * answer.count
    )
    headers = (
        batch.column("headers").to_pylist()
        if answer.flags & FLAG_HEADERS
        else [None] * answer.count
    )
    return [
        (o, k, v, t, [(h["name"], h["value"]) for h in hs or ()])
        for o, k, v, t, hs in zip(
            offsets,
            batch.column("key").to_pylist(),
            batch.column("value").to_pylist(),
            times,
            headers,
            strict=True,
        )
    ]


def stored_rows(batches: Sequence[StoredBatch]) -> list[Row]:
    found: list[Row] = []
    for batch in batches:
        found += rows_of(
            log_pb2.ReadResponse(
                base_offset=batch.base_offset,
                count=batch.count,
                append_time_us=batch.append_time_us,
                flags=batch.flags,
                payload=bytes(batch.payload()),
            )
        )
    return found


def begin_of(asked: Query) -> int:
    assert asked.start is not None, "each query of this file says where it begins"
    return asked.start


def wanted(batches: Sequence[StoredBatch], asked: Query) -> list[Row]:
    start, stop = begin_of(asked), asked.stop if asked.stop is not None else 1 << 62
    found = [
        row
        for row in stored_rows(batches)
        if start <= row[0] < stop
        and asked.key in (None, row[1])
        and (asked.low is None or row[1] >= asked.low)
        and (asked.high is None or row[1] < asked.high)
        and (asked.since_us is None or row[3] >= asked.since_us)
    ]
    return found[: asked.limit] if asked.limit else found


def engine_with(batches: Sequence[StoredBatch]) -> "Counting":
    engine = Counting()
    engine.create_replica(ReplicaMeta(1, SHARD))
    engine.write([ReplicaWrite(1, batches)], Durability.OS)
    return engine


class Counting(MemoryEngine):
    """The engine's twin; counts the stored bytes that reads fetch."""

    fetched = fetches = 0

    def read(self, replica_id: int, start: int, stop: int, max_bytes: int) -> list[StoredBatch]:
        return self._count(super().read(replica_id, start, stop, max_bytes))

    def read_key(
        self, replica_id: int, key: bytes, start: int, stop: int, max_bytes: int | None = None
    ) -> list[StoredBatch]:
        assert max_bytes is not None
        return self._count(super().read_key(replica_id, key, start, stop, max_bytes))

    def _count(self, found: list[StoredBatch]) -> list[StoredBatch]:
        self.fetched += sum(len(b.data) for b in found)
        self.fetches += 1
        return found


def run(engine: Counting, asked: Query) -> Iterator[list[ReadAnswer]]:
    """A whole read, step by step, as the edge does it."""
    mark = engine.end(1).end
    stop = mark if asked.stop is None else min(mark, asked.stop)
    steps = Steps(ShardLog(engine, 1), SHARD, asked, begin_of(asked))
    while steps.more(stop):
        yield steps.step(stop, mark)


def drain(answers: Iterable[ReadAnswer], into: list[Row]) -> None:
    for answer in answers:
        into += rows_of(answer.message)


def check(batches: Sequence[StoredBatch], asked: Query) -> None:
    """What comes is what was asked for, in messages that go through; also as Arrow streams."""
    for stream in (False, True):
        _check(batches, replace(asked, stream=stream))


def _check(batches: Sequence[StoredBatch], asked: Query) -> None:
    at = begin_of(asked)
    found: list[Row] = []
    for step in run(engine_with(batches), asked):
        assert sum(a.bytes for a in step[:-1]) < STEP_BYTES
        for answer in (a.message for a in step):
            assert answer.sealed is False
            assert answer.ByteSize() <= MESSAGE_BYTES_MAX
            assert answer.next_offset > at
            at = answer.next_offset
            rows = rows_of(answer, asked.stream)
            assert rows[-1][0] + 1 == at
            found += rows
    assert found == wanted(batches, asked)


def value_of(ratio: int, size: int) -> bytes:
    """About so compressible: 1: not at all."""
    return os.urandom(max(1, size // ratio)) + bytes(size - max(1, size // ratio))


@pytest.mark.parametrize("flags", [0, FLAG_TIMES, FLAG_HEADERS, FLAG_TIMES | FLAG_HEADERS])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("ratio", [1, 3, 30, 1_000])
def test_whatever_was_asked_each_answer_fits(ratio: int, compression: str, flags: int) -> None:
    rows = [(b"k%d" % (i % 3), value_of(ratio, 4_000)) for i in range(400)]
    batches = log_of([rows] * 4, compression, flags)  # 6.4 MB unpacked
    for asked in (
        query(),
        query(key=b"k1"),
        query(low=b"k1", high=b"k2"),
        query(since_us=1_100),
        query(start=17, stop=1_003),
        query(start=399, limit=2),
        query(key=b"k2", limit=400),
    ):
        check(batches, asked)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.lists(st.sampled_from([0, 1, 100, 5_000, 200_000, 1_048_000]), min_size=1, max_size=12),
        min_size=1,
        max_size=5,
    ),
    compression=st.sampled_from(["none", "lz4", "zstd"]),
    flags=st.sampled_from([0, 1, 2, 3]),
    zeros=st.booleans(),
    key=st.sampled_from([None, b"a", b"b", b"absent"]),
    bounds=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    limit=st.integers(0, 20),
)
def test_any_mix_of_batches_and_questions(
    sizes: list[list[int]],
    compression: str,
    flags: int,
    zeros: bool,
    key: bytes | None,
    bounds: tuple[int, int],
    limit: int,
) -> None:
    block = bytes(1_048_576) if zeros else BLOCK
    batches = log_of(
        [[(b"ab"[i % 2 : i % 2 + 1], block[:size]) for i, size in enumerate(s)] for s in sizes],
        compression,
        flags,
    )
    low, high = sorted(bounds)
    check(batches, query(start=min(low, batches[-1].end), stop=high, key=key, limit=limit))


BLOCK = os.urandom(1_048_576)


def test_a_batch_that_unpacks_to_more_than_a_message_comes_in_several() -> None:
    """Filtered, it cannot go out packed as it lies."""
    rows = [(b"k%d" % (i % 2), bytes(20_000)) for i in range(2_000)]
    batches = log_of([rows], "zstd")
    assert len(batches[0].data) < 200_000
    answers = [a.message for step in run(engine_with(batches), query(key=b"k1")) for a in step]
    assert len(answers) > 15
    assert max(len(a.payload) for a in answers) <= ANSWER_BYTES
    assert sum(a.count for a in answers) == 1_000


def test_a_well_packed_batch_goes_out_as_it_lies() -> None:
    batches = log_of([[(b"k", bytes(1_000))] * 1_000] * 40, "zstd")
    answers = [a.message for step in run(engine_with(batches), query()) for a in step]
    assert sum(len(a.payload) for a in answers) <= sum(len(b.data) for b in batches)


@pytest.mark.parametrize("mine", [[1], [1, 2], [0, 2]], ids=["one", "run", "gaps"])
@pytest.mark.parametrize("flags", [0, FLAG_HEADERS])
def test_an_answer_to_a_key_holds_no_bytes_of_other_records(mine: list[int], flags: int) -> None:
    """Arrow pads a slice with what lies beside it."""
    rows = [(b"mine", b"m") if i in mine else (b"OTHERS", b"SECRET" * 9) for i in range(4)]
    engine = engine_with(log_of([rows], flags=flags))
    ((answer,),) = run(engine, query(key=b"mine"))
    assert [row[0] for row in rows_of(answer.message)] == mine
    assert not any(word in answer.message.payload for word in (b"OTHERS", b"SECRET"))


def test_batches_are_unpacked_one_at_a_time() -> None:
    pulled: list[int] = []

    def source() -> Iterator[StoredBatch]:
        for batch in log_of([[(b"k", bytes(1_000))] * 3_000] * 6, "zstd"):
            pulled.append(batch.base_offset)
            yield batch

    answers = answers_of(SHARD, source(), query(key=b"k"), 0, 1 << 62, None, 0)
    for at_most in (1, 1, 2):
        next(answers)
        assert len(pulled) <= at_most


@pytest.mark.parametrize("key", [None, b"k"], ids=["offset", "key"])
@pytest.mark.parametrize("limit", [1, 10, 1_000])
def test_a_limit_costs_what_it_returns(key: bytes | None, limit: int) -> None:
    engine = engine_with(log_of([[(b"k", BLOCK[:1_000])] * 100] * 300))  # 30 MB of one key
    answers = [a.message for step in run(engine, query(key=key, limit=limit)) for a in step]
    assert sum(a.count for a in answers) == limit
    assert engine.fetched <= 4 * 1_100 * limit + 128 * 1024


def test_a_key_of_one_record_costs_one_fetch() -> None:
    engine = engine_with(log_of([[(b"k%d" % i, b"v")] for i in range(50)]))
    assert [a.message.count for step in run(engine, query(key=b"k7")) for a in step] == [1]
    assert engine.fetches == 1


@pytest.mark.parametrize("key", [None, b"k"], ids=["offset", "key"])
def test_a_record_that_fits_no_message_is_named_and_what_is_before_it_answered(
    key: bytes | None,
) -> None:
    """Nothing so large is taken any more; it may lie on a disk from before."""
    small, large = (b"k", b"v"), (b"k", bytes(MESSAGE_BYTES_MAX + 1))
    batches = log_of([[small] * 5, [small, small, large, small], [small]])
    found: list[Row] = []
    shown = r"record at offset 7 of shard orders/0, as sent"
    with pytest.raises(LimitExceededError, match=shown):
        drain((a for step in run(engine_with(batches), query(key=key)) for a in step), found)
    assert [row[0] for row in found] == list(range(7))
    check(batches, query(start=8, key=key))


def test_a_batch_that_cannot_be_opened_is_named_and_what_is_before_it_answered() -> None:
    good = log_of([[(b"k", b"v")] * 5])[0]
    bad = build(
        base_offset=5,
        epoch=1,
        chain_before=good.chain_after,
        count=3,
        append_time_us=0,
        time_min_us=0,
        time_max_us=0,
        flags=0,
        spans=(),
        payload=b"\xff" * 100,
    )
    found: list[Row] = []
    with pytest.raises(UnreadableBatchError, match=r"batch at offsets 5\.\.7 cannot be read"):
        drain(answers_of(SHARD, [good, bad], query(), 0, 8, None, 8), found)
    assert [row[0] for row in found] == list(range(5))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 60_000), min_size=1, max_size=40),
    st.integers(1_000, 100_000),
    st.integers(0, 30),
)
def test_pieces_are_exact_and_within_their_bound(
    sizes: list[int], size_max: int, first: int
) -> None:
    batch = log_of([[(b"k%d" % i, BLOCK[:size]) for i, size in enumerate(sizes)]], "none", 3)[0]
    rows = batch.records().slice(first)
    got = list(pieces(rows, size_max)) if rows.num_rows else []
    for piece, size in got:
        assert abs(len(encode_payload(piece)) - size) <= 64
        assert size <= size_max or piece.num_rows == 1
    assert [r for p, _ in got for r in p.to_pylist()] == rows.to_pylist()


# ---- between instances -------------------------------------------------------------------------


@pytest.mark.parametrize("size_mib", [0.001, 1, 5, 7.9, 8, 15.8])
def test_batches_of_a_message_fit_it(size_mib: float) -> None:
    rows = [(b"k", bytes(min(MIB, int(size_mib * MIB))))] * max(1, int(size_mib))
    batches = log_of([rows] * 20)
    rest: Sequence[StoredBatch] = batches
    while rest:
        some = fitting(rest)
        request = node_pb2.ReplicateRequest(shard="s" * 200, primary="p" * 64)
        request.batches.extend(batch_message(b) for b in some)
        assert request.ByteSize() <= MESSAGE_BYTES_MAX
        chunk = node_pb2.SnapshotChunk(batches=[batch_message(b) for b in some])
        assert chunk.ByteSize() <= MESSAGE_BYTES_MAX
        rest = rest[len(some) :]
    assert sent_bytes(batches[0]) >= batch_message(batches[0]).ByteSize()


def test_a_batch_that_fits_no_message_is_named() -> None:
    (batch,) = log_of([[(b"k", bytes(MESSAGE_BYTES_MAX))]])
    with pytest.raises(LimitExceededError, match=r"stored batch at offset 0, as sent to a peer"):
        batch_message(batch)


@pytest.mark.parametrize("size", [0, 1, BATCHES_BYTES_MAX, BATCHES_BYTES_MAX + 1, 50 * MIB])
def test_an_anchor_goes_in_parts(size: int) -> None:
    data = bytes(size)
    parts = parts_of(data)
    assert b"".join(parts) == data
    assert max(map(len, parts)) <= BATCHES_BYTES_MAX
    assert len(parts) == max(1, -(-size // BATCHES_BYTES_MAX))
