"""Help, usage errors and exit statuses; no cluster is needed."""

import socket
from pathlib import Path

import pytest
import typer

from coordinator.cli.main import app, main

GROUPS = {
    group.name: [command.name for command in group.typer_instance.registered_commands]
    for group in app.registered_groups
    if group.typer_instance is not None
}
COMMANDS = sorted(
    [command.name for command in app.registered_commands if command.name]
    + [f"{group} {name}" for group in GROUPS for name in GROUPS[group]]
)


@pytest.fixture
def nowhere() -> str:
    """An address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_every_promised_command_is_there() -> None:
    promised = {
        *("up", "demo", "node", "coordinator", "append", "read", "tail", "shards", "instances"),
        *("stats", "heatmap", "forecast", "plan", "autopilot", "move", "migrations", "pause"),
        *("resume", "abort", "rollback", "complete", "verify", "recover", "copies"),
    }
    assert promised <= {*COMMANDS, *GROUPS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: logstore {command}" in out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("node", "coordinator")])
def test_every_command_knows_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*command.split(), "--help"])
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["move", "orders/0"], "INSTANCE"),
        (["append", "orders", "key"], "KEY and VALUE are needed"),
        (["append", "orders", "key", "value", "--header", "x"], "header is 'x'"),
        (["read"], "LOG"),
        (["read", "orders", "--limit", "many"], "--limit"),
        (["verify"], "give either SHARD or --journal"),
        (["forecast", "--horizon", "-1"], "horizon is -1"),
        (["up", "--instances", "0"], "instances is 0"),
        (["verify", "--journal", "/nowhere/journal"], "/nowhere/journal"),
        (["log", "create", "orders", "--option", "replicas"], "NAME=VALUE"),
        (["log", "create", "orders", "--option", "colour=blue"], "colour"),
        (["read", "orders", "--address", "nonsense"], "nonsense"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["instances"], ["plan"], ["log", "list"], ["move", "orders/0", "instance-1"]]
)
def test_no_cluster_is_one_line_and_1(
    arguments: list[str], nowhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--address", nowhere]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert nowhere in said
    assert said.count("\n") == 1


def test_an_unexpected_failure_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(typer.Typer, "__call__", broken)
    assert main(["instances"]) == 1
    assert capsys.readouterr().err == "error: RuntimeError: two lines\n"
