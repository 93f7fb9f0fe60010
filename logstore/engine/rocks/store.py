"""RocksDB with our options, errors, lock and fsync. Knows bytes, not batches.

- WAL recovery is `tolerate_corrupted_tail_records`: the default (point in time) drops everything
  after a damaged middle without an error; this refuses to open, and still accepts a torn tail.
- `data` keeps large values in blob files: they are written once and not rewritten by compaction.
- A write stall would hold the GIL (rocksdict holds it inside write), so there is room for several
  memtables and many small files in level 0 before RocksDB slows writes down.
- A damaged file is contained: a compaction that meets it would stop every write of the directory
  (RocksDB's "unrecoverable" background error), so compactions are switched off and the marker
  DAMAGED asks the next open to rebuild the directory (`salvage`).
- No space: RocksDB refuses writes, goes on serving reads, looks for space every 5 s and resumes by
  itself; we only name the cause.
"""

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import rocksdict

from logstore.base.directory_lock import DirectoryLock
from logstore.base.errors import (
    CorruptStorageError,
    StorageError,
    StorageFullError,
)

DATA, META, PRODUCERS, COUNTS, INDEX = "data", "meta", "producers", "counts", "index"
FAMILIES = (DATA, META, PRODUCERS, COUNTS, INDEX)

WRITE_BUFFER_BYTES = 64 * 1024 * 1024
BLOCK_CACHE_BYTES = 64 * 1024 * 1024
WAL_BYTES_MAX = 256 * 1024 * 1024
"""WAL that an open has to replay at most; above it RocksDB flushes the oldest memtables."""
BLOB_BYTES_MIN = 2_048
"""Smaller values stay in the tables: a blob each would cost a seek per record read."""
DAMAGED = "DAMAGED"
"""Name of the marker file; it holds the reason."""


