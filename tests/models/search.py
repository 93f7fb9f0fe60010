"""Breadth-first search over all states that a model can reach. Pure.

The first violation found has the shortest trace. A search that meets its bound raises: a space is
either exhausted or the run fails.
"""

from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)

STATES_MAX = 20_000_000
"""Of one search; some 10 GB of memory."""


class Step(NamedTuple, Generic[S]):
    """One thing that may happen. `violation`: what is wrong with the step itself.

    `chance`: it is a fault or a person's wish, so nobody may count on it to get out of a state.
    """

    label: str
    after: S
    violation: str | None = None
    chance: bool = False


class Model(Protocol[S]):
    """A transition system."""

    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """Everything that may happen next."""
        ...

    def violation(self, state: S) -> str | None:
        """What is wrong in this state."""
        ...


class LiveModel(Model[S], Protocol[S]):
    """One whose every state must be able to reach a finished one."""

    def finished(self, state: S) -> bool: ...


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome: how many states were seen, and the first violation with its shortest trace."""

    states: int
    violation: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.violation is None:
            return f"no violation in {self.states:,} states, all there are"
        story = "\n".join(f"  {number:2}. {label}" for number, label in enumerate(self.trace, 1))
        return f"{self.violation}, after {self.states:,} states:\n{story}"


def explore(model: Model[S], states_max: int = STATES_MAX) -> Found:
    """Search until a violation, or until no state is left. OverflowError at `states_max`."""
    first = model.initial()
    came_from: dict[S, tuple[S, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        for label, after, violation, _ in model.steps(state):
            if violation is None and after not in came_from:
                violation = model.violation(after)
                came_from[after] = (state, label)
                queue.append(after)
            if violation is not None:
                trace = (*_trace(came_from, state), label)
                return Found(len(came_from), violation, trace)
        if len(came_from) > states_max:
            raise OverflowError(f"more than {states_max:,} states")
    return Found(len(came_from))


def _trace(came_from: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    labels = []
    while (before := came_from[state]) is not None:
        state, label = before
        labels.append(label)
    return tuple(reversed(labels))


def explore_ends(model: LiveModel[S], states_max: int = STATES_MAX) -> Found:
    """`explore`, then: from every state a finished one is reachable without chance."""
    found = explore(model, states_max)
    if found.violation is not None:
        return found
    number = {model.initial(): 0}
    states = [model.initial()]
    reached_by: list[array[int]] = [array("l")]
    for state in states:  # grows as it is read
        for _, after, _, chance in model.steps(state):
            if after not in number:
                number[after] = len(states)
                states.append(after)
                reached_by.append(array("l"))
            if not chance:
                reached_by[number[after]].append(number[state])
    todo = [n for n, state in enumerate(states) if model.finished(state)]
    ends = set(todo)
    while todo:
        new = [before for before in reached_by[todo.pop()] if before not in ends]
        ends.update(new)
        todo += new
    stuck = next((state for n, state in enumerate(states) if n not in ends), None)
    if stuck is None:
        return found
    return Found(len(states), f"stuck: no end is reachable from {stuck}", _way_to(model, stuck))


def _way_to(model: Model[S], goal: S) -> tuple[str, ...]:
    first = model.initial()
    came_from: dict[S, tuple[S, str] | None] = {first: None}
    queue = deque([first])
    while goal not in came_from:
        state = queue.popleft()
        for label, after, _, _ in model.steps(state):
            if after not in came_from:
                came_from[after] = (state, label)
                queue.append(after)
    return _trace(came_from, goal)


@dataclass(frozen=True, slots=True)
class Case:
    """One search. `off` names the rule that is dropped; None: all hold, nothing is violated."""

    name: str
    model: Callable[[], Any]
    off: str | None = None
    violation: str = ""
    """Words of the violation that dropping the rule leads to."""
    states: int = 0
    """How many there are, where nothing is violated."""
    ends: bool = False
    """Whether every state must reach a finished one as well."""

    def run(self) -> Found:
        return (explore_ends if self.ends else explore)(self.model())


def switches(rules: type[Any]) -> list[str]:
    """The names of the rules that can be dropped."""
    return [f.name for f in fields(rules)]
