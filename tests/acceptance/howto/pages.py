"""How-to pages as data: the changes and the commands that stand in them, and a tree to try them in.

A `diff` block is `+++ PATH`, then hunks apart by lines of `@@`: ` ` stays, `-` goes, `+` comes.
A `bash` block is the commands that prove the change.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs" / "how-to").glob("add-*.md"))

BLOCK = re.compile(r"^```(diff|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COPIED = ("profiler", "sharder", "logstore", "coordinator", "bench", "docs", "tests")


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines of one file that become others; `before` empty: a new file. `page`: who quotes them."""

    path: str
    before: str
    after: str
    page: str


@dataclass(frozen=True, slots=True)
class Page:
    """What a reader does: the hunks in their order, then the commands."""

    hunks: list[Hunk]
    commands: list[str]


def page_of(text: str, name: str) -> Page:
    """The blocks of a page. ValueError for a diff that is none."""
    hunks: list[Hunk] = []
    commands: list[str] = []
    for kind, body in BLOCK.findall(text):
        if kind == "bash":
            commands += [line.partition("  #")[0].strip() for line in body.splitlines()]
            continue
        first, *lines = body.splitlines()
        if not first.startswith("+++ "):
            raise ValueError(f"a diff begins with {first!r}, not with +++ PATH")
        for part in "\n".join(lines).split("\n@@\n"):
            hunks.append(_hunk(name, first.removeprefix("+++ "), part.splitlines()))
    return Page(hunks, [command for command in commands if command])


def _hunk(page: str, path: str, lines: list[str]) -> Hunk:
    unknown = [line for line in lines if line and line[0] not in " -+"]
    if unknown:
        raise ValueError(f"{path}: {unknown[0]!r} is no line of a diff")
    before = [line[1:] for line in lines if line[:1] != "+"]
    after = [line[1:] for line in lines if line[:1] != "-"]
    return Hunk(path, _joined(before), _joined(after), page)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def scratch_tree(folder: Path) -> Path:
    """A copy of the packages, their docs and tests."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def apply(tree: Path, hunk: Hunk) -> None:
    """Change the tree. ValueError when the lines are not there exactly once."""
    path = tree / hunk.path
    if not hunk.before:
        if path.exists():
            raise ValueError(f"{hunk.path} exists, a new file was meant")
        path.write_text(hunk.after)
        return
    text = path.read_text()
    if (found := text.count(hunk.before)) != 1:
        raise ValueError(
            f"you changed lines that docs/how-to/{hunk.page} quotes: update its context\n"
            f"{hunk.path} has these lines {found} times, not once:\n{hunk.before}"
        )
    path.write_text(text.replace(hunk.before, hunk.after))
