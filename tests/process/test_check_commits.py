"""`make check-commits` on a repository made for it: which subjects pass, and since which base."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check-commits"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A command in a new repository, which knows no settings of this machine."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "a", f"GIT_{who}_EMAIL": "a@b"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    assert run("git", "init", "-q", "-b", "main").returncode == 0
    return run


def commit(run: Run, *subjects: str) -> None:
    for subject in subjects:
        made = run("git", "commit", "-q", "--allow-empty", "-m", f"{subject}\n\nWIP body.")
        assert made.returncode == 0, made.stderr


def test_good_subjects_pass(run: Run) -> None:
    commit(run, "first", "é" * 72, "drain: wipe nothing", "swipe, e.g. 1.5 s")
    assert run(str(SCRIPT), "HEAD~3").returncode == 0


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ("x" * 73, "73 characters, the limit is 72"),
        ("drain: one by one.", "ends with a period"),
        ("WIP: drain", "is work in progress"),
        ("drain (wip)", "is work in progress"),
    ],
)
def test_each_fault_is_named_with_its_commit(run: Run, subject: str, why: str) -> None:
    commit(run, "first", subject, "last")
    done = run(str(SCRIPT), "HEAD~2..HEAD")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.endswith(f" {subject}: {why}")


def test_without_a_base_it_is_what_origin_lacks_else_the_last_commit(run: Run) -> None:
    commit(run, "wip")
    assert run(str(SCRIPT)).returncode == 1
    commit(run, "good")
    assert run(str(SCRIPT)).returncode == 0
    assert run(str(SCRIPT), "HEAD~1").returncode == 0
    run("git", "update-ref", "refs/remotes/origin/main", "HEAD")
    commit(run, "wip", "good again")
    assert run(str(SCRIPT)).returncode == 1
    run("git", "update-ref", "refs/remotes/origin/main", "HEAD~1")
    assert run(str(SCRIPT)).returncode == 0


def test_a_base_that_is_not_there_is_an_error(run: Run) -> None:
    commit(run, "first")
    assert run(str(SCRIPT), "nowhere").returncode > 1
    assert run(str(SCRIPT), "HEAD", "HEAD").returncode == 2
