"""`logstore append --file`: many records from JSON lines, and going on after a failure.

One call's lines are under way at a time. Before they are sent, a small file beside the input stores
the position; it is removed when all lines are stored. So whatever ends the command (a bad line, a
failed call, Ctrl-C, kill -9), the next run knows which lines are stored, are not, and may be.
"""

import asyncio
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import typer
from msgspec import UNSET, UnsetType
from rich.progress import Progress

from coordinator.cli.common import CommandError, out, print_json
from coordinator.cli.files import STDIN, named, read_lines
from logstore.base.errors import AppendManyError, InvalidArgumentError, LogstoreError
from logstore.client import checks
from logstore.client.client import Log, connect

LINES_PER_CALL = 1_000
CALL_BYTES_MAX = 4 * 1024 * 1024
UNKNOWN_CHOICES = ("store", "skip")

Span = tuple[int, int]
"""Lines from the first to the second, both included."""


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the input. Bytes that are not UTF-8 are in base64, as `read --json` prints them."""

    key: str | UnsetType = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record of the input, checked against the limits."""

    line: int
    key: bytes
    value: bytes
    timestamp: int | None


class ResumeMark(msgspec.Struct, kw_only=True):
    """How far the input is stored: all of lines 1 to `done`, and of later ones `stored`.

    `unknown` may be stored: they were being sent when the command ended, or got no answer.
    `digest` is of the bytes of lines 1 to `done`.
    """

    log: str
    done: int = 0
    digest: str = ""
    records: int = 0
    stored: list[Span] = []
    unknown: list[Span] = []


@dataclass(slots=True)
class Given:
    """Options of the command: `resume_from` is a line, `unknown` one of UNKNOWN_CHOICES."""

    name: str
    file: Path
    resume: bool = False
    resume_from: int | None = None
    unknown: str | None = None


@dataclass(slots=True)
class Input:
    """The lines of a file from where the last run ended."""

    given: Given
    mark: ResumeMark
    skipped: list[Span]
    seen: int = 0
    """The last line of the calls so far."""
    bad: LogstoreError | None = None
    bad_line: int = 0
    _digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def digest(self) -> str:
        """Of lines 1 to `seen`."""
        return self._digest.hexdigest()

    def calls(self) -> Iterator[list[InputRecord]]:
        """Rows for one call each: all with a timestamp or none. A bad line (`bad`) ends them."""
        held: list[InputRecord] = []
        size = 0
        try:
            for row in self._rows():
                timed = (row.timestamp is None) == (held[0].timestamp is None) if held else True
                bytes_of_row = len(row.key) + len(row.value)
                if not timed or len(held) == LINES_PER_CALL or size + bytes_of_row > CALL_BYTES_MAX:
                    yield held
                    held, size = [], 0
                held.append(row)
                size += bytes_of_row
        except LogstoreError as e:
            self.bad, self.bad_line = e, self.seen + 1
        if held:
            yield held

    def _rows(self) -> Iterator[InputRecord]:
        decoder = msgspec.json.Decoder(Line)
        begin = self.mark.done
        for number, line in read_lines(self.given.file):
            if number <= begin:
                self._digest.update(line)
                if number == begin:
                    self._check_same()
            elif line.strip() and not within(number, self.skipped):
                yield _row(self.given.file, number, line, decoder)
                self._digest.update(line)
            else:
                self._digest.update(line)
            self.seen = number
        if self.seen < begin:
            raise InvalidArgumentError(
                f"{named(self.given.file)} has {self.seen} lines, there is no line {begin + 1}"
            )

    def _check_same(self) -> None:
        if self.mark.digest and self._digest.hexdigest() != self.mark.digest:
            raise CommandError(
                f"{named(self.given.file)} is not what it was: its first {self.mark.done} lines, "
                "which are stored, have changed; give --resume-from LINE to go on anyway"
            )


def within(number: int, spans: Iterable[Span]) -> bool:
    return any(first <= number <= last for first, last in spans)


def spans(numbers: Iterable[int]) -> list[Span]:
    """Ascending numbers as spans."""
    found: list[Span] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def spans_text(found: Iterable[Span]) -> str:
    """Spans for people."""
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found) or "none"


def _row(
    file: Path, number: int, line: bytes, decoder: "msgspec.json.Decoder[Line]"
) -> InputRecord:
    where = f"{named(file)}, line {number}"
    try:
        found = decoder.decode(line)
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{where} is not UTF-8; give key_base64, value_base64") from None
    except msgspec.DecodeError as e:
        raise InvalidArgumentError(f"{where}: {e}") from None
    key = _bytes(where, "key", found.key, found.key_base64)
    value = _bytes(where, "value", found.value, found.value_base64)
    try:
        checks.record(key, value, None, found.timestamp)
    except InvalidArgumentError as e:
        raise InvalidArgumentError(f"{where}: {e.message}") from None
    return InputRecord(number, key, value, found.timestamp)


def _bytes(where: str, name: str, text: str | UnsetType, data: bytes | UnsetType) -> bytes:
    if text is not UNSET and data is not UNSET:
        raise InvalidArgumentError(f"{where}: {name} and {name}_base64 exclude each other")
    if data is not UNSET:
        return data
    if text is UNSET:
        raise InvalidArgumentError(f"{where}: {name} is missing")
    return text.encode()


def mark_path(given: Given) -> Path | None:
    """The file beside the input that stores how far it is stored; standard input has none."""
    if given.file == STDIN:
        return None
    return given.file.with_name(f"{given.file.name}.{given.name}.resume")


