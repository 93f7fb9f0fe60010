"""Results of a long run, kept in a folder: it runs in pieces, and no run is run again."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import msgspec

from tests.simulation.corpus import Run
from tests.simulation.run import Result

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("logstore", "coordinator", "sharder", "profiler", "tests/checkers", "tests/simulation")
STORY_LINES = 120
"""Kept of a run that failed."""


class OtherRunError(Exception):
    """The folder holds results of other sources or settings."""


class About(msgspec.Struct, frozen=True):
    """What the results of a piece depend on, beside the seed: the first line of its file."""

    sources: str
    settings: list[str]


def about(settings: Iterable[str]) -> About:
    """Of a run with these settings and the sources as they are."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return About(digest.hexdigest(), list(settings))


class Saved:
    """A file of JSON lines for each piece; pieces may run at the same time."""

    def __init__(self, folder: Path, of: About) -> None:
        """Read what is there; OtherRunError where it is about another run than `of`."""
        self._folder, self._of = folder, of
        self._lines: dict[Run, bytes] = {}
        self._file: IO[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("*.jsonl")):
            self._read(file)

    def __contains__(self, run: Run) -> bool:
        return run in self._lines

    def __getitem__(self, run: Run) -> Result:
        return msgspec.json.decode(self._lines[run], type=Result)

    def keep(self, result: Result) -> None:
        """Write it down now."""
        story = [] if result.ok else result.story[-STORY_LINES:]
        line = msgspec.json.encode(dataclasses.replace(result, story=story))
        self._lines[Run(result.seed, result.mutation)] = line
        if self._file is None:
            self._file = self._create()
        self._file.write(line + b"\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _create(self) -> IO[bytes]:
        """A file that no other piece has."""
        number = 1
        while True:
            try:
                file = (self._folder / f"piece-{number}.jsonl").open("xb")
            except FileExistsError:
                number += 1
            else:
                file.write(msgspec.json.encode(self._of) + b"\n")
                return file

    def _read(self, file: Path) -> None:
        head, *lines = file.read_bytes().split(b"\n")[:-1] or [b""]  # the last one may be torn
        if not head:
            return
        found = msgspec.json.decode(head, type=About)
        if found != self._of:
            raise OtherRunError(f"{file} is of {_text(found)}, this run of {_text(self._of)}")
        for line in lines:
            run = msgspec.json.decode(line, type=Run)
            self._lines[run] = line


def _text(of: About) -> str:
    return f"sources {of.sources} with {' '.join(of.settings)}"
