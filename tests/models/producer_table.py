"""The producer table through truncation and failover: two replicas, both in sync, one producer.

Leadership may go either way at any time; the client has one append open and sends it again at will.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

Record = tuple[int, int]
"""Sequence, epoch that stamped it."""
Log = tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    truncation_restores_table: bool = True
    """P5: when a log is cut, the table forgets what was cut off."""
    duplicate_waits_for_commit: bool = True
    """P10: a duplicate is answered once what it cites is committed."""


class Replica(NamedTuple):
    """`last`: the highest sequence in its table. `peer`: what the other one acked in this term."""

    log: Log = ()
    last: int = -1
    mark: int = 0
    epoch: int = 1
    peer: int = 0
    matched: int = 0


class State(NamedTuple):
    epoch: int
    primary: int
    replicas: tuple[Replica, Replica]
    wire: frozenset[tuple[int, Log]] = frozenset()
    acks: frozenset[tuple[int, int, int]] = frozenset()
    """Epoch, replica, end."""
    told: frozenset[int] = frozenset()
    """Sequences that the client was acked."""


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Table:
    rules: Rules
    appends: int
    epochs: int

    def initial(self) -> State:
        return State(1, 0, (Replica(), Replica()))

    def steps(self, state: State) -> Steps:
        for n, r in enumerate(state.replicas):
            if r.epoch < state.epoch:
                learned = _with(state, n, r._replace(epoch=state.epoch, peer=0, matched=0))
                if state.primary == n:
                    learned = learned._replace(wire=learned.wire | {(state.epoch, r.log)})
                yield Step(f"{n} reads epoch {state.epoch}, {state.primary} leads", learned)
            if r.epoch % 2 == 1 - n:  # 0 leads in odd epochs, 1 in even ones
                yield from self._ask(state, n)
                yield from self._hear(state, n)
            yield from self._receive(state, n)
        if state.epoch < self.epochs:
            heir = 1 - state.primary
            yield Step(
                f"epoch {state.epoch + 1}: {heir} leads",
                state._replace(epoch=state.epoch + 1, primary=heir),
            )

    def _ask(self, state: State, n: int) -> Steps:
        """The client sends its oldest unacked append, for the first time or again."""
        sequence, r = len(state.told), state.replicas[n]
        if sequence >= self.appends:
            return
        if sequence <= r.last:
            place = next((i for i, record in enumerate(r.log) if record[0] == sequence), None)
            waits = place is not None and place >= r.mark
            if not (waits and self.rules.duplicate_waits_for_commit):
                yield Step(
                    f"{n} answers {sequence}: duplicate",
                    state._replace(told=state.told | {sequence}),
                )
        elif sequence == r.last + 1:
            log = (*r.log, (sequence, r.epoch))
            after = _with(state, n, r._replace(log=log, last=sequence))
            yield Step(
                f"{n} appends {sequence} in epoch {r.epoch}",
                after._replace(wire=after.wire | {(r.epoch, log)}),
            )

    def _hear(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        for epoch, peer, end in state.acks:
            if epoch == r.epoch and peer != n and end > r.peer:
                yield Step(
                    f"{n} hears that {peer} holds {end}", _with(state, n, r._replace(peer=end))
                )
        held = min(len(r.log), r.peer)
        if held > r.mark:
            after = _with(state, n, r._replace(mark=held))
            yield Step(f"{n} commits up to {held}, the answer is lost", after)
            stored = frozenset(sequence for sequence, _ in r.log[:held])
            yield Step(
                f"{n} commits and acks up to {held}", after._replace(told=after.told | stored)
            )

    def _receive(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        leads = r.epoch % 2 == 1 - n
        for epoch, sent in state.wire:
            if epoch < r.epoch or (leads and epoch == r.epoch):
                continue
            at = r.matched if epoch == r.epoch else 0
            if at < len(sent):
                same = len(r.log) > at and r.log[at] == sent[at]
                log, matched = r.log if same else (*r.log[:at], sent[at]), at + 1
            elif epoch > r.epoch and len(r.log) > len(sent):
                log, matched = r.log[: len(sent)], len(sent)
            else:
                continue
            last = max((sequence for sequence, _ in log), default=-1)
            if not self.rules.truncation_restores_table:
                last = max(last, r.last)
            took = r._replace(log=log, last=last, epoch=epoch, peer=0, matched=matched)
            after = _with(state, n, took)
            cut = len(log) <= len(r.log) and log != r.log
            yield Step(
                f"{n} {'cuts, ' if cut else ''}takes {log[:matched]} of epoch {epoch}",
                after._replace(acks=after.acks | {(epoch, n, matched)}),
            )

    def violation(self, state: State) -> str | None:
        for n, r in enumerate(state.replicas):
            stored = [sequence for sequence, _ in r.log]
            if len(set(stored)) != len(stored):
                return f"{n} stores an append twice: {stored}"
            if not state.told <= set(stored):
                return f"{n} is in sync and lacks what was acked: {set(state.told)}, has {stored}"
        return None


def _with(state: State, n: int, replica: Replica) -> State:
    pair = state.replicas
    return state._replace(replicas=(replica, pair[1]) if n == 0 else (pair[0], replica))


def _case(
    name: str, off: str | None, violation: str, states: int = 0, *, large: bool = False
) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    bounds = (3, 5) if large else (2, 4)
    return Case(name, lambda: Table(rules, *bounds), off, violation, states)


CASES = (
    _case("2 appends, 4 epochs", None, "", 8_566),
    _case("the table survives a cut", "truncation_restores_table", "lacks what was acked"),
    _case("a duplicate is answered at once", "duplicate_waits_for_commit", "lacks what was acked"),
)
LARGE = (_case("3 appends, 5 epochs", None, "", large=True),)
