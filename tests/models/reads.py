"""Reads while leadership changes: sessions at any replica, reads of the latest at the primary."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

REPLICAS = 3


@dataclass(frozen=True, slots=True)
class Rules:
    carry_offset: bool = True
    """P8: a client carries the offset that it must be shown; who is behind waits, or redirects."""
    settle_before_serving: bool = True
    """P4: a new primary serves once its log end at take-over is committed again."""


class State(NamedTuple):
    """`marks`: high watermarks. `settled`: the primary's. `seen`, `wrote`: of the session."""

    committed: int = 0
    marks: tuple[int, ...] = (0,) * REPLICAS
    primary: int = 0
    settled: bool = True
    seen: int = 0
    wrote: int = 0
    failovers: int = 0


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Reads:
    rules: Rules
    records: int
    failovers: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        leader = state.primary
        if state.committed < self.records and state.settled:
            end = state.committed + 1
            after = state._replace(committed=end, marks=_put(state.marks, leader, end))
            yield Step("the session writes and is acked", after._replace(wrote=end))
            yield Step("another client writes and is acked", after)
        for n, mark in enumerate(state.marks):
            if n != leader and mark < state.marks[leader]:
                yield Step(
                    f"r{n} hears a high watermark",
                    state._replace(marks=_put(state.marks, n, mark + 1)),
                )
            yield from self._read(state, n)
        if not state.settled:
            after = state._replace(settled=True, marks=_put(state.marks, leader, state.committed))
            yield Step(f"r{leader} commits its log again", after)
        if state.failovers < self.failovers:
            for n in range(REPLICAS):
                if n != leader:
                    yield Step(
                        f"r{n} takes over",
                        state._replace(primary=n, settled=False, failovers=state.failovers + 1),
                    )

    def _read(self, state: State, n: int) -> Steps:
        shown, leads = state.marks[n], n == state.primary
        if leads and not state.settled and self.rules.settle_before_serving:
            return
        if leads:  # a read of the latest, under the lease
            old = f"r{n} shows {shown} as the latest, {state.committed} is committed"
            stale = old if shown < state.committed else None
            yield Step(f"r{n} shows the latest: {shown}", state, stale)
        if self.rules.carry_offset and shown < max(state.seen, state.wrote):
            return
        wrong = None
        if shown < state.seen:
            wrong = f"the session saw {state.seen}, and is shown {shown}"
        elif shown < state.wrote:
            wrong = f"the session wrote up to {state.wrote}, and is shown {shown}"
        yield Step(f"r{n} shows the session {shown}", state._replace(seen=shown), wrong)

    def violation(self, state: State) -> str | None:
        return None  # what is wrong is wrong with a step


def _put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Reads(rules, 3, 2), off, violation, states)


CASES = (
    _case("3 records, 2 failovers", states=4_840),
    _case("no offset is carried", "carry_offset", "the session"),
    _case("serves what its disk knew", "settle_before_serving", "as the latest"),
)
LARGE = (Case("6 records, 4 failovers", lambda: Reads(Rules(), 6, 4)),)
