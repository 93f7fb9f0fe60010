"""`python -m tests.simulation.mutants [NAME...]`: each patch must be caught within 200 seeds.

Prints how many seeds each took and what caught it. A patch that no longer applies fails the run.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COPIED = ("profiler", "sharder", "logstore", "coordinator", "tests")
SEEDS_MAX = 200
PROCESSES = 2
TIMEOUT_S = 280.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`seeds`: how many it took, None when none of them saw it. `how`: the first violation."""

    name: str
    seeds: int | None
    how: str


def main(names: Sequence[str]) -> int:
    """0 when every mutant was caught."""
    patches = [p for p in sorted(HERE.glob("*.patch")) if not names or p.stem in names]
    with ThreadPoolExecutor(PROCESSES) as pool:
        verdicts = list(pool.map(judge, patches))
    width = max(len(v.name) for v in verdicts)
    for verdict in verdicts:
        seeds = "MISSED" if verdict.seeds is None else str(verdict.seeds)
        print(f"{verdict.name:<{width}} {seeds:>7}  {verdict.how}")
    missed = [v.name for v in verdicts if v.seeds is None]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} mutants were caught")
    return 1 if missed else 0


def judge(patch: Path) -> Verdict:
    """Apply the patch to a copy of the tree and run seeds there until one fails."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for package in COPIED:
            ignore = shutil.ignore_patterns("__pycache__", "*.patch")
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=ignore)
        applied = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "--forward", "-s", "-i", str(patch)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            return Verdict(patch.stem, None, f"does not apply: {applied.stdout.strip()[:120]}")
        command = [sys.executable, "-m", "tests.simulation", "--seed", "1",
                   "--seeds", str(SEEDS_MAX), "--processes", "1"]  # fmt: skip
        try:
            run = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(patch.stem, None, f"not caught in {TIMEOUT_S:g} s")
    failed = re.search(r"^seed (\d+) failed", run.stdout, re.MULTILINE)
    if failed is None:
        why = run.stderr.strip().rpartition("\n")[2] if run.returncode else "every seed held"
        return Verdict(patch.stem, None, why)
    found = re.search(r"^(\w+) at [\d.]+ s: (.*)$", run.stdout, re.MULTILINE)
    return Verdict(patch.stem, int(failed[1]), f"{found[1]}: {found[2][:90]}" if found else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
