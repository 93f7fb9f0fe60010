"""The primary's lease and its followers' grace, on clocks that drift.

The primary counts from *sending* what a follower answered, a follower from *receiving*. Times are
ticks; a follower's clock and the primary's differ by at most `DRIFT` ticks since it heard last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

LEASE = 3
DRIFT = 1
NONE = -1
"""Nothing is under way."""


@dataclass(frozen=True, slots=True)
class Rules:
    count_from_sending: bool = True
    """P7: the lease begins when the message was sent that is answered, not when the answer came."""
    grace_beyond_drift: bool = True
    """P7: a follower's grace is the lease and a margin for drift."""
    grace_after_restart: bool = True
    """P7: a restarted follower waits for a whole grace."""
    every_member_answers: bool = True
    """P7: the lease holds while each in-sync member has answered within it."""
    candidate_grants_nothing: bool = True
    """P7: an answer renews no lease while a take-over of its sender is undecided."""


class Follower(NamedTuple):
    """`silent`: its ticks since it heard. `ahead`: its ticks minus the primary's since then.
    `sent`, `answer`: ages of what is under way, on the primary's clock. `lease`: what is left of
    the primary's lease by this follower. `tries`: its take-over is under way to the store."""

    silent: int = 0
    ahead: int = 0
    sent: int = NONE
    answer: int = NONE
    lease: int = LEASE
    tries: bool = False


class State(NamedTuple):
    followers: tuple[Follower, ...]
    restarts: int
    led: bool = False
    """A follower has taken over."""


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Lease:
    rules: Rules
    followers: int
    restarts: int

    def initial(self) -> State:
        return State((Follower(),) * self.followers, self.restarts)

    @property
    def grace(self) -> int:
        return LEASE + DRIFT if self.rules.grace_beyond_drift else LEASE

    def steps(self, state: State) -> Steps:
        if all(f.ahead > -DRIFT for f in state.followers):
            ticked = tuple(_primary_ticks(f) for f in state.followers)
            yield Step("the primary's clock ticks", state._replace(followers=ticked))
        for n in range(len(state.followers)):
            for label, after in self._of_follower(state, n):
                yield Step(f"F{n} {label}", after)

    def _of_follower(self, state: State, n: int) -> Iterator[tuple[str, State]]:
        f = state.followers[n]
        if f.ahead < DRIFT:
            ticked = f._replace(silent=min(f.silent + 1, self.grace), ahead=f.ahead + 1)
            yield "ticks", _with(state, n, ticked)
        if state.led:
            return
        if f.sent == NONE and f.answer == NONE:
            yield "is sent a heartbeat", _with(state, n, f._replace(sent=0))
        if f.sent != NONE:
            granted = f.sent if not (f.tries and self.rules.candidate_grants_nothing) else NONE
            heard = f._replace(silent=0, ahead=0, sent=NONE, answer=granted)
            yield "hears and answers", _with(state, n, heard)
            yield "hears nothing, it is lost", _with(state, n, f._replace(sent=NONE))
        if f.answer != NONE:
            age = f.answer if self.rules.count_from_sending else 0
            lease = max(f.lease, LEASE - age)
            yield "is heard", _with(state, n, f._replace(answer=NONE, lease=lease))
        if state.restarts:
            silent = 0 if self.rules.grace_after_restart else self.grace
            ahead = 0 if self.rules.grace_after_restart else f.ahead
            restarted = f._replace(silent=silent, ahead=ahead, tries=False)
            yield "restarts", _with(state, n, restarted)._replace(restarts=state.restarts - 1)
        if f.silent >= self.grace and not f.tries:
            yield "asks the store to let it lead", _with(state, n, f._replace(tries=True))
        if f.tries:
            yield "takes over", state._replace(led=True)

    def violation(self, state: State) -> str | None:
        holds = all if self.rules.every_member_answers else any
        if state.led and holds(f.lease > 0 for f in state.followers):
            return "the old primary believes in its lease while another leads"
        return None


def _primary_ticks(f: Follower) -> Follower:
    """Ages stop where they change nothing."""
    return Follower(
        f.silent,
        f.ahead - 1,
        min(f.sent + 1, LEASE) if f.sent != NONE else NONE,
        min(f.answer + 1, LEASE) if f.answer != NONE else NONE,
        max(f.lease - 1, 0),
        f.tries,
    )


def _with(state: State, n: int, follower: Follower) -> State:
    all_ = state.followers
    return state._replace(followers=(*all_[:n], follower, *all_[n + 1 :]))


def _case(
    name: str, off: str | None = None, violation: str = "", states: int = 0, followers: int = 1
) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Lease(rules, followers, 1), off, violation, states)


CASES = (
    _case("1 follower, 1 restart", states=556),
    _case("counted from the answer", "count_from_sending", "believes in its lease"),
    _case("no margin for drift", "grace_beyond_drift", "believes in its lease"),
    _case("takes over as it restarts", "grace_after_restart", "believes in its lease"),
    _case("answers while it takes over", "candidate_grants_nothing", "believes in its lease"),
    _case("one answer of two is enough", "every_member_answers", "believes in its lease", 0, 2),
)
LARGE = (Case("2 followers, 1 restart", lambda: Lease(Rules(), 2, 1)),)
