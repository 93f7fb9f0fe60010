"""Rebuilding a directory with damaged files: whole batches go into a new one, then they swap.

A rebuild is triggered by the marker DAMAGED (damage was met while running or loading), by a
database that does not open, or by copies that only the marks (`marks`) name. The old database is
opened without compactions, skipping damaged WAL records; each copy is read batch by batch,
checksums and chain verified, into a new one under `rebuilt/`. A copy with a hole keeps the batches
on both sides of it and is marked `damage`, as is one that ends below its mark; if WAL records were
skipped each copy is marked `tail_lost`: its batches are whole, but acked records may be missing at
the end.

The swap survives kill -9 at each step: DAMAGED (write again from the start) → REBUILT (move the old
files aside) → MOVING (move the new ones here; CURRENT, without which there is no database, last).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from logstore.base.directory_lock import DirectoryLock
from logstore.base.errors import CorruptStorageError, StorageError, StorageFullError
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.engine.rocks import aside, marks, state
from logstore.engine.rocks.layout import (
    CHECKPOINT,
    Checkpoint,
    StoredRetired,
    data_key,
    encode,
    meta_key,
    offset_of,
    open_batch,
)
from logstore.engine.rocks.marks import CopyMark
from logstore.engine.rocks.state import StoredCopy
from logstore.engine.rocks.store import DAMAGED, DATA, META, Store, lock_directory
from logstore.engine.rules import name_of

REBUILT, MOVING = "REBUILT", "MOVING"
WAL_DAMAGED = "WAL: "
"""A marker that starts with this says that WAL records are missing."""
_PART = "rebuilt"
_NOT_THE_WAL = re.compile(r"\.(sst|blob)|MANIFEST|CURRENT|OPTIONS", re.IGNORECASE)
"""Names in errors at open if the damage is not in the WAL."""
_WRITE_BYTES = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


def open_store(path: Path, write_buffer_bytes: int, block_cache_bytes: int) -> Store:
    """The directory's store, after finishing or doing the rebuild that it needs.

    Call `settle` once it is known whether anything is missing.
    """
    sizes = write_buffer_bytes, block_cache_bytes
    lock = lock_directory(path)
    try:
        if (path / REBUILT).exists() or (path / MOVING).exists():
            _swap(path)
        aside.check_there(path)
        aside.link(path)
        if not (path / DAMAGED).exists():
            try:
                return Store(path, *sizes, lock=lock.share())
            except CorruptStorageError as e:
                named = _NOT_THE_WAL.search(e.message)
                _mark(path, DAMAGED, e.message if named else f"{WAL_DAMAGED}{e.message}")
            except StorageError as e:
                if "No such file" not in e.message:
                    raise
                _mark(path, DAMAGED, e.message)
        _rebuild(path, sizes, lock)
        _swap(path)
        return Store(path, *sizes, lock=lock.share())
    finally:
        lock.release()


def is_asked_for(path: Path) -> bool:
    """Whether the next `open_store` rebuilds."""
    return (path / DAMAGED).exists()


def settle(path: Path, lost: list[str]) -> None:
    """The copies are loaded: keep the earlier files of the directory if some of it is `lost`."""
    if lost:
        _log.error("logs are shorter than they were known to be", path=str(path), copies=lost)
    aside.settle(path, ", ".join(lost))


def _rebuild(path: Path, sizes: tuple[int, int], lock: DirectoryLock) -> None:
    reason = (path / DAMAGED).read_text()
    _log.error("directory is damaged, rebuilding it", path=str(path), reason=reason)
    part = path / _PART
    shutil.rmtree(part, ignore_errors=True)
    old = _opened_to_salvage(path, sizes, lock)
    known = marks.read(path)
    try:
        new = Store(part, *sizes)
        try:
            for stored in _copies(old, known):
                mark = known.get(stored.meta.replica_id)
                meta = _copy(
                    old,
                    new,
                    stored,
                    mark=mark.end if mark else 0,
                    wal_lost=reason.startswith(WAL_DAMAGED),
                )
                _log.warning(
                    "copy read out", copy=name_of(meta), damage=meta.damage, lost=meta.tail_lost
                )
        finally:
            new.close()
    finally:
        old.close()
    _mark(path, REBUILT, reason)


def _opened_to_salvage(path: Path, sizes: tuple[int, int], lock: DirectoryLock) -> Store:
    """The database, even if some of its tables and blob files are damaged or missing."""
    try:
        old = Store(path, *sizes, salvage=True, lock=lock.share())
    except StorageFullError:
        raise
    except StorageError as e:
        raise aside.unreadable(path, e.message) from e
    _spread(old)
    return old


def _spread(old: Store) -> None:
    """Give the family of the batches more tables: RocksDB compares a key with the range of a table
    before it opens it only where there are more than three."""
    for n in range(4):
        batch = old.batch()
        batch.put(DATA, b"\xff" * 16 + bytes((n,)), b"")
        old.write(batch)
        old.flush(DATA)


def _copies(old: Store, known: dict[int, CopyMark]) -> list[StoredCopy]:
    """Every copy that the database or the marks name.

    One that only the marks name, or whose facts may be older than they were, is `tail_lost`.
    """
    found: list[StoredCopy] = []
    try:
        found = state.load_copies(old)
    except CorruptStorageError as e:
        if not known:
            raise aside.unreadable(old.path, e.message) from e
        for replica_id in known:
            with contextlib.suppress(CorruptStorageError):
                stored = state.load_copy(old, replica_id)
                found.append(replace(stored, meta=replace(stored.meta, tail_lost=True)))
    named = {stored.meta.replica_id for stored in found}
    for replica_id, mark in known.items():
        if replica_id in named:
            continue
        if mark.copy is None:
            raise aside.unreadable(
                old.path, f"replica {replica_id}, of {mark.end} records, is gone"
            )
        who = mark.copy
        meta = ReplicaMeta(replica_id, who.shard, base=who.base, tail_lost=True)
        found.append(StoredCopy(meta, who.key_index, None))
    return found


def _copy(old: Store, new: Store, stored: StoredCopy, *, mark: int, wal_lost: bool) -> ReplicaMeta:
    """Copy the whole batches of one copy; returns its facts with the damage that was found."""
    meta, who = stored.meta, name_of(stored.meta)
    found = _Found(who, Position(meta.base.end, meta.base.chain))
    batch, size = new.batch(), 0
    for key, value, stored_batch in _whole(old, who, meta, found):
        batch.put(DATA, key, value)
        size += len(value)
        found.bytes += len(stored_batch.data)
        if size >= _WRITE_BYTES:
            new.write(batch)
            batch, size = new.batch(), 0
    new.write(batch)
    try:
        anchor = state.load_anchor(old, meta)
    except CorruptStorageError as e:
        found.damage = found.damage or e.message
        anchor = None
    known = mark
    with contextlib.suppress(CorruptStorageError):
        known = state.known_end(old, meta, mark)
    facts = _found_out(meta, found, known, wal_lost)
    batch = new.batch()
    if anchor is not None:
        state.put_new(batch, facts, anchor, stored.key_index)
    state.put_meta(batch, facts, stored.key_index)
    batch.put(META, meta_key(meta.replica_id, CHECKPOINT), encode(Checkpoint(meta.base.end, 0)))
    if stored.retired is not None:
        retired = StoredRetired(stored.retired.retired, found.end, found.bytes)
        state.put_retired(batch, meta.replica_id, retired)
    with contextlib.suppress(CorruptStorageError):
        if (owner := state.load_facts(old, meta.replica_id)) is not None:
            state.put_facts(batch, meta.replica_id, owner)
    new.write(batch)
    return facts


def _found_out(meta: ReplicaMeta, found: "_Found", known: int, wal_lost: bool) -> ReplicaMeta:
    """The facts of a copy after it was read out; `known`: how far its log reached.

    A log that is short because the WAL lost records is `tail_lost`, and goes on where it ends. Any
    other short one is damaged: its missing records lie in a file that is kept aside.
    """
    end, short = found.end.end, found.end.end < known
    if found.error:
        found.hole(end, known if short else end + 1)
    elif short and not (wal_lost and not found.damage):
        found.hole(end, known)
    damage = meta.damage or found.damage
    missing = [m for m in (meta.missing_from, found.missing_from) if m is not None]
    return replace(
        meta,
        damage=damage,
        tail_lost=meta.tail_lost or wal_lost,
        known_end=max(known, end) if short or damage else meta.known_end,
        missing_from=min(missing) if missing else None,
        high_watermark=min(meta.high_watermark, max(known, end) if damage else end),
    )


@dataclass(slots=True)
class _Found:
    """The state of reading one copy: `end` is the last whole batch's."""

    who: str
    end: Position
    bytes: int = 0
    damage: str = ""
    missing_from: int | None = None
    error: str = ""
    """The error that stopped the reading at `end`, until a batch that continues there is found."""

    def hole(self, start: int, stop: int) -> None:
        """No whole batch is in [start, stop)."""
        if self.missing_from is None:
            self.missing_from = start
        if not self.damage:
            why = f": {self.error}" if self.error else ""
            self.damage = f"{self.who}: offsets {start}..{stop - 1} are missing{why}"

    def add(self, batch: StoredBatch) -> None:
        if batch.base_offset > self.end.end:
            self.hole(self.end.end, batch.base_offset)
        elif (batch.base_offset, batch.chain_before) != (self.end.end, self.end.chain):
            self.damage = self.damage or (
                f"{self.who}: batch at offset {batch.base_offset} does not continue the one before"
            )
            self.missing_from = self.missing_from or batch.base_offset
        self.error = ""
        self.end = Position(batch.end, batch.chain_after)


