"""A real cluster by `logstore up`, one for each module that asks, and commands run against it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.cli.main import main


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two instances by `logstore up`, stopped by SIGINT."""
    data = tmp_path_factory.mktemp("cluster")
    up = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli.main", "up", "--instances", "2", "--port", "0",
         "--planning-period-s", "1", "--data", str(data)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert up.stdout is not None
    line = up.stdout.readline().split()
    assert line[:1] == ["ready"]
    yield line[1]
    os.kill(up.pid, signal.SIGINT)
    out, err = up.communicate(timeout=30)
    assert (up.returncode, out, err) == (0, "", "")


class Shell:
    """Runs commands in this process."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.address, self._capsys = address, capsys

    def lines(self, *arguments: str, status: int = 0) -> list[Any]:
        """The JSON lines it printed."""
        assert main([*arguments, "--json", "--address", self.address]) == status
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def after_append(self, *arguments: str) -> list[Any]:
        """The JSON lines of this command, without what was printed before."""
        self._capsys.readouterr()
        return self.lines(*arguments)

    def text(self, *arguments: str, status: int = 0) -> str:
        assert main([*arguments, "--address", self.address]) == status
        said = self._capsys.readouterr()
        return said.out if status == 0 else said.err


@pytest.fixture
def shell(address: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(address, capsys)
