"""Every option and argument of every command, found by asking the parser, given what is wrong.

Whatever the value: one sentence or the work done, never a word from inside, and the cluster lives.
"""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.cli.checked import PATH_BYTES_MAX, TEXT_BYTES_MAX, check
from coordinator.cli.checked import kind as kind_of
from coordinator.cli.main import main
from logstore.base.errors import InvalidArgumentError
from tests.process.cli.conftest import Shell
from tests.support.commands import BASE, COMMANDS, PARAMETERS, WAITING, bounds, kind, name_of

INSIDE = re.compile(
    r"Traceback|Exception|\w+Error\b|NoneType|no attribute|numpy|dimension|division|[GPT]iB"
    r"|codec can't|Errno|failed unexpectedly|0x[0-9a-f]{8}|<class|Method not found|\x1b"
)
NUMBERS_REFUSED = ["nan", "inf", "-inf", "", "x", str(2**63), "1" + "0" * 400, "1e999", "0x10"]
NUMBERS = ["0", "-1", "-0.0", str(2**63 - 1), "1e300", "1e-300"]
TEXTS_REFUSED = ["", "a\nb", "a\x1b[31m", "a\x00", "\udcff", "x" * 1_000_000, "\u202e"]
TEXTS = ["x" * 60_000, "nothing/like/this", "-", "🙂", "../..", "%s {0}", "a=b", "{", "[1]"]
PATHS_REFUSED = ["", "a\0b", "x" * 5_000]
PATHS = ["none.csv", ".", "/dev/null", "x" * 300, "\udcff.csv", "profile.csv/x"]


def arguments(command: str, parameter: Any, value: str) -> list[str]:
    """The command with all else as it should be."""
    base = list(BASE[command])
    if parameter.param_type_name == "option":
        return [*command.split(), *base, f"{name_of(parameter)}={value}"]
    places = [p for p in COMMANDS[command].params if p.param_type_name == "argument"]
    at = places.index(parameter)
    given = [a for a in base if not a.startswith("--")]
    given += ["x"] * (at - len(given))
    given[at : at + 1] = [value]
    return [*command.split(), *(a for a in base if a.startswith("--")), "--", *given]


@pytest.fixture(scope="module")
def prepared(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "profile.csv").write_text("time,ops\n0,1\n60,2\n")
    (folder / "series.csv").write_text("slot,a,b\n" + "".join(f"{n},{n},1\n" for n in range(40)))
    assert main(["log", "create", "bounds", "--shards", "2", "--address", address]) == 0
    assert main(["append", "bounds", "k", "v", "--address", address]) == 0
    return folder


