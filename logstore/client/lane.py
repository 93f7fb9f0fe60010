"""One producer's appends to one shard: sequences, acks, and what is resent after a failure. Pure.

The server accepts from a producer only the sequence that follows the last one it stored, and
answers "duplicate" to those it has (S2, I6). So:

1. A batch gets its sequence when it is first sent and keeps it through every retriable failure.
   After one, the lane waits until everything in flight was answered (or the stream broke), then
   resends all unacked batches in order. Whatever was stored is answered as a duplicate: stored
   once.
2. A batch that is refused for good consumed no sequence at the server, so its successors in flight
   come back `out_of_sequence`. Each of them was answered definitively ("not stored") on its only
   attempts, no copy of it is under way, so it is safe to give them the numbers that follow the last
   ack.
3. That is *not* safe once an attempt's outcome is unknown (stream broken, code `unavailable`): a
   late copy of batch E with its old number could be stored after E was stored under its new one,
   and the batch that then has the old number would be called a duplicate and lost. Likewise where
   the refusal came after an uncertain attempt (which may have stored it: checks at arrival come
   before dedupe). Then the lane starts over as a *new producer*: what is uncertain fails with
   "outcome unknown", what is surely not stored goes on under the new id from sequence 1.
4. A batch whose deadline passed while its outcome is unknown fails for its caller, but stays in the
   lane (abandoned) as long as batches behind it need its number; alone it is dropped, as in 3.
5. A sealed shard answers for ever: "duplicate", or "sealed", which is surely not stored (S5). So
   what is uncertain is sent there again, in order, until each batch is decided; what is not stored
   then goes to the successors under new producers (docs/design/0005-seals.md).
6. A version conflict is certain even after an uncertain attempt: the server looks for the batch
   among what it stored first, answers once what it cites is committed, and a key's count never
   falls (P10), so a late copy meets the same conflict.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyarrow as pa

from logstore.base.errors import LogstoreError, OutcomeUnknownError, UnavailableError

HEAD_REFUSALS_MAX = 3
"""How often in a row the first unacked batch may be out of sequence before the lane starts over."""

STORAGE_FULL_TRIES_MAX = 5
"""A full disk rarely becomes free within a call: after this many tries the call fails."""


class LaneMode(Enum):
    """RUNNING sends; DRAINING waits for what is in flight; PAUSED waits for `resume`."""

    RUNNING = "running"
    DRAINING = "draining"
    PAUSED = "paused"


@dataclass(slots=True, eq=False)
class LaneEntry:
    """A batch on its way. `sink` belongs to the edge, which delivers the outcome there."""

    rows: pa.RecordBatch
    payload: bytes
    crc32c: int
    flags: int
    deadline: float
    sink: Any
    charge: int = 0
    """Its bytes in the client's buffer until its outcome was delivered."""
    expected_version: int | None = None
    sequence: int = 0
    outstanding: bool = False
    uncertain: bool = False
    abandoned: bool = False
    retry: bool = False
    """An instance refused it for want of capacity, and has counted it as load."""
    storage_full_tries: int = 0
    last_error: LogstoreError | None = None

    @property
    def count(self) -> int:
        return int(self.rows.num_rows)


@dataclass(slots=True)
class Trouble:
    """What the edge does before it resumes the lane."""

    refresh_route: bool = False
    retry_after_ms: int = 0
    backoff: bool = False


Failures = list[tuple[LaneEntry, LogstoreError]]


