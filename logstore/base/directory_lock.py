"""One owner for a directory."""

import contextlib
import fcntl
import os
from pathlib import Path

from logstore.base.errors import DirectoryInUseError


class DirectoryLock:
    """An flock on a file in the directory, held until `release` or until the process ends.

    The file says which process has it, for messages only. It is never deleted.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Take the directory, which is made if it is missing; `name`: of the file.

        DirectoryInUseError at once if somebody has it; OSError if it cannot be made or locked.
        """
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            raise DirectoryInUseError(
                f"data directory {directory} is in use by another process ({owner or 'unknown'})"
            ) from None
        except OSError:
            os.close(fd)
            raise
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd

    def share(self) -> "DirectoryLock":
        """A second hold of the same owner: the directory is free when both are released."""
        other = object.__new__(DirectoryLock)
        other._fd = os.dup(self._fd)
        return other

    def release(self) -> None:
        """Once."""
        os.close(self._fd)
