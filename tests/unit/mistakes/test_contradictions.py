"""Options that cannot both hold: each pair is refused, both are named, nothing is sent.

The tables of `coordinator.cli.choices` are tried pair by pair, whatever is added to them; the pairs
that belong to values, and those of the Python API, are listed here.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import logstore
from coordinator.cli.choices import EXCLUSIVE, NEEDS, UP_DECIDES
from coordinator.cli.main import app, main
from coordinator.migration.table import UNUSED
from logstore.base.errors import InvalidArgumentError, LogstoreError

NOWHERE = "127.0.0.1:1"
VALUES = {
    "key": "k", "start": "a", "end": "b", "since": "1", "shard": "orders/0", "offset": "3",
    "header": "a=b", "timestamp": "1", "expected_version": "1", "file": "f", "value": "v",
    "from_history": "f.csv", "split_key": "m", "instance": "instance-1", "at": "k",
    "migration": "m1", "horizon": "3", "view": "v.json", "save_view": "w.json", "journal": "j",
    "sample": "keys.txt", "alphabet": "a-z", "shards": "2",
    "series": "s.csv", "events": "e.csv", "resume_from": "2", "unknown": "skip",
    **{f"{key}{form}": value for key in ("key", "start", "end", "at", "split_key")
       for form, value in (("_hex", "00ff"), ("_base64", "AP8="))}, "value_base64": "AP8=",
}  # fmt: skip
FLAGS = {"dry_run", "watch", "active", "story", "learned", "cancel", "score", "history", "deep",
         "from_start", "resume"}  # fmt: skip
FIRST = {
    "append": ["orders"], "read": ["orders"], "accesses": ["orders"], "tail": ["orders"],
    "create": ["orders"],
    "move": ["orders/0", "instance-1"], "split": ["orders/0"], "drain": ["instance-1"],
}  # fmt: skip
ARGUMENTS = {("append", "key"), ("migrations", "migration"),
             ("verify", "shard")}  # fmt: skip


def words(command: str, *given: str) -> list[str]:
    """The command line that gives these parameters."""
    line = ["log", command] if command == "create" else [command]
    line += FIRST.get(command, [])
    options: list[str] = []
    for name in given:
        if (command, name) in ARGUMENTS:
            line.append(VALUES[name])
        elif name in FLAGS:
            options.append("--" + name.replace("_", "-"))
        else:
            options += ["--" + name.replace("_", "-"), VALUES[name]]
    return line + options


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says: one line, status 2."""
    status = main(arguments)
    message = capsys.readouterr().err
    assert (status, message.count("\n")) == (2, 1), message
    return message


def named(command: str, name: str) -> str:
    if (command, name) in ARGUMENTS:
        return {"migration": "ID"}.get(name, name.upper())
    return "--" + name.replace("_", "-")


PAIRS = [(command, *pair) for command, pairs in EXCLUSIVE.items() for pair in pairs]