def begin(given: Given) -> Input:
    """Where to begin: at line 1, after the lines that the last run stored, or as ordered."""
    path = mark_path(given)
    kept = _kept(path)
    if given.resume_from is not None:
        return Input(given, ResumeMark(log=given.name, done=given.resume_from - 1), [])
    if not given.resume:
        if kept is not None:
            raise InvalidArgumentError(
                f"an earlier run over {named(given.file)} has stopped: lines 1 to {kept.done} are "
                f"stored in {given.name}; --resume goes on behind them, --resume-from 1 stores all "
                "of them again"
            )
        return Input(given, ResumeMark(log=given.name), [])
    if path is None:
        raise InvalidArgumentError("--resume needs a file; for standard input: --resume-from LINE")
    if kept is None:
        raise InvalidArgumentError(f"there is nothing to resume: {named(path)} does not exist")
    if kept.unknown and given.unknown is None:
        raise InvalidArgumentError(
            f"lines {spans_text(kept.unknown)} may be stored or not; look into the log, then give "
            "--unknown skip (they are there) or --unknown store (they are not)"
        )
    skipped = [*kept.stored, *(kept.unknown if given.unknown == "skip" else [])]
    kept.stored, kept.unknown = skipped, []
    return Input(given, kept, skipped)


async def append_file(address: str, given: Given, as_json: bool) -> None:
    """Append the lines of a file in order; a failure reports which lines are stored.

    CommandError when a part is stored, InvalidArgumentError for bad input when nothing is.
    """
    source = begin(given)
    async with connect(address) as db:
        log = await db.log(given.name)
        sending = _Sending(log, source, mark_path(given))
        with Progress(console=out, disable=as_json or not out.is_terminal) as progress:
            task = progress.add_task("append", total=None)
            for rows in source.calls():
                await sending.send(rows)
                progress.update(task, advance=len(rows))
                if sending.failure is not None:
                    break
    failure = sending.failure or source.bad
    if failure is None:
        sending.finish()
        done = f"appended {sending.count} records"
        print_json({"appended": sending.count}) if as_json else typer.echo(done)
        return
    sending.keep()
    raise _failed(sending, source, failure, as_json)


class _Sending:
    """One call at a time; the position is stored before and after it."""

    def __init__(self, log: Log, source: Input, path: Path | None) -> None:
        self._log, self._source, self._path = log, source, path
        self.mark = source.mark
        self.count = 0
        self.failure: LogstoreError | None = None
        self.not_stored: list[Span] = []

    async def send(self, rows: list[InputRecord]) -> None:
        """Send one call's rows; `failure` if some of them are not stored."""
        mark, lines = self.mark, [row.line for row in rows]
        done, digest = self._source.seen, self._source.digest
        mark.unknown = spans(lines)
        self.keep()
        try:
            await self._log.append_many(
                [row.key for row in rows],
                [row.value for row in rows],
                None if rows[0].timestamp is None else [row.timestamp for row in rows],
            )
        except AppendManyError as e:
            self.failure = e.cause or e
            stored = _lines(lines, e.stored)
            self.not_stored = spans(_lines(lines, e.not_stored))
            mark.unknown = spans(_lines(lines, e.unknown))
            mark.stored = [*mark.stored, *spans(stored)]
            self.count += len(stored)
        except asyncio.CancelledError:
            print(f"stopped while lines {spans_text(mark.unknown)} were being sent; the mark is "
                  f"kept for --resume", file=sys.stderr)  # fmt: skip
            raise
        except LogstoreError as e:  # before anything was sent
            self.failure, mark.unknown, self.not_stored = e, [], spans(lines)
        else:
            mark.done, mark.digest, mark.unknown = done, digest, []
            mark.stored = [span for span in mark.stored if span[1] > done]
            self.count += len(rows)

    def keep(self) -> None:
        """Write the mark, unless there is nothing to remember."""
        if self._path is None or not (self.mark.done or self.mark.stored or self.mark.unknown):
            self.finish()
            return
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            part.write_bytes(msgspec.json.encode(self.mark))
            os.replace(part, self._path)
        except OSError as e:
            print(f"note: {named(self._path)} cannot be written ({e.strerror}): after a crash "
                  "the position is unknown", file=sys.stderr)  # fmt: skip
            self._path = None

    def finish(self) -> None:
        """Remove the mark: nothing is left to resume."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def _lines(lines: list[int], ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Line numbers of half-open row ranges."""
    return [line for start, stop in ranges for line in lines[start:stop]]


def _failed(
    sending: _Sending, source: Input, failure: LogstoreError, as_json: bool
) -> LogstoreError:
    mark, given = sending.mark, source.given
    first = sending.not_stored[0][0] if sending.not_stored else source.bad_line
    if sending.failure is not None and not sending.not_stored:
        first = mark.unknown[0][0]
    if not (sending.count or mark.done or mark.stored or mark.unknown):
        return failure
    known = [(1, mark.done)] if mark.done else []
    stored = spans_text([*known, *mark.stored])
    may_be = f"; lines {spans_text(mark.unknown)} may be stored or not" if mark.unknown else ""
    way = "--resume" if mark_path(given) is not None else f"--resume-from {first}"
    if as_json:
        print_json({"appended": sending.count, "stored_lines": [*known, *mark.stored],
                    "first_line_not_stored": first, "unknown_lines": mark.unknown})  # fmt: skip
    return CommandError(
        f"{failure.message}; records stored by this run: {sending.count}, lines stored: {stored}"
        f"{may_be}; first line not stored: {first}; remove the cause and go on with {way}"
    )


def _kept(path: Path | None) -> ResumeMark | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=ResumeMark)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as e:
        raise InvalidArgumentError(f"{named(path)} is no mark of an append: {e}") from None
