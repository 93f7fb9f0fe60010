"""Sealing a parent and opening its successors: primary P, in-sync F, one record in the metadata.

The coordinator's transaction and P's compare-and-swaps land late or get lost. A dead primary is
failed over first, which is `core`'s part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step


@dataclass(frozen=True, slots=True)
class Rules:
    primary_seals: bool = True
    """S1: the primary, not the coordinator, says where the shard ends."""
    drain_first: bool = True
    """S1: every in-sync replica has (end, chain) before the compare-and-swap is sent."""
    stopped_until_read: bool = True
    """S1: from sending it the primary admits nothing until the outcome was read."""
    give_up_by_cas: bool = True
    """S1: a seal without a follow-up is given up by a compare-and-swap, not by a timer."""


class State(NamedTuple):
    """`log`, `mark`: of P; `held`: F's log; `heard`: what P knows of it. `cas`: P's seal under way,
    `opening`: the coordinator's transaction, both as (end, revision compared)."""

    status: str = "open"
    end: int = -1
    revision: int = 1
    log: int = 0
    mark: int = 0
    held: int = 0
    heard: int = 0
    stopped: bool = False
    cas: tuple[int, int] | None = None
    opening: tuple[int, int] | None = None
    seen: int = -1
    """The coordinator's reading of P's high watermark."""


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Seal:
    """Bounds: records appended to the parent, changes of its record."""

    rules: Rules
    records: int
    revisions: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        yield from self._append(state)
        yield from self._seal(state)
        if self.rules.primary_seals:
            yield from self._open(state)
        else:
            yield from self._seal_from_outside(state)

    def _append(self, state: State) -> Steps:
        if state.log < self.records and not state.stopped:
            yield Step(f"P appends {state.log}", state._replace(log=state.log + 1))
        if state.held < state.log:
            yield Step(f"F takes {state.held}", state._replace(held=state.held + 1))
        if state.heard < state.held:
            yield Step(f"P hears that F holds {state.held}", state._replace(heard=state.held))
        if state.heard > state.mark:
            yield Step(f"P commits and acks up to {state.heard}", state._replace(mark=state.heard))

    def _seal(self, state: State) -> Steps:
        """S1: stop, drain, compare-and-swap, stay stopped until the outcome was read."""
        if state.status == "open" and not state.stopped:
            yield Step("P is asked to seal and stops", state._replace(stopped=True))
        if state.status == "open" and state.stopped and state.cas is None:
            drained = state.mark == state.log == state.heard
            if (drained or not self.rules.drain_first) and state.revision < self.revisions:
                yield Step(
                    f"P asks to seal at {state.mark}",
                    state._replace(cas=(state.mark, state.revision)),
                )
            yield Step("P does not drain in time and goes on", state._replace(stopped=False))
        if state.cas is not None:
            end, compared = state.cas
            if compared == state.revision:
                yield Step(
                    f"the parent is sealing at {end}",
                    state._replace(status="sealing", end=end, revision=compared + 1, cas=None),
                )
            if not self.rules.stopped_until_read and state.stopped:
                yield Step("P hears nothing and goes on", state._replace(stopped=False))
        if state.status == "sealing" and state.stopped and state.revision < self.revisions:
            if self.rules.give_up_by_cas:
                yield Step(
                    "P gives up: open again",
                    state._replace(
                        status="open", end=-1, revision=state.revision + 1, stopped=False
                    ),
                )
            else:
                yield Step("P gives up by its timer", state._replace(stopped=False))

    def _open(self, state: State) -> Steps:
        """One transaction that compares the parent's revision opens the successors."""
        if state.status == "sealing" and state.opening is None:
            yield Step(
                f"the coordinator asks to open successors at {state.end}",
                state._replace(opening=(state.end, state.revision)),
            )
        if state.opening is not None:
            end, compared = state.opening
            if compared == state.revision:
                yield Step(
                    f"the parent is sealed at {end}, successors are open",
                    state._replace(status="sealed", revision=compared + 1, opening=None),
                )
            else:
                yield Step("the transaction fails", state._replace(opening=None))

    def _seal_from_outside(self, state: State) -> Steps:
        if state.seen < 0:
            yield Step(
                f"the coordinator reads P's high watermark {state.mark}",
                state._replace(seen=state.mark),
            )
        elif state.status == "open":
            yield Step(
                f"the coordinator seals at {state.seen}",
                state._replace(status="sealed", end=state.seen),
            )

    def violation(self, state: State) -> str | None:
        if state.status == "sealed" and state.mark > state.end:
            return f"acked up to {state.mark}, sealed at {state.end}: no reader sees the rest"
        if state.status == "sealed" and state.held < state.end:
            return f"sealed at {state.end}, an in-sync member ends at {state.held}"
        return None

    def finished(self, state: State) -> bool:
        return state.status == "sealed" or state.revision >= self.revisions


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Seal(rules, 3, 6), off, violation, states, ends=off is None)


CASES = (
    _case("3 records, 6 revisions", states=654),
    _case("the coordinator seals", "primary_seals", "no reader sees the rest"),
    _case("sealed before it drained", "drain_first", "no reader sees the rest"),
    _case("goes on after a time-out", "stopped_until_read", "no reader sees the rest"),
    _case("gives up by a timer", "give_up_by_cas", "no reader sees the rest"),
)
LARGE = (Case("8 records, 12 revisions", lambda: Seal(Rules(), 8, 12), ends=True),)
