"""What commands say of who they talk to, how they end in a pipe, and what odd entries look like."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.cli.main import main
from coordinator.cli.settings import coordinator_settings
from coordinator.main import _config
from logstore.base.errors import (
    BY_CODE,
    InvalidArgumentError,
    LimitExceededError,
    LogstoreError,
    NotServedHereError,
)
from logstore.base.limits import NAME_BYTES_MAX
from logstore.client.client import connect
from logstore.meta.port import Delete, Put
from logstore.meta.remote import RemoteMetadataStore
from logstore.node.config import NodeConfig
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub
from logstore.proto.status import INTERNAL, called, served
from logstore.proto.v1 import common_pb2, log_pb2
from logstore.proto.v1.log_pb2_grpc import LogServiceStub
from tests.process.cli.conftest import Shell

NEED_A_COORDINATOR = [
    ["log", "list"], ["log", "describe", "l"], ["shards"], ["instances"], ["stats"], ["plan"],
    ["forecast"], ["heatmap", "l"], ["autopilot", "on"], ["move", "l/0", "i"], ["migrations"],
    ["migrations", "m1", "--watch"], ["pause", "m1"], ["drain", "i"], ["split", "l/0"],
    ["merge", "l/0", "l/1"], ["reshapes"], ["calendar", "list"], ["profiles", "list"],
    ["verify", "l/0"],
]  # fmt: skip


@pytest.fixture(scope="module")
def instance(address: str) -> str:
    """The address of an instance of the cluster."""
    rows = json.loads(command("instances", "--json", "--address", address).stdout)
    return next(str(row["address"]) for row in rows if row["instance"] == "instance-1")


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """A gRPC server that is no logstore."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli.main", *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


