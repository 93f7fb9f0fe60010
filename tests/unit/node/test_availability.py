"""What a copy may be used for, over all states: the table, and the same decisions in plain code."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product

import pytest

from logstore.base.errors import (
    CorruptStorageError,
    FencedError,
    LogstoreError,
    NotServingError,
    StorageError,
)
from logstore.node.resources.availability import APPLIES, TABLE, Availability, Purpose, decide
from logstore.replication.events import Role

Answer = type[LogstoreError] | None


@dataclass(slots=True)
class Flags:
    """A copy in one state; `sealed`: no, short of the end, whole."""

    role: Role
    error: str | None
    exists: bool
    closed: bool
    landing: int
    stepped_down: bool
    damage: str
    unsure: bool
    alone: bool
    sealed: str
    in_term: bool
    settled: bool
    lease: bool
    fresh: str

    def is_alone(self) -> bool:
        return self.alone

    def is_unsure(self) -> bool:
        return self.unsure

    def is_sealed(self) -> bool:
        return self.sealed != "no"

    def holds_seal(self) -> bool:
        whole = self.sealed == "whole" and self.in_sync() and self.exists
        return whole and self.error is None

    def is_in_term(self) -> bool:
        return self.in_term

    def has_lease(self) -> bool:
        return self.lease

    def is_settled(self) -> bool:
        return self.settled

    def is_fresh(self) -> bool:
        return self.fresh == "now"

    def was_fresh(self) -> bool:
        return self.fresh != "never"

    def in_sync(self) -> bool:
        return self.role in (Role.PRIMARY, Role.FOLLOWER)


BOTH = (False, True)
TERMS = ((False, False, False), (True, False, False), (True, True, False), (True, True, True))


def every_state() -> Iterator[Flags]:
    """Every combination that can be: a damaged copy is unsure, only a primary leads a term."""
    wholeness = (("", False), ("", True), ("rotten", True))
    for role in Role:
        leads = role is Role.PRIMARY
        for error, exists, closed, landing, stepped_down, (damage, unsure), alone, sealed, (
            in_term, settled, lease
        ), fresh in product(
            (None, "its disk is gone"), BOTH, BOTH, (0, 1), BOTH, wholeness,
            BOTH if leads else (False,), ("no", "short", "whole"), TERMS if leads else TERMS[:1],
            ("never", "once", "now"),
        ):  # fmt: skip
            yield Flags(role, error, exists, closed, landing, stepped_down, damage, unsure, alone,
                        sealed, in_term, settled, lease, fresh)  # fmt: skip


# ---- the same decisions, each in plain code -----------------------------------------------------


def serve(c: Flags) -> Answer:
    if c.error is not None:
        return NotServingError
    if c.unsure:
        return None if c.damage and c.alone else NotServingError
    if c.is_sealed():
        return None if c.holds_seal() else NotServingError
    if c.role is Role.PRIMARY and c.settled:
        return None
    return None if c.in_sync() and c.fresh == "now" else NotServingError


def read(c: Flags) -> Answer:
    return None if c.holds_seal() else serve(c)


def read_latest(c: Flags) -> Answer:
    if c.holds_seal():
        return None
    if c.role is not Role.PRIMARY:
        return FencedError
    return serve(c) if c.lease else NotServingError


def wait_to_serve(c: Flags) -> Answer:
    if c.error is not None or c.unsure or serve(c) is None:
        return NotServingError
    waits = c.role is Role.PRIMARY or (c.role is Role.FOLLOWER and c.fresh == "never")
    return None if waits else NotServingError


def feed(c: Flags) -> Answer:
    leads = c.role is Role.PRIMARY and c.in_term
    return read(c) if not leads or c.error is not None or c.unsure else None


def append(c: Flags) -> Answer:
    if c.error is not None:
        return StorageError
    if c.damage:
        return CorruptStorageError if c.alone else NotServingError
    return None if c.is_sealed() or c.role is Role.PRIMARY else FencedError


def receive(c: Flags) -> Answer:
    if c.role not in (Role.FOLLOWER, Role.LEARNER) or c.error is not None:
        return NotServingError
    busy = c.landing or c.stepped_down or c.unsure or not c.exists
    return NotServingError if busy else None


def answer_seal(c: Flags) -> Answer:
    return None if c.holds_seal() else NotServingError


def show_log(c: Flags) -> Answer:
    return None if c.exists and c.error is None and not c.damage else NotServingError


def vouch(c: Flags) -> Answer:
    return None if show_log(c) is None and c.in_sync() and not c.unsure else NotServingError


def scrub(c: Flags) -> Answer:
    return NotServingError if c.damage else None


def keep_mark(c: Flags) -> Answer:
    whole = c.exists and c.error is None and not c.damage
    return None if c.in_sync() and whole and not c.closed else NotServingError


PLAIN: Mapping[Purpose, Callable[[Flags], Answer]] = {
    Purpose.APPEND: append,
    Purpose.SERVE: serve,
    Purpose.READ: read,
    Purpose.READ_LATEST: read_latest,
    Purpose.WAIT_TO_SERVE: wait_to_serve,
    Purpose.FEED: feed,
    Purpose.RECEIVE: receive,
    Purpose.ANSWER_SEAL: answer_seal,
    Purpose.SHOW_LOG: show_log,
    Purpose.VOUCH: vouch,
    Purpose.SCRUB: scrub,
    Purpose.KEEP_MARK: keep_mark,
}


@pytest.mark.parametrize("purpose", Purpose)
def test_the_table_decides_as_plain_code_does(purpose: Purpose) -> None:
    plain = PLAIN[purpose]
    states = list(every_state())
    assert len(states) > 10_000
    wrong = [c for c in states if decide(purpose, c).error is not plain(c)]
    assert wrong == []


@pytest.mark.parametrize("purpose", Purpose)
def test_each_row_decides_some_state(purpose: Purpose) -> None:
    rows = {decide(purpose, c).state for c in every_state()}
    assert rows == {row.state for row in TABLE[purpose]}


def test_every_state_is_of_use() -> None:
    assert APPLIES.keys() == set(Availability)
    assert {row.state for rows in TABLE.values() for row in rows} == set(Availability)
    assert {f.name for f in fields(Flags)} >= {"error", "exists", "closed", "damage"}