class Trial:
    """Runs a command where it can do no harm, and judges how it ended."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._address, self._capsys = address, capsys

    def run(self, given: list[str], addressed: bool = True) -> tuple[int, str]:
        flags = ["--address", self._address] if addressed else []
        at = given.index("--") if "--" in given else len(given)
        status = main([*given[:at], *flags, *given[at:]])
        said = self._capsys.readouterr().err
        shown = [a if len(a) < 60 else f"{a[:60]}… {len(a)}" for a in given]
        notes = [line for line in said.splitlines() if line.startswith("note: ")]
        errors = [line for line in said.splitlines() if not line.startswith("note: ")]
        assert status in (0, 1, 2), shown
        assert not INSIDE.search(re.sub(r"note: ", "", "".join(errors))), (shown, said[:500])
        assert all(len(line) < 2_100 for line in (*errors, *notes)), shown
        if status == 0:
            assert errors == [], (shown, said)
        else:
            assert len(errors) == 1, (shown, said)
            assert errors[0].startswith("error: "), (shown, said)
        return status, said


@pytest.fixture
def trial(
    address: str, capsys: pytest.CaptureFixture[str], prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Trial:  # fmt: skip
    monkeypatch.chdir(prepared)
    return Trial(address, capsys)


def _addressed(command: str) -> bool:
    return any(p.name == "address" for p in COMMANDS[command].params)


@pytest.mark.parametrize("command", BASE)
def test_what_is_wrong_everywhere_is_refused_by_name(command: str, trial: Trial) -> None:
    """Not a number, not text, no path, over every limit: status 2, and the option is named."""
    for parameter in [p for c, p in PARAMETERS if c == command]:
        values: list[str] = {
            "number": NUMBERS_REFUSED, "text": TEXTS_REFUSED, "path": PATHS_REFUSED, "bytes": [],
        }[kind(parameter)]  # fmt: skip
        if kind(parameter) == "number":
            low, high = bounds(parameter)
            step = 1 if kind_of(parameter) is int else 1e-9
            below = [str(low - step)] if low is not None else []
            above = [str(high + max(step, high * 1e-9))] if high is not None else []
            values = [*values, *below, *above]
        for value in values:
            if value == "" and kind(parameter) == "text" and parameter.default == "":
                continue
            status, said = trial.run(arguments(command, parameter, value), _addressed(command))
            assert status == 2, (command, name_of(parameter), value[:40], said[:300])
            assert told_by_name(parameter, said), (command, name_of(parameter), value[:40], said)
            if kind(parameter) == "number" and value not in ("", "x"):
                assert value[:60] in said, (command, name_of(parameter), said[:300])


def told_by_name(parameter: Any, said: str) -> bool:
    """The option or the argument is named as a person gives it."""
    names = [name_of(parameter), parameter.metavar or name_of(parameter).upper()]
    return any(name in said for name in names)


@pytest.mark.parametrize("command", [c for c in BASE if c not in WAITING])
def test_what_may_be_right_does_the_work_or_is_one_sentence(command: str, trial: Trial) -> None:
    for parameter in [p for c, p in PARAMETERS if c == command]:
        values: list[str] = {
            "number": NUMBERS, "text": TEXTS, "path": PATHS,
            "bytes": ["", "\udcff", "a\nb", "x" * 1_000_000, "zz", "AP8="],
        }[kind(parameter)]  # fmt: skip
        for value in values:
            trial.run(arguments(command, parameter, value), _addressed(command))
    assert trial.run(["append", "bounds", "k", "v"])[0] == 0  # the cluster lives


@pytest.mark.parametrize("command", [c for c in BASE if c not in WAITING])
def test_addresses_that_are_none(command: str, trial: Trial) -> None:
    if not _addressed(command):
        return
    for value in (*TEXTS_REFUSED, "::1:7400", "host", ",", "h:0", "http://h:1"):
        status, said = trial.run(
            [*command.split(), *BASE[command], f"--address={value}"], addressed=False
        )
        assert status == 2, (value[:40], said[:200])
        assert "address" in said


TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@given(TEXT)
def test_text_that_passes_can_be_sent_and_shown(text: str) -> None:
    said = ""
    try:
        check("--x", text)
    except InvalidArgumentError as e:
        said = e.message
    if not said:
        assert text
        assert text.encode().decode() == text
        assert text.isprintable()
    assert said.isprintable()


@given(st.integers() | st.floats() | st.binary(max_size=4) | st.none() | st.booleans())
def test_numbers_that_pass_are_finite_and_fit(value: Any) -> None:
    passed = True
    try:
        check("--x", value)
    except InvalidArgumentError:
        passed = False
    if isinstance(value, float):
        assert passed is math.isfinite(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        assert passed is (-(2**63) <= value < 2**63)
    else:
        assert passed


def test_limits_are_named() -> None:
    for value, limit in ((("x" * (TEXT_BYTES_MAX + 1)), TEXT_BYTES_MAX),
                         (Path("x" * (PATH_BYTES_MAX + 1)), PATH_BYTES_MAX)):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=f"the limit is {limit} bytes"):
            check("--x", value)
    check("--x", "ä" * (TEXT_BYTES_MAX // 2))
    with pytest.raises(InvalidArgumentError):
        check("--x", "ä" * (TEXT_BYTES_MAX // 2) + "x")


# ---- keys of any bytes -------------------------------------------------------------------------

_count = itertools.count()


@given(key=st.binary(min_size=1, max_size=40), value=st.binary(max_size=40),
       form=st.sampled_from(["raw", "hex", "base64"]))  # fmt: skip
@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_any_key_goes_in_and_comes_back(
    key: bytes, value: bytes, form: str, shell: Shell, prepared: Path
) -> None:
    """By the command line in each form, and back in --json without loss."""
    import base64
    import os

    if form == "raw" and (b"\0" in key or b"\0" in value):
        form = "hex"
    coded = base64.b64encode(value).decode()
    if form == "raw":
        given = ["append", "bounds", "--", os.fsdecode(key), os.fsdecode(value)]
        at = given.index("--")
        given = [*given[:at], "--header", f"n={next(_count)}", *given[at:]]
        asked = f"--key={os.fsdecode(key)}"
    elif form == "hex":
        given = ["append", "bounds", f"--key-hex={key.hex()}", f"--value-base64={coded}"]
        asked = f"--key-hex={key.hex()}"
    else:
        wanted = base64.b64encode(key).decode()
        given = ["append", "bounds", f"--key-base64={wanted}", f"--value-base64={coded}"]
        asked = f"--key-base64={wanted}"
    at = given.index("--") if "--" in given else len(given)
    assert main([*given[:at], "--address", shell.address, *given[at:]]) == 0
    found = shell.after_append("read", "bounds", asked)[-1]
    told_key = found["key"].encode() if "key" in found else base64.b64decode(found["key_base64"])
    answer = (
        found["value"].encode() if "value" in found else base64.b64decode(found["value_base64"])
    )
    assert (told_key, answer) == (key, value)


def test_keys_by_range_and_by_split(shell: Shell) -> None:
    shell.lines("log", "create", "bytes", "--split-key-hex", "80", "--split-key-base64", "wA==")
    assert len(shell.lines("shards", "bytes")[0]) == 3
    for number in (0, 0x7F, 0x80, 0xBF, 0xC0, 0xFF):
        shell.lines("append", "bytes", "v", "--key-hex", f"{number:02x}")
    found = shell.lines("read", "bytes", "--start-hex", "80", "--end-base64", "wA==")
    assert [r["key_base64"] for r in found] == ["gA==", "vw=="]
    (dry,) = shell.lines("split", "bytes/2", "--at-hex", "ff", "--dry-run")
    assert dry["at"] == "/w=="
    (dry,) = shell.lines("split", "bytes/2", "--at", "\udcff", "--dry-run")
    assert dry["at"] == "/w=="
    (record,) = shell.lines("tail", "bytes", "--key-base64", "/w==", "--from-start", "--limit=1")
    assert (record["key_base64"], record["value"]) == ("/w==", "v")
    assert "key\t" not in json.dumps(record)
    for twice in (["--key=a", "--key-hex=61"], ["--start=a", "--start-base64=YQ=="],
                  ["--end-hex=61", "--end-base64=YQ=="]):  # fmt: skip
        assert "exclude each other" in shell.text("read", "bytes", *twice, status=2)
    assert "given twice" in shell.text("append", "bytes", "k", "v", "--key-hex=00", status=2)
    assert "given twice" in shell.text("append", "bytes", "k", "v", "--value-base64=", status=2)


def test_headers_that_are_not_utf8_come_back(shell: Shell) -> None:
    shell.lines("append", "bounds", "headed", "v", "--header", "a=\udcff", "--header", "b=x\ny")
    (found,) = shell.lines("read", "bounds", "--key=headed")
    assert found["headers"] == {"a": "\\xff", "b": "x\ny"}
    assert found["headers_base64"] == {"a": "/w=="}
