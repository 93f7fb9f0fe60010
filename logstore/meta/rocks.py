"""The embedded MetadataStore: one directory, RocksDB underneath, one process at a time.

Each transaction is one WriteBatch, synced to the WAL before it is visible. All values are also
held in memory (metadata is small), so reads never wait for the disk. History for watches is kept
only in memory: after a restart, a watch that is behind gets ConflictError and ranges again. The
disk does not hold keep-alives either: after a restart each lease lives a full length more (P7).
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions

from logstore.base.directory_lock import DirectoryLock
from logstore.base.env import Env
from logstore.base.errors import (
    ConfigError,
    CorruptStorageError,
    StorageError,
    StorageFullError,
)
from logstore.meta.memory import HISTORY_EVENTS_MAX, MemoryMetadataStore, Tables, Write
from logstore.meta.port import Versioned

_REVISION = b"r"
_DATA = b"k"
_LEASE = b"l"
"""+ id -> its length."""
_ATTACHED = b"a"
"""+ key -> the id of the lease that the key hangs on."""
_REVISION_BYTES = 8
_LEASE_ID = struct.Struct(">q")
_LEASE_TTL_S = struct.Struct(">d")


class RocksMetadataStore(MemoryMetadataStore):
    """Opens (or creates) the store in `directory`.

    Errors: `DirectoryInUseError` when another store has it open, `CorruptStorageError` when the
    disk does not return what was written, `StorageFullError` and `StorageError` on a failed write
    (the transaction was then not applied).
    """

    def __init__(
        self,
        directory: Path,
        *,
        history_events_max: int = HISTORY_EVENTS_MAX,
        env: Env | None = None,
        begin_after: int = 0,
    ) -> None:
        """`begin_after`: revisions of a new store begin above it; `ConfigError` for an old one."""
        self._directory = directory
        self._lock = _lock(directory)
        try:
            self._db = _open(directory)
            try:
                tables = _load(self._db, history_events_max, begin_after)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._sync = WriteOptions()
        self._sync.sync = True
        super().__init__(tables, env=env)
        ttls_s = {
            _LEASE_ID.unpack(lease)[0]: _LEASE_TTL_S.unpack(ttl_s)[0]
            for lease, ttl_s in _rows(self._db, _LEASE)
        }
        attached = {
            key.decode(): _LEASE_ID.unpack(lease)[0] for key, lease in _rows(self._db, _ATTACHED)
        }
        self._leases.restore(ttls_s, attached, self._now_s())

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether a store exists in this directory."""
        return (directory / "store" / "CURRENT").exists()

    def _persist(self, write: Write) -> None:
        batch = WriteBatch(raw_mode=True)
        for change in write.changes:
            key = _DATA + change.key.encode()
            if change.value is None:
                batch.delete(key)
            else:
                batch.put(key, change.revision.to_bytes(_REVISION_BYTES, "big") + change.value)
        if write.changes:
            batch.put(_REVISION, write.changes[-1].revision.to_bytes(_REVISION_BYTES, "big"))
        self._persist_leases(batch, write)
        try:
            self._db.write(batch, self._sync)
        except Exception as e:
            if "No space left" in str(e):
                raise StorageFullError(f"no space left in {self._directory}") from e
            raise StorageError(f"cannot write to {self._directory}: {e}") from e

    def _persist_leases(self, batch: WriteBatch, write: Write) -> None:
        for name, lease in write.attached.items():
            if lease:
                batch.put(_ATTACHED + name.encode(), _LEASE_ID.pack(lease))
            elif self._leases.lease_of(name):
                batch.delete(_ATTACHED + name.encode())
        if write.granted is not None:
            row = _LEASE + _LEASE_ID.pack(write.granted.id)
            batch.put(row, _LEASE_TTL_S.pack(write.granted.ttl_s))
        if write.ended is not None:
            batch.delete(_LEASE + _LEASE_ID.pack(write.ended))

    def _release(self) -> None:
        self._db.close()
        self._lock.release()


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep every store off the directory meanwhile. `DirectoryInUseError` when one has it open."""
    lock = _lock(directory)
    try:
        yield
    finally:
        lock.release()


def _lock(directory: Path) -> DirectoryLock:
    try:
        return DirectoryLock(directory, "owner.lock")
    except OSError as e:
        raise ConfigError(f"data directory {directory}: {e.strerror}") from e


def _open(directory: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_keep_log_file_num(2)
    # Point-in-time recovery would silently drop the records after a flipped bit.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    try:
        return Rdict(str(directory / "store"), options)
    except Exception as e:
        if "orrupt" in str(e):
            raise CorruptStorageError(f"metadata in {directory}: {e}") from e
        raise StorageError(f"cannot open the metadata in {directory}: {e}") from e


def _load(db: Rdict, history_events_max: int, begin_after: int) -> Tables:
    stored = db.get(_REVISION)
    if stored is not None and begin_after:
        raise ConfigError(f"begin_after is {begin_after}, but the store exists already")
    revision = int.from_bytes(stored, "big") if stored is not None else begin_after
    items = []
    for key, value in _rows(db, _DATA):
        written = int.from_bytes(value[:_REVISION_BYTES], "big")
        items.append(Versioned(key.decode(), value[_REVISION_BYTES:], written))
    newest = max((item.revision for item in items), default=0)
    if newest > revision:
        raise CorruptStorageError(f"a key has revision {newest}, the store only {revision}")
    return Tables(items, revision, history_events_max)


def _rows(db: Rdict, table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All rows whose key starts with `table`, in key order, without it."""
    for key, value in cast("Iterator[tuple[bytes, bytes]]", db.items(from_key=table)):
        if not key.startswith(table):
            return
        yield key[len(table) :], value
