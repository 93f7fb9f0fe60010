"""Timestamps too far ahead of the primary's clock: refused with the unit guessed, or clamped."""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import google_crc32c
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.catalog.catalog import parse_log_options
from logstore.base.env import Env, ManualClock
from logstore.base.errors import InvalidArgumentError
from logstore.base.types import TimestampPolicy
from logstore.engine.batch import FLAG_TIMES, decode_payload, encode_payload, schema_of
from logstore.meta.generations import ensure_generation
from logstore.meta.records import LogOptions, decode_log
from logstore.node.appends.stamps import admit_stamps, unit_guess
from logstore.node.appends.writer import new_future
from logstore.node.config import NodeConfig
from logstore.node.intake.appends import PendingAppend
from logstore.node.server import NodeServer
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2
from tests.support.nodes import LogChoices, Nodes, append, batch_of, nodes

NOW_US = 1_764_513_600_000_000
HOUR_US = 3_600_000_000


def timed(shard: str, times: Sequence[int], sequence: int = 1) -> log_pb2.AppendBatch:
    keys = pa.array([b"k%d" % i for i in range(len(times))], pa.binary())
    rows = pa.RecordBatch.from_arrays(
        [keys, keys, pa.array(times, pa.int64())], schema=schema_of(FLAG_TIMES)
    )
    payload = encode_payload(rows)
    return log_pb2.AppendBatch(
        id=sequence,
        shard=shard,
        producer_id=7,
        sequence=sequence,
        count=len(times),
        flags=FLAG_TIMES,
        crc32c=google_crc32c.value(payload),
        payload=payload,
    )


async def stamps(n: Nodes, shard: str) -> list[int]:
    found: list[int] = []
    async for answer in n.log_stub("i1").Read(log_pb2.ReadRequest(shard=shard)):
        batch = decode_payload(answer.payload, answer.flags)
        if answer.flags & FLAG_TIMES:
            found += batch.column("timestamp").to_pylist()
        else:
            found += [answer.append_time_us] * answer.count
    return found


async def ready(n: Nodes, shard: str, **options: Unpack[LogChoices]) -> None:
    await n.create(shard, "i1", **options)
    await n.until(shard, lambda r: r.epoch == 2)


async def unary(n: Nodes, log: str, times: Sequence[int]) -> log_pb2.AppendResponse:
    records = [log_pb2.Record(key=b"k", value=b"v", timestamp_us=at) for at in times]
    async with called():
        return await n.log_stub("i1").Append(log_pb2.AppendRequest(log=log, records=records))


