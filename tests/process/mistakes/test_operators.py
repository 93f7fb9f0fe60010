"""More mistakes of operators and callers, against one cluster: docs/reference/mistakes.md.

Each row is what was typed, the status, and what it must say; every answer is one line that names
the option or field and the value, within a moment.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.common import Coordinator, run
from coordinator.cli.main import main
from coordinator.local.cluster import ClusterOptions
from coordinator.local.process import Supervised, host_and_port
from logstore.base.errors import ConfigError, InvalidArgumentError
from logstore.client.sync_client import SyncClient, connect_sync
from logstore.meta.records import CapacityRecord
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from tests.process.mistakes.test_up import up

ANSWER_S = 15.0
"""Generous: the machine may be busy. Nothing here waits for a time-out of ours."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two instances; `o` is in two shards on the first, `p` is being moved at a crawl."""
    data = tmp_path_factory.mktemp("operators")
    with up(
        data,
        "--instances",
        "2",
        "--set",
        'move={"soak_s": 1000, "ramp_step": 1}',
        "--set",
        "seasons_slots=[24]",
    ) as cluster:
        with connect_sync(cluster.address) as db:
            first = ["instance-1"]
            db.create_log("o", split_keys=[b"m"], instances=first * 2)
            log = db.create_log("p", instances=first)
            log.append_many([b"k"] * 100, [b"v" * 10_000] * 100)
            db.create_log("h", partitioner="hash", shards=2, instances=first * 2)
        assert main(["move", "p/0", "instance-2", "--option", "throttle_bytes_per_s=1000",
                     "--address", cluster.address]) == 0  # fmt: skip
        yield cluster.address


@pytest.fixture
def db(address: str) -> Iterator[SyncClient]:
    with connect_sync(address, timeout_s=20) as client:
        yield client