class Store:
    """One open database directory. Reads need no lock; RocksDB orders concurrent writes itself."""

    def __init__(
        self,
        path: Path,
        write_buffer_bytes: int,
        block_cache_bytes: int,
        *,
        salvage: bool = False,
        lock: DirectoryLock | None = None,
    ) -> None:
        """`salvage`: for reading out all readable data: damaged WAL records are skipped,
        compactions are off. `lock`: from `lock_directory`; it is released with the store."""
        self.path = path
        self._contained = salvage
        self._lock = lock or lock_directory(path)
        self._wal = _WalSync(path / "wal")
        try:
            with self.errors():
                self._db = rocksdict.Rdict(
                    str(path),
                    _db_options(path, write_buffer_bytes, salvage),
                    column_families=_family_options(write_buffer_bytes, block_cache_bytes, salvage),
                )
                self.families = {f: self._db.get_column_family(f) for f in FAMILIES}
                self.handles = {f: self._db.get_column_family_handle(f) for f in FAMILIES}
        except BaseException:
            self._lock.release()
            raise
        self._unsynced = rocksdict.WriteOptions()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn RocksDB's and the system's errors into ours, naming the path."""
        try:
            yield
        except (OSError, rocksdict.DbClosedError) as e:
            raise self.error_of(e) from e
        except Exception as e:
            if type(e) is not Exception:  # rocksdict raises the bare class, others are not its
                raise
            raise self.error_of(e) from e

    def error_of(self, error: Exception) -> StorageError:
        """Our error for one of RocksDB's; damage is contained at once."""
        found = map_error(error, self.path)
        if isinstance(found, CorruptStorageError):
            self.contain(found.message)
        return found

    @property
    def contained(self) -> bool:
        """True after damage was found: compactions are off until the directory was rebuilt."""
        return self._contained

    def contain(self, reason: str) -> None:
        """Switch compactions off, and ask the next open to rebuild."""
        if self._contained or not hasattr(self, "families"):
            return
        self._contained = True
        for family in self.families.values():
            with contextlib.suppress(Exception):
                family.set_options({"disable_auto_compactions": "true"})
        with contextlib.suppress(OSError):
            (self.path / DAMAGED).write_text(reason)

    def batch(self) -> "Batch":
        return Batch(self)

    def write(self, batch: "Batch") -> None:
        """Apply atomically; in the page cache at return."""
        with self.errors():
            self._db.write(batch.raw, self._unsynced)

    def sync(self) -> None:
        """Sync earlier writes to the disk. One thread at a time."""
        with self.errors():
            self._wal.sync()

    def get(self, family: str, key: bytes) -> bytes | None:
        with self.errors():
            value: bytes | None = self.families[family].get(key)
            return value

    def get_many(self, family: str, keys: list[bytes]) -> list[bytes | None]:
        """The values of many keys in one call."""
        with self.errors():
            values: Any = self.families[family].get(cast("Any", keys))
            return cast("list[bytes | None]", values)

    def cursor(self, family: str, lower: bytes, upper: bytes) -> "Cursor":
        """An iterator over [lower, upper) that sees one point in time."""
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(upper)
        with self.errors():
            if family not in self.families:
                raise StorageError(f"{self.path} is closed")
            return Cursor(self.families[family].iter(options), options, lower, upper, self)

    def scan(
        self, source: "str | Cursor", lower: bytes, upper: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """Key and value pairs of [lower, upper) in order, of a family or as a cursor sees it."""
        cursor = self.cursor(source, lower, upper) if isinstance(source, str) else source
        cursor.seek(lower)
        while cursor.valid() and (key := cursor.key()) < upper:
            yield key, cursor.value()
            cursor.next()

    def starts(self) -> list[bytes]:
        """The first key of each table file, of any family."""
        with self.errors():
            return [file["start_key"] for file in self._db.live_files()]

    def flush(self, family: str) -> None:
        """Write the family's memtable to files (releases the GIL)."""
        with self.errors():
            self.families[family].flush()

    def reclaim(self, family: str, lower: bytes, upper: bytes) -> None:
        """Drop deleted data of a range from the files. Long; releases the GIL.

        Blob files go when nothing refers to them. Where deleted blobs share files with live ones
        (copies are written interleaved), live ones are moved once garbage passes a third of all.
        """
        if self._contained:
            return
        db = self.families[family]
        with self.errors():
            db.flush()
            db.compact_range(lower, upper, _forced())
            if family == DATA and self._garbage_share() > 1 / 3:
                db.set_options({"blob_garbage_collection_age_cutoff": "1.0"})
                try:
                    db.compact_range(None, None, _forced())
                finally:
                    db.set_options({"blob_garbage_collection_age_cutoff": "0.25"})

    def _garbage_share(self) -> float:
        db = self.families[DATA]
        size = int(db.property_value("rocksdb.live-blob-file-size") or 0)
        garbage = int(db.property_value("rocksdb.live-blob-file-garbage-size") or 0)
        return garbage / size if size else 0.0

    def interrupt(self) -> None:
        """Stop compactions, also one that `reclaim` waits for; no data is lost."""
        with contextlib.suppress(Exception):
            self._db.cancel_all_background(False)

    def close(self) -> None:
        """Close the database and free the directory. Cursors and snapshots must be gone."""
        self.handles.clear()
        self.families.clear()
        if self._contained:
            gc.collect()  # the frames of an error may hold a cursor, which keeps the database open
        try:
            with self.errors():
                self._db.close()
        except StorageError as e:
            # After `interrupt` RocksDB does not flush; all it holds is in the WAL.
            if "Shutdown in progress" not in e.message and not self._contained:
                raise
        finally:
            self._wal.close()
            self._lock.release()


class Batch:
    """A RocksDB WriteBatch over the column families."""

    def __init__(self, store: Store) -> None:
        self.raw = rocksdict.WriteBatch(raw_mode=True)
        self._handles = store.handles
        if not self._handles:
            raise StorageError(f"{store.path} is closed")

    def put(self, family: str, key: bytes, value: bytes) -> None:
        self.raw.put(key, value, self._handles[family])

    def delete(self, family: str, key: bytes) -> None:
        self.raw.delete(key, self._handles[family])

    def delete_range(self, family: str, lower: bytes, upper: bytes) -> None:
        if lower < upper:
            self.raw.delete_range(lower, upper, self._handles[family])


class Cursor:
    """A RocksDB iterator that keeps to [lower, upper) and cannot end silently on an error.

    It makes up for rocksdict 0.3.29: its iterators ignore a lower bound, and point into the
    ReadOptions for the upper one, which must live as long (else they skip existing keys).
    """

    def __init__(
        self,
        raw: rocksdict.RdictIter,
        options: rocksdict.ReadOptions,
        lower: bytes,
        upper: bytes,
        store: Store,
    ) -> None:
        self._raw = raw
        self._lower = lower
        self._upper = upper
        self._store = store
        self._key = b""
        self.next = raw.next
        self.seek = raw.seek
        self.seek_for_prev = raw.seek_for_prev
        self.seek_to_last = raw.seek_to_last
        self._options = options  # last, so that it is freed last

    def valid(self) -> bool:
        """Whether it stands on an entry; raises the error that stopped it early."""
        if self._raw.valid():
            self._key = self._raw.key()
            return self._lower <= self._key < self._upper
        try:
            self._raw.status()
        except Exception as e:
            raise self._store.error_of(e) from e
        return False

    def key(self) -> bytes:
        """The key at which `valid` found it."""
        return self._key

    def value(self) -> bytes:
        value: bytes = self._raw.value()
        return value


class _WalSync:
    """fdatasync of the WAL from the calling thread, which does not hold the GIL meanwhile.

    `WriteOptions.sync` holds it for the length of the disk's flush, and the event loop stops.
    Measured with 100 KB groups: as many groups a second either way (500-650), but another thread's
    lag is p50 0.1 ms, p99 4 ms with this and p50 5.7 ms, p99 12 ms with `sync`.
    A write may have gone to a new WAL file, or the one before it may have been rotated in between,
    so every file from the newest of last time on is synced; a file that is gone was flushed to
    tables. New files also need their directory entry on the disk.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._fds: dict[int, int] = {}
        self._newest = 0

    def sync(self) -> None:
        names = {int(n[:-4]): n for n in os.listdir(self._directory_fd) if n.endswith(".log")}
        for number in self._fds.keys() - names.keys():
            os.close(self._fds.pop(number))
        if not names.keys() <= self._fds.keys():
            os.fsync(self._directory_fd)
        for number in sorted(names):
            if number not in self._fds:
                with contextlib.suppress(FileNotFoundError):
                    self._fds[number] = os.open(
                        names[number], os.O_RDONLY, dir_fd=self._directory_fd
                    )
            if number >= self._newest and number in self._fds:
                os.fdatasync(self._fds[number])
        self._newest = max(names, default=0)

    def close(self) -> None:
        for fd in (*self._fds.values(), self._directory_fd):
            os.close(fd)
        self._fds.clear()


_GONE = re.compile(r"No such file or directory.*\d\.(sst|blob)")
"""A file that the database names and that is missing is damage like any other."""


def map_error(error: Exception, path: Path) -> StorageError:
    """Our error for one of RocksDB's (text only) or the system's."""
    text = str(error)
    if "No space left" in text or "Disk quota" in text:
        return StorageFullError(f"no space is left on the disk of {path}: {text}")
    if "Corruption" in text or _GONE.search(text):
        return CorruptStorageError(f"{path} is corrupt: {text}")
    return StorageError(f"{path}: {text or type(error).__name__}")


def lock_directory(path: Path) -> DirectoryLock:
    """Own the directory while the process lives; raises DirectoryInUseError."""
    try:
        return DirectoryLock(path, "IN_USE")
    except OSError as e:
        raise map_error(e, path) from e


def _db_options(path: Path, write_buffer_bytes: int, salvage: bool) -> rocksdict.Options:
    options = _base_options(write_buffer_bytes)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    modes = rocksdict.DBRecoveryMode
    options.set_wal_recovery_mode(
        modes.skip_any_corrupted_record() if salvage else modes.tolerate_corrupted_tail_records()
    )
    options.set_wal_dir(str(path / "wal"))
    options.set_max_total_wal_size(max(WAL_BYTES_MAX, 2 * write_buffer_bytes))
    options.set_paranoid_checks(not salvage)
    options.set_max_background_jobs(2)
    options.set_max_log_file_size(4 * 1024 * 1024)
    options.set_keep_log_file_num(4)
    options.set_max_open_files(1_024)
    options.set_bytes_per_sync(1024 * 1024)
    return options


def _base_options(write_buffer_bytes: int) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(6)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    return options


def _family_options(
    write_buffer_bytes: int, block_cache_bytes: int, salvage: bool
) -> dict[str, rocksdict.Options]:
    cache = rocksdict.Cache(block_cache_bytes)
    small = max(write_buffer_bytes // 4, 1024 * 1024)
    sizes = {DATA: write_buffer_bytes, INDEX: write_buffer_bytes // 2}
    families = {"default": _base_options(small)}
    for family in FAMILIES:
        options = _base_options(sizes.get(family, small))
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_bloom_filter(10, False)
        table.set_block_size(16 * 1024)
        options.set_block_based_table_factory(table)
        options.set_disable_auto_compactions(salvage)
        if family == DATA:
            options.set_enable_blob_files(True)
            options.set_min_blob_size(BLOB_BYTES_MIN)
            options.set_enable_blob_gc(True)
            options.set_blob_gc_age_cutoff(0.25)
        families[family] = options
    return families


def _forced() -> rocksdict.CompactOptions:
    options = rocksdict.CompactOptions()
    options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
    options.set_exclusive_manual_compaction(False)
    return options