async def test_nanoseconds_are_refused_at_both_doors_and_nothing_is_lost(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await ready(n, "x/0", event_time=True)
        now_us = Env().clock.wall_us()
        good = [now_us - HOUR_US, 5, now_us + HOUR_US // 2]
        said = "looks like nanoseconds: give microseconds"
        sent = [
            timed("x/0", good, 1),
            timed("x/0", [now_us, now_us * 1_000, now_us], 2),
            timed("x/0", good, 2),  # the number was not consumed: it is the next one's
            timed("x/0", [now_us + 2 * HOUR_US], 3),
        ]
        results = await append(n.log_stub("i1"), sent)
        assert [r.error.code for r in results] == ["", "invalid_argument", "", "invalid_argument"]
        assert re.search(rf"timestamp is {now_us * 1_000} us, .* years ahead.*{said}",
                         results[1].error.message)  # fmt: skip
        assert re.search(r"2\.0 hours ahead .* the limit is 3600 s", results[3].error.message)
        assert "looks like" not in results[3].error.message
        with pytest.raises(InvalidArgumentError, match=said):
            await unary(n, "x", [now_us, now_us * 1_000])
        await unary(n, "x", [now_us])
        assert await stamps(n, "x/0") == [*good, *good, now_us]


async def test_a_log_may_clamp_or_take_all(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as n:
        await ready(n, "x/0", timestamp_policy=TimestampPolicy.CLAMP, compression="zstd")
        await ready(n, "y/1", timestamp_ahead_max_s=None)
        now_us = Env().clock.wall_us()
        results = await append(n.log_stub("i1"), [timed("x/0", [5, now_us * 1_000], 1)])
        assert [r.error.code for r in results] == [""]
        answer = await unary(n, "x", [now_us + 30 * 86_400_000_000])
        first, second, third = await stamps(n, "x/0")
        assert first == 5
        assert now_us < second - HOUR_US < now_us + 60_000_000
        assert answer.timestamp_us == third
        assert now_us < third - HOUR_US < now_us + 60_000_000
        await unary(n, "y", [now_us * 1_000])
        assert await stamps(n, "y/1") == [now_us * 1_000]


class JumpingClock(ManualClock):
    """Real enough for a server: it moves by itself, and its wall clock by hand."""

    def __init__(self) -> None:
        super().__init__(NOW_US)
        self.off_us = 0
        self._real = Env().clock
        self._start_s = self._real.monotonic_s()

    def monotonic_s(self) -> float:
        return self._real.monotonic_s() - self._start_s + self._monotonic_s

    def wall_us(self) -> int:
        return NOW_US + self.off_us + round(self.monotonic_s() * 1e6)


async def test_a_wall_clock_that_is_30_days_ahead_stamps_nothing_30_days_ahead(
    tmp_path: Path,
) -> None:
    clock = JumpingClock()
    n = Nodes(tmp_path)
    config = NodeConfig(
        instance="i1", data=tmp_path / "i1", metadata=["127.0.0.1:1"], report_interval_s=3600.0,
        stop_hand_over_s=0.0,
    )  # fmt: skip
    await ensure_generation(n.store, Env(), "tests")
    server = NodeServer(config, Env(clock, random.Random(1)), store=n.store)
    await server.start()
    n.servers["i1"] = server
    try:
        await ready(n, "x/0")
        for sequence, off_days in ((1, 0), (2, 30), (3, 0), (4, -30), (5, 0)):
            clock.off_us = off_days * 24 * HOUR_US
            await append(n.log_stub("i1"), [batch_of("x/0", [b"k"], sequence, 9)])
            if off_days == 30:  # a good stamp of a producer is no bad one for that
                stamped = await append(n.log_stub("i1"), [timed("x/0", [NOW_US])])
                assert stamped[0].error.code == ""
            if off_days == -30:
                stamped = await append(n.log_stub("i1"), [timed("x/0", [NOW_US], 2)])
                assert stamped[0].error.code == ""
        found = await stamps(n, "x/0")
        assert len(found) == 7
        assert all(NOW_US <= at < NOW_US + 60_000_000 for at in found)
        own = [at for at in found if at != NOW_US]
        assert own == sorted(own)
    finally:
        await n.stop("i1")


async def test_a_retry_of_what_is_stored_is_a_duplicate_whatever_the_clock_did(
    tmp_path: Path,
) -> None:
    """The clock went back two hours in between: the stamp is now too far ahead, and stored."""
    async with nodes(tmp_path, 1) as n:
        await ready(n, "x/0")
        now_us = Env().clock.wall_us()
        first = await append(n.log_stub("i1"), [timed("x/0", [now_us])])
        writer = n.servers["i1"].instance.replica("x/0").writer
        writer.wall_us = writer.latest_us = lambda: now_us - 2 * HOUR_US
        again = await append(n.log_stub("i1"), [timed("x/0", [now_us])])
        assert again[0].duplicate
        assert again[0].base_offset == first[0].base_offset
        new = await append(n.log_stub("i1"), [timed("x/0", [now_us], 2)])
        assert new[0].error.code == "invalid_argument"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.integers(NOW_US - HOUR_US, NOW_US + 2 * HOUR_US)
    ), min_size=1, max_size=20),
    st.sampled_from([0.0, 1.0, 3600.0, 1e9]),
    st.sampled_from(list(TimestampPolicy)),
)  # fmt: skip
async def test_no_stamp_beyond_the_limit_is_ever_stored(
    times: list[int], ahead_s: float, policy: TimestampPolicy
) -> None:
    rows = [log_pb2.Record(key=b"k", value=b"v", timestamp_us=at) for at in times]
    made = PendingAppend.of_records(rows, log_pb2.AppendBatch(), new_future(), 0.0)
    options = LogOptions(timestamp_ahead_max_s=ahead_s, timestamp_policy=policy)
    limit_us = NOW_US + round(ahead_s * 1e6)
    beyond = max(times) > limit_us
    if beyond and policy is TimestampPolicy.REFUSE:
        with pytest.raises(InvalidArgumentError, match=f"timestamp is {max(times)} us"):
            admit_stamps(made, options, NOW_US)
        return
    admit_stamps(made, options, NOW_US)
    kept = made.batch.column("timestamp").to_pylist()
    assert kept == [min(at, limit_us) for at in times]
    assert (made.time_min_us, made.time_max_us) == (min(kept), max(kept))
    if beyond:
        assert decode_payload(made.payload, made.flags).column("timestamp").to_pylist() == kept


@pytest.mark.parametrize(
    ("stamp", "unit"),
    [
        (NOW_US * 1_000, "nanoseconds"),
        (NOW_US * 1_000_000, "picoseconds"),
        (NOW_US + 2 * HOUR_US, ""),
        (NOW_US * 2, ""),
        (2**63 - 1, ""),
    ],
)
def test_the_unit_is_guessed_only_where_it_makes_sense(stamp: int, unit: str) -> None:
    assert unit_guess(stamp, NOW_US) == unit


def test_logs_of_before_have_the_defaults_and_bad_options_are_refused_by_name() -> None:
    old = b'{"name":"x","options":{"replicas":1},"next_shard":1,"created_us":0}'
    options = decode_log(old).options
    assert (options.timestamp_ahead_max_s, options.timestamp_policy) == (3600.0, "refuse")
    assert parse_log_options(b'{"timestamp_ahead_max_s": null}').timestamp_ahead_max_s is None
    assert parse_log_options(b'{"timestamp_policy": "clamp"}').timestamp_policy == "clamp"
    for bad in (b"-1", b"1e10"):
        with pytest.raises(InvalidArgumentError, match=r"timestamp_ahead_max_s is .*within 0\.\."):
            parse_log_options(b'{"timestamp_ahead_max_s": %s}' % bad)
    with pytest.raises(InvalidArgumentError, match="timestamp_policy"):
        parse_log_options(b'{"timestamp_policy": "ignore"}')
