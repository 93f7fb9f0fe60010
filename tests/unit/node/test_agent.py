"""The agent's time lines: event time beside the wall clock, and history that is fed fast."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from logstore.base.env import Env, ManualClock
from logstore.base.errors import (
    FencedError,
    InvalidArgumentError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from logstore.base.types import Ack
from logstore.node.config import NodeConfig
from logstore.node.intake.appends import PendingAppend
from logstore.node.statistics.event_lines import LATENESS_S
from logstore.node.statistics.statistics_reporter import Send, StatisticsReporter
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.v1 import log_pb2
from profiler.types import OpType, ShardStatistics

SLOT_US = 3_600_000_000


class Bench:
    """An agent with a clock that is moved by hand, and what it reported."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = ManualClock()
        config = NodeConfig(instance="a", data=tmp_path, metadata=["h:1"])
        self.agent = StatisticsReporter(config, Env(self.clock, random.Random(1)), slot_s=3600.0)
        self.told: dict[tuple[str, int], int] = {}
        self.newest_slot = -1

    def append(self, shard: str, slots: range) -> None:
        """One record in each slot."""
        rows = [log_pb2.Record(key=b"k", timestamp_us=slot * SLOT_US) for slot in slots]
        done: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        message = log_pb2.AppendBatch(shard=shard)
        append = PendingAppend.of_records(rows, message, done, self.clock.monotonic_s())
        self.agent.appended(shard, True, [append])

    async def report(self, after_s: float = 1.0) -> None:
        self.clock.advance(after_s)
        await self.agent.report(self._take, 1, self.agent.status(0, 1.0))

    async def _take(self, request: coordinator_pb2.ReportRequest) -> coordinator_pb2.ReportResponse:
        answer = msgspec.json.decode(request.shard_statistics_json, type=list[ShardStatistics])
        self.told.update({(s.shard, s.slot): s.query_count for s in answer if s.query_count})
        return coordinator_pb2.ReportResponse(slot_s=3600.0, newest_slots={"l": self.newest_slot})


