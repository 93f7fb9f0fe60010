"""`python -m tests.simulation.mutants [NAME...]`: each is caught on the seed that is recorded.

`--search [NAME...]` runs seeds 1, 2, … until one fails and writes it into `caught.json`, in rounds
of more and more seeds; it goes on where an earlier search of the same code stopped, and skips what
that one caught (`--afresh`: does not). With `--aim NAME` every seed has that aim, and is recorded
with it. `--write-doc` puts the table into docs/measurements/simulation.md.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.simulation.doc import write_between
from tests.simulation.later_aims import ALL_AIMS
from tests.simulation.mutants.catalog import MUTANTS, chosen
from tests.simulation.mutants.caught import Caught, code_digest, read_caught, write_caught
from tests.simulation.mutants.mutant import DoesNotApplyError, Mutant
from tests.simulation.mutants.runner import mutated, run_seeds

CHUNK_SEEDS = 25
"""After so many a search writes how far it came."""
ROUNDS_SEEDS = (10, 50, 200)
"""A search takes all mutants so far first, since most are caught soon."""
ORDER = [mutant.name for mutant in MUTANTS]


def main() -> int:
    """0 when every mutant was caught that has a seed, or a search ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of them, by name or number")
    parser.add_argument("--search", action="store_true", help="find the seed that catches each")
    parser.add_argument("--seeds-max", type=int, default=1_000, help="of a search")
    parser.add_argument("--afresh", action="store_true", help="search again what is recorded")
    parser.add_argument("--aim", default="", choices=sorted(ALL_AIMS), help="in each of its seeds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write-doc", action="store_true", help="the table into docs/")
    given = parser.parse_args()
    try:
        mutants = chosen(given.names)
    except KeyError as e:
        parser.error(e.args[0])
    if given.search:
        find = partial(_find, aim=given.aim)
        code = _search(mutants, given.seeds_max, given.processes, find, afresh=given.afresh)
    else:
        code = _replay(mutants, given.processes)
    if given.write_doc:
        write_between("mutants", _table(read_caught()))
    return code


def _each(
    mutants: list[Mutant], processes: int, work: Callable[[Mutant], str | None]
) -> list[Mutant]:
    """Print what `work` says of each mutant; returns those for which it says nothing good (None,
    or a line that begins with `!`)."""
    width = max((len(m.title) for m in mutants), default=0)
    bad = []
    with ThreadPoolExecutor(processes) as pool:
        for mutant, said in zip(mutants, pool.map(work, mutants), strict=True):
            if said is None or said.startswith("!"):
                bad.append(mutant)
            print(f"{mutant.title:<{width}}  {(said or '').removeprefix('!')}", flush=True)
    return bad


def _replay(mutants: list[Mutant], processes: int) -> int:
    """Run each on its recorded seed alone."""
    records = read_caught()

    def one(mutant: Mutant) -> str:
        record = records.get(mutant.name)
        if record is None or record.seed is None:
            return mutant.behind or "no seed is known that catches it"
        try:
            with mutated(mutant) as tree:
                run = run_seeds(tree, mutant, record.seed, 1, record.aim)
        except DoesNotApplyError as e:
            return f"!does not apply: {e}"
        if run.seed is None:
            return f"!seed {record.seed} no longer catches it: {run.first}"
        return f"seed {run.seed:<4} {run.first}"

    bad = _each(mutants, processes, one)
    known = [m for m in mutants if m.name in records and records[m.name].seed is not None]
    print(f"{len(known) - len(bad)} of {len(known)} mutants were caught on their recorded seeds")
    if unknown := [m.name for m in mutants if m not in known and not m.behind]:
        print(f"no seed is known for {len(unknown)}: {', '.join(unknown)}")
    if bad:
        again = " ".join(m.name for m in bad)
        print(f"the code changed; again: python -m tests.simulation.mutants --search {again}")
    return 1 if bad else 0


def _search(
    mutants: list[Mutant], seeds_max: int, processes: int, find: Callable[..., str], *, afresh: bool
) -> int:
    missed = mutants = [mutant for mutant in mutants if not mutant.behind]
    for limit in [*(n for n in ROUNDS_SEEDS if n < seeds_max), seeds_max]:
        print(f"up to seed {limit}: {len(missed)} mutants", flush=True)
        missed = _each(missed, processes, partial(find, seeds_max=limit, afresh=afresh))
        afresh = False
    print(f"{len(mutants) - len(missed)} of {len(mutants)} mutants have a seed that catches them")
    return 1 if missed else 0


def _find(mutant: Mutant, seeds_max: int, *, aim: str, afresh: bool) -> str:
    """The smallest seed that fails with the mutant, and holds without it."""
    digest = code_digest(mutant)
    record = None if afresh else read_caught().get(mutant.name)
    if record is None or record.code != digest or (record.seed is None and record.aim != aim):
        record = Caught(None, "", digest, aim=aim)
    if record.seed is not None:
        return f"seed {record.seed:<4} {record.first} (found before)"
    held = record.held
    try:
        with mutated(mutant) as tree:
            while held < seeds_max:
                seeds = min(CHUNK_SEEDS, seeds_max - held)
                run = run_seeds(tree, mutant, held + 1, seeds, aim)
                if run.broken:
                    return f"!broke: {run.first}"
                if run.seed is not None and _holds_without(mutant, run.seed, aim):
                    write_caught(ORDER, mutant.name, Caught(run.seed, run.first, digest, aim=aim))
                    return f"seed {run.seed:<4} {run.first}"
                held = held + seeds if run.seed is None else run.seed
                write_caught(ORDER, mutant.name, Caught(None, "", digest, held, aim))
    except DoesNotApplyError as e:
        return f"!does not apply: {e}"
    return f"!{held} seeds held"


def _holds_without(mutant: Mutant, seed: int, aim: str) -> bool:
    """A seed that fails without the mutant, too, shows nothing."""
    with mutated(None) as tree:
        return run_seeds(tree, mutant, seed, 1, aim).seed is None


def _table(records: dict[str, Caught]) -> str:
    rows = ["| deliberate fault | caught by seed | the first violation |", "|---|---|---|"]
    for mutant in MUTANTS:
        record = records.get(mutant.name, Caught(None, "", ""))
        seed = f"**none of {record.held}**" if record.seed is None else str(record.seed)
        seed += f" with *{record.aim}*" if record.aim else ""
        seed = "none can" if mutant.behind else seed
        first = (mutant.behind or record.first).replace("|", "\\|")
        rows.append(f"| {mutant.number:02} {mutant.what} | {seed} | {first} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
