"""Reports from outside: what is wrong in one is refused alone, and nothing of it stays."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.migration.records import Phase, State
from coordinator.planning.views import _last_moves, migration_weights
from coordinator.server import CoordinatorServer
from coordinator.statistics.intake import StatisticsIntake
from coordinator.statistics.reports import (
    COUNT_MAX,
    SLOT_MAX,
    decode_statistics,
    decode_status,
    sound,
)
from coordinator.statistics.state import ceilings
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError
from logstore.meta.port import Put
from logstore.meta.records import InstanceRecord, LogOptions, LogRecord, encode, instance_key
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.status import called
from profiler.agent import GROUPS_MAX
from profiler.forecast.groups import GROUPS_MAX as GROUPS_OF_SHARD_MAX
from profiler.forecast.groups import UsageProfile
from profiler.types import OpType, ShardStatistics
from tests.support.statistics import statistic, status
from tests.unit.coordinator.test_statistics import migration

SHARDS = {"x": 2}
GOOD = statistic("x/0", "a", 7, 10)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"shard": "y/0"}, "does not exist"),
        ({"shard": "x/2"}, "does not exist"),
        ({"shard": "x/-1"}, "does not exist"),
        ({"shard": "x/00"}, "does not exist"),
        ({"shard": "x/" + "9" * 5_000}, "does not exist"),
        ({"shard": "x"}, "does not exist"),
        ({"instance": "b"}, "instance is 'b', the report is of 'a'"),
        ({"slot": 2**62}, f"slot is {2**62}, the limit is {SLOT_MAX}"),
        ({"query_count": -1}, "query_count is -1, it must be within 0"),
        ({"query_count": 2**63}, f"query_count is {2**63}"),
        ({"bytes_in": -5}, "bytes_in is -5"),
        ({"failed_count": COUNT_MAX + 1}, "failed_count is"),
        ({"mean_ms": math.inf}, "mean_ms is inf"),
        ({"p99_ms": math.nan}, "p99_ms is nan"),
        ({"migration_weight": -1.0}, "migration_weight is -1.0"),
        ({"counts": {OpType.APPEND: -1}}, "counts.append is -1"),
        ({"group_counts": {"g" * 2**20: 1}}, f"client_group has {2**20} characters, the limit is"),
        ({"group_counts": {f"g{i}": 1 for i in range(GROUPS_MAX + 2)}}, "group_counts has 66"),
        ({"group_counts": {"g": -1}}, "group_counts is -1"),
        ({"sampled_keys": ((b"k", math.nan),)}, "weight of a sampled key is nan"),
        ({"sampled_keys": ((b"k", -1.0),)}, "weight of a sampled key is -1.0"),
        ({"sampled_keys": ((b"k" * 2**20, 1.0),)}, "a sampled key has 1048576 bytes"),
        ({"sampled_keys": ((b"k", 1.0),) * 2_000}, "sampled_keys has 2000 keys"),
    ],
)
def test_a_bad_statistic_is_refused_by_name_and_the_others_are_taken(
    change: dict[str, Any], why: str
) -> None:
    rows = [GOOD, replace(GOOD, **change), replace(GOOD, shard="x/1")]
    found, refused = sound(rows, "a", 3600.0, SHARDS)
    assert found == [rows[0], rows[2]]
    assert len(refused) == 1
    assert why in refused[0]
    assert len(refused[0]) < 600


def test_a_list_with_odd_entries_gives_the_others() -> None:
    good = msgspec.json.encode(GOOD).decode()
    huge = good.replace('"query_count":10', '"query_count":1' + "0" * 400)
    data = f'[{good},7,null,{{"shard":"x/0"}},{huge},{good}]'.encode()
    found, refused = decode_statistics(data)
    assert [t.slot for t in found if t.query_count == 10] == [7, 7]
    assert len(refused) >= 3
    assert len(sound(found, "a", 3600.0, SHARDS)[0]) == 2


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("load", b"-1", "load is -1"),
        ("load", b"1e999", "range|load"),
        ("ops_per_s", b"-3", "ops_per_s is -3"),
        ("stored_bytes", b"-1", "stored_bytes is -1"),
        ("throttled", b"-1", "throttled is -1"),
    ],
)
def test_a_bad_status_is_refused_by_name(field: str, value: bytes, why: str) -> None:
    raw = msgspec.json.decode(msgspec.json.encode(status("a")))
    good = msgspec.json.encode({**raw, field: 0})
    name = field.encode()
    with pytest.raises(msgspec.DecodeError, match=why):
        decode_status(good.replace(b'"%s":0' % name, b'"%s":%s' % (name, value)))
    odd = msgspec.json.encode({**raw, "round_trip_ms": {"b": -1.0, "c": 2.0}})
    assert decode_status(odd).round_trip_ms == {"c": 2.0}


_number = st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.none(), st.text(max_size=3))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(list(ShardStatistics.__slots__)), _number, max_size=4),
        max_size=4,
    )
)
def test_nothing_that_is_taken_can_raise_behind_the_door(changes: list[dict[str, Any]]) -> None:
    raw = msgspec.json.decode(msgspec.json.encode(GOOD))
    data = msgspec.json.encode([{**raw, **change} for change in changes])
    found, refused = decode_statistics(data)
    good, wrong = sound(found, "a", 3600.0, SHARDS)
    assert len(found) + len(refused) == len(changes)
    assert len(good) + len(wrong) <= len(found)
    book = StatisticsIntake(3600.0, seasons_slots=(24,), settle_s=0.0)
    book.take("a", 1, [*good, replace(GOOD, shard="x/1")], None, 0.0, 0)
    book.learn(10.0)
    assert book.heatmap_copy("x") is not None
    assert all(math.isfinite(v) for f in book.forecasts(["x/0", "x/1"], 3, 0.0, 1.0).values()
               for v in f.mean)  # fmt: skip


# ---- the server's door -----------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CoordinatorServer]:
    config = CoordinatorConfig(
        data=tmp_path, port=0, slot_s=300.0, autopilot=Autopilot.OFF, seasons_slots=(24,),
        report_interval_s=0.2,
    )  # fmt: skip
    made = CoordinatorServer(config, Env())
    await made.start()
    await made.store.txn(
        [], [Put(instance_key(i), encode(InstanceRecord(i, "127.0.0.1:1", 1))) for i in "ab"]
    )
    await made.catalog.create("wall", LogOptions(), 2, (), ["a", "b"])
    await made.catalog.create("event", LogOptions(event_time=True), 1, (), ["a"])
    yield made
    await made.stop()


@pytest.fixture
async def channel(server: CoordinatorServer) -> AsyncIterator[grpc.aio.Channel]:
    made = open_channel(server.address)
    yield made
    await made.close()


async def report(
    channel: grpc.aio.Channel, rows: list[ShardStatistics], instance: str = "a", wall_us: int = 0
) -> pb.ReportResponse:
    request = pb.ReportRequest(
        instance=instance,
        incarnation=1,
        shard_statistics_json=msgspec.json.encode([replace(t, period_s=300.0) for t in rows]),
        status_json=msgspec.json.encode(status(instance)),
        wall_us=wall_us,
    )
    async with called():
        return await stubs.StatisticsStub(channel).Report(request)


async def test_a_clock_that_is_30_days_ahead_tells_the_slots_of_a_right_one(
    server: CoordinatorServer, channel: grpc.aio.Channel
) -> None:
    now_us = Env().clock.wall_us()
    present = now_us // 300_000_000
    off = 30 * 288
    await report(channel, [statistic("wall/1", "b", present - 2, 10)], "b", now_us)
    await report(channel, [statistic("wall/0", "a", present - 2, 10)], "a", now_us)
    await report(channel, [statistic("wall/0", "a", present - 1 + off, 20)], "a",
                 now_us + off * 300_000_000)  # fmt: skip
    await report(channel, [statistic("wall/1", "b", present - 1, 10)], "b", now_us)
    assert server.intake.newest_slots(["wall"]) == {"wall": present - 1}
    load = server.intake.load("wall/0")
    assert load is not None
    assert (load.slot, load.ops) == (present - 1, 20.0)
    # One of an older version does not say what its clock says: what is to come is refused.
    await report(channel, [statistic("wall/0", "a", present + off, 20)], "a")
    assert server.intake.load("wall/0") == load


async def test_one_log_of_event_time_says_nothing_of_another(
    server: CoordinatorServer, channel: grpc.aio.Channel
) -> None:
    await server.catalog.create("other", LogOptions(event_time=True), 1, (), ["a"])
    answer = await report(
        channel, [statistic("event/0", "a", 900, 5), statistic("other/0", "a", 40, 5)]
    )
    assert dict(answer.newest_slots) == {"event": 900, "other": 40}
    answer = await report(channel, [statistic("event/0", "a", 5_881_712_000, 5)])  # nanoseconds
    assert dict(answer.newest_slots) == {"event": 900, "other": 40}
    answer = await report(
        channel, [statistic("event/0", "a", 901, 5), statistic("other/0", "a", 41, 5)]
    )
    assert dict(answer.newest_slots) == {"event": 901, "other": 41}


async def test_no_name_is_longer_than_its_limit(channel: grpc.aio.Channel) -> None:
    with pytest.raises(InvalidArgumentError, match="instance has 1000000 characters, the limit is"):
        await report(channel, [], "a" * 1_000_000)
    with pytest.raises(InvalidArgumentError, match="report of a"):
        async with called():
            await stubs.StatisticsStub(channel).Report(
                pb.ReportRequest(instance="a", shard_statistics_json=b"[NaN")
            )


# ---- neighbours ---------------------------------------------------------------------------------


def test_ceilings_are_the_present_of_each_log() -> None:
    logs = [
        LogRecord("wall", LogOptions(), 1, 0),
        LogRecord("event", LogOptions(event_time=True), 1, 0),
        LogRecord("free", LogOptions(event_time=True, timestamp_ahead_max_s=None), 1, 0),
    ]
    assert ceilings(logs, 3_000_000_000, 300.0) == {"wall": 10, "event": 22}


def test_moves_that_a_wrong_clock_stamped_hold_no_shard_for_years() -> None:
    made = migration(State.COMPLETED)
    late = replace(made, phases=(Phase(State.SOAKING, 30 * 86_400_000_000),))
    assert _last_moves([made], 20.0) == {"x/0": (15.0, "a")}
    assert _last_moves([made, late], 20.0) == {"x/0": (15.0, "a")}
    rolled = replace(late, state=State.ROLLED_BACK)
    assert migration_weights([rolled], 10.0) == {}
    assert migration_weights([rolled], 31 * 86_400.0)["x/0"] < 1.0


def test_client_groups_without_end_stop_no_learning() -> None:
    """Random group names, 64 new ones a slot, while a profile is announced."""
    book = StatisticsIntake(3600.0, seasons_slots=(24,), settle_s=0.0)
    book.announce([], {"web": UsageProfile(0, (5.0,), repeats=True)})
    for slot in range(20):
        groups = {f"{slot}-{i}": 1 for i in range(GROUPS_MAX)}
        row = replace(statistic("x/0", "a", slot, 100), group_counts=groups)
        book.take("a", 1, [row, statistic("x/1", "a", slot, 50)], None, float(slot), 0)
        book.learn(slot + 0.5)
    assert book.book.last_slot("x/0") == book.book.last_slot("x/1") == 19
    assert set(book.book.state("x/0")["values"]) == {100.0}
    assert len(book.groups.parts.shards) <= GROUPS_OF_SHARD_MAX + 1
