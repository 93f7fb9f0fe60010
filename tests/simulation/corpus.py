"""Seeds that reached rare states: run first, with neighbours (a part of the run drawn again)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.run import Result

FILE = Path(__file__).with_name("corpus.txt")
RARE_RUNS_MAX = 2
"""What at most so many runs met is rare."""
SEEDS_MAX = 60
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """A seed, or with a mutation its neighbour of that number."""

    seed: int
    mutation: int = 0

    def __str__(self) -> str:
        return f"{self.seed} mutation {self.mutation}" if self.mutation else str(self.seed)


@dataclass(frozen=True, slots=True)
class Found:
    """What one run met: triples, pairs and aims, in words."""

    run: Run
    met: frozenset[str]
    ok: bool


def found(result: Result) -> Found:
    """What counts for the corpus."""
    met = [f"{fault}/{state}/{role}" for fault, state, role, _ in result.triples]
    met += [f"{fault}/{where}" for fault, where, _ in result.coverage]
    return Found(Run(result.seed, result.mutation), frozenset(met), result.ok)


def read() -> dict[Run, str]:
    """Run -> why it is there. A line is `SEED [MUTATION] # why`."""
    runs = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        numbers, _, why = line.partition("#")
        if numbers.strip():
            runs[Run(*map(int, numbers.split()))] = why.strip()
    return runs


def with_neighbours(count: int) -> list[Run]:
    """Each run of the corpus, then mutations 1 to `count` of those that are none themselves."""
    runs = list(read())
    return runs + [Run(r.seed, n + 1) for r in runs if not r.mutation for n in range(count)]


def write(runs: Sequence[Found], commit: str) -> None:
    """Keep what once failed; beside it the fewest runs, about, that met all that was rare."""
    kept = {run: why for run, why in read().items() if why.startswith(FAILED)}
    kept.update({f.run: f"{FAILED} at {commit}" for f in runs if not f.ok})
    often = Counter(what for f in runs for what in f.met)
    rare = {what for what, count in often.items() if count <= RARE_RUNS_MAX}
    while rare and len(kept) < SEEDS_MAX:
        best = max(runs, key=lambda f: len(f.met & rare))
        new = sorted(best.met & rare)
        kept.setdefault(best.run, f"{new[0]}" + (f" and {len(new) - 1} more" if new[1:] else ""))
        rare -= best.met
    lines = [f"{run.seed}{f' {run.mutation}' if run.mutation else ''} # {kept[run]}\n"
             for run in sorted(kept, key=lambda r: (r.seed, r.mutation))]  # fmt: skip
    FILE.write_text("".join(lines), encoding="utf-8")
