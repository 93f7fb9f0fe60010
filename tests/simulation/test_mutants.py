"""The mutants follow the code: each applies to today's tree, and what is recorded is of them."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.mutants import caught
from tests.simulation.mutants.catalog import MUTANTS, chosen
from tests.simulation.mutants.caught import ROOT, Caught, code_digest, read_caught, write_caught
from tests.simulation.mutants.mutant import DoesNotApplyError, Edit, Mutant, replaced

SOURCE = """
class Box:
    size = 1

    def area(
        self, factor: int
    ) -> int:
        if factor > 1:
            return self.size * (
                factor + 1
            )
        return self.size


def area() -> int:
    return 2
"""
GROWN = Edit("box.py", "Box.area", "return self.size * (factor + 1)", "grown = 3\nreturn grown")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.title)
def test_mutant_applies(mutant: Mutant, tmp_path: Path) -> None:
    for file in {edit.file for edit in mutant.edits}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    mutant.apply(tmp_path)
    for file in {edit.file for edit in mutant.edits}:
        assert (tmp_path / file).read_bytes() != (ROOT / file).read_bytes()


def test_mutants_use_names_that_are_there(tmp_path: Path) -> None:
    """Else one is caught for a NameError, and not for its fault."""
    for mutant in MUTANTS:
        for file in {edit.file for edit in mutant.edits}:
            (tmp_path / mutant.name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / mutant.name / file).write_bytes((ROOT / file).read_bytes())
        mutant.apply(tmp_path / mutant.name)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F822", "-q"]
    said = subprocess.run([*ruff, tmp_path], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_numbers_and_names_are_unique() -> None:
    assert len({m.number for m in MUTANTS}) == len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert all(m.edits and m.what.endswith(".") for m in MUTANTS)
    assert all(m.what.rstrip(".").endswith(")") for m in MUTANTS), "a rule stands at the end"


def test_records_are_of_mutants() -> None:
    records = read_caught()
    assert records.keys() <= {m.name for m in MUTANTS}
    assert all((r.seed is None) == (r.first == "") for r in records.values())


def test_records_are_kept_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caught, "FILE", tmp_path / "caught.json")
    late, early = Caught(None, "", "c0de", held=25), Caught(7, "I3: lost", "c0de")
    for name, record in (("gone", late), ("late", late), ("early", early)):
        write_caught(["gone", "early", "late"], name, record)
    write_caught(["early", "late"], "early", early)
    assert list(read_caught().items()) == [("early", early), ("late", late)]


def test_digest_is_of_the_mutant_too() -> None:
    mutant = Mutant(1, "grown", "Grown (P1).", (GROWN,))
    other = replace(mutant, edits=(replace(GROWN, after="return 4"),))
    assert len({code_digest(m) for m in (mutant, other, replace(mutant, splits=True))}) == 3
    assert code_digest(mutant) == code_digest(replace(mutant, number=2))


def test_mutants_are_chosen_by_name_and_number() -> None:
    first = MUTANTS[0]
    assert chosen([first.name]) == chosen([str(first.number)]) == [first]
    assert chosen([]) == list(MUTANTS)
    with pytest.raises(KeyError, match="no-such"):
        chosen(["no-such"])


def test_snippet_is_found_whatever_its_white_space() -> None:
    changed = replaced(SOURCE, GROWN)
    assert "            grown = 3\n            return grown\n        return self.size\n" in changed
    ast.parse(changed)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (replace(GROWN, function="Box.volume"), "0 functions Box.volume"),
        (replace(GROWN, before="return 2"), "0 times"),
        (replace(GROWN, before="return self.siz"), "0 times"),
        (replace(GROWN, before="self.size"), "2 times"),
        (replace(GROWN, after="return ("), "does not parse"),
        (replace(GROWN, after="return self.size*(factor+1)"), "changes nothing"),
    ],
)
def test_edit_that_does_not_fit_is_refused(edit: Edit, why: str) -> None:
    with pytest.raises(DoesNotApplyError, match=why):
        replaced(SOURCE, edit)


def test_file_that_is_gone_is_named(tmp_path: Path) -> None:
    mutant = Mutant(1, "moved", "Moved (P1).", (replace(GROWN, file="gone.py"),))
    with pytest.raises(DoesNotApplyError, match=r"01 moved: no file gone\.py"):
        mutant.apply(tmp_path)
