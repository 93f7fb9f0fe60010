"""A process loads no large library that it may never use."""

import subprocess
import sys

import pytest

LEARNERS = {"river", "scipy"}


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("coordinator.cli.main", LEARNERS | {"aiokafka", "uvloop"}),
        ("logstore.node.main", LEARNERS | {"aiokafka", "pandas"}),
        ("tests.simulation.__main__", LEARNERS | {"aiokafka", "rocksdict"}),
    ],
)
def test_large_libraries_are_loaded_at_their_use(module: str, unused: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in found.stdout.split()}
    assert module.partition(".")[0] in loaded
    assert not loaded & unused
