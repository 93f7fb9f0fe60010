"""Each model holds with all rules, over its whole space; without any one of them it does not."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.models.catalog import MODELS
from tests.models.search import Case, Step, explore, explore_ends, switches

CASES = [(name, case) for name, module in MODELS.items() for case in module.CASES]


def _cases(*, whole: bool) -> list[object]:
    return [
        pytest.param(case, id=f"{name}: {case.off or case.name}")
        for name, case in CASES
        if (case.off is None) is whole
    ]


@pytest.mark.parametrize("case", _cases(whole=True))
def test_holds_with_every_rule(case: Case) -> None:
    found = case.run()
    assert found.violation is None, str(found)
    assert found.states == case.states


@pytest.mark.parametrize("case", _cases(whole=False))
def test_does_not_hold_without_a_rule(case: Case) -> None:
    found = case.run()
    assert found.violation is not None, str(found)
    assert case.violation
    assert case.violation in found.violation, str(found)
    assert found.trace


@pytest.mark.parametrize("name", MODELS)
def test_every_rule_is_dropped_once(name: str) -> None:
    module = MODELS[name]
    assert sorted(switches(module.Rules)) == sorted(c.off for c in module.CASES if c.off)
    assert any(case.off is None for case in module.CASES)
    assert all(case.off is None for case in module.LARGE)


@dataclass(frozen=True)
class Counter:
    """Counts to `end`; at `trap` it may fall into a hole that nothing but chance leads out of."""

    end: int
    trap: int | None = None
    rope: bool = False

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        if state == -1:
            yield Step("is pulled out", 0, chance=not self.rope)
            return
        if state < self.end:
            yield Step(f"to {state + 1}", state + 1)
            yield Step("back to 0", 0)
        if state == self.trap:
            yield Step("falls", -1)

    def violation(self, state: int) -> str | None:
        return "3 was reached" if state == 3 else None

    def finished(self, state: int) -> bool:
        return state == self.end


def test_the_search_finds_the_shortest_way() -> None:
    found = explore(Counter(9))
    assert (found.violation, found.trace) == ("3 was reached", ("to 1", "to 2", "to 3"))
    assert explore(Counter(2)).states == 3


def test_the_search_finds_where_no_end_is_reachable() -> None:
    stuck = explore_ends(Counter(2, trap=1))
    assert stuck.violation is not None
    assert stuck.violation.startswith("stuck")
    assert stuck.trace == ("to 1", "falls")
    assert explore_ends(Counter(2, trap=1, rope=True)).violation is None


def test_a_space_is_exhausted_or_the_search_fails() -> None:
    with pytest.raises(OverflowError, match="more than 1 states"):
        explore(Counter(2), states_max=1)
