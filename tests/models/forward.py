"""Appends during the ramp and the cutover: sent to P, or through T; P holds, then forwards.

One client with two appends open at a time; messages are in no order, answers get lost, and P may
give a hand-over up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step


@dataclass(frozen=True, slots=True)
class Rules:
    carry_sequence: bool = True
    """H3, I6: what is forwarded keeps its producer id and sequence."""
    only_the_next: bool = True
    """S2, I6: of a producer only the sequence after its last is accepted."""


class State(NamedTuple):
    """`at_p`, `at_t`: under way to each. `handing`: P's compare-and-swap was sent."""

    primary: str = "P"
    p_leads: bool = True
    holds: bool = False
    handing: bool = False
    queue: tuple[int, ...] = ()
    at_p: frozenset[int] = frozenset()
    at_t: frozenset[int] = frozenset()
    log: tuple[int, ...] = ()
    last: int = -1
    acked: frozenset[int] = frozenset()
    sent: int = 0


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Forward:
    rules: Rules
    appends: int
    window: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        yield from self._client(state)
        for append in state.at_p:
            yield from self._at_p(state, append)
        for append in state.at_t:
            rest = state._replace(at_t=state.at_t - {append})
            if state.primary == "T":
                yield from self._take(rest, "T", append)
            else:
                yield Step(f"T forwards {append}", rest._replace(at_p=state.at_p | {append}))
        yield from self._hand_over(state)

    def _client(self, state: State) -> Steps:
        new = state.sent
        if new < self.appends and new - len(state.acked) < self.window:
            after = state._replace(sent=new + 1)
            yield Step(f"the client sends {new} to P", after._replace(at_p=state.at_p | {new}))
            yield Step(f"the client sends {new} to T", after._replace(at_t=state.at_t | {new}))
        under_way = state.at_p | state.at_t
        for append in range(state.sent):
            if append in state.acked or append in under_way:
                continue
            if append in state.queue:
                if append == state.queue[0] and len(state.at_t) < 2:
                    yield Step(
                        f"the client hears nothing and sends {append} to T",
                        state._replace(at_t=state.at_t | {append}),
                    )
            elif state.primary == "P":
                yield Step(
                    f"the client sends {append} to P again",
                    state._replace(at_p=state.at_p | {append}),
                )
            else:
                yield Step(
                    f"the client sends {append} to T again",
                    state._replace(at_t=state.at_t | {append}),
                )

    def _at_p(self, state: State, append: int) -> Steps:
        rest = state._replace(at_p=state.at_p - {append})
        if state.holds:
            queue = state.queue if append in state.queue else (*state.queue, append)
            yield Step(f"P holds {append}", rest._replace(queue=queue))
        elif not state.p_leads:
            yield Step(f"P forwards {append}", rest._replace(at_t=state.at_t | {append}))
        elif state.primary == "P":
            yield from self._take(rest, "P", append)
        else:
            yield Step(f"P is fenced and drops {append}", rest)

    def _take(self, state: State, who: str, append: int) -> Steps:
        """Store it, or find that it is stored; the answer may be lost."""
        if not self.rules.carry_sequence or append == state.last + 1:
            stored = True
        elif append <= state.last:
            stored = False
        elif self.rules.only_the_next:
            yield Step(f"{who} refuses {append}: out of sequence", state)
            return
        else:
            stored = True
        if stored:
            state = state._replace(log=(*state.log, append), last=append)
        what = "stores" if stored else "knows"
        yield Step(f"{who} {what} {append}, the answer is lost", state)
        yield Step(f"{who} {what} {append} and acks", state._replace(acked=state.acked | {append}))

    def _hand_over(self, state: State) -> Steps:
        """H1 to H3: hold, compare-and-swap, read the outcome, forward the queue in order."""
        if state.p_leads and not state.holds and state.primary == "P":
            yield Step("P holds appends", state._replace(holds=True))
        if state.holds and not state.handing:
            yield Step("P asks to hand over", state._replace(handing=True))
            yield Step(
                "P gives up and goes on",
                state._replace(holds=False, queue=(), at_p=state.at_p | set(state.queue)),
            )
        if state.handing and state.primary == "P":
            yield Step("T is the primary", state._replace(primary="T"))
        if state.holds and state.handing and state.primary == "T":
            yield Step(
                "P reads that T leads and forwards what it held",
                state._replace(
                    holds=False, p_leads=False, queue=(), at_t=state.at_t | set(state.queue)
                ),
            )

    def violation(self, state: State) -> str | None:
        if len(set(state.log)) != len(state.log):
            return f"stored twice: {state.log}"
        if list(state.log) != sorted(state.log):
            return f"out of order: {state.log}"
        if not state.acked <= set(state.log):
            return f"acked and lost: {set(state.acked)} of {state.log}"
        return None

    def finished(self, state: State) -> bool:
        return len(state.acked) == self.appends


def _case(
    name: str, off: str | None = None, violation: str = "", states: int = 0, *, window: int = 2
) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Forward(rules, 3, window), off, violation, states, ends=off is None)


CASES = (
    _case("3 appends", states=7_944),
    _case("forwarded without a sequence", "carry_sequence", "stored twice", window=1),
    _case("a gap is accepted", "only_the_next", "acked and lost"),
)
LARGE = (Case("5 appends, 3 open", lambda: Forward(Rules(), 5, 3), ends=True),)
