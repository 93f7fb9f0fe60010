"""`append --file`: it reports what is stored, and going on stores each line once."""

import base64
import gzip
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.cli.append_file import Given, Input, Line, ResumeMark, begin, spans
from coordinator.cli.files import LINE_BYTES_MAX
from logstore.base.errors import AppendManyError, InvalidArgumentError, UnavailableError
from logstore.client.client import Log
from tests.process.cli.conftest import Shell

_names = itertools.count()


@pytest.fixture
def log(shell: Shell) -> str:
    name = f"file-{next(_names)}"
    shell.lines("log", "create", name, "--shards", "2")
    return name


def line(number: int) -> str:
    return json.dumps({"key": f"k{number % 7}", "value": str(number)})


def write(path: Path, count: int, bad: Sequence[int] = ()) -> None:
    rows = ('{"key": 7}' if n in bad else line(n) for n in range(1, count + 1))
    path.write_text("".join(f"{row}\n" for row in rows))


def values(shell: Shell, log: str) -> list[int]:
    return sorted(int(r["value"]) for r in shell.lines("read", log))


def test_a_bad_line_is_told_with_what_is_stored_and_resume_goes_on(
    shell: Shell, log: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    write(file, 3_000, bad=[1_500])
    said = shell.text("append", log, "--file", str(file), status=1)
    assert f"{file}, line 1500: Expected `str`, got `int`" in said
    assert "records stored by this run: 1499, lines stored: 1 to 1499" in said
    assert "first line not stored: 1500" in said
    assert "--resume" in said
    assert values(shell, log) == list(range(1, 1_500))
    # The same command again would store them twice: it is refused, as often as it is tried.
    again = shell.text("append", log, "--file", str(file), status=2)
    assert "lines 1 to 1499 are stored" in again
    shown = shell.lines("append", log, "--file", str(file), "--resume", status=1)
    assert shown == [{"appended": 0, "stored_lines": [[1, 1499]], "first_line_not_stored": 1500,
                     "unknown_lines": []}]  # fmt: skip
    write(file, 3_000)
    assert shell.lines("append", log, "--file", str(file), "--resume") == [{"appended": 1_501}]
    assert values(shell, log) == list(range(1, 3_001))
    assert os.listdir(tmp_path) == ["lines.jsonl"]
    assert "nothing to resume" in shell.text(
        "append", log, "--file", str(file), "--resume", status=2
    )


def test_a_changed_beginning_or_a_shorter_file_is_not_resumed(
    shell: Shell, log: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    write(file, 20, bad=[10])
    shell.text("append", log, "--file", str(file), status=1)
    file.write_text(file.read_text().replace('"3"', '"33"'))
    said = shell.text("append", log, "--file", str(file), "--resume", status=1)
    assert "have changed" in said
    write(file, 5)
    said = shell.text("append", log, "--file", str(file), "--resume", status=1)
    assert "there is no line 10" in said
    assert values(shell, log) == list(range(1, 10))
    (tmp_path / f"lines.jsonl.{log}.resume").write_text("{")
    said = shell.text("append", log, "--file", str(file), "--resume", status=2)
    assert "is no mark of an append" in said


def test_resume_from_begins_at_a_line(shell: Shell, log: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    write(file, 9)
    assert shell.lines("append", log, "--file", str(file), "--resume-from", "8") == [
        {"appended": 2}
    ]
    assert values(shell, log) == [8, 9]
    said = shell.text("append", log, "--file", str(file), "--resume-from", "11", status=1)
    assert "there is no line 11" in said
    for flags in (["--resume", "--resume-from", "1"], ["--unknown", "skip"], ["k"],
                  ["--resume", "--unknown", "guess"], ["--timestamp", "1"]):  # fmt: skip
        shell.text("append", log, *flags, "--file", str(file), status=2)
    shell.text("append", log, "k", "v", "--resume", status=2)


def test_rows_that_failed_in_the_middle_are_the_ones_that_are_sent_again(
    shell: Shell, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines.jsonl"
    write(file, 30)
    real = Log.append_many

    async def partly(self: Log, keys: Any, values: Any, timestamps: Any = None) -> Any:
        await real(self, keys[5:10], values[5:10], timestamps)
        raise AppendManyError(
            "…", stored=[(5, 10)], not_stored=[(0, 5), (12, 30)], unknown=[(10, 12)],
            cause=UnavailableError("cut off"),
        )  # fmt: skip

    monkeypatch.setattr(Log, "append_many", partly)
    said = shell.text("append", log, "--file", str(file), status=1)
    assert "cut off; records stored by this run: 5, lines stored: 6 to 10; " in said
    assert "lines 11 to 12 may be stored or not; first line not stored: 1;" in said
    monkeypatch.undo()
    assert "--unknown" in shell.text("append", log, "--file", str(file), "--resume", status=2)
    mark = tmp_path / f"lines.jsonl.{log}.resume"
    kept = mark.read_bytes()
    shell.lines("append", log, "--file", str(file), "--resume", "--unknown", "skip")
    assert values(shell, log) == [n for n in range(1, 31) if n not in (11, 12)]
    other = f"{log}-store"
    shell.lines("log", "create", other)
    mark.with_name(f"lines.jsonl.{other}.resume").write_bytes(kept)
    shell.lines("append", other, "--file", str(file), "--resume", "--unknown", "store")
    assert values(shell, other) == [n for n in range(1, 31) if not 6 <= n <= 10]


def test_what_failed_before_anything_was_sent_leaves_nothing(
    shell: Shell, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines.jsonl"
    write(file, 3)

    async def refused(self: Log, *_: Any) -> Any:
        raise UnavailableError("no address returned the routes")

    monkeypatch.setattr(Log, "append_many", refused)
    assert "no address" in shell.text("append", log, "--file", str(file), status=1)
    monkeypatch.undo()
    assert shell.lines("append", log, "--file", str(file)) == [{"appended": 3}]


def test_a_killed_run_knows_what_it_does_not_know(
    shell: Shell, log: str, address: str, tmp_path: Path
) -> None:
    """kill -9 while lines are on their way: the next run asks instead of guessing."""
    pipe = tmp_path / "lines.jsonl"
    os.mkfifo(pipe)
    run = subprocess.Popen(
        [sys.executable, "-c",
         "import asyncio, sys\nfrom logstore.client.client import Log\n"
         "async def never(*_):\n    print('sending', flush=True)\n"
         "    await asyncio.Event().wait()\n"
         "Log.append_many = never\nfrom coordinator.cli.main import main\nmain(sys.argv[1:])",
         "append", log, "--file", str(pipe), "--address", address],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with pipe.open("w") as lines:
        lines.write("".join(f"{line(n)}\n" for n in range(1, 1_101)))
    assert run.stdout is not None
    assert run.stdout.readline() == "sending\n"
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    pipe.unlink()
    write(pipe, 1_100)
    said = shell.text("append", log, "--file", str(pipe), "--resume", status=2)
    assert "lines 1 to 1000 may be stored or not" in said
    shell.lines("append", log, "--file", str(pipe), "--resume", "--unknown", "store")
    assert values(shell, log) == list(range(1, 1_101))


def test_standard_input(
    shell: Shell, log: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    monkeypatch.chdir(tmp_path)
    text = "".join(f"{line(n)}\n" for n in range(1, 6))
    typed(text + "nonsense\n")
    said = shell.text("append", log, "--file", "-", status=1)
    assert "standard input, line 6: JSON is malformed" in said
    assert "go on with --resume-from 6" in said
    typed(text + line(6))
    assert shell.lines("append", log, "--file", "-", "--resume-from", "6") == [{"appended": 1}]
    assert values(shell, log) == list(range(1, 7))
    typed(text)
    assert "--resume needs a file" in shell.text("append", log, "--file", "-", "--resume", status=2)
    assert os.listdir(tmp_path) == []


GOOD = line(1).encode()


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b"", 0),
        (b"\n\n  \n", 0),
        (GOOD, 1),
        (GOOD + b"\r\n\r\n" + GOOD + b"\r\n", 2),
        (b"\xef\xbb\xbf" + GOOD + b"\n", 1),
        (gzip.compress(GOOD + b"\n" + GOOD, mtime=0), 2),
        (gzip.compress(b"\xef\xbb\xbf" + GOOD, mtime=0), 1),
        (b'{"key_base64": "AP8=", "value_base64": ""}\n', 1),
        (b'{"key": "", "value": "\\u0000"}\n', 1),
        (b'{"timestamp": 5, "key": "k", "value": "v"}\n' + GOOD + b"\n", 2),
    ],
)
def test_forms_of_a_good_file(
    data: bytes, stored: int, shell: Shell, log: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(data)
    assert shell.lines("append", log, "--file", str(file)) == [{"appended": stored}]
    assert len(shell.lines("read", log)) == stored
    assert os.listdir(tmp_path) == ["lines"]


BAD = [
    (b"\xff", "line 2"),
    (b'{"key": "\xff", "value": "v"}', "line 2 is not UTF-8"),
    (b'{"key": "\\ud800", "value": "v"}', "line 2"),
    (b"[]", "line 2: Expected `object`"),
    (b"7", "line 2"),
    (b"null", "line 2"),
    (b"{}", "line 2: key is missing"),
    (b'{"key": "k"}', "line 2: value is missing"),
    (b'{"key": null, "value": "v"}', "line 2: Expected `str`, got `null`"),
    (b'{"key": "k", "value": 7}', "line 2: Expected `str`, got `int`"),
    (b'{"key": "k", "value": "v", "colour": 1}', "unknown field `colour`"),
    (b'{"key": "k", "value": "v", "timestamp": "1"}', "got `str` - at `$.timestamp`"),
    (b'{"key": "k", "value": "v", "timestamp": 1.5}', "line 2"),
    (b'{"key": "k", "value": "v", "timestamp": 9223372036854775808}', "line 2"),
    (b'{"key": "k", "value": "v", "key_base64": "AA=="}', "exclude each other"),
    (b'{"key_base64": "%", "value": "v"}', "Invalid base64"),
    (b'{"key": "k", "value": "v"} {}', "trailing characters"),
    (b'{"key": "k", "value": "v"', "truncated"),
    (b'{"key": "' + b"k" * 4097 + b'", "value": "v"}', "key is 4097 bytes, the limit is 4096"),
    (b'{"key": "k", "value": "' + b"v" * 2**20 + b'"}', "the limit is 1048576 bytes"),
    (b" " * (LINE_BYTES_MAX + 1), "line 2 has more than 8388608 bytes"),
    (b"{" * 100_000, "line 2"),
]


@pytest.mark.parametrize(("bad", "shown"), BAD)
def test_a_bad_line_is_one_sentence_and_what_is_before_it_is_stored(
    bad: bytes, shown: str, shell: Shell, log: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(GOOD + b"\n" + bad + b"\n" + GOOD + b"\n")
    said = shell.text("append", log, "--file", str(file), status=1)
    assert shown in said
    assert said.count("\n") == 1
    assert "first line not stored: 2" in said
    assert values(shell, log) == [1]
    file.write_bytes(GOOD + b"\n" + GOOD + b"\n")
    assert shell.lines("append", log, "--file", str(file), "--resume") == [{"appended": 1}]


def test_files_that_cannot_be_read(shell: Shell, log: str, tmp_path: Path) -> None:
    def refused(path: Path | str) -> str:
        said = shell.text("append", log, "--file", str(path), status=2)
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    assert "No such file" in refused(tmp_path / "none")
    assert "Is a directory" in refused(tmp_path)
    assert "Not a directory" in refused(Path(__file__) / "x")
    assert "File name too long" in refused("x" * 300)
    (tmp_path / "wide").write_bytes("{}".encode("utf-16"))
    assert "is UTF-16, it must be UTF-8" in refused(tmp_path / "wide")
    (tmp_path / "plain.gz").write_bytes(GOOD)
    assert "holds no gzip data" in refused(tmp_path / "plain.gz")
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refused(tmp_path / "loop")


@pytest.mark.parametrize(("cut", "status"), [(3, 2), (40, 2), (4_000, 1), (-9, 1), (-1, 1)])
def test_a_cut_gzip_is_told_with_what_is_stored(
    cut: int, status: int, shell: Shell, log: str, tmp_path: Path
) -> None:
    whole = b"".join(f"{line(n)}\n".encode() for n in range(1, 3_001))
    file = tmp_path / "lines.jsonl.gz"
    file.write_bytes(gzip.compress(whole, mtime=0)[:cut])
    said = shell.text("append", log, "--file", str(file), status=status)
    assert "is cut: its gzip data ends before the end" in said
    file.write_bytes(gzip.compress(whole, mtime=0))
    more = ["--resume"] if status == 1 else []
    shell.lines("append", log, "--file", str(file), *more)
    assert values(shell, log) == list(range(1, 3_001))


ROWS = st.tuples(
    st.binary(max_size=8), st.binary(max_size=8), st.none() | st.integers(-(2**63), 2**63 - 1)
)


@given(rows=st.lists(ROWS, max_size=30), blank=st.sets(st.integers(0, 30)), gz=st.booleans(),
       ending=st.sampled_from(["\n", "\r\n"]), begun=st.integers(1, 30))  # fmt: skip
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_read_once_each_from_anywhere(
    rows: list[tuple[bytes, bytes, int | None]], blank: set[int], gz: bool, ending: str, begun: int
) -> None:
    """However a file is written, calls hold its rows in order, each under its line's number."""
    text, expected = "", []
    number = 0
    for index, (key, value, timestamp) in enumerate(rows):
        if index in blank:
            text, number = text + ending, number + 1
        number += 1
        row = {
            "key_base64": base64.b64encode(key).decode(),
            "value_base64": base64.b64encode(value).decode(),
            "timestamp": timestamp,
        }
        text += json.dumps(row) + ending
        expected.append((number, key, value, timestamp))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f"
        file.write_bytes(gzip.compress(text.encode(), mtime=0) if gz else text.encode())
        source = begin(Given("log", file))
        found = []
        for call in source.calls():
            assert source.seen >= call[-1].line
            assert len({row.timestamp is None for row in call}) == 1
            found += [(row.line, row.key, row.value, row.timestamp) for row in call]
            seen, digest = source.seen, source.digest
        assert source.bad is None
        assert found == expected
        if not rows:
            return
        mark = ResumeMark(log="log", done=seen, digest=digest)
        again = Input(Given("log", file), mark, [])
        assert list(again.calls()) == []
        assert again.bad is None
        if begun <= number:
            partly = begin(Given("log", file, resume_from=begun))
            lines = [row.line for call in partly.calls() for row in call]
            assert lines == [n for n, *_ in expected if n >= begun]


@given(st.sets(st.integers(1, 100)))
def test_spans_hold_the_numbers(numbers: set[int]) -> None:
    found = spans(sorted(numbers))
    assert {n for first, last in found for n in range(first, last + 1)} == numbers
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(found))


def test_a_line_has_the_fields_that_read_prints() -> None:
    assert {"key", "key_base64", "value", "value_base64", "timestamp"} == set(
        Line.__struct_fields__
    )
    with pytest.raises(InvalidArgumentError):
        begin(Given("log", Path("-"), resume=True))
