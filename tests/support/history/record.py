"""The history file: one JSON line for each call, return, poll, fault and final row.

Lines are appended and handed to the operating system one by one, so a recorder that is killed
leaves every line but perhaps the last whole; a torn last line is dropped. A call without a return
has an unknown outcome. Times are seconds of the recording process's monotonic clock.
"""

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from tests.support.checkers.history import AppendCall, Outcome, ReadCall, Row

Seen = tuple[str, int, str, str]
"""Shard, offset, key, value."""

Result = Literal["acked", "refused", "conflict", "unknown"]


class Called(msgspec.Struct, frozen=True, omit_defaults=True, tag="call"):
    """A client sends an append (`value` is set, and unique in the file) or a read of `key`."""

    id: int
    at_s: float
    client: str
    key: str
    value: str | None = None
    expected: int | None = None


class Returned(msgspec.Struct, frozen=True, omit_defaults=True, tag="return"):
    """It ended. `conflict`: refused because the key has another version than expected."""

    id: int
    at_s: float
    result: Result
    shard: str = ""
    offset: int = -1
    version: int | None = None
    rows: list[Seen] | None = None
    error: str = ""


class Polled(msgspec.Struct, frozen=True, tag="poll"):
    """A consumer (one tail from the log's start) was given these records together."""

    at_s: float
    consumer: str
    rows: list[Seen]


class Ended(msgspec.Struct, frozen=True, tag="end"):
    """The consumer was left. `caught_up`: it had been given time to see all that was acked."""

    at_s: float
    consumer: str
    caught_up: bool


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """What was done to the cluster, in words."""

    at_s: float
    text: str


class Final(msgspec.Struct, frozen=True, tag="final"):
    """A part of the last read of the whole log, after everything was healed."""

    rows: list[Seen]


Line = Called | Returned | Polled | Ended | Fault | Final


class Recorder:
    """The writer's side; one file, one event loop."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o644)
        self._encoder = msgspec.json.Encoder()
        self._ids = itertools.count(1)

    def call(
        self, client: str, key: bytes, value: bytes | None = None, expected: int | None = None
    ) -> int:
        """Write that the call goes out now; returns its id."""
        number = next(self._ids)
        text = None if value is None else value.decode()
        self._write(Called(number, time.monotonic(), client, key.decode(), text, expected))
        return number

    def returned(
        self,
        call: int,
        result: Result,
        *,
        shard: str = "",
        offset: int = -1,
        version: int | None = None,
        rows: Iterable[Row] | None = None,
        error: str = "",
    ) -> None:
        seen = None if rows is None else [_seen(row) for row in rows]
        self._write(
            Returned(call, time.monotonic(), result, shard, offset, version, seen, error[:200])
        )

    def polled(self, consumer: str, rows: Sequence[Row]) -> None:
        self._write(Polled(time.monotonic(), consumer, [_seen(row) for row in rows]))

    def ended(self, consumer: str, *, caught_up: bool) -> None:
        self._write(Ended(time.monotonic(), consumer, caught_up))

    def fault(self, text: str) -> None:
        self._write(Fault(time.monotonic(), text))

    def final(self, rows: Sequence[Row]) -> None:
        self._write(Final([_seen(row) for row in rows]))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: Line) -> None:
        data = memoryview(self._encoder.encode(line) + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]


@dataclass(slots=True)
class Story:
    """A history as it was read back, in order of the calls."""

    appends: list[AppendCall] = field(default_factory=list)
    conflicts: set[bytes] = field(default_factory=set)
    """Values whose append was refused because of the version."""
    reads: list[ReadCall] = field(default_factory=list)
    polls: dict[str, list[Polled]] = field(default_factory=dict)
    caught_up: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    final: list[Row] = field(default_factory=list)
    errors: list[Returned] = field(default_factory=list)
    """Reads and appends that ended with an error."""
    reads_open: int = 0
    """Reads that never returned."""


def load(path: Path) -> Story:
    """Read a file back. ValueError names a line that is not whole, unless it is the last."""
    lines = path.read_bytes().split(b"\n")[:-1]
    decoder = msgspec.json.Decoder(Line)
    story = Story()
    open_: dict[int, AppendCall | ReadCall] = {}
    for number, text in enumerate(lines, 1):
        try:
            _take(story, open_, decoder.decode(text))
        except (msgspec.DecodeError, KeyError) as e:
            raise ValueError(f"history {path}, line {number}: {e}") from None
    story.reads_open = sum(isinstance(call, ReadCall) for call in open_.values())
    return story


def _take(story: Story, open_: dict[int, AppendCall | ReadCall], line: Line) -> None:
    match line:
        case Called(value=None):
            open_[line.id] = ReadCall(line.client, line.key.encode(), line.at_s, line.at_s, [])
        case Called():
            assert line.value is not None
            append = AppendCall(
                line.client, line.key.encode(), line.value.encode(), line.at_s, line.expected
            )
            open_[line.id] = append
            story.appends.append(append)
        case Returned():
            _end(story, open_.pop(line.id), line)
        case Polled():
            story.polls.setdefault(line.consumer, []).append(line)
        case Ended():
            if line.caught_up:
                story.caught_up.add(line.consumer)
        case Fault():
            story.faults.append(line)
        case Final():
            story.final += map(row_of, line.rows)


def _end(story: Story, call: AppendCall | ReadCall, line: Returned) -> None:
    if line.error:
        story.errors.append(line)
    if isinstance(call, ReadCall):
        if line.rows is not None:
            call.returned_s, call.rows = line.at_s, [row_of(seen) for seen in line.rows]
            story.reads.append(call)
        return
    call.returned_s = line.at_s
    if line.result == "conflict":
        story.conflicts.add(call.value)
    call.outcome = Outcome.REFUSED if line.result == "conflict" else Outcome(line.result)
    call.shard, call.offset, call.version = line.shard, line.offset, line.version


def _seen(row: Row) -> Seen:
    return row.shard, row.offset, row.key.decode(), row.value.decode()


def row_of(seen: Seen) -> Row:
    shard, offset, key, value = seen
    return Row(shard, offset, key.encode(), value.encode(), 0)