async def test_shards_that_are_apart_in_event_time_keep_their_slots(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.report()  # nothing yet: the wall clock closes none of the event time's slots
    bench.append("l/0", range(500))
    bench.newest_slot = 900  # another instance is further on
    await bench.report()
    bench.append("l/1", range(500))  # the other shard of the same call comes a second later
    for _ in range(4):
        await bench.report()
    expected = {(shard, slot): 1 for shard in ("l/0", "l/1") for slot in range(500)}
    assert bench.told == expected


async def test_live_events_are_told_at_the_next_report(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append("l/0", range(1))
    await bench.report()
    await bench.report(LATENESS_S)
    for slot in range(1, 6):
        bench.append("l/0", range(slot, slot + 1))
        await bench.report()
        assert ("l/0", slot - 1) in bench.told
        assert ("l/0", slot) not in bench.told


async def test_reads_count_by_event_time_in_such_a_log_and_by_the_wall_in_others(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.agent.read("l/0", True, OpType.KEY_READ, 10, 0.001, b"k")  # no event yet: no slot for it
    bench.append("l/0", range(7, 8))
    bench.agent.read("l/0", True, OpType.KEY_READ, 10, 0.001, b"k")
    bench.agent.read("m/0", False, OpType.KEY_READ, 10, 0.001, b"k")
    wall = bench.clock.wall_us() // SLOT_US
    bench.newest_slot = 8
    await bench.report()
    for _ in range(3):
        await bench.report(3600.0)
    assert bench.told == {("l/0", 7): 2, ("m/0", wall): 1}


async def test_every_coordinator_is_told_everything_also_one_that_was_away(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    heard: dict[str, list[int]] = {"x": [], "y": []}
    away = {"y"}

    def door(name: str) -> Send:
        async def take(
            request: coordinator_pb2.ReportRequest,
        ) -> coordinator_pb2.ReportResponse:
            if name in away:
                raise UnavailableError("away")
            answer = msgspec.json.decode(request.shard_statistics_json, type=list[ShardStatistics])
            heard[name] += [s.slot for s in answer if s.query_count]
            return coordinator_pb2.ReportResponse(slot_s=3600.0)

        return take

    async def tell() -> None:
        bench.clock.advance(1.0)
        for name in ("x", "y"):
            await bench.agent.report(door(name), 1, bench.agent.status(0, 1.0), name)

    bench.append("l/0", range(20))
    for _ in range(5):
        await tell()
    assert heard["x"] == list(range(19))
    assert heard["y"] == []
    away.clear()
    await tell()
    bench.append("l/0", range(20, 40))
    for _ in range(5):
        await tell()
    assert heard["x"] == heard["y"] == list(range(39))


async def test_what_the_instance_fails_to_serve_is_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.append("l/0", range(3))
    answer: list[ShardStatistics] = []

    async def take(
        request: coordinator_pb2.ReportRequest,
    ) -> coordinator_pb2.ReportResponse:
        answer.extend(
            msgspec.json.decode(request.shard_statistics_json, type=list[ShardStatistics])
        )
        return coordinator_pb2.ReportResponse(slot_s=3600.0, newest_slots={"l": 9})

    for error in (StorageError("disk"), OverloadedError("full"), RuntimeError("a bug")):
        bench.agent.failed("l/0", True, error)
    for refusal in (FencedError("elsewhere"), InvalidArgumentError("bad")):
        bench.agent.failed("l/0", True, refusal)  # not to be blamed on the instance
    for _ in range(5):
        bench.clock.advance(1.0)
        await bench.agent.report(take, 1, bench.agent.status(0, 1.0))
    failed = {
        s.slot: (s.query_count, s.failed_count, s.error_rate) for s in answer if s.failed_count
    }
    assert failed == {2: (1, 3, 0.75)}


NANOSECONDS = 490_142_666
"""A slot of an hour of this year, were it stamped in nanoseconds."""


@pytest.mark.parametrize("bad", [NANOSECONDS, 120 + 12, 120 + 720, 3])
@pytest.mark.parametrize("times", [1, 20])
async def test_bad_stamps_of_one_log_move_no_slots_of_any(
    tmp_path: Path, bad: int, times: int
) -> None:
    bench = Bench(tmp_path)
    for slot in range(100, 160):
        for log in ("l", "m"):
            bench.append(f"{log}/0", range(slot, slot + 1))
            bench.append(f"{log}/0", range(slot, slot + 1))
        if slot == 120:
            for _ in range(times):
                bench.append("l/0", range(bad, bad + 1))
                bench.append("l/0", range(slot, slot + 1))
        bench.newest_slot = slot - 1
        await bench.report()
    kept = {at: n for at, n in bench.told.items() if at[1] in range(100, 158)}
    wrong = {at: n for at, n in kept.items() if n != 2}
    assert {at for at in kept if at[0] == "m/0"} == {("m/0", s) for s in range(100, 158)}
    assert {at for at in kept if at[0] == "l/0"} == {("l/0", s) for s in range(100, 158)}
    # What was stamped wrongly is load too: of the slot in which it came, or of the one it named.
    assert all(log == "l/0" and slot in {119, 120, 121, bad, bad + 1} for log, slot in wrong)
    assert not [slot for _, slot in bench.told if slot > 160]


@pytest.mark.parametrize("days", [30, -30])
@pytest.mark.parametrize("from_start", [False, True])
async def test_a_glitch_of_the_wall_clock_closes_no_slot(
    tmp_path: Path, days: int, from_start: bool
) -> None:
    bench = Bench(tmp_path)
    off_us = days * 24 * SLOT_US
    first = bench.clock.wall_us() // SLOT_US
    if from_start:
        bench.clock._wall_us += off_us
        config = NodeConfig(instance="a", data=tmp_path, metadata=["h:1"])
        bench.agent = StatisticsReporter(config, Env(bench.clock, random.Random(1)), slot_s=3600.0)
    for second in range(6):
        if second == 0 and not from_start:
            bench.clock._wall_us += off_us
        bench.agent.read("m/0", False, OpType.KEY_READ, 10, 0.001, b"k")
        await bench.report()
    bench.clock._wall_us -= off_us
    for _ in range(60):  # a minute until a clock that was wrong from the start is left
        bench.agent.read("m/0", False, OpType.KEY_READ, 10, 0.001, b"k")
        await bench.report(1.1)
    for _ in range(4):
        for _ in range(60):
            bench.agent.read("m/0", False, OpType.KEY_READ, 10, 0.001, b"k")
            await bench.report(60.0)
    present = bench.clock.wall_us() // SLOT_US
    answer = {slot: n for (_, slot), n in bench.told.items()}
    assert {s: n for s, n in answer.items() if first < s < present} == dict.fromkeys(
        range(first + 1, present), 60
    )
    assert not [slot for slot in answer if slot > present]
    if not from_start:
        assert answer.keys() <= set(range(first, present))


async def test_history_that_is_fed_in_seconds_is_told_to_its_end(tmp_path: Path) -> None:
    """Twenty batches over 400 slots each, for four shards in turn, and then what is live."""
    bench = Bench(tmp_path)
    bench.newest_slot = 0
    for start in range(0, 8_000, 400):
        for shard in range(4):
            bench.append(f"l/{shard}", range(start, start + 400))
        await bench.report(0.1)
    for _ in range(6):
        await bench.report()
    expected = {(f"l/{shard}", slot): 1 for shard in range(4) for slot in range(7_999)}
    assert bench.told == expected
    for slot in range(8_000, 8_010):
        bench.append("l/0", range(slot, slot + 1))
        await bench.report()
    assert ("l/0", 8_008) in bench.told


async def test_stamps_from_everywhere_use_bounded_room_and_lose_no_operation(
    tmp_path: Path,
) -> None:
    bench, rng = Bench(tmp_path), random.Random(3)
    sent = 0
    for slot in range(100, 150):
        for _ in range(20):
            bench.append("l/0", range(slot, slot + 1))
            wrong = rng.randrange(10**6)
            bench.append("l/0", range(wrong, wrong + 1))
            sent += 2
        bench.newest_slot = slot - 1
        await bench.report()
        recorder = bench.agent._event.of("l/0").recorder
        assert sum(len(slots) for slots in recorder._open.values()) < 120
    await bench.report(10.0)
    counted = sum(n for (_, slot), n in bench.told.items() if slot < 150)
    assert sent * 0.9 < counted <= sent
