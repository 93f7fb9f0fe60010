"""All mutants, in the order of their numbers."""

from tests.simulation.mutants import (
    appends,
    found,
    found_later,
    identity,
    moves,
    planted_appends,
    planted_moves,
    planted_replication,
    replication,
    reshapes,
)
from tests.simulation.mutants.mutant import Mutant

THEMES = (
    appends,
    found,
    found_later,
    identity,
    moves,
    planted_appends,
    planted_moves,
    planted_replication,
    replication,
    reshapes,
)
MUTANTS: tuple[Mutant, ...] = tuple(
    sorted((m for theme in THEMES for m in theme.MUTANTS), key=lambda mutant: mutant.number)
)


def chosen(names: list[str]) -> list[Mutant]:
    """Those of these names or numbers; all when none is given. `KeyError` names an unknown one."""
    known = {key: m for m in MUTANTS for key in (m.name, str(m.number), f"{m.number:02}", m.title)}
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"no mutant {', '.join(unknown)}")
    return [m for m in MUTANTS if not names or m in [known[name] for name in names]]
