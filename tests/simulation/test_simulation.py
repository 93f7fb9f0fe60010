"""A few seeds on every run of the tests, and proof that a seed replays to the byte."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import corpus
from tests.simulation.aims import FIRED
from tests.simulation.corpus import Found, Run
from tests.simulation.faults import POSSIBLE
from tests.simulation.later_aims import ALL_AIMS
from tests.simulation.world import World

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


def test_new_seeds_replay_alone_and_in_company(tmp_path: Path) -> None:
    """What ran before in the same process must not show in a trace; other seeds in every run."""
    seed = int.from_bytes(os.urandom(4), "big")
    again = f"--seed {seed} --seeds 2 --mutation {seed % 4} --ops 100"
    print(f"python -m tests.simulation {again}")
    traces = []
    for processes in (1, 2):  # one after the other in one process; each in one of its own
        file = tmp_path / f"{processes}.txt"
        done = _run(*again.split(), "--processes", f"{processes}", "--traces", str(file), "--all")
        assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
        traces.append(file.read_text())
    assert traces[0] == traces[1]
    assert len(set(re.findall("[0-9a-f]{32}", traces[0]))) == 2


def test_a_mutation_draws_one_part_anew() -> None:
    first, second = (World(7, mutation) for mutation in (1, 4))
    assert first.rng.random() == second.rng.random()
    assert first.delays.random() == second.delays.random()
    assert first.chaos.random() != second.chaos.random()
    for world in (first, second):
        world.loop.close()


def test_the_corpus_is_read_and_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FILE", tmp_path / "corpus.txt")
    corpus.FILE.write_text("7 2 # failed at abc\n9 # rare\n")
    assert corpus.with_neighbours(2) == [Run(7, 2), Run(9), Run(9, 1), Run(9, 2)]
    common = [Found(Run(n), frozenset({"often"}), ok=True) for n in range(3)]
    rare = Found(Run(5), frozenset({"often", "kill/cutover/learner"}), ok=True)
    corpus.write([*common, rare, Found(Run(6), frozenset({"often"}), ok=False)], "def")
    assert corpus.read() == {
        Run(5): "kill/cutover/learner",
        Run(6): "failed at def",
        Run(7, 2): "failed at abc",
    }


def test_every_aim_says_what_it_hunts_and_has_its_name() -> None:
    assert len(ALL_AIMS) >= 20
    for name, aim in ALL_AIMS.items():
        assert aim.name == name
        assert len((aim.__doc__ or "").split()) > 5
        assert (f"aim: {name}", FIRED) in POSSIBLE


def test_a_violation_is_told_with_its_story() -> None:
    """A seed that does not settle fails, and prints seed, commit and story."""
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