MISTAKES: list[tuple[str, int, str]] = [
    # logs
    ("log create .", 2, "log name is '.', dots alone name no log"),
    ("log create ..", 2, "log name is '..', dots alone name no log"),
    ("log create x --option retention_s=60", 2, "retention_s is 60.0, but nothing is trimmed"),
    ("log create x --option retention_bytes=1", 2, "retention_bytes is 1, but nothing is trimmed"),
    ("log create x --partitioner hash --split-key m", 2, "--split-key and --partitioner hash"),
    ("log create x --partitioner balanced --split-key m", 2, "--partitioner balanced exclude"),
    ("log create x --option replicas=3", 2, "replicas is 3, 2 instances are registered"),
    ("log create x --option replicas=2 --option min_in_sync=3", 2, "min_in_sync is 3, with 2"),
    ("log create x --instance instance-1 --instance instance-2", 2, "instances has 2 entries"),
    ("log create x --split-key b --split-key a", 2, "split_keys[1] is not above split_keys[0]"),
    ("log create x --changefeed t", 2, "no broker is configured"),
    ("log delete p --yes", 1, "shard p/0 is in m1"),
    # moves
    ("move p/0 instance-2", 2, "shard p/0 has a copy on instance-2 that is still learning"),
    ("move o/0 instance-1", 2, "shard o/0 is already on instance-1"),
    ("move o/0 instance-9", 1, "instance 'instance-9' is not registered"),
    ("move o instance-2 --dry-run", 1, "shard 'o' does not exist"),
    ("move o/0 instance-2 --option soak=1", 2, "options.soak is not known; known: "),
    ("move o/0 instance-2 --option soak_s=-1", 2, "soak_s is -1.0, it must be within 0..604800 s"),
    ("move o/0 instance-2 --strategy teleport", 2, "strategy is 'teleport', it must be one of"),
    ("move o/0 instance-2 --feed kafka", 2, "feed is 'kafka', but no broker is configured"),
    ("complete m1", 2, "complete is only possible in soaking, not in"),
    ("abort m9", 1, "migration 'm9' does not exist"),
    # splits and merges
    ("split p/0 --at k", 2, "shard p/0 is in m1"),
    ("split o/0 --at z", 2, "split key b'z' is not strictly inside"),
    ("split o/0", 2, "no key that splits shard o/0 was learned yet; name one with --at"),
    ("merge o/0 o/0", 2, "are no neighbours"),
    ("merge o/0 h/0", 2, "are no neighbours"),
    # drains
    ("drain instance-9", 1, "instance 'instance-9' is not registered"),
    ("drain instance-1 --cancel", 1, "instance 'instance-1' is not being drained"),
    # calendar and profiles
    ("calendar add e --start 2026-01-02 --end 2026-01-01", 2, "the limit is > start_s"),
    ("calendar add e --start 20260101 --end 20260102", 2, "a day is written 2026-01-01"),
    ("calendar add e --start 2026-01-01 --end 9999-01-01", 2, "within 1970 and 2199"),
    ("calendar add e --start 2026-01-01 --end 2028-01-01", 2, "lasts 730 days, the limit is 366"),
    ("calendar add e --start 1790000000000 --end 1790000001000", 2, "looks like milliseconds"),
    ("calendar add e --start 2026-01-01 --end 2026-01-02 --factor 0", 2, "it must be 0.01 to 100"),
    ("calendar remove nothing", 2, "there is no event 'nothing'"),
    ("profiles remove nobody", 2, "there is no profile of 'nobody'"),
    # reads and looks
    ("read o --shard h/0", 1, "log 'o' has no shard 'h/0'"),
    ("read o --shard o/0 --key z", 2, "key b'z' and shard o/0 exclude each other"),
    ("read o --shard o/0 --start n", 2, "shard o/0 exclude each other"),
    ("read o --shard o/0 --offset 5", 2, "start_offset is 5, shard o/0 ends at 0"),
    ("verify o", 2, "SHARD is 'o', expected LOG/NUMBER, as in o/0"),
    ("heatmap o --png /nowhere/x.png", 2, "--png /nowhere/x.png: /nowhere is no folder"),
    ("forecast o/0 --horizon 100000", 2, "--horizon is 100000, it must be 0 to 1024"),
    ("autopilot maybe", 2, "mode is 'maybe', it must be one of on, forecast-only, off"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "status", "noted"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_that_names_it(
    address: str, capsys: pytest.CaptureFixture[str], typed: str, status: int, noted: str
) -> None:
    began = time.monotonic()
    assert main([*typed.split(), "--address", address]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert noted in said
    assert time.monotonic() - began < ANSWER_S


@pytest.mark.parametrize(
    ("typed", "out", "note"),
    [
        ("calendar add sale --start 2026-11-27 --end 2026-11-28 --factor 3 --shards order/",
         "announced sale: 2026-11-27 00:00:00 to 2026-11-28 00:00:00 (UTC, as no zone is given)",
         "note: no shard is called order/… now"),
        ("calendar add sale --start 2026-11-27T00:00+01:00 --end 2026-11-28T00:00Z --factor 2",
         "announced sale: 2026-11-26 23:00:00 to 2026-11-28 00:00:00 UTC",
         ""),
    ],
)  # fmt: skip
def test_what_may_be_a_mistake_is_told(
    address: str, capsys: pytest.CaptureFixture[str], typed: str, out: str, note: str
) -> None:
    assert main([*typed.split(), "--address", address]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == out
    assert said.err.strip() == note


def test_events_that_replace_or_overlap_are_told(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    day = ["--start", "2027-01-01", "--end", "2027-01-02", "--address", address]
    for name in ("first", "second"):
        assert main(["calendar", "add", name, *day, "--factor", "2"]) == 0
    assert "its factor multiplies with that of first" in capsys.readouterr().out
    assert main(["calendar", "add", "first", *day, "--factor", "3"]) == 0
    noted = capsys.readouterr().out
    assert "it replaces an event of this name, 2027-01-01 00:00:00 to 2027-01-02" in noted
    for name in ("first", "second"):
        assert main(["calendar", "remove", name, "--address", address]) == 0


@pytest.mark.parametrize(
    ("rows", "noted"),
    [
        (
            "0,nan\n60,1\n",
            "line 2: '0,nan', it must be a time and a number of operations/s from 0 on",
        ),
        (
            "0,-1\n60,1\n",
            "line 2: '0,-1', it must be a time and a number of operations/s from 0 on",
        ),
        ("60,1\n0,1\n", "line 3: times must rise in even steps"),
        ("1790000000000,1\n1790000060000,1\n", "line 2: time is '1790000000000'"),
        ("?,1\n60,1\n", "line 2: time is '?'"),
    ],
)
def test_a_profile_names_its_row(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, noted: str
) -> None:
    file = tmp_path / "p.csv"
    file.write_text("time,ops\n" + rows)
    assert main(["profiles", "set", "g", "--expect", str(file), "--address", address]) == 2
    assert noted in capsys.readouterr().err


def test_a_profile_for_a_log_that_is_not_there_is_told(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.csv"
    file.write_text("time,ops\n0,1\n300,2\n")
    flags = ["--expect", str(file), "--log", "nolog", "--address", address]
    assert main(["profiles", "set", "g", *flags]) == 0
    assert capsys.readouterr().err == "note: there is no log nolog now\n"
    assert main(["profiles", "remove", "g", "--address", address]) == 0


def test_a_setting_with_fields_reaches_the_coordinator(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["move", "o/0", "instance-2", "--dry-run", "--json", "--address", address]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert (options["soak_s"], options["ramp_step"]) == (1000.0, 1.0)


def test_a_merge_has_no_key(address: str) -> None:
    async def ask() -> None:
        async with Coordinator(address) as coordinator:
            request = pb.ReshapeRequest(parents=["o/0", "o/1"], key=b"k", dry_run=True)
            await coordinator.call("Migrations", "Reshape", request)

    with pytest.raises(InvalidArgumentError, match="key is given with 2 parents"):
        run(ask())


def test_reads_that_contradict_themselves(db: SyncClient) -> None:
    for call in (
        lambda: list(db.log("o").tail(shard="o/0", offset=0, from_start=True)),
        lambda: list(db.log("o").read(offset=3)),
        lambda: list(db.log("o").read(key=b"k", start=b"a")),
        lambda: list(db.log("o").read(start=b"b", end=b"a")),
        lambda: list(db.log("o").read(key=b"z", shard="o/0")),
        lambda: db.log("o").scan(offset=3).to_arrow(),
        lambda: db.log("o").scan(key=b"k", end=b"z").to_arrow(),
    ):
        with pytest.raises(InvalidArgumentError, match=r"exclude|together|without shard|above"):
            call()


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ({"capacities": [CapacityRecord(ops_per_s=0.0)]}, "ops_per_s is 0.0, it must be above 0"),
        ({"capacities": [CapacityRecord(bytes_per_s=-1.0)]}, "bytes_per_s is -1.0"),
        ({"capacities": [CapacityRecord(ops_per_s=float("nan"))]}, "ops_per_s is nan"),
        ({"capacities": [CapacityRecord(ops_per_s=float("inf"))]}, "ops_per_s is inf"),
        ({"autopilot": "maybe"}, "autopilot is 'maybe', it must be one of on, forecast-only, off"),
        ({"metadata": "http://x:1"}, "metadata is 'http://x:1', it must be etcd://"),
    ],
)
def test_what_no_cluster_can_be_made_of_is_refused_before_it_starts(
    tmp_path: Path, options: dict[str, object], noted: str
) -> None:
    with pytest.raises(ConfigError, match=noted):
        ClusterOptions(data=tmp_path, **options)  # type: ignore[arg-type]


async def test_a_refused_setting_is_quoted_from_the_present_run(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "coordinator.log"
    log.parent.mkdir()
    log.write_text("error: planning_period_s is 'nan': of the run before\n")
    process = Supervised(
        "coordinator", "coordinator.main", "127.0.0.1:0", host_and_port,
        {"data": tmp_path / "c", "nosuch": 1}, log,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="unrecognized arguments: --nosuch 1"):
        await process.start(30.0)
    await process.stop()


async def test_a_file_in_the_place_of_a_folder_ends_the_start_at_once(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("x")
    process = Supervised(
        "coordinator", "coordinator.main", "127.0.0.1:0", host_and_port,
        {"data": tmp_path / "c"}, tmp_path / "logs" / "coordinator.log",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"cannot be started: .*{tmp_path}/logs"):
        await process.start(30.0)
    await process.stop()


def write_series(path: Path, rows: list[str], head: str = "time,a") -> list[str]:
    path.write_text("\n".join([head, *rows]) + "\n")
    return ["simulate", "--series", str(path), "--policies", "static-mean"]


@pytest.mark.parametrize(
    ("load", "flags", "noted"),
    [
        ("1", ["--instances", "0"], "--instances is 0, it must be 1 to 1000"),
        ("1", ["--capacity", "nan"], "capacity is nan"),
        ("1", ["--warm-up", "30"], "warm-up is 30 slots, it must be within 1..29"),
        ("1", ["--policies", "best"], "policy is 'best'"),
        ("1", ["--cache", "/dev/null"], "--cache /dev/null is no folder"),
        ("nan", [], "line 2, a: 'nan' is no load"),
        ("-1", [], "line 2, a: '-1' is no load"),
        ("0", [], "the series holds no load at all"),
    ],
)
def test_a_simulation_that_says_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], load: str, flags: list[str], noted: str
) -> None:
    line = write_series(tmp_path / "s.csv", [f"{n * 60},{load}" for n in range(30)])
    assert main([*line, *flags]) == 2
    assert noted in capsys.readouterr().err


def test_two_columns_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n * 60},1,2" for n in range(30)]
    assert main(write_series(tmp_path / "s.csv", rows, "time,a,a")) == 2
    assert "two key ranges called 'a'" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_before_the_demo_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--report", str(tmp_path / "no" / "r.json")]) == 2
    assert "--report" in capsys.readouterr().err
    assert main(["demo", "--report", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
