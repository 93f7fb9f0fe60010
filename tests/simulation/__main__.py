"""`python -m tests.simulation --seed N [--mutation M] [--seeds K] [--corpus] [--coverage]`."""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.simulation import corpus, parallel
from tests.simulation.aims import FIRED
from tests.simulation.corpus import Run
from tests.simulation.doc import write_between
from tests.simulation.faults import (
    COORDINATOR_FAULTS,
    MOVE_FAULTS,
    POSSIBLE,
    POSSIBLE_TRIPLES,
    RESHAPE_FAULTS,
    RESHAPE_STATES,
    ROLES,
    STATES,
)
from tests.simulation.later_aims import ALL_AIMS
from tests.simulation.mistakes import KINDS, PLACE
from tests.simulation.run import Result, simulate
from tests.simulation.saved import STORY_LINES, OtherRunError, Saved, about
from tests.simulation.style import NODE_FAULTS
from tests.simulation.upkeep import (
    CELL_PLACES,
    DRAIN_FAULTS,
    DRAIN_STEPS,
    TRIM,
    TRIM_PLACES,
)
from tests.simulation.world import Triple

ALL_PAIRS_FROM_SEEDS = 1_000
"""A run of so many seeds fails when a pair that can occur was never met."""
PROGRESS_SEEDS = 100
ROOT = Path(__file__).resolve().parents[2]


def _one(run: Run, given: argparse.Namespace) -> Result:
    return simulate(
        run.seed,
        given.ops,
        mutation=run.mutation,
        always_splits=given.splits,
        mistakes=given.mistakes,
        aim=given.aim,
    )


def _flags(given: argparse.Namespace) -> list[str]:
    """What makes another process run the same seeds."""
    flags = ["--splits"] if given.splits else []
    flags += [] if given.mistakes is None else [f"--mistakes={given.mistakes}"]
    return flags if given.aim is None else [*flags, f"--aim={given.aim}"]


def _runs(given: argparse.Namespace) -> list[Run]:
    """The corpus and its neighbours first, if asked for, then the seeds."""
    seeds = range(given.seed, given.seed + given.seeds)
    wanted = [Run(seed, given.mutation) for seed in seeds]
    return [*corpus.with_neighbours(given.neighbours), *wanted] if given.corpus else wanted


def main() -> int:
    """0: every seed held; 1: a violation, or a pair of fault and place that was not met."""
    given = _arguments()
    _fix_hashes()
    coverage: Counter[tuple[str, str]] = Counter()
    triples: Counter[Triple] = Counter()
    totals: Counter[str] = Counter()
    failed: list[str] = []
    found: list[corpus.Found] = []
    try:
        for result in _run(given, totals, failed):
            coverage.update({(fault, where): n for fault, where, n in result.coverage})
            triples.update({(fault, state, role): n for fault, state, role, n in result.triples})
            found.append(corpus.found(result))
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
        print(_triples(triples))
    if given.write_corpus:
        corpus.write(found, _commit())
    if failed:
        print(f"{len(failed)} seeds failed: {failed}")
    missing = sorted(POSSIBLE - coverage.keys())
    if given.seeds >= ALL_PAIRS_FROM_SEEDS and missing:
        print(f"never met: {missing}")
        return 1
    return 1 if failed else 0


def _coverage_table(
    totals: Counter[str], failed: list[str], coverage: Counter[tuple[str, str]]
) -> str:
    """One row a fault: how often it hit each role, or each state of a move."""
    lines = [f"Commit {_commit()}: {_line(totals)}; failed seeds: {failed or 'none'}.", ""]
    tables: tuple[tuple[Sequence[str], Sequence[str]], ...] = (
        (NODE_FAULTS, [role.value for role in ROLES]),
        (COORDINATOR_FAULTS + MOVE_FAULTS, [state.value for state in STATES]),
        (RESHAPE_FAULTS, [f"reshape {state.value}" for state in RESHAPE_STATES]),
        (COORDINATOR_FAULTS, CELL_PLACES),
        (DRAIN_FAULTS, DRAIN_STEPS),
        ((TRIM,), TRIM_PLACES),
        (tuple(KINDS), [PLACE]),
        ([f"aim: {aim}" for aim in ALL_AIMS], [FIRED]),
    )
    for faults, places in tables:
        lines.append("| fault | " + " | ".join(places) + " |")
        lines.append("|---" * (len(places) + 1) + "|")
        for fault in faults:
            counts = [str(coverage[fault, place]) for place in places]
            lines.append(f"| {fault} | " + " | ".join(counts) + " |")
        lines.append("")
    return "\n".join(lines[:-1])


