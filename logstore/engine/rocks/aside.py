"""Keeping the files of a damaged directory: an open may delete files that it cannot use.

RocksDB deletes files that its newest readable MANIFEST does not name, and a WAL once it was
replayed, however much of it could be read. So before an open every file of the database gets a
second name under `before/` (a hard link: it costs no space). If no record is missing afterwards
they are deleted; else they become `damaged-N/`, the newest KEPT_MAX of which stay until a person
deletes them.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog

from logstore.base.errors import CorruptStorageError
from logstore.engine.rocks import marks

KEPT_MAX = 2
_BEFORE = "before"
_KEPT = re.compile(r"damaged-(\d+)")
_DATABASE = re.compile(
    r"\d+\.(sst|blob|log|dbtmp)|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|CURRENT|IDENTITY|LOCK"
    r"|LOG(\.old\.\d+)?|rocksdict-config\.json|wal"
)
"""File names of RocksDB and rocksdict. Only those are replaced: other files in the
directory (the instance's identity, its markers) stay."""

_log = structlog.get_logger(__name__)


def is_database(name: str) -> bool:
    """Whether a file or folder of this name belongs to the database."""
    return _DATABASE.fullmatch(name) is not None


def unreadable(path: Path, why: str) -> CorruptStorageError:
    """The error of a directory that is refused as it is."""
    return CorruptStorageError(
        f"{path} cannot be read, and nothing in it was deleted: {why}. Put the missing or damaged "
        "files back from a copy, or move the directory away to start without it: its copies are "
        "learned again from other instances, those that have no other are lost"
    )


def check_there(path: Path) -> None:
    """Raise CorruptStorageError if there was a database here and its root is gone: RocksDB would
    make a new one, and delete the rest of the old one."""
    if (path / "CURRENT").exists():
        return
    left = sorted(
        str(f.relative_to(path))
        for f in _files(path)
        if f.suffix in (".sst", ".blob", ".log") and f.stat().st_size
    )
    copies = [
        f"{m.copy.shard if m.copy else '?'} replica {r} of {m.end} records"
        for r, m in marks.read(path).items()
    ]
    if left or copies:
        why = ["CURRENT is missing"]
        if left:
            why.append(f"{', '.join(left[:3])}{' and more' * (len(left) > 3)} are there")
        if copies:
            more = f" and {len(copies) - 3} more" * (len(copies) > 3)
            why.append(f"{marks.ENDS} names {', '.join(copies[:3])}{more}")
        raise unreadable(path, ", ".join(why))


def link(path: Path) -> None:
    """Give every file of the database its second name; a file that has one from an earlier,
    interrupted open keeps it."""
    before = path / _BEFORE
    (before / "wal").mkdir(parents=True, exist_ok=True)
    for file in _files(path):
        target = before / file.relative_to(path)
        with contextlib.suppress(FileExistsError):
            try:
                os.link(file, target)
            except FileExistsError:
                raise
            except OSError as e:  # a file system without links: only a rebuild keeps files then
                _log.warning("files cannot be linked", path=str(path), error=str(e))
                return
    if (path / marks.ENDS).exists() and not (before / marks.ENDS).exists():
        shutil.copy2(path / marks.ENDS, before / marks.ENDS)


def settle(path: Path, lost: str) -> None:
    """Keep the files from before the open if records are `lost`, except those that the database
    still uses; else delete them."""
    before = path / _BEFORE
    if lost:
        for file in _files(before):
            if file.stat().st_nlink > 1:
                file.unlink()
        promote(path, f"shorter than they were known to be: {lost}")
    else:
        shutil.rmtree(before, ignore_errors=True)


def move(path: Path) -> None:
    """Move the database's files away."""
    before = path / _BEFORE
    (before / "wal").mkdir(parents=True, exist_ok=True)
    for file in list(_files(path)):
        target = before / file.relative_to(path)
        file.unlink() if target.exists() else file.rename(target)
    for entry in path.iterdir():
        if is_database(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def promote(path: Path, why: str) -> None:
    """Keep the files under `before/` for inspection."""
    kept = sorted(
        (int(m[1]), p) for p in path.iterdir() if (m := _KEPT.fullmatch(p.name)) and p.is_dir()
    )
    target = path / f"damaged-{kept[-1][0] + 1 if kept else 1}"
    (path / _BEFORE / "WHY").write_text(why)
    (path / _BEFORE).rename(target)
    _log.warning("damaged files are kept aside", path=str(target), why=why)
    for _, old in kept[: len(kept) + 1 - KEPT_MAX]:
        _log.warning("older damaged files are deleted", path=str(old))
        shutil.rmtree(old, ignore_errors=True)


def _files(path: Path) -> Iterator[Path]:
    """The database's files below a directory, except its text logs and its lock."""
    for folder in (path, path / "wal"):
        with contextlib.suppress(FileNotFoundError):
            for entry in folder.iterdir():
                name = entry.name
                if is_database(name) and not name.startswith("LO") and not entry.is_dir():
                    yield entry
