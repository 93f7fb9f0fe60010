"""The lane against a model of the server (I6): networks that lose, delay and repeat in every
order."""

import random
from collections import deque

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.base.errors import (
    CorruptBatchError,
    FencedError,
    LogstoreError,
    OutcomeUnknownError,
    OutOfSequenceError,
    OverloadedError,
    UnavailableError,
    VersionAheadError,
    VersionConflictError,
)
from logstore.client.lane import Lane, LaneEntry, LaneMode, given_up


def entry(number: int, deadline: float = 1e9) -> LaneEntry:
    rows = pa.RecordBatch.from_pydict({"key": [b"%d" % number]})
    return LaneEntry(rows, b"%d" % number, 0, 0, deadline, sink=number)


class Server:
    """Accepts last + 1 of each producer, knows what it has. Late copies arrive when they like."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.producers: dict[int, dict[int, int]] = {}

    def take(self, producer: int, sequence: int, number: int) -> LogstoreError | None:
        known = self.producers.setdefault(producer, {})
        if sequence in known:
            return None
        if sequence != max(known, default=0) + 1:
            return OutOfSequenceError("not the next one")
        known[sequence] = number
        self.stored.append(number)
        return None


class Story:
    """Drives a lane with one schedule of faults, drawn from a seed."""

    def __init__(self, seed: int, faults: list[str], batches: int) -> None:
        self.dice = random.Random(seed)
        self.faults = deque(faults)
        self.lane = Lane(producer_id=1, window=8, bytes_max=1 << 20)
        self.server = Server()
        self.waiting = deque(entry(i) for i in range(batches))
        self.wire: deque[tuple[LaneEntry, int, int]] = deque()
        self.late: list[tuple[int, int, int]] = []
        self.acked: list[int] = []
        self.failed: dict[int, LogstoreError] = {}
        self.fresh = 2

    def send(self, item: LaneEntry) -> None:
        self.wire.append((item, self.lane.producer_id, item.sequence))

    def fail(self, failures: list[tuple[LaneEntry, LogstoreError]]) -> None:
        for item, error in failures:
            assert item.sink not in self.failed
            assert item.sink not in self.acked
            self.failed[item.sink] = error

    def run(self) -> None:
        for _ in range(10_000):
            if self.late and self.dice.random() < 0.3:
                self.server.take(*self.late.pop(self.dice.randrange(len(self.late))))
            if self.lane.mode is LaneMode.PAUSED:
                again, failures = self.lane.resume(self.fresh)
                self.fresh += 1
                self.fail(failures)
                for item in again:
                    self.send(item)
            elif self.lane.can_send(1) and self.waiting and self.dice.random() < 0.6:
                item = self.waiting.popleft()
                self.lane.send(item)
                self.send(item)
            elif self.wire:
                self.step()
            elif not self.waiting:
                break
        for late in self.late:
            self.server.take(*late)
        assert not self.lane.unacked

    def step(self) -> None:
        """The first message on the wire arrives, or meets the next fault."""
        item, producer, sequence = self.wire.popleft()
        fault = self.faults.popleft() if self.faults and self.dice.random() < 0.4 else None
        if fault in ("lose", "lose_ack", "late"):
            if fault == "lose_ack":
                self.server.take(producer, sequence, item.sink)
            if fault == "late":
                self.late.append((producer, sequence, item.sink))
            self.wire.clear()
            self.lane.broken(UnavailableError("broken"))
            return
        errors: dict[str | None, LogstoreError] = {
            "fenced": FencedError("f"),
            "overloaded": OverloadedError("o", retry_after_ms=1),
            "corrupt": CorruptBatchError("c"),
        }
        error = errors.get(fault)
        if fault == "expire":
            item.deadline = 0.0
            self.fail(self.lane.expire(1.0))
        error = error or self.server.take(producer, sequence, item.sink)
        if error is not None:
            self.fail(self.lane.refused(item, error))
        elif self.lane.acked(item):
            self.acked.append(item.sink)


FAULTS = ["lose", "lose_ack", "late", "fenced", "overloaded", "corrupt", "expire"]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(FAULTS), max_size=12), st.integers(1, 30))
def test_every_schedule_stores_acked_batches_once_and_in_order(
    seed: int, faults: list[str], batches: int
) -> None:
    story = Story(seed, faults, batches)
    story.run()
    stored = story.server.stored
    assert len(stored) == len(set(stored)), "stored twice"
    assert set(story.acked) <= set(stored), "acked but not stored"
    assert set(story.acked) | set(story.failed) == set(range(batches))
    for number in stored:
        error = story.failed.get(number)
        assert error is None or isinstance(error, OutcomeUnknownError), "stored, called not stored"
    acked = [number for number in stored if number in set(story.acked)]
    assert acked == sorted(acked), "order of acked batches"
    retriable_only = not {"corrupt", "expire"} & set(faults)
    if retriable_only:
        assert story.failed == {}
        assert stored == list(range(batches))


def test_window_and_bytes_bound_what_is_in_flight() -> None:
    lane = Lane(producer_id=1, window=2, bytes_max=2)
    assert lane.can_send(100)
    lane.send(entry(0))
    assert not lane.can_send(2)
    assert lane.can_send(1)
    lane.send(entry(1))
    assert not lane.can_send(0)


def test_a_retriable_error_waits_for_all_in_flight() -> None:
    lane = Lane(producer_id=1, window=8, bytes_max=100)
    items = [entry(i) for i in range(3)]
    for item in items:
        lane.send(item)
    assert lane.refused(items[0], OverloadedError("busy", retry_after_ms=7)) == []
    assert lane.mode is LaneMode.DRAINING
    assert lane.trouble.retry_after_ms == 7
    assert not lane.trouble.refresh_route
    lane.refused(items[1], OutOfSequenceError("gap"))
    assert lane.mode is LaneMode.DRAINING
    lane.refused(items[2], OutOfSequenceError("gap"))
    assert lane.mode.value == "paused"
    again, failures = lane.resume(99)
    assert [(e.sink, e.sequence) for e in again] == [(0, 1), (1, 2), (2, 3)]
    assert failures == []
    assert lane.producer_id == 1


def test_renumbers_after_a_refusal() -> None:
    lane = Lane(producer_id=1, window=8, bytes_max=100)
    items = [entry(i) for i in range(4)]
    for item in items:
        lane.send(item)
    lane.acked(items[0])
    assert [e.sink for e, _ in lane.refused(items[1], CorruptBatchError("c"))] == [1]
    lane.refused(items[2], OutOfSequenceError("gap"))
    lane.refused(items[3], OutOfSequenceError("gap"))
    again, _ = lane.resume(99)
    assert [(e.sink, e.sequence) for e in again] == [(2, 2), (3, 3)]
    assert not lane.trouble.backoff


@pytest.mark.parametrize("uncertain", [False, True])
def test_expired_batches_are_kept_only_while_unknown(uncertain: bool) -> None:
    lane = Lane(producer_id=1, window=8, bytes_max=100)
    first, second = entry(0, deadline=1.0), entry(1, deadline=9.0)
    lane.send(first)
    lane.send(second)
    if uncertain:
        lane.broken(UnavailableError("gone"))
    else:
        lane.refused(first, OverloadedError("busy"))
        lane.refused(second, OutOfSequenceError("gap"))
    ((late, error),) = lane.expire(2.0)
    assert late is first
    assert isinstance(error, OutcomeUnknownError if uncertain else OverloadedError)
    again, failures = lane.resume(99)
    assert failures == []
    assert [(e.sink, e.sequence) for e in again] == ([(0, 1), (1, 2)] if uncertain else [(1, 1)])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (VersionConflictError("has 3"), VersionConflictError),
        (VersionAheadError("has 1"), OutcomeUnknownError),
    ],
)
def test_a_conflict_after_an_uncertain_attempt(
    answer: LogstoreError, told: type[LogstoreError]
) -> None:
    """Rule 6: with more records than expected no copy of it can be stored; with fewer one can."""
    lane = Lane(producer_id=1, window=1, bytes_max=1 << 20)
    first = entry(0)
    first.expected_version = 2
    lane.send(first)
    lane.broken(UnavailableError("gone"))
    lane.resume(fresh_id=2)
    ((failed, error),) = lane.refused(first, answer)
    assert failed is first
    assert type(error) is told


@pytest.mark.parametrize("uncertain", [True, False])
@pytest.mark.parametrize("last", ["not stored, send again", "the queue is full", None])
def test_what_is_said_of_a_batch_does_not_contradict_itself(
    uncertain: bool, last: str | None
) -> None:
    """The answer to one attempt is not the outcome of the append: it may be stored or not."""
    batch = entry(1)
    batch.uncertain = uncertain
    batch.last_error = UnavailableError(last) if last is not None else None
    error = given_up(batch)
    assert isinstance(error, OutcomeUnknownError) is uncertain
    head, _, rest = error.message.partition("; its last attempt ended with: ")
    if uncertain:
        assert head == "the outcome of the append is unknown: it may be stored or not"
        assert rest == (last or "")
    else:
        assert head.startswith("not stored")
        assert "unknown" not in error.message