@pytest.mark.parametrize(("command", "one", "other"), PAIRS)
def test_each_pair_of_the_table_is_refused_and_both_are_named(
    command: str, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(words(command, one, other), capsys)
    assert "exclude each other" in message
    assert named(command, one) in message
    assert named(command, other) in message


@pytest.mark.parametrize(
    ("command", "one", "other"), [(c, *pair) for c, pairs in NEEDS.items() for pair in pairs]
)
def test_half_a_pair_is_refused(
    command: str, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(words(command, one), capsys)
    assert f"{named(command, one)} is given without {named(command, other)}" in message


def test_the_tables_name_parameters_that_exist() -> None:
    commands = {c.name: c for c in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands |= {c.name: c for c in group.typer_instance.registered_commands}
    for command, pairs in [*EXCLUSIVE.items(), *NEEDS.items()]:
        callback = commands[command].callback
        assert callback is not None
        known = set(inspect.signature(callback).parameters)
        assert {name for pair in pairs for name in pair} <= known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["log", "create", "x", "--option", "shards=3", "--shards", "4"], ("shards=", "--shards")),
        (["log", "create", "x", "--option", "partitioner=hash"], ("partitioner=", "--partitioner")),
        (["log", "create", "x", "--option", "replicas=2", "--option", "replicas=3"],
         ("replicas twice", "2", "3")),
        (["log", "create", "x", "--changefeed", "a", "--option", "changefeed=b"],
         ("changefeed=", "--changefeed")),
        (["log", "create", "x", "--shards", "5", "--split-key", "m"],
         ("shards is 5", "split_keys")),
        (["move", "x/0", "i", "--feed", "kafka", "--option", "feed=direct"], ("feed=", "--feed")),
        (["move", "x/0", "i", "--option", "soak_s=1", "--option", "soak_s=2"], ("soak_s twice",)),
        (["append", "x", "k", "v", "--header", "a=1", "--header", "a=2"],
         ("--header gives a twice",)),
        (["up", "--set", "planning_period_s=5", "--planning-period-s", "7"],
         ("planning_period_s=", "--planning-period-s")),
        (["up", "--set", "autopilot=off", "--autopilot", "on"], ("autopilot=", "--autopilot")),
        (["up", "--set", "cells=2", "--cells", "4"], ("cells=", "--cells")),
        (["up", "--set", "threshold=0.5", "--set", "threshold=0.6"], ("threshold twice",)),
        (["up", "--replicas", "3", "--instances", "2"], ("replicas is 3", "2 instances")),
        (["up", "--coordinators", "2"], ("coordinators is 2", "metadata")),
        *((["up", "--set", f"{name}=1"], (f"{name}=", "exclude")) for name in UP_DECIDES),
        *(
            (["move", "x/0", "i", "--strategy", strategy, "--option", f"{name}=1"],
             (name, f"strategy {strategy}"))
            for strategy, names in UNUSED.items() for name in names
        ),
        *((["log", "create", "x", "--partitioner", "hash", f"--split-key{form}", "00ff"],
           ("--split-key", "--partitioner hash")) for form in ("", "-hex", "-base64")),
        (["append", "x", "--file", "f", "--timestamp", "0"], ("--timestamp", "--file")),
        (["append", "x", "", "v", "--file", "f"], ("KEY", "--file")),
        (["tail", "x", "--shard", "x/0", "--offset", "0", "--from-start"],
         ("--offset", "--from-start")),
        (["simulate"], ("--series", "--events")),
        (["verify"], ("SHARD", "--journal")),
    ],
)  # fmt: skip
def test_contradictions_of_values(
    arguments: list[str], message: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(arguments, capsys)
    for word in message:
        assert word in line


def test_defaults_contradict_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["drain", "i", "--cancel"], ["move", "x/0", "i", "--dry-run"], ["read", "x"],
                 ["migrations", "--active"], ["forecast", "--score"]):  # fmt: skip
        assert main([*line, "--address", NOWHERE]) == 1  # no server is there: it went so far
        assert NOWHERE in capsys.readouterr().err


Call = Callable[[logstore.Client], Any]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 5, "split_keys": [b"a"]}, "shards is 5, 1 split_keys make 2"),
        ({"shards": 1, "split_keys": [b"a"]}, "shards is 1, 1 split_keys make 2"),
        ({"split_keys": b"abc"}, "split_keys is b'abc', expected a list"),
        ({"instances": "instance-1"}, "instances is 'instance-1', expected a list"),
        ({"replicas": "three"}, "options of log 'x': replicas is 'three', expected int"),
    ],
)
async def test_create_log_refuses_before_anything_is_sent(
    options: dict[str, Any], message: str
) -> None:
    async with logstore.connect(NOWHERE, timeout_s=1.0) as db:
        with pytest.raises(InvalidArgumentError, match=message):
            await db.create_log("x", **options)


async def test_two_ways_to_say_the_same_number_of_shards_agree() -> None:
    async with logstore.connect(NOWHERE, timeout_s=1.0) as db:
        with pytest.raises(LogstoreError) as message:
            await db.create_log("x", shards=2, split_keys=[b"a"])
    assert not isinstance(message.value, InvalidArgumentError)  # it was sent, without a server
