"""Help, usage errors and exit statuses; no cluster is needed."""

import socket

import pytest

import logstore
from coordinator.cli.common import Coordinator
from coordinator.cli.main import app, main
from logstore.base.errors import InvalidArgumentError, UnavailableError

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
    """A free address."""
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


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"logstore {logstore.__version__}\n"


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
    ("arguments", "printed"),
    [
        (["nonsense"], "nonsense"),
        (["move", "orders/0"], "INSTANCE"),
        (["append", "orders", "key"], "KEY and VALUE are needed"),
        (["append", "orders", "key", "value", "--header", "x"], "header is 'x'"),
        (["read"], "LOG"),
        (["read", "orders", "--limit", "many"], "--limit is 'many', it must be a whole number"),
        (["verify"], "give either SHARD or --journal"),
        (["forecast", "--horizon", "-1"], "--horizon is -1, it must be 0 to 1024"),
        (["up", "--instances", "0"], "--instances is 0, it must be 1 to 64"),
        (["verify", "--journal", "/nowhere/journal"], "/nowhere/journal"),
        (["log", "create", "orders", "--option", "replicas"], "NAME=VALUE"),
        (["log", "create", "orders", "--option", "colour=blue"], "colour"),
        (["log", "create", "orders", "--option", "colour=" + "[" * 60_000], "colour"),
        (["read", "orders", "--address", "nonsense"], "nonsense"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert printed in said
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


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize(
    ("failure", "status", "printed"),
    [
        (RuntimeError("two\nlines"), 1, "failed unexpectedly"),
        (ZeroDivisionError("division by zero"), 1, "failed unexpectedly"),
        (AttributeError("'NoneType' object has no attribute 'x'"), 1, "failed unexpectedly"),
        (ValueError("negative dimensions are not allowed"), 1, "failed unexpectedly"),
        (AssertionError(), 1, "failed unexpectedly"),
        (KeyError("events"), 1, "failed unexpectedly"),
        (EOFError("Compressed file ended"), 1, "failed unexpectedly"),
        (RecursionError("maximum recursion depth"), 2, "nested too deeply"),
        (MemoryError("Unable to allocate 1.54 PiB"), 1, "not enough memory"),
        (OSError(28, "No space left on device", "out.png"), 1, "out.png: No space left"),
        (OSError("nothing else"), 1, "the system refused"),
        (UnavailableError("nobody answers"), 1, "nobody answers"),
        (InvalidArgumentError("key\x1b[31m is " + "x" * 1_000_000), 2, "key\\x1b[31m is xxx"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
        (BrokenPipeError(), 0, ""),
        (OSError(32, "Broken pipe"), 0, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_failure_is_one_sentence_without_words_from_inside(
    failure: BaseException,
    status: int,
    printed: str,
    debug: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setenv("LOGSTORE_DEBUG", debug)
    monkeypatch.setattr(Coordinator, "call", broken)
    assert main(["instances"]) == status
    said = capsys.readouterr().err
    if not printed:
        assert said == ""
        return
    line, _, details = said.partition("\n")
    assert line.startswith("error: ")
    assert printed in line
    assert len(line) < 2_100
    assert ("Traceback" in details) is bool(debug)
    if "unexpectedly" in printed:
        assert "LOGSTORE_DEBUG=1" in line
        assert str(failure).split("\n")[0] not in line or not str(failure)
        assert type(failure).__name__ not in line
