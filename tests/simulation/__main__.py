"""`python -m tests.simulation --seed N [--seeds K] [--ops 500] [--coverage] [--verbose]`."""

import argparse
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.simulation.doc import write_between
from tests.simulation.faults import (
    COORDINATOR_FAULTS,
    MOVE_FAULTS,
    NODE_FAULTS,
    POSSIBLE,
    RESHAPE_FAULTS,
    RESHAPE_STATES,
    ROLES,
    STATES,
)
from tests.simulation.mistakes import KINDS, PLACE
from tests.simulation.run import Result, simulate

ALL_PAIRS_FROM_SEEDS = 1_000
"""A run of so many seeds fails when a pair that can occur was never met."""
STORY_LINES = 120
PROGRESS_SEEDS = 100
ROOT = Path(__file__).resolve().parents[2]


def _one(seed: int, given: argparse.Namespace) -> Result:
    return simulate(seed, given.ops, always_splits=given.splits, mistakes=given.mistakes)


def _flags(given: argparse.Namespace) -> list[str]:
    """What makes another process run the same seeds."""
    splits = ["--splits"] if given.splits else []
    return splits if given.mistakes is None else [*splits, f"--mistakes={given.mistakes}"]


def main() -> int:
    """0: every seed held; 1: a violation, or a pair of fault and place that was not met."""
    given = _arguments()
    _fix_hashes()
    if given.worker:
        return _work(given)
    coverage: Counter[tuple[str, str]] = Counter()
    totals: Counter[str] = Counter()
    failed: list[int] = []
    try:
        _run(given, coverage, totals, failed)
    except KeyboardInterrupt:
        print("interrupted, so far:")
    if failed and not given.all:
        return 1
    print(_line(totals))
    if given.write_doc:
        write_between("coverage", _coverage_table(totals, failed, coverage))
    if given.coverage:
        for fault, where in sorted(POSSIBLE):
            print(f"{fault:<34} {where:<14} {coverage[fault, where]:>7}")
    if failed:
        print(f"{len(failed)} seeds failed: {failed}")
    missing = sorted(POSSIBLE - coverage.keys())
    if given.seeds >= ALL_PAIRS_FROM_SEEDS and missing:
        print(f"never met: {missing}")
        return 1
    return 1 if failed else 0


def _coverage_table(
    totals: Counter[str], failed: list[int], coverage: Counter[tuple[str, str]]
) -> str:
    """One row a fault: how often it hit each role, or each state of a move."""
    lines = [f"Commit {_commit()}: {_line(totals)}; failed seeds: {failed or 'none'}.", ""]
    tables: tuple[tuple[Sequence[str], Sequence[str]], ...] = (
        (NODE_FAULTS, [role.value for role in ROLES]),
        (COORDINATOR_FAULTS + MOVE_FAULTS, [state.value for state in STATES]),
        (RESHAPE_FAULTS, [f"reshape {state.value}" for state in RESHAPE_STATES]),
        (tuple(KINDS), [PLACE]),
    )
    for faults, places in tables:
        lines.append("| fault | " + " | ".join(places) + " |")
        lines.append("|---" * (len(places) + 1) + "|")
        for fault in faults:
            counts = [str(coverage[fault, place]) for place in places]
            lines.append(f"| {fault} | " + " | ".join(counts) + " |")
        lines.append("")
    return "\n".join(lines[:-1])


def _line(totals: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in totals.items())


def _run(
    given: argparse.Namespace,
    coverage: Counter[tuple[str, str]],
    totals: Counter[str],
    failed: list[int],
) -> None:
    """Run the seeds, add them up, tell what failed."""
    for result in _results(given):
        coverage.update({(fault, where): n for fault, where, n in result.coverage})
        totals.update(_figures(result))
        if not result.ok:
            failed.append(result.seed)
        if given.verbose or (not result.ok and not given.all):
            _tell(result, given, whole=given.verbose)
        elif not result.ok:
            found = result.violations[0]
            print(
                f"seed {result.seed}: {found.invariant} at {found.at_s:.3f} s: {found.text[:300]}",
                flush=True,
            )
        if failed and not given.all:
            return
        if totals["seeds"] % PROGRESS_SEEDS == 0 and totals["seeds"] < given.seeds:
            print(f"... {_line(totals)}", flush=True)
        if given.seeds == 1:
            print(f"seed {result.seed}: trace {result.trace}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--ops", type=int, default=500, help="client operations a seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--splits", action="store_true", help="splits and merges in every seed")
    parser.add_argument(
        "--mistakes",
        nargs="?",
        const="",
        metavar="KIND",
        help="an operator errs in every seed, in a way with this in its name (default: any)",
    )
    parser.add_argument("--all", action="store_true", help="go on after a seed that failed")
    parser.add_argument("--coverage", action="store_true", help="print every pair's count")
    parser.add_argument("--write-doc", action="store_true", help="the coverage into docs/")
    parser.add_argument("--verbose", action="store_true", help="print the whole story")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _fix_hashes() -> None:
    """Sets of strings have one order in every run only with a fixed hash seed."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])


def _figures(result: Result) -> dict[str, int]:
    return {
        "seeds": 1,
        "operations": result.operations,
        "faults": result.faults,
        "acked": result.acked,
        "unknown": result.unknown,
        "virtual_s": round(result.virtual_s),
        **{f"moves {state}": count for state, count in sorted(result.moves.items())},
        **dict(sorted(result.reshapes.items())),
    }


def _results(given: argparse.Namespace) -> Iterator[Result]:
    """In the order of the seeds; worker i of n runs every n-th one, from the i-th on."""
    seeds = range(given.seed, given.seed + given.seeds)
    if given.seeds == 1 or given.processes == 1:
        yield from (_one(seed, given) for seed in seeds)
        return
    workers = []
    for i in range(given.processes):
        command = [sys.executable, "-m", "tests.simulation", "--worker", str(given.processes),
                   "--seed", str(given.seed + i), "--seeds", str(given.seeds - i),
                   "--ops", str(given.ops), *_flags(given)]  # fmt: skip
        workers.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))
    try:
        for i in range(given.seeds):
            out = workers[i % given.processes].stdout
            assert out is not None
            line = out.readline()
            if not line:
                raise RuntimeError(f"the worker of seed {seeds[i]} died")
            try:
                yield msgspec.json.decode(line, type=Result)
            except msgspec.DecodeError as e:
                raise RuntimeError(f"the worker of seed {seeds[i]} wrote {line[:200]!r}") from e
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


def _work(given: argparse.Namespace) -> int:
    """Write each seed's result as a line of JSON."""
    for seed in range(given.seed, given.seed + given.seeds, given.worker):
        result = _one(seed, given)
        if result.ok:
            result.story = []
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()
    return 0


def _tell(result: Result, given: argparse.Namespace, *, whole: bool) -> None:
    lines = result.story if whole else result.story[-STORY_LINES:]
    print("\n".join(lines))
    for violation in result.violations[:10]:
        print(f"{violation.invariant} at {violation.at_s:.3f} s: {violation.text}")
    if not result.ok:
        print(f"seed {result.seed} failed, commit {_commit()}, trace {result.trace}")
        flags = "".join(f" {shlex.quote(flag)}" for flag in _flags(given))
        print(f"again: python -m tests.simulation --seed {result.seed} --ops {given.ops}{flags}")


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