def _whole(
    old: Store, who: str, meta: ReplicaMeta, found: _Found
) -> Iterator[tuple[bytes, bytes, StoredBatch]]:
    """Every readable and valid batch, in order; `found` collects the holes.

    An iterator fails as a whole when one table of the family cannot be opened. Then the
    batch is looked up by its key, which opens only tables whose keys enclose it.
    """
    replica_id, at = meta.replica_id, meta.base.end
    upper = data_key(replica_id + 1, 0)
    starts = _starts(old, replica_id)
    step, failed_at = 1, at
    while True:
        lower = data_key(replica_id, at)
        try:
            if step > 1:
                at = _first_readable(old, replica_id, failed_at, at)
                lower = data_key(replica_id, at)
            cursor = old.cursor(DATA, lower, upper)
            cursor.seek(lower)
            while cursor.valid():
                key, value = cursor.key(), cursor.value()
                at = offset_of(key) + 1
                batch = open_batch(who, key, value)
                found.add(batch)
                step = 1
                yield key, value, batch
                at = batch.end
                cursor.next()
            return
        except CorruptStorageError as e:
            found.error = found.error or e.message
        looked_up = _looked_up(old, who, replica_id, at)
        if looked_up is not None:
            found.add(looked_up[1])
            step, at = 1, looked_up[1].end
            yield data_key(replica_id, looked_up[1].base_offset), *looked_up
            continue
        # The block or batch at `at` cannot be read: look for the next whole one after it.
        failed_at = at
        at, step = min([at + step, *(s for s in starts if s > at)]), step * 2
        if step > 1 << 40:
            return


