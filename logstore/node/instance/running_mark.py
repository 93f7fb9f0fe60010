"""A file in the data directory while a process runs there: left behind by one that was killed."""

from pathlib import Path

FILE = "running"


class RunningMark:
    """Of one process. `unclean`: the one before it did not stop in order."""

    def __init__(self, data: Path) -> None:
        self._path = data / FILE
        self.unclean = self._path.exists()

    def set(self) -> None:
        """From here on a kill is seen by the next start."""
        if self._path.parent.is_dir():
            self._path.touch()

    def clear(self) -> None:
        """The process has stopped in order."""
        self._path.unlink(missing_ok=True)
