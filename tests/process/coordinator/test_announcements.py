"""What is announced on the command line changes the forecast, and is there after a restart."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.cli.announce import read_profile
from coordinator.planning.announcements import check_profile, usage
from coordinator.server import CoordinatorServer
from logstore.base.errors import InvalidArgumentError
from logstore.meta.records import (
    ProfileRecord,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from tests.support.announced import SLOT_S, SLOTS, call, learned, prepared, report, slots, started
from tests.support.statistics import statistic


async def cli(server: CoordinatorServer, *arguments: str) -> str:
    """What a command prints, run as a process, while this loop serves."""
    command = [sys.executable, "-m", "coordinator.cli.main", *arguments, "--json", "--address"]
    process = await asyncio.create_subprocess_exec(
        *command, server.address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode()


async def mean(server: CoordinatorServer, step: int) -> float:
    """What `x/0` is forecast to carry `step` slots after the last that was learned."""
    made = await server.learner.call(server.intake.book.last_slot, "x/0")
    said = await server.learner.call(server.intake.forecasts, ["x/0"], 12, 0.0, 1e9)
    at = said["x/0"].made_at_slot
    assert at == made
    return said["x/0"].mean[step - 1]


async def until(server: CoordinatorServer, step: int, low: float, high: float) -> float:
    """The forecast once it is within bounds; a watch brings the change to the models."""
    async with asyncio.timeout(30):
        while not low <= (said := await mean(server, step)) <= high:
            await asyncio.sleep(0.01)
    return said


async def test_an_event_from_the_command_line_is_in_the_forecast_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    server = await prepared(tmp_path)
    assert 90 <= await mean(server, 6) <= 110
    start_s, end_s = (SLOTS + 4) * SLOT_S, (SLOTS + 6) * SLOT_S
    await cli(server, "calendar", "add", "sale", "--start", str(start_s), "--end", str(end_s),
              "--factor", "3", "--shards", "x/")  # fmt: skip
    assert 270 <= await until(server, 6, 250, 350) <= 330
    assert 90 <= await mean(server, 2) <= 110
    assert 90 <= await mean(server, 8) <= 110
    await server.stop()
    again = await started(tmp_path / "coordinator")
    assert 270 <= await until(again, 6, 250, 350) <= 330
    (listed,) = json.loads(await cli(again, "calendar", "list"))
    assert (listed["name"], listed["start_s"], listed["factor"]) == ("sale", start_s, 3.0)
    await call(again, "RemoveEvent", pb.RemoveEventRequest(name="sale"))
    await until(again, 6, 90, 110)
    with pytest.raises(InvalidArgumentError, match="there is no event 'sale'"):
        await call(again, "RemoveEvent", pb.RemoveEventRequest(name="sale"))
    bad = pb.AddEventRequest(event_json=b'{"name": "x", "start_s": 2, "end_s": 1}')
    with pytest.raises(InvalidArgumentError, match="end_s of event 'x' is 1"):
        await call(again, "AddEvent", bad)
    await again.stop()


async def test_a_profile_of_a_group_that_never_came_is_anticipated(tmp_path: Path) -> None:
    server = await prepared(tmp_path)
    file = tmp_path / "import.csv"
    rows = [f"{(SLOTS + 3 + i) * SLOT_S},{500 / SLOT_S}" for i in range(4)]
    file.write_text("time,ops_per_s\n" + "\n".join(rows) + "\n")
    await cli(server, "profiles", "set", "importer", "--expect", str(file), "--log", "x")
    assert 560 <= await until(server, 5, 550, 650) <= 640
    assert 90 <= await mean(server, 1) <= 110
    assert 90 <= await mean(server, 10) <= 110
    # It comes as announced, and its operations are counted apart from the others'.
    both = [
        replace(statistic("x/0", "a", s, 600), group_counts={"importer": 500, "web": 100})
        for s in (75, 76)
    ]
    await report(server, [*slots(SLOTS, 75, {"web": 100}), *both])
    await learned(server, 76)
    groups = await server.learner.call(server.intake.groups.forecast, "x/0", 4, 76)
    assert groups[1]["importer"].mean[0] > 3 * groups[1]["web"].mean[0]
    (listed,) = (await call(server, "ListProfiles", pb.ListProfilesRequest()))["profiles"]
    assert (listed["group"], listed["step_s"]) == ("importer", SLOT_S)
    await call(server, "SetProfile", pb.SetProfileRequest(group="importer"))
    assert (await call(server, "ListProfiles", pb.ListProfilesRequest()))["profiles"] == []
    await server.stop()


def test_a_profile_in_slots_and_its_bounds(tmp_path: Path) -> None:
    record = ProfileRecord("g", 1800.0, 1800.0, (1.0, 2.0, 3.0), logs=("x",))
    made = usage(record, 3600.0)
    assert made.first_slot == 0
    assert made.ops == pytest.approx((1800.0, 9000.0))
    assert made.touches("x/3")
    assert not made.touches("xx/3")
    with pytest.raises(InvalidArgumentError, match="repeats starts and ends with slots of 3600 s"):
        usage(ProfileRecord("g", 1800.0, 1800.0, (1.0, 2.0), repeats=True), 3600.0)
    with pytest.raises(InvalidArgumentError, match=r"ops_per_s is -1.0, the limit is >= 0"):
        check_profile(ProfileRecord("g", 0.0, 1.0, (-1.0,)))
    file = tmp_path / "bad.csv"
    file.write_text("time,ops\n0,1\n60,x\n")
    with pytest.raises(InvalidArgumentError, match=r"line 3: '60,x', it must be a time and a num"):
        read_profile(file)
    file.write_text("time,ops\n0,1\n60,2\n90,1\n")
    with pytest.raises(InvalidArgumentError, match="times must rise in even steps"):
        read_profile(file)