def _triples(triples: Counter[Triple]) -> str:
    """How many of the triples were met, and those that never were, a line a state and role."""
    missing = POSSIBLE_TRIPLES - triples.keys()
    met = len(POSSIBLE_TRIPLES) - len(missing)
    lines = [f"triples of fault, state and role: {met} of {len(POSSIBLE_TRIPLES)} met; never met:"]
    for state, role in sorted({(state, role) for _, state, role in missing}):
        faults = sorted(fault for fault, *where in missing if where == [state, role])
        lines.append(f"  {state}, {role}: {', '.join(faults)}")
    return "\n".join(lines)


def _line(totals: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in totals.items())


def _run(given: argparse.Namespace, totals: Counter[str], failed: list[str]) -> Iterator[Result]:
    """Run the seeds, add them up, report failures."""
    count, traces = len(_runs(given)), []
    for result in _results(given):
        yield result
        run = Run(result.seed, result.mutation)
        traces.append(f"{run} {result.trace}\n")
        totals.update(_figures(result))
        if not result.ok:
            failed.append(str(run))
        if given.verbose or (not result.ok and not given.all):
            _tell(result, given, whole=given.verbose)
        elif not result.ok:
            first = result.violations[0]
            print(
                f"seed {run}: {first.invariant} at {first.at_s:.3f} s: {first.text[:300]}",
                flush=True,
            )
        if failed and not given.all:
            break
        if totals["seeds"] % PROGRESS_SEEDS == 0 and totals["seeds"] < count:
            print(f"... {_line(totals)}", flush=True)
        if count == 1:
            print(f"seed {run}: trace {result.trace}")
    if given.traces is not None:
        given.traces.write_text("".join(traces), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--mutation", type=int, default=0, help="run this neighbour of each seed")
    parser.add_argument("--corpus", action="store_true", help="first the seeds of corpus.txt")
    parser.add_argument("--neighbours", type=int, default=2, help="of each seed of the corpus")
    parser.add_argument("--write-corpus", action="store_true", help="what was rare in this run")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="write a line `seed hash` each")
    parser.add_argument("--aim", metavar="NAME", choices=sorted(ALL_AIMS), help="in every seed")
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
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep results; run only new ones")
    parser.add_argument("--coverage", action="store_true", help="print every pair's count")
    parser.add_argument("--write-doc", action="store_true", help="the coverage into docs/")
    parser.add_argument("--verbose", action="store_true", help="print the whole story")
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
    """In the order of the runs; with --save, what was run before is read."""
    runs = _runs(given)
    if given.save is None:
        yield from _new(runs, given)
        return
    try:
        saved = Saved(given.save, about([f"--ops={given.ops}", *_flags(given)]))
    except OtherRunError as e:
        raise SystemExit(f"--save: {e}") from e
    with contextlib.closing(saved):
        new = _new(list(dict.fromkeys(run for run in runs if run not in saved)), given)
        for run in runs:
            if run not in saved:
                saved.keep(next(new))
            yield saved[run]


def _new(runs: list[Run], given: argparse.Namespace) -> Iterator[Result]:
    if len(runs) == 1 or given.processes == 1:
        return (_one(run, given) for run in runs)
    return parallel.results(runs, partial(_one, given=given), given.processes)


def _tell(result: Result, given: argparse.Namespace, *, whole: bool) -> None:
    lines = result.story if whole else result.story[-STORY_LINES:]
    print("\n".join(lines))
    for violation in result.violations[:10]:
        print(f"{violation.invariant} at {violation.at_s:.3f} s: {violation.text}")
    if not result.ok:
        run = Run(result.seed, result.mutation)
        print(f"seed {run} failed, commit {_commit()}, trace {result.trace}")
        flags = "".join(f" {shlex.quote(flag)}" for flag in _flags(given))
        again = f"--seed {run.seed}" + (f" --mutation {run.mutation}" if run.mutation else "")
        print(f"again: python -m tests.simulation {again} --ops {given.ops}{flags}")


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
