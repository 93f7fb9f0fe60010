"""The journal of acked appends: the promises to a writer, for an independent checker.

JSON lines, appended and handed to the operating system at each call, so a writer that is killed
leaves all lines but perhaps the last whole (a reader drops a torn last line). First line: a header
with the log's name. Then one line a record, `s` and `o` absent where the outcome is unknown.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import xxhash

from logstore.base.errors import ConfigError
from logstore.base.types import Ack

FORMAT = 1


class Header(msgspec.Struct, frozen=True):
    """First line. `log`: the log that was appended to."""

    journal: int
    log: str


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record. `n` counts the key's appends in the order in which they were sent, from 0.

    `h`: xxh3-64 of the value. `t`: the timestamp in microseconds, if the writer set it. `s`, `o`:
    shard and offset of the ack; absent: it is unknown whether the record is stored.
    """

    k: bytes
    h: int
    n: int
    t: int | None = None
    s: str | None = None
    o: int | None = None


def value_hash(value: bytes) -> int:
    return xxhash.xxh3_64_intdigest(value)


class Sent:
    """Numbers appends before they are sent, so that `n` is the sending order."""

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}

    def number(self, key: bytes) -> int:
        """The key's next `n`."""
        n = self._next.get(key, 0)
        self._next[key] = n + 1
        return n


class Journal(Sent):
    """The writer's side; one process and one log a file. An existing file of the log is
    continued."""

    def __init__(self, path: Path, log: str) -> None:
        super().__init__()
        self.path = path
        self.acked_count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            header, entries = read_journal(path)
            if header.log != log:
                raise ConfigError(f"journal {path} is of log {header.log!r}, not of {log!r}")
            for entry in entries:
                self._next[entry.k] = max(self._next.get(entry.k, 0), entry.n + 1)
            _cut_torn_line(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._encoder = msgspec.json.Encoder()
        if not os.fstat(self._fd).st_size:
            self._write([Header(FORMAT, log)])

    def acked(
        self, key: bytes, value: bytes, n: int, ack: Ack, timestamp_us: int | None = None
    ) -> None:
        """One append was acked."""
        self.acked_count += 1
        self._write([JournalEntry(key, value_hash(value), n, timestamp_us, ack.shard, ack.offset)])

    def write(self, entries: Sequence[JournalEntry]) -> None:
        """Many at once, in one write."""
        self.acked_count += sum(entry.o is not None for entry in entries)
        self._write(entries)

    def unknown(self, key: bytes, value: bytes, n: int, timestamp_us: int | None = None) -> None:
        """One append ended without an outcome: it may be stored or not."""
        self._write([JournalEntry(key, value_hash(value), n, timestamp_us)])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, rows: Sequence[Header | JournalEntry]) -> None:
        data = memoryview(self._encoder.encode_lines(rows))
        while data:
            data = data[os.write(self._fd, data) :]


def read_journal(path: Path) -> tuple[Header, Iterator[JournalEntry]]:
    """Header and entries. A torn last line is dropped; ConfigError names any other bad line."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"journal {path}: {e.strerror}") from None
    lines = data.split(b"\n")[:-1]  # what follows the last newline is torn, or empty
    try:
        header = msgspec.json.decode(lines[0], type=Header) if lines else None
    except msgspec.DecodeError as e:
        raise ConfigError(f"journal {path}, line 1: {e}") from None
    if header is None or header.journal != FORMAT:
        raise ConfigError(f"journal {path} has no header of format {FORMAT}")
    return header, _entries(path, lines[1:])


def _entries(path: Path, lines: Iterable[bytes]) -> Iterator[JournalEntry]:
    decoder = msgspec.json.Decoder(JournalEntry)
    for number, line in enumerate(lines, 2):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as e:
            raise ConfigError(f"journal {path}, line {number}: {e}") from None


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
