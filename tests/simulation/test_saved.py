"""A long run in pieces: what was run is kept, and joined with the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.corpus import Run
from tests.simulation.run import Result
from tests.simulation.saved import STORY_LINES, OtherRunError, Saved, about
from tests.support.checkers.history import Violation

ROOT = Path(__file__).resolve().parents[2]


def _result(seed: int, *violations: Violation) -> Result:
    return Result(
        seed=seed, mutation=2, violations=list(violations), coverage=[("kill", "follower", seed)],
        triples=[("kill", "none", "follower", 1)], trace=f"{seed:032x}", operations=500, faults=9,
        acked=300, unknown=20, moves={"completed": 1}, reshapes={}, virtual_s=12.5, steps=30_000,
        story=[f"line {i}" for i in range(STORY_LINES + 1)],
    )  # fmt: skip


def test_results_come_back_from_all_pieces_also_after_a_torn_write(tmp_path: Path) -> None:
    ours = about(["--ops=500"])
    first, second = Saved(tmp_path, ours), Saved(tmp_path, ours)  # two pieces at one time
    first.keep(_result(1))
    failed = _result(2, Violation("I3", "lost", 3.0))
    second.keep(failed)
    first.close()
    second.close()
    for file in tmp_path.iterdir():
        with file.open("ab") as torn:
            torn.write(b'{"seed":3,"mutation":2,"viol')
    again = Saved(tmp_path, ours)
    assert Run(1, 2) in again
    assert Run(2, 2) in again
    assert Run(3, 2) not in again
    assert again[Run(1, 2)].coverage == [("kill", "follower", 1)]
    assert again[Run(1, 2)].story == []
    assert again[Run(2, 2)].violations == failed.violations
    assert again[Run(2, 2)].story == failed.story[1:]


def test_results_of_other_settings_or_sources_are_refused(tmp_path: Path) -> None:
    saved = Saved(tmp_path, about(["--ops=500"]))
    saved.keep(_result(1))
    saved.close()
    with pytest.raises(OtherRunError, match=r"with --ops=500, this run of .* with --ops=501"):
        Saved(tmp_path, about(["--ops=501"]))


def test_pieces_join_to_what_one_run_shows(tmp_path: Path) -> None:
    def run(name: str, *arguments: str) -> list[str]:
        traces = tmp_path / name
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--ops", "40", "--coverage",
             "--traces", str(traces), *arguments],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
        return [done.stdout, traces.read_text()]

    folder = tmp_path / "saved"
    run("piece", "--seed", "2", "--save", str(folder))
    joined = run("joined", "--seeds", "2", "--save", str(folder))
    assert [file.read_bytes().count(b"\n") for file in sorted(folder.iterdir())] == [2, 2]
    assert joined == run("whole", "--seeds", "2")
