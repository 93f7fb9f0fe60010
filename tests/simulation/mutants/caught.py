"""Which seed catches each mutant: `caught.json`, one line a mutant, written by a search."""

import functools
import hashlib
import threading
from pathlib import Path

import msgspec

from tests.simulation.mutants.mutant import Mutant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FILE = HERE / "caught.json"
PACKAGES = ("profiler", "sharder", "logstore", "coordinator", "tests")
"""What a seed runs."""
_lock = threading.Lock()


class Caught(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a search found. `seed`: the smallest that fails, None while `held` ones did not.

    `first`: the first violation there. `code`: the digest of what was searched. `aim`: that every
    seed of the search had, whatever else it drew.
    """

    seed: int | None
    first: str
    code: str
    held: int = 0
    aim: str = ""


def read_caught() -> dict[str, Caught]:
    """By the mutant's name."""
    if not FILE.exists():
        return {}
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, Caught])


def write_caught(order: list[str], name: str, caught: Caught) -> None:
    """Replace one record; those of mutants that are not in `order` go."""
    with _lock:
        records = {**read_caught(), name: caught}
        lines = [
            f" {msgspec.json.encode(n).decode()}: {msgspec.json.encode(records[n]).decode()}"
            for n in order
            if n in records
        ]
        new = FILE.with_suffix(".new")
        new.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        new.replace(FILE)


def code_digest(mutant: Mutant) -> str:
    """Of the mutant and of all code that a seed may run."""
    what = f"{_tree_digest()} {mutant.edits} {mutant.flags()}"
    return hashlib.blake2b(what.encode(), digest_size=4).hexdigest()


@functools.cache
def _tree_digest() -> str:
    digest = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        folders = ("simulation", "support/checkers") if package == "tests" else (".",)
        for folder in folders:
            for path in sorted((ROOT / package / folder).rglob("*.py")):
                if HERE not in path.parents and not path.name.startswith("test_"):
                    digest.update(path.relative_to(ROOT).as_posix().encode())
                    digest.update(path.read_bytes())
    return digest.hexdigest()