@dataclass(slots=True)
class Lane:
    """The state machine. Methods return the batches that failed with their errors."""

    producer_id: int
    window: int
    bytes_max: int
    mode: LaneMode = LaneMode.RUNNING
    unacked: deque[LaneEntry] = field(default_factory=deque)
    trouble: Trouble = field(default_factory=Trouble)
    outstanding: int = 0
    _next: int = 1
    _acked: int = 0
    _bytes: int = 0
    _gap: bool = False
    _unsafe: bool = False
    _head_refusals: int = 0

    def can_send(self, size: int) -> bool:
        """Room for one more batch of `size` payload bytes (one larger batch goes alone)."""
        return (
            self.mode is LaneMode.RUNNING
            and len(self.unacked) < self.window
            and (not self.unacked or self._bytes + size <= self.bytes_max)
        )

    def send(self, entry: LaneEntry) -> None:
        """A new batch goes out: it gets its sequence."""
        entry.sequence = self._next
        self._next += 1
        self._bytes += len(entry.payload)
        self.unacked.append(entry)
        self._out(entry)

    def acked(self, entry: LaneEntry) -> bool:
        """The batch is stored; False when its caller already got "outcome unknown"."""
        self._answered(entry)
        self._remove(entry)
        self._acked = max(self._acked, entry.sequence)
        self._head_refusals = 0
        return not entry.abandoned

    def refused(self, entry: LaneEntry, error: LogstoreError) -> Failures:
        """An error came for the batch: it was not stored, or (`_UNKNOWN`) that is unknown."""
        was_first = bool(self.unacked) and self.unacked[0] is entry
        self._answered(entry)
        entry.last_error = error
        entry.uncertain |= error.code in _UNKNOWN
        entry.retry |= error.code == "overloaded"
        if error.code == "version_conflict":
            entry.uncertain = False  # rule 6
        if error.code == "sealed":
            entry.uncertain = False  # surely not stored, whatever else is under way (S5)
        failures: Failures = []
        if _final(entry, error):
            self._remove(entry)
            self._gap = True
            self._unsafe |= entry.uncertain
            if not entry.abandoned:
                failures.append((entry, given_up(entry) if entry.uncertain else error))
        else:
            self.trouble.backoff = True
            self.trouble.refresh_route |= error.refresh_route
            self.trouble.retry_after_ms = max(self.trouble.retry_after_ms, error.retry_after_ms)
            if error.code == "out_of_sequence" and was_first and not self._gap:
                self._head_refusals += 1
        self.drain()
        return failures

    def broken(self, error: LogstoreError) -> None:
        """The stream is gone: the outcome of everything in flight on it is unknown."""
        for entry in self.unacked:
            if entry.outstanding:
                entry.outstanding = False
                entry.uncertain = True
                entry.last_error = error
        self.outstanding = 0
        self.trouble.backoff = True
        self.trouble.refresh_route = True
        self.drain()

    def drain(self) -> None:
        """Stop sending until everything in flight was answered; then the mode is PAUSED."""
        self.mode = LaneMode.DRAINING if self.outstanding else LaneMode.PAUSED

    def resume(self, fresh_id: int) -> tuple[list[LaneEntry], Failures]:
        """Leave PAUSED: what to send again, in order, and what failed (rules 2, 3 and 4).

        `fresh_id` becomes the producer id if the lane must start over.
        """
        assert self.mode is LaneMode.PAUSED
        assert not self.outstanding
        failures: Failures = []
        uncertain = any(entry.uncertain for entry in self.unacked)
        stuck = self._head_refusals >= HEAD_REFUSALS_MAX
        alone = bool(self.unacked) and all(entry.abandoned for entry in self.unacked)
        if stuck or alone or self._unsafe or (self._gap and uncertain):
            failures = self._start_over(fresh_id)
        elif self._gap:
            self._renumber(self._acked)
        self._gap = self._unsafe = False
        self.trouble = Trouble()
        self.mode = LaneMode.RUNNING
        for entry in self.unacked:
            self._out(entry)
        return list(self.unacked), failures

    @property
    def undecided(self) -> bool:
        """Whether the outcome of any batch with a waiting caller is unknown."""
        return any((e.outstanding or e.uncertain) and not e.abandoned for e in self.unacked)

    def expire(self, now: float) -> Failures:
        """Give up batches past their deadline: surely not stored where that is known (rule 4)."""
        failures: Failures = []
        for entry in [e for e in self.unacked if e.deadline <= now and not e.abandoned]:
            if entry.outstanding or entry.uncertain:
                entry.abandoned = True
            else:
                self._remove(entry)
                self._gap = True
            failures.append((entry, given_up(entry)))
        return failures

    def abort(self, error: LogstoreError) -> tuple[list[LaneEntry], Failures]:
        """Empty the lane: (entries that are surely not stored, failures of the uncertain ones)."""
        clear = [e for e in self.unacked if not (e.outstanding or e.uncertain or e.abandoned)]
        failures: Failures = [
            (entry, outcome_unknown(error))
            for entry in self.unacked
            if (entry.outstanding or entry.uncertain) and not entry.abandoned
        ]
        for entry in self.unacked:
            entry.outstanding = False
        self.unacked.clear()
        self.outstanding = self._bytes = 0
        self.mode = LaneMode.PAUSED
        self._unsafe = True
        return clear, failures

    def _start_over(self, fresh_id: int) -> Failures:
        failures: Failures = []
        kept: deque[LaneEntry] = deque()
        for entry in self.unacked:
            if entry.abandoned:
                continue
            if entry.uncertain:
                failures.append((entry, given_up(entry)))
            else:
                kept.append(entry)
        self.unacked = kept
        self._bytes = sum(len(entry.payload) for entry in kept)
        self.producer_id = fresh_id
        self._acked = self._head_refusals = 0
        self._renumber(0)
        return failures

    def _renumber(self, last: int) -> None:
        for sequence, entry in enumerate(self.unacked, last + 1):
            entry.sequence = sequence
        self._next = last + len(self.unacked) + 1

    def _out(self, entry: LaneEntry) -> None:
        entry.outstanding = True
        self.outstanding += 1

    def _answered(self, entry: LaneEntry) -> None:
        if entry.outstanding:
            entry.outstanding = False
            self.outstanding -= 1
        if self.mode is LaneMode.DRAINING and not self.outstanding:
            self.mode = LaneMode.PAUSED

    def _remove(self, entry: LaneEntry) -> None:
        if self.unacked and self.unacked[0] is entry:
            self.unacked.popleft()
        else:
            self.unacked.remove(entry)
        self._bytes -= len(entry.payload)


_UNKNOWN = frozenset({"unavailable", "outcome_unknown", "internal"})


def _final(entry: LaneEntry, error: LogstoreError) -> bool:
    """True when no retry of the same batch can help."""
    if error.code == "storage_full":
        entry.storage_full_tries += 1
        return entry.storage_full_tries >= STORAGE_FULL_TRIES_MAX
    return not (error.retriable or error.refresh_route)


def outcome_unknown(last: LogstoreError | None) -> OutcomeUnknownError:
    """The error for all attempts together; `last` is about one of them, and says so."""
    why = f"; its last attempt ended with: {last.message}" if last is not None else ""
    return OutcomeUnknownError(
        f"the outcome of the append is unknown: it may be stored or not{why}"
    )


def given_up(entry: LaneEntry) -> LogstoreError:
    """The error of the caller of a batch that was given up."""
    last = entry.last_error
    if entry.outstanding or entry.uncertain:
        return outcome_unknown(last)
    if last is not None:
        return type(last)(f"not stored, gave up at the deadline: {last.message}")
    return UnavailableError("not stored: the append could not be sent before its deadline")
