"""`python -m tests.simulation.mutants [NAME...] [--write-doc]`: each must be caught in 200 seeds.

Prints how many seeds each took and what caught it; `--write-doc` puts the table of a whole run into
docs/simulation.md. A patch that no longer applies fails the run.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.doc import read_between, write_between

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COPIED = ("profiler", "sharder", "logstore", "coordinator", "tests")
SEEDS_MAX = 200
PROCESSES = 2
SEALS = re.compile(r"\(S\d\)")
"""A mutant of the rules of splits and merges: its seeds have them all."""
MISTAKES = re.compile(r"\((I13|P9|P11)\)")
"""A mutant of the rules of identity and absence: in its seeds an operator errs, in a way with the
words in its name that the second line may give (`mistakes: ...`)."""
TIMEOUT_S = 600.0
"""For one mutant, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`seeds`: how many it took, None when none of them saw it. `how`: the first violation."""

    name: str
    what: str
    seeds: int | None
    how: str


def main() -> int:
    """0 when every mutant was caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants")
    parser.add_argument("names", nargs="*", help="some of them, by the patch's name")
    parser.add_argument("--write-doc", action="store_true", help="the table into docs/")
    given = parser.parse_args()
    patches = [p for p in sorted(HERE.glob("*.patch")) if not given.names or p.stem in given.names]
    width = max(len(p.stem) for p in patches)
    verdicts = []
    with ThreadPoolExecutor(PROCESSES) as pool:
        for verdict in pool.map(judge, patches):
            seeds = "MISSED" if verdict.seeds is None else str(verdict.seeds)
            print(f"{verdict.name:<{width}} {seeds:>7}  {verdict.how}", flush=True)
            verdicts.append(verdict)
            if given.write_doc:
                write_between("mutants", _table([verdict], read_between("mutants")))
    missed = [v.name for v in verdicts if v.seeds is None]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} mutants were caught")
    return 1 if missed else 0


def _table(verdicts: list[Verdict], before: str) -> str:
    """The table in the docs with these rows in it; rows of patches that are gone go."""
    rows = {row[2:4]: row for row in before.splitlines() if row[2:4].isdigit()}
    for verdict in verdicts:
        seeds = "**missed**" if verdict.seeds is None else str(verdict.seeds)
        how = verdict.how.replace("|", "\\|")
        rows[verdict.name[:2]] = f"| {verdict.name[:2]} {verdict.what} | {seeds} | {how} |"
    kept = {patch.stem[:2] for patch in HERE.glob("*.patch")}
    head = ["| deliberate fault | seeds to catch | the first violation |", "|---|---|---|"]
    return "\n".join(head + [rows[number] for number in sorted(rows) if number in kept])


def judge(patch: Path) -> Verdict:
    """Apply the patch to a copy of the tree and run seeds there until one fails."""
    name, text = patch.stem, patch.read_text()
    what = text.partition("\n")[0]
    kind = "".join(re.findall(r"^mistakes: (.+)$", text, re.MULTILINE))
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
            return Verdict(name, what, None, f"does not apply: {applied.stdout.strip()[:120]}")
        command = [sys.executable, "-m", "tests.simulation", "--seed", "1",
                   "--seeds", str(SEEDS_MAX), "--processes", "1",
                   *(["--splits"] if SEALS.search(what) else []),
                   *([f"--mistakes={kind}"] if MISTAKES.search(what) else [])]  # fmt: skip
        try:
            run = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(name, what, None, f"not caught in {TIMEOUT_S:g} s")
    failed = re.search(r"^seed (\d+) failed", run.stdout, re.MULTILINE)
    if failed is None:
        why = run.stderr.strip().rpartition("\n")[2] if run.returncode else "every seed held"
        return Verdict(name, what, None, why)
    found = re.search(r"^(\w+) at [\d.]+ s: (.*)$", run.stdout, re.MULTILINE)
    return Verdict(name, what, int(failed[1]), f"{found[1]}: {found[2][:90]}" if found else "")


if __name__ == "__main__":
    sys.exit(main())
