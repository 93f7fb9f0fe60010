"""`log create` of a range log without a history: even cuts and text, and what cuts better."""

import json
from base64 import b64decode
from pathlib import Path

import pytest

from coordinator.cli.main import main


@pytest.fixture
def said(address: str, capsys: pytest.CaptureFixture[str]) -> "Said":
    return Said(address, capsys)


class Said:
    """Runs a command; its status, answer and standard error."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._address, self._capsys = address, capsys

    def __call__(self, *given: str) -> tuple[int, list[bytes], str]:
        status = main([*given, "--address", self._address, "--json"])
        out, err = self._capsys.readouterr()
        shards = json.loads(out)["shards"] if status == 0 else []
        return status, [b64decode(s["range"]["start"]) for s in shards], err


def test_even_cuts_say_what_they_do_to_text(said: Said) -> None:
    status, starts, err = said("log", "create", "even", "--shards", "4")
    assert (status, len(starts)) == (0, 4)
    assert err == (
        "note: the first two bytes of the keys are cut into 4 even ranges, so that keys of text"
        " fall into 2 of them: --sample FILE (keys, one a line) or --alphabet a-z cuts where keys"
        " are, --partitioner hash spreads any keys\n"
    )
    assert said("log", "create", "one")[2] == ""
    assert said("log", "create", "spread", "--shards", "4", "--partitioner", "hash")[2] == ""


def test_an_alphabet_and_a_sample_cut_where_keys_are(said: Said, tmp_path: Path) -> None:
    status, starts, err = said("log", "create", "hex", "--shards", "4", "--alphabet", "0-9a-f")
    assert (status, starts, err) == (0, [b"", b"4", b"8", b"c"], "")
    sample = tmp_path / "keys"
    sample.write_text("".join(f"user-{n:03}\n" for n in range(300)))
    status, starts, err = said("log", "create", "users", "--shards", "3", "--sample", str(sample))
    assert (status, err) == (0, "")
    assert [start[:6] for start in starts] == [b"", b"user-1", b"user-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--alphabet", "z"), "--alphabet is given without --shards"),
        (("--alphabet", "z", "--shards", "2"), "--alphabet is 'z': it has 1 characters"),
        (("--sample", "x", "--alphabet", "a-z", "--shards", "2"), "exclude each other"),
        (("--alphabet", "a-z", "--split-key", "b", "--shards", "2"), "exclude each other"),
        (("--alphabet", "a-z", "--shards", "2", "--partitioner", "hash"),
         "--alphabet and --partitioner hash exclude each other"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(said: Said, given: tuple[str, ...], message: str) -> None:
    status, _, err = said("log", "create", "none", *given)
    assert status == 2 or status == 1
    assert message in err


def test_a_sample_of_too_few_keys_is_named(said: Said, tmp_path: Path) -> None:
    sample = tmp_path / "keys"
    sample.write_text("a\na\nb\n")
    status, _, err = said("log", "create", "few", "--shards", "5", "--sample", str(sample))
    assert status != 0
    assert f"--sample {sample} divides into 2 shards, --shards is 5: it holds 2 different" in err
