"""Where the logs of a directory end, in a second place: the file ENDS beside the database.

RocksDB takes a damaged last record of its WAL for an unfinished one, and drops it without
an error; a deleted file takes its records with it. So each copy has a slot here: how far its
log was written, and its identity. The engine writes a slot after the write to the WAL returned, so
after a kill -9 the log is at least as long as its mark; a shorter log has lost records.
Every operation that shortens a log (truncate, drop) is marked before, for the same reason.

| at | bytes | content |
|---|---|---|
| 0 | 20 | replica u64, end u64, crc32 over both |
| 32 | 8 | length u32, crc32 u32 of the rest |
| 40 | up to 472 | the `Copy` as msgpack |

The file is mapped: a mark costs under a microsecond, and the kernel keeps it when the process dies.
A slot with a wrong check word (torn, damaged, never used) is ignored.
"""

import contextlib
import errno
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec

from logstore.base.errors import StorageError, StorageFullError
from logstore.base.types import Position
from logstore.engine.port import ReplicaMeta

ENDS = "ENDS"
SLOT_BYTES = 512
_GROW_SLOTS = 128
_COPY_AT = 32
_COPY_BYTES_MAX = SLOT_BYTES - _COPY_AT - 8

_MARK = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<II")
_MARK_BYTES = _MARK.size + _CRC.size


@dataclass(frozen=True, slots=True)
class CopyIdentity:
    """The identity of a copy: enough to read its log when the family that names it is damaged."""

    shard: str
    key_index: bool
    base: Position


@dataclass(frozen=True, slots=True)
class CopyMark:
    end: int
    copy: CopyIdentity | None
    """None: this part of the slot is not valid."""


def read(directory: Path) -> dict[int, CopyMark]:
    """The marks by replica id; empty if there is no file."""
    with contextlib.suppress(FileNotFoundError):
        data = (directory / ENDS).read_bytes()
        return {replica_id: mark for _, replica_id, mark in _slots(data)}
    return {}


class Marks:
    """The open file. Changed under the engine's lock only; `flush` under none."""

    def __init__(self, directory: Path) -> None:
        """Raises StorageFullError if there is no space for the file, else StorageError."""
        self._path = directory / ENDS
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._at: dict[int, int] = {}
        self._free: list[int] = []
        self.known: dict[int, CopyMark] = {}
        """The marks of the file at open."""
        try:
            size = os.fstat(self._fd).st_size // SLOT_BYTES * SLOT_BYTES
            self._map = self._mapped(size or _GROW_SLOTS * SLOT_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        for at, replica_id, mark in _slots(self._map):
            self._at[replica_id] = at
            self.known[replica_id] = mark
        used = set(self._at.values())
        self._free = [at for at in range(0, len(self._map), SLOT_BYTES) if at not in used]

    def set_end(self, replica_id: int, end: int) -> None:
        """The log was written up to `end`."""
        at = self._at[replica_id]
        packed = _MARK.pack(replica_id, end)
        self._map[at : at + _MARK_BYTES] = packed + _CRC.pack(crc32(packed))

    def put(self, meta: ReplicaMeta, key_index: bool, end: int) -> None:
        """Give the copy a slot, or renew the content of its slot."""
        if meta.replica_id not in self._at:
            if not self._free:
                self._grow()
            self._at[meta.replica_id] = self._free.pop(0)
        copy = msgspec.msgpack.encode(CopyIdentity(meta.shard, key_index, meta.base))
        if len(copy) > _COPY_BYTES_MAX:
            copy = b""
        at = self._at[meta.replica_id] + _COPY_AT
        packed = _HEAD.pack(len(copy), crc32(copy)) + copy
        self._map[at : at + len(packed)] = packed
        self.set_end(meta.replica_id, end)

    def forget(self, replica_id: int) -> bytes:
        """The copy is about to be dropped: its absence is no loss then. For `put_back`."""
        at = self._at.pop(replica_id, None)
        if at is None:
            return b""
        before = self._map[at : at + SLOT_BYTES]
        self._map[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
        self._free.append(at)
        self.known.pop(replica_id, None)
        return before

    def put_back(self, replica_id: int, slot: bytes) -> None:
        """It was not dropped."""
        if slot:
            at = self._at[replica_id] = self._free.pop()
            self._map[at : at + SLOT_BYTES] = slot

    def flush(self) -> None:
        """Sync the marks to the disk."""
        try:
            os.fdatasync(self._fd)
        except OSError as e:
            raise StorageError(f"{self._path}: {e}") from e

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def _grow(self) -> None:
        before = len(self._map)
        grown = self._mapped(before + _GROW_SLOTS * SLOT_BYTES)
        self._map.close()
        self._map = grown
        self._free = list(range(before, len(grown), SLOT_BYTES))

    def _mapped(self, size: int) -> mmap.mmap:
        """The file, of this size; its blocks are allocated before they are written through the map,
        where a full disk would be a signal that ends the process."""
        try:
            os.posix_fallocate(self._fd, 0, size)
            return mmap.mmap(self._fd, size)
        except OSError as e:
            full = StorageFullError if e.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
            raise full(f"{self._path}: {e}") from e


def _slots(data: bytes | mmap.mmap) -> "list[tuple[int, int, CopyMark]]":
    """(place, replica id, mark) of each valid slot."""
    found = []
    for at in range(0, len(data) // SLOT_BYTES * SLOT_BYTES, SLOT_BYTES):
        slot = data[at : at + SLOT_BYTES]
        if not any(slot[:_MARK_BYTES]):
            continue
        replica_id, end = _MARK.unpack_from(slot)
        if _CRC.unpack_from(slot, _MARK.size)[0] == crc32(slot[: _MARK.size]):
            found.append((at, replica_id, CopyMark(end, _copy(slot))))
    return found


def _copy(slot: bytes) -> CopyIdentity | None:
    length, crc = _HEAD.unpack_from(slot, _COPY_AT)
    packed = slot[_COPY_AT + _HEAD.size :][:length]
    if not packed or crc32(packed) != crc:
        return None
    return msgspec.msgpack.decode(packed, type=CopyIdentity)
