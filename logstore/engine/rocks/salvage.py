"""Rebuilding a directory with damaged files: what is whole goes into a new one, then they swap.

Asked for by the marker DAMAGED (damage was met while running) or by a WAL that does not open. The
old database is opened without compactions, skipping damaged WAL records; each copy is read batch by
batch, checksums and chain verified, into a new one under `rebuilt/`. A copy with a hole keeps what
is whole on both sides of it and is marked `damage`; if WAL records were skipped each copy is marked
`tail_lost`: what it holds is whole, but acked records may be missing behind.

The swap survives kill -9 at each step: DAMAGED (write again from the start) → REBUILT (delete the
old files) → MOVING (move the new ones here; CURRENT, without which there is no database, last).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from logstore.base.errors import CorruptStorageError
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta
from logstore.engine.rocks import state
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
from logstore.engine.rocks.state import StoredCopy
from logstore.engine.rocks.store import DAMAGED, DATA, META, Store
from logstore.engine.rules import name_of

REBUILT, MOVING = "REBUILT", "MOVING"
WAL_DAMAGED = "WAL: "
"""A marker that starts so says that WAL records are missing."""
_PART = "rebuilt"
_DATABASE = re.compile(
    r"\d+\.(sst|blob|log|dbtmp)|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|CURRENT|IDENTITY|LOCK"
    r"|LOG(\.old\.\d+)?|rocksdict-config\.json|wal"
)
"""Names that RocksDB and rocksdict give. Only those are replaced: whatever else lies in the
directory (who the instance is, its markers) is not theirs and stays."""
_WRITE_BYTES = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


def open_store(path: Path, write_buffer_bytes: int, block_cache_bytes: int) -> Store:
    """The directory's store, after finishing or doing the rebuild that it needs."""
    sizes = write_buffer_bytes, block_cache_bytes
    if (path / REBUILT).exists() or (path / MOVING).exists():
        _swap(path)
    if not (path / DAMAGED).exists():
        try:
            return Store(path, *sizes)
        except CorruptStorageError as e:
            _mark(path, DAMAGED, f"{WAL_DAMAGED}{e.message}")
    _rebuild(path, sizes)
    _swap(path)
    return Store(path, *sizes)


def _rebuild(path: Path, sizes: tuple[int, int]) -> None:
    reason = (path / DAMAGED).read_text()
    _log.error("directory is damaged, rebuilding it", path=str(path), reason=reason)
    part = path / _PART
    shutil.rmtree(part, ignore_errors=True)
    old = Store(path, *sizes, salvage=True)
    try:
        new = Store(part, *sizes)
        try:
            for stored in state.load_copies(old):
                meta = _copy(old, new, stored, tail_lost=reason.startswith(WAL_DAMAGED))
                _log.warning(
                    "copy read out", copy=name_of(meta), damage=meta.damage, lost=meta.tail_lost
                )
        finally:
            new.close()
    finally:
        old.close()
    _mark(path, REBUILT, reason)


def _copy(old: Store, new: Store, stored: StoredCopy, *, tail_lost: bool) -> ReplicaMeta:
    """Copy what is whole of one copy; returns its facts with what was found."""
    meta, who = stored.meta, name_of(stored.meta)
    found = _Found(Position(meta.base.end, meta.base.chain))
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
    facts = replace(
        meta,
        damage=meta.damage or found.damage,
        tail_lost=meta.tail_lost or tail_lost,
        high_watermark=min(meta.high_watermark, found.end.end),
    )
    batch = new.batch()
    if anchor is not None:
        state.put_new(batch, facts, anchor, stored.key_index)
    state.put_meta(batch, facts, stored.key_index)
    batch.put(META, meta_key(meta.replica_id, CHECKPOINT), encode(Checkpoint(meta.base.end, 0)))
    if stored.retired is not None:
        mark = StoredRetired(stored.retired.retired, found.end, found.bytes)
        state.put_retired(batch, meta.replica_id, mark)
    with contextlib.suppress(CorruptStorageError):
        if (owner := state.load_facts(old, meta.replica_id)) is not None:
            state.put_facts(batch, meta.replica_id, owner)
    new.write(batch)
    return facts


@dataclass(slots=True)
class _Found:
    end: Position
    bytes: int = 0
    damage: str = ""


def _whole(
    old: Store, who: str, meta: ReplicaMeta, found: _Found
) -> Iterator[tuple[bytes, bytes, StoredBatch]]:
    """Every batch that can be read and holds, in order; `found` learns the first hole."""
    replica_id, at = meta.replica_id, meta.base.end
    upper = data_key(replica_id + 1, 0)
    step = 1
    while True:
        lower = data_key(replica_id, at)
        try:
            cursor = old.cursor(DATA, lower, upper)
            cursor.seek(lower)
            while cursor.valid():
                key, value = cursor.key(), cursor.value()
                at = offset_of(key) + 1
                batch = open_batch(who, key, value)
                if (batch.base_offset, batch.chain_before) != (found.end.end, found.end.chain):
                    found.damage = found.damage or (
                        f"{who}: offsets {found.end.end}..{batch.base_offset - 1} are missing"
                    )
                found.end = Position(batch.end, batch.chain_after)
                step = 1
                yield key, value, batch
                at = batch.end
                cursor.next()
            return
        except CorruptStorageError as e:
            found.damage = found.damage or e.message
            # The block or batch at `at` cannot be read: look for the next whole one behind it.
            at, step = at + step, step * 2
            if step > 1 << 40:
                return


def is_database(name: str) -> bool:
    """Whether a file or folder of this name belongs to the database."""
    return _DATABASE.fullmatch(name) is not None


def _mark(path: Path, name: str, text: str) -> None:
    part = path / f"{name}.part"
    with part.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path / name)
    _sync(path)


def _swap(path: Path) -> None:
    """Put the rebuilt database in the place of the old one; goes on where a kill stopped it."""
    part = path / _PART
    if not (path / MOVING).exists():
        for entry in path.iterdir():
            if is_database(entry.name):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
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
