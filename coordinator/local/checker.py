"""An independent check of a log against journals: `python -m coordinator.local.checker`.

It knows only journals and the public client: it reads the whole log back and counts

- `lost`: acked records that the log does not have;
- `changed`: acked records whose (shard, offset) now names other bytes or another time (I4);
- `duplicated`: stored more often than they were appended (I6);
- `out_of_order`: records that a key's reader meets after a later one of the same key (I5).

Records that are in no journal are counted as `unjournalled` and are no fault: a writer that is
killed between the ack and its journal leaves such ones.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa

from coordinator.local.journal import JournalEntry, read_journal, value_hash
from logstore.base.errors import ConfigError, LogstoreError
from logstore.client.client import connect

EXAMPLES_MAX = 5

Content = tuple[bytes, int]
"""Key and hash of the value."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of records; `examples` describes a few of each fault."""

    log: str
    acked: int
    unknown: int
    in_log: int
    unjournalled: int
    lost: int
    duplicated: int
    out_of_order: int
    changed: int
    examples: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.changed)

    def sentence(self) -> str:
        return (
            f"{self.lost} lost, {self.duplicated} duplicated, {self.out_of_order} out of order, "
            f"{self.changed} changed of {self.acked} acked ({self.in_log} in log {self.log})"
        )


@dataclass(slots=True)
class Check:
    """Pure: give it all entries, then every row of the log in reading order, then ask."""

    log: str
    _at: dict[tuple[str, int], JournalEntry] = field(default_factory=dict)
    _acked: Counter[Content] = field(default_factory=Counter)
    _unknown: Counter[Content] = field(default_factory=Counter)
    _unplaced: dict[Content, list[int]] = field(default_factory=dict)
    _found: Counter[Content] = field(default_factory=Counter)
    _other: dict[tuple[str, int], Content] = field(default_factory=dict)
    """The record in the place of an acked one."""
    _last: dict[bytes, int] = field(default_factory=dict)
    _seen: set[tuple[bytes, int]] = field(default_factory=set)
    _rows: int = 0
    _late: int = 0
    _retimed: int = 0
    _examples: dict[str, list[str]] = field(default_factory=dict)

    def expect(self, entries: Iterable[JournalEntry]) -> None:
        """Take a journal's entries. ConfigError when two acks name the same place."""
        for entry in entries:
            content = (entry.k, entry.h)
            if entry.s is None or entry.o is None:
                self._unknown[content] += 1
                self._unplaced.setdefault(content, []).append(entry.n)
                continue
            if self._at.setdefault((entry.s, entry.o), entry) is not entry:
                raise ConfigError(f"two acks name offset {entry.o} of shard {entry.s}")
            self._acked[content] += 1

    def row(self, key: bytes, value: bytes, timestamp_us: int, shard: str, offset: int) -> None:
        """One record as the client read it."""
        self._rows += 1
        content = (key, value_hash(value))
        self._found[content] += 1
        entry = self._at.get((shard, offset))
        if entry is None:
            waiting = self._unplaced.get(content)
            if waiting:
                self._in_order(key, waiting.pop(0), shard, offset)
            return
        if (entry.k, entry.h) != content:
            self._other[shard, offset] = content
            return
        if entry.t is not None and entry.t != timestamp_us:
            self._retimed += 1
            self._tell("changed", f"{key!r} at {shard}:{offset} has time {timestamp_us}")
        self._in_order(key, entry.n, shard, offset)

    def verdict(self) -> Verdict:
        changed = self._retimed
        missing = {c: n - self._found[c] for c, n in self._acked.items() if n > self._found[c]}
        for (shard, offset), content in self._other.items():
            entry = self._at[shard, offset]
            wanted = (entry.k, entry.h)
            gone = missing.get(wanted, 0)
            if gone and (content[0] != entry.k or content in self._acked):
                continue  # another record has moved up: this one is lost
            changed += 1
            if gone:
                missing[wanted] = gone - 1
            self._tell("changed", f"{entry.k!r} at {shard}:{offset} is now {content[0]!r}")
        duplicated = 0
        for content, count in self._found.items():
            known = self._acked[content] + self._unknown[content]
            if known and count > known:
                duplicated += count - known
                self._tell("duplicated", f"{content[0]!r} stored {count} x, appended {known} x")
        for content, gone in missing.items():
            if gone:
                self._tell("lost", f"{content[0]!r}, value hash {content[1]:016x}")
        unjournalled = sum(
            n for c, n in self._found.items() if not self._acked[c] and not self._unknown[c]
        )
        return Verdict(
            log=self.log,
            acked=self._acked.total(),
            unknown=self._unknown.total(),
            in_log=self._rows,
            unjournalled=unjournalled,
            lost=sum(missing.values()),
            duplicated=duplicated,
            out_of_order=self._late,
            changed=changed,
            examples=tuple(text for found in self._examples.values() for text in found),
        )

    def _in_order(self, key: bytes, n: int, shard: str, offset: int) -> None:
        if (key, n) in self._seen:
            return  # a second copy: counted as a duplicate
        self._seen.add((key, n))
        last = self._last.get(key, -1)
        if n < last:
            self._late += 1
            self._tell("out of order", f"{key!r} number {n} at {shard}:{offset} after {last}")
        else:
            self._last[key] = n

    def _tell(self, what: str, text: str) -> None:
        examples = self._examples.setdefault(what, [])
        if len(examples) < EXAMPLES_MAX:
            examples.append(f"{what}: {text}")


async def check_log(addresses: str, journals: Sequence[Path]) -> Verdict:
    """Read the journals' log from the cluster and compare. Errors: ConfigError, the client's."""
    check: Check | None = None
    for path in journals:
        header, entries = read_journal(path)
        check = check or Check(header.log)
        if header.log != check.log:
            raise ConfigError(f"journal {path} is of log {header.log!r}, not of {check.log!r}")
        check.expect(entries)
    if check is None:
        raise ConfigError("journals is empty, at least one is needed")
    async with connect(addresses, client_group="checker") as db:
        log = await db.log(check.log)
        async for batch in log.scan().batches():
            _feed(check, batch)
    return check.verdict()


def _feed(check: Check, batch: pa.RecordBatch) -> None:
    names = ("key", "value", "timestamp", "shard", "offset")
    for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        check.row(*row)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdict as one JSON object; 0: no fault, 1: faults or no answer, 2: bad usage."""
    parser = argparse.ArgumentParser(prog="checker", description=__doc__)
    parser.add_argument("--address", required=True, help="host:port, several with commas")
    parser.add_argument("--journal", required=True, action="append", type=Path)
    given = parser.parse_args(arguments)
    try:
        verdict = asyncio.run(check_log(given.address, given.journal))
    except ConfigError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 2
    except LogstoreError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(verdict).decode(), flush=True)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
