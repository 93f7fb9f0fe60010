"""The embedded MetadataStore: one directory, RocksDB underneath, one process at a time.

Each transaction is one WriteBatch, synced to the WAL before anyone sees it. All values are also
held in memory (metadata is small), so reads never wait for the disk. History for watches is kept
in memory only: after a restart, a watch that is behind gets ConflictError and ranges again.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions

from logstore.base.errors import (
    ConfigError,
    CorruptStorageError,
    DirectoryInUseError,
    StorageError,
    StorageFullError,
)
from logstore.meta.memory import HISTORY_EVENTS_MAX, MemoryMetadataStore, Tables
from logstore.meta.port import Versioned, WatchEvent

_REVISION = b"r"
_DATA = b"k"
_REVISION_BYTES = 8


class RocksMetadataStore(MemoryMetadataStore):
    """Opens (or creates) the store in `directory`.

    Errors: `DirectoryInUseError` when another store has it open, `CorruptStorageError` when the
    disk does not return what was written, `StorageFullError` and `StorageError` on a failed write
    (the transaction was then not applied).
    """

    def __init__(self, directory: Path, *, history_events_max: int = HISTORY_EVENTS_MAX) -> None:
        self._directory = directory
        self._lock = _lock(directory)
        try:
            self._db = _open(directory)
            try:
                tables = _load(self._db, history_events_max)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._sync = WriteOptions()
        self._sync.sync = True
        super().__init__(tables)

    def _persist(self, changes: Sequence[WatchEvent]) -> None:
        batch = WriteBatch(raw_mode=True)
        for change in changes:
            key = _DATA + change.key.encode()
            if change.value is None:
                batch.delete(key)
            else:
                batch.put(key, change.revision.to_bytes(_REVISION_BYTES, "big") + change.value)
        batch.put(_REVISION, changes[-1].revision.to_bytes(_REVISION_BYTES, "big"))
        try:
            self._db.write(batch, self._sync)
        except Exception as e:
            if "No space left" in str(e):
                raise StorageFullError(f"no space left in {self._directory}") from e
            raise StorageError(f"cannot write to {self._directory}: {e}") from e

    def _release(self) -> None:
        self._db.close()
        os.close(self._lock)


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ConfigError(f"data directory {directory}: {e.strerror}") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(handle)
        raise DirectoryInUseError(f"data directory {directory} is in use by another process") from e
    return handle


def _open(directory: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_keep_log_file_num(2)
    # Point-in-time recovery would silently drop what follows a flipped bit (facts.md).
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    try:
        return Rdict(str(directory / "store"), options)
    except Exception as e:
        if "orrupt" in str(e):
            raise CorruptStorageError(f"metadata in {directory}: {e}") from e
        raise StorageError(f"cannot open the metadata in {directory}: {e}") from e


def _load(db: Rdict, history_events_max: int) -> Tables:
    stored = db.get(_REVISION)
    revision = int.from_bytes(stored, "big") if stored is not None else 0
    items = []
    raw = cast("Iterator[tuple[bytes, bytes]]", db.items(from_key=_DATA))
    for key, value in raw:
        if not key.startswith(_DATA):
            break
        written = int.from_bytes(value[:_REVISION_BYTES], "big")
        items.append(Versioned(key[len(_DATA) :].decode(), value[_REVISION_BYTES:], written))
    newest = max((item.revision for item in items), default=0)
    if newest > revision:
        raise CorruptStorageError(f"a key has revision {newest}, the store only {revision}")
    return Tables(items, revision, history_events_max)