# ---- who is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", NEED_A_COORDINATOR, ids=" ".join)
def test_an_instance_is_called_one(
    asked: list[str], instance: str, stranger: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "--address", instance]) == 1
    shown = f"error: {instance} is an instance; this command needs a coordinator (--address HOST"
    assert capsys.readouterr().err.startswith(shown)
    assert main([*asked, "--address", stranger]) == 1
    assert capsys.readouterr().err.startswith(f"error: {stranger} is no coordinator: ")
    main([*asked, "--address", f"{instance},{stranger},{address}"])  # the next one is asked
    assert "is an instance" not in capsys.readouterr().err
    assert main([*asked, "--address", f"{instance},127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err  # the one that may be a coordinator


async def test_a_call_that_is_not_served_is_an_error_of_its_own(instance: str) -> None:
    async with open_channel(instance) as channel:
        with pytest.raises(NotServedHereError, match="does not serve this call"):
            async with called():
                await CatalogStub(channel).ListLogs(pb.ListLogsRequest(), timeout=10)
    assert BY_CODE["not_served_here"] is NotServedHereError
    assert not NotServedHereError.retriable


async def test_an_unforeseen_failure_of_a_process_tells_no_words_from_inside() -> None:
    class Context:
        said = ""

        async def abort(self, code: object, details: str, trailer: object) -> None:
            self.said = details
            raise LogstoreError(details)

    context = Context()
    with pytest.raises(LogstoreError, match="internal error"):
        async with served(context):  # type: ignore[arg-type]
            _ = 1 // 0
    assert context.said == INTERNAL
    assert "division" not in context.said


# ---- pipes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(address: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("lines") / "f"
    file.write_text('{"key": "k", "value": "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"}\n' * 5_000)
    assert main(["log", "create", "piped", "--address", address]) == 0
    assert main(["append", "piped", "--file", str(file), "--address", address]) == 0
    return "piped"


class Reader:
    """Reads some lines of a pipe, then leaves, as `head` does."""

    def __init__(self, lines: int) -> None:
        source, self.write = os.pipe()
        self.got: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=(source, lines))
        self._thread.start()

    def _read(self, source: int, lines: int) -> None:
        with os.fdopen(source, "rb", buffering=0) as pipe:
            self.got = [pipe.readline() for _ in range(lines)]

    def left(self) -> list[bytes]:
        self._thread.join(60)
        return self.got


PIPED = [
    ["read", "piped"], ["read", "piped", "--json"], ["tail", "piped", "--from-start"],
    ["tail", "piped", "--from-start", "--json"], ["shards"], ["shards", "--json"], ["instances"],
    ["stats"], ["stats", "--json"], ["log", "describe", "piped"], ["log", "list"], ["plan"],
]  # fmt: skip


@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("asked", PIPED, ids=" ".join)
def test_a_reader_that_leaves_ends_the_command_quietly(
    asked: list[str], lines: int, filled: str, address: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As `| head -1`, and as a reader that never read: status 0, no word."""
    reader = Reader(lines)
    if not lines:
        reader.left()
    with open(reader.write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([*asked, "--address", address]) == 0
    assert len(reader.left()) == lines
    monkeypatch.undo()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("asked", [["read", "piped"], ["append", "--help"]], ids=" ".join)
def test_a_process_whose_reader_left_ends_quietly(
    asked: list[str], filled: str, address: str
) -> None:
    """The interpreter, too, has nothing to say when it ends."""
    reader = Reader(0)
    reader.left()
    flags = ["--address", address] if "--help" not in asked else []
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli.main", *asked, *flags],
        stdout=reader.write, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    os.close(reader.write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_tail_ends_when_its_reader_leaves_though_nothing_comes(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["log", "create", "silent", "--address", address]) == 0
    assert main(["append", "silent", "k", "v", "--address", address]) == 0
    reader = Reader(1)
    with open(reader.write, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["tail", "silent", "--from-start", "--address", address]) == 0
    assert reader.left()[0].endswith(b"\tk\tv\n")  # and no record was appended meanwhile


def test_a_full_disk_behind_the_output_is_one_sentence(
    filled: str, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["read", "piped", "--address", address]) == 1
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert said == "error: the system refused: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_record_is_shown_in_any_locale(encoding: str, address: str) -> None:
    assert main(["log", "create", f"in-{encoding}", "--address", address]) == 0
    given = ["append", f"in-{encoding}", "ключ", "—\udcff", "--address", address]
    assert main(given) == 0
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli.main", "read", f"in-{encoding}", "--address",
         address],
        capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


def test_ctrl_c_says_nothing(address: str) -> None:
    assert main(["log", "create", "held", "--address", address]) == 0
    assert main(["append", "held", "k", "v", "--address", address]) == 0
    run = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli.main", "tail", "held", "--from-start", "--address",
         address],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, b"", b"")


# ---- settings of `up` --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--set", "colour=blue"], "--set colour: the coordinator has no such setting"),
        (["--set", "--host=x"], "the coordinator has no such setting"),
        (["--set", "planning_period_s=0"], "planning_period_s is 0: Input should be greater"),
        (["--set", "planning_period_s=soon"], "planning_period_s is 'soon': Input should be"),
        (["--set", "slot_s=NaN"], "slot_s is 'NaN'"),
        (["--set", "seasons_slots=x"], "seasons_slots is 'x'"),
        (["--set", "move=7"], "move is 7"),
        (["--set", "advertise=::1:7400"], "ambiguous"),
        (["--set", "x"], "expected NAME=VALUE"),
        (["--kafka", "nowhere"], "kafka is 'nowhere': the port is missing"),
        (["--kafka", "a:1,b"], "kafka is 'a:1,b': the port is missing"),
        (["--cells", "2"], "cells is 2, the embedded store has 1: give metadata"),
        (["--metadata", "http://x"], "metadata"),
    ],
)
def test_a_bad_setting_is_named_and_no_log_file(
    given: list[str], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--data", str(tmp_path / "d"), "--port", "0", *given]) == 2
    said = capsys.readouterr().err
    assert shown in said
    assert ".log" not in said
    assert said.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_settings_of_several_values_reach_the_coordinator() -> None:
    given = {
        "seasons_slots": [24, 168],
        "move": {"soak_s": 7},
        "planning_period_s": 5,
        "seed": None,
    }
    flags = coordinator_settings(given)
    assert flags == {"seasons_slots": "[24,168]", "move": '{"soak_s":7}', "planning_period_s": 5}
    typed = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    config = _config(["--data", "d", *typed])
    assert (config.seasons_slots, config.move) == ((24, 168), {"soak_s": 7})
    assert config.planning_period_s == 5


# ---- names -------------------------------------------------------------------------------------

BAD_NAMES = [
    "x" * (NAME_BYTES_MAX + 1),
    "ä" * (NAME_BYTES_MAX // 2 + 1),
    "a\nb",
    "\x00",
    "x" * 2**20,
]


@pytest.fixture(scope="module")
def grouped(address: str) -> str:
    assert main(["log", "create", "grouped", "--instance", "instance-1", "--address", address]) == 0
    assert main(["append", "grouped", "k", "v", "--address", address]) == 0
    return "grouped/0"


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
async def test_a_client_group_is_bounded_at_both_ends(
    name: str, instance: str, address: str, grouped: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="client_group is") as refused:
        connect(address, client_group=name)
    assert len(refused.value.message) < 300
    caller = common_pb2.Caller(client_group=name)
    record = log_pb2.Record(key=b"k", value=b"v")
    async with open_channel(instance) as channel:
        stub = LogServiceStub(channel)
        one = log_pb2.AppendRequest(log="grouped", shard=grouped, records=[record], caller=caller)
        with pytest.raises(InvalidArgumentError, match="client_group is"):
            async with called():
                await stub.Append(one, timeout=10)
        read = log_pb2.ReadRequest(shard=grouped, caller=caller)
        with pytest.raises(InvalidArgumentError, match="client_group is"):
            async with called():
                assert [answer async for answer in stub.Read(read, timeout=10)] == []
    async with connect(address, client_group="ä" * (NAME_BYTES_MAX // 2)) as db:
        assert (await (await db.log("grouped")).append(b"k", b"v")).offset >= 1


def test_tiers_and_zones_are_bounded() -> None:
    for field in ("tier", "zone"):
        given: dict[str, Any] = {"instance": "i", "data": Path("d"), "metadata": ["h:1"]}
        for name in (*BAD_NAMES, "x" * 65, "ä" * 33, ""):
            with pytest.raises(ValueError, match=field):
                NodeConfig(**(given | {field: name}))
        made = NodeConfig(**(given | {field: "ä" * 32}))
        assert getattr(made, field) == "ä" * 32


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_events_and_profiles_have_bounded_names(
    name: str, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.csv"
    file.write_text("0,1\n60,1\n")
    times = ["--start", "2026-01-01", "--end", "2026-01-02"]
    for asked in (
        ["calendar", "add", name, *times],
        ["profiles", "set", name, "--expect", str(file)],
    ):
        assert main([*asked, "--address", address]) == 2
        said = capsys.readouterr().err
        assert f"{NAME_BYTES_MAX} bytes" in said or "unprintable" in said or "65536" in said
        assert len(said) < 400


# ---- odd entries -------------------------------------------------------------------------------

ODD = [b"", b"{", b"7", b"{}", b"\xff", b'{"name": "e", "start_s": null, "end_s": 1}',
       b'{"name": "e", "start_s": 2, "end_s": 1}', b'{"group": "g", "ops_per_s": []}',
       b'{"group": "g", "start_s": 0, "step_s": 1, "ops_per_s": []}']  # fmt: skip


PREFIXES = ("/calendar/", "/profiles/", "/migrations/")


async def changed(address: str, operations: list[Put | Delete]) -> None:
    store = RemoteMetadataStore([address])
    await store.txn([], operations)
    await store.close()


def test_odd_entries_are_shown_beside_the_others(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("2026-01-01T00:00,1\n2026-01-01T00:01,1\n")
    shell.text("calendar", "add", "good", "--start", "2026-01-01", "--end", "2026-01-02")
    shell.text("profiles", "set", "good", "--expect", str(file))
    names = [f"{prefix}odd-{n}" for prefix in PREFIXES for n in range(len(ODD))]
    puts = [Put(f"{prefix}odd-{n}", value) for prefix in PREFIXES for n, value in enumerate(ODD)]
    far = Put("/calendar/far", b'{"name": "far", "start_s": 0, "end_s": 1e18}')
    asyncio.run(changed(shell.address, [*puts, far]))
    for kind in (["calendar", "list"], ["profiles", "list"], ["migrations"]):
        shown, count = shell.text(*kind), len(ODD) + (kind[0] == "calendar")
        assert shown.count("it cannot be read") == count, (kind, shown)
        assert kind == ["migrations"] or " good " in shown
        (listed,) = shell.lines(*kind)
        assert sum("odd" in entry for entry in listed) == count
        assert ("odd event 'far': it cannot be read (end_s" in shown) == (kind[0] == "calendar")
    assert "cannot be read" in shell.text("migrations", "odd-1", status=1)
    for group in ("calendar", "profiles"):
        shell.text(group, "remove", "odd-0")
    shell.lines("log", "create", "beside", "--instance", "instance-1")
    assert "dry_run" in shell.lines("move", "beside/0", "instance-2", "--dry-run")[0]
    assert "operators" in shell.lines("plan")[0]
    asyncio.run(changed(shell.address, [Delete(name) for name in names if "odd-0" not in name]))
    assert len(shell.lines("calendar", "list")[0]) == 2


def test_commands_that_ask_several_times_leave_no_trace(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for n in range(5):
        assert main(["log", "create", f"loops-{n}", "--address", address]) == 0
    assert capfd.readouterr().err == ""
    with pytest.raises(LimitExceededError, match="client_group is 201 bytes, the limit is 200"):
        connect(address, client_group="x" * 201)
