"""A few seeds on every run of the tests, and proof that a seed replays to the byte."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str, hashes: str = "random") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hashes}
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_few_seeds_hold() -> None:
    done = _run("--seed", "1", "--seeds", "4")
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    figures = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", done.stdout)}
    assert figures["seeds"] == 4
    assert figures["operations"] >= 4 * 500
    assert figures["faults"] >= 4 * 5
    assert figures["acked"] > 4 * 250


def test_a_seed_replays_to_the_byte() -> None:
    first = _run("--seed", "7", "--ops", "150", "--verbose", hashes="1")
    second = _run("--seed", "7", "--ops", "150", "--verbose", hashes="2")
    other = _run("--seed", "8", "--ops", "150")
    assert first.returncode == second.returncode == other.returncode == 0, first.stdout[-4_000:]
    assert first.stdout == second.stdout
    traces = [re.findall("trace ([0-9a-f]{32})", run.stdout) for run in (first, other)]
    assert all(traces)
    assert traces[0] != traces[1]


def test_a_violation_is_told_with_its_story() -> None:
    """A seed that does not settle fails, and tells seed, commit and story."""
    code = (
        "import sys; from tests.simulation import run; run.LIVENESS_S = 0.1;"
        "run.Simulation._settled = lambda self: False;"
        "from tests.simulation.__main__ import main;"
        "sys.argv = ['x', '--seed', '3', '--ops', '50']; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "seed 3 failed, commit " in done.stdout
    assert "log/0 epoch" in done.stdout
    assert "---- heal" in done.stdout
