"""Seeds of the simulator in a copy of the tree that has a mutant applied."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.mutants.caught import PACKAGES, ROOT
from tests.simulation.mutants.mutant import Mutant

SEED_S_MAX = 60.0
"""For one seed on a busy machine, on top of a minute for all: beyond it a mutant hangs."""


@dataclass(frozen=True, slots=True)
class Run:
    """`seed`: the first that failed, None when all held. `first`: its first violation, or what
    ended the run otherwise, with `broken` set."""

    seed: int | None
    first: str
    broken: bool = False


@contextmanager
def mutated(mutant: Mutant | None) -> Iterator[Path]:
    """A copy of the tree with the mutant in it; None: as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for package in PACKAGES:
            ignore = shutil.ignore_patterns("__pycache__", "*.json")
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=ignore)
        if mutant is not None:
            mutant.apply(Path(folder))
        yield Path(folder)


def run_seeds(tree: Path, mutant: Mutant, seed: int, seeds: int, aim: str = "") -> Run:
    """Run `seeds` of them from `seed` on, up to the first that fails; each has `aim`, if given."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed),
               "--seeds", str(seeds), "--processes", "1", *mutant.flags(),
               *([f"--aim={aim}"] if aim else [])]  # fmt: skip
    try:
        run = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=60 + SEED_S_MAX * seeds,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        return Run(None, f"seeds from {seed} on: no end in {e.timeout:g} s", broken=True)
    failed = re.search(r"^seed (\d+) failed", run.stdout, re.MULTILINE)
    if failed is None:
        if run.returncode:
            return Run(None, run.stderr.strip().rpartition("\n")[2], broken=True)
        return Run(None, "every seed held")
    found = re.search(r"^(\w+) at [\d.]+ s: (.*)$", run.stdout, re.MULTILINE)
    return Run(int(failed[1]), f"{found[1]}: {found[2][:90]}" if found else "")
