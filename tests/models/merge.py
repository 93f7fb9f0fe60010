"""Merging two parents with primaries of their own: one transaction seals both."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step


@dataclass(frozen=True, slots=True)
class Rules:
    sealing_by_cas: bool = True
    """S1: a parent stops by writing `sealing` into its record, and goes on by taking it out."""
    compare_both: bool = True
    """S1: the transaction compares the revision of each parent."""


class Parent(NamedTuple):
    """`end`: what it acked. `told`: the end that it gave for the merge, or -1."""

    end: int = 0
    status: str = "open"
    stopped: bool = False
    told: int = -1
    revision: int = 0


class State(NamedTuple):
    """`merging`: the transaction under way: the two ends, the two revisions compared."""

    parents: tuple[Parent, Parent] = (Parent(), Parent())
    merging: tuple[tuple[int, int], tuple[int, int]] | None = None
    sealed: tuple[int, int] | None = None


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Merge:
    """Bounds: records in each parent, changes of each record."""

    rules: Rules
    records: int
    revisions: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        for n in (0, 1):
            yield from self._of_parent(state, n)
        one, other = state.parents
        if state.merging is None and state.sealed is None and one.told >= 0 <= other.told:
            asked = (one.told, other.told), (one.revision, other.revision)
            yield Step(
                f"the coordinator asks to merge at {asked[0]}", state._replace(merging=asked)
            )
        if state.merging is not None:
            ends, compared = state.merging
            same = [p.revision == c for p, c in zip(state.parents, compared, strict=True)]
            if all(same) if self.rules.compare_both else same[0]:
                sealed = one._replace(status="sealed"), other._replace(status="sealed")
                yield Step(
                    f"both are sealed at {ends}, the successor is open", State(sealed, None, ends)
                )
            else:
                yield Step("the merge fails", state._replace(merging=None))

    def _of_parent(self, state: State, n: int) -> Steps:
        parent = state.parents[n]
        if not parent.stopped and parent.end < self.records and parent.status == "open":
            wrong = None
            if state.sealed is not None and parent.end >= state.sealed[n]:
                wrong = f"parent {n} acks {parent.end}, sealed at {state.sealed[n]}"
            appended = _with(state, n, parent._replace(end=parent.end + 1))
            yield Step(f"parent {n} acks {parent.end}", appended, wrong)
        if state.sealed is not None:
            if not self.rules.sealing_by_cas and parent.stopped:  # it has not read the outcome
                released = parent._replace(stopped=False, status="open")
                yield Step(f"parent {n} goes on by its timer", _with(state, n, released))
            return
        by_cas = self.rules.sealing_by_cas
        revision = parent.revision + by_cas
        if not parent.stopped and revision <= self.revisions:
            status = "sealing" if by_cas else "open"
            stops = Parent(parent.end, status, True, parent.end, revision)
            yield Step(f"parent {n} stops, drains and says {parent.end}", _with(state, n, stops))
        if parent.stopped and revision <= self.revisions:
            goes_on = Parent(parent.end, "open", False, -1 if by_cas else parent.told, revision)
            yield Step(f"parent {n} gives up and goes on", _with(state, n, goes_on))

    def violation(self, state: State) -> str | None:
        if state.sealed is not None:
            for n, parent in enumerate(state.parents):
                if parent.end > state.sealed[n]:
                    return f"parent {n} acked up to {parent.end}, sealed at {state.sealed[n]}"
        return None


def _with(state: State, n: int, parent: Parent) -> State:
    pair = state.parents
    return state._replace(parents=(parent, pair[1]) if n == 0 else (pair[0], parent))


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Merge(rules, 2, 4), off, violation, states)


CASES = (
    _case("2 records, 4 revisions", states=1_161),
    _case("parents hold by a timer", "sealing_by_cas", "sealed at"),
    _case("one parent is not compared", "compare_both", "sealed at"),
)
LARGE = (Case("4 records, 8 revisions", lambda: Merge(Rules(), 4, 8)),)