def _first_readable(old: Store, replica_id: int, low: int, high: int) -> int:
    """The smallest offset above `low`, where reading failed, from which it goes on; `high` if it
    does not go on from there either."""
    if not _reads_on(old, replica_id, high):
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if _reads_on(old, replica_id, middle):
            high = middle
        else:
            low = middle
    return high


def _reads_on(old: Store, replica_id: int, at: int) -> bool:
    lower = data_key(replica_id, at)
    try:
        cursor = old.cursor(DATA, lower, data_key(replica_id + 1, 0))
        cursor.seek(lower)
        return cursor.valid()
    except CorruptStorageError:
        return False


def _starts(old: Store, replica_id: int) -> list[int]:
    """Offsets of the copy at which a table begins."""
    lower, upper = data_key(replica_id, 0), data_key(replica_id + 1, 0)
    with contextlib.suppress(StorageError):
        keys = [k for k in old.starts() if len(k) == len(lower) and lower <= k < upper]
        return [offset_of(k) for k in keys]
    return []


def _looked_up(old: Store, who: str, replica_id: int, at: int) -> tuple[bytes, StoredBatch] | None:
    """The value and batch at a base offset; None if it cannot be read."""
    key = data_key(replica_id, at)
    with contextlib.suppress(CorruptStorageError):
        value = old.get(DATA, key)
        return (value, open_batch(who, key, value)) if value is not None else None
    return None


def _mark(path: Path, name: str, text: str) -> None:
    part = path / f"{name}.part"
    with part.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path / name)
    _sync(path)


def _swap(path: Path) -> None:
    """Replace the old database by the rebuilt one; goes on where a kill stopped it."""
    part = path / _PART
    if not (path / MOVING).exists():
        aside.move(path)
        aside.promote(path, (path / REBUILT).read_text())
        _mark(path, MOVING, "")
    entries = [e for e in part.iterdir() if e.name not in ("IN_USE", "CURRENT")]
    current = [part / "CURRENT"] if (part / "CURRENT").exists() else []
    for entry in (*entries, *current):
        target = path / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    _sync(path)
    for name in (DAMAGED, REBUILT):
        with contextlib.suppress(FileNotFoundError):
            (path / name).unlink()
    (path / MOVING).unlink()
    shutil.rmtree(part, ignore_errors=True)
    _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
