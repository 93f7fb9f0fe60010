"""Every command and option that README and docs show is one that there is."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.__main__ import build
from coordinator.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")),
]  # fmt: skip
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
MADE = re.compile(r"^\+@\w+\.command\(\"([\w-]+)\"\)", re.MULTILINE)
"""A command that a how-to adds in a scratch copy; tests/acceptance/howto runs it there."""
STARTS = ("logstore", "make", "python")
SHELL_ENDS = {"|", "&&", "||", ";", ">", ">>", "<", "2>", "&", "#"}
OF_OTHERS = {"--auto-compaction-retention"}
"""Options of programs that are not ours: etcd's."""
NOWHERE = "logstore.no.such"
TOP = typer.main.get_command(app)


@cache
def benches() -> Any:
    """`python -m bench`, with all its commands."""
    return typer.main.get_command(build([]))


def shown(text: str) -> Iterator[str]:
    """Lines of code blocks and inline code that begin with a command."""
    for block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line.strip().removeprefix("$ ") for line in lines)
    yield from INLINE.findall(BLOCK.sub("", text))


def commands(text: str) -> Iterator[list[str]]:
    """Each as its words, up to where the shell takes over."""
    for line in shown(text):
        if line.partition(" ")[0] not in STARTS:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            words = list(lexer)
        except ValueError:  # a quotation that goes on in the next line
            words = line.split()
        end = next((n for n, word in enumerate(words) if word in SHELL_ENDS), len(words))
        yield words[:end]


def alternatives(word: str) -> list[str]:
    """`[--a|--b]` is two words of which a reader takes one; a value after = is none of ours."""
    return [w.partition("=")[0] for w in re.split(r"[|,]", word.strip("[]().…")) if w]


def wrong(words: list[str]) -> str | None:
    """What is not there; None: it is all there."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        named = [w for w in words[1:] if re.fullmatch(r"[a-z][\w-]*", w)]
        return next((f"target {w}" for w in named[:1] if w not in targets), None)
    if words[0] == "python":
        module = words[2] if words[1:2] == ["-m"] and len(words) > 2 else None
        if module == "bench":
            return _wrong_of([benches()], words[3:])
        return f"module {module}" if module is not None and not _is_there(module) else None
    return _wrong_of([TOP], words[1:])


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is its package
        return False


def _wrong_of(found: list[Any], words: list[str]) -> str | None:
    while words and hasattr(found[0], "commands"):
        names = [n for n in alternatives(words[0]) if not n.startswith("-")]
        if not names:
            break
        here = [child for one in found for n in names if (child := _child(one, n)) is not None]
        if len(here) != len(names):
            return f"command {words[0]}"
        found, words = here, words[1:]
    known = {o for one in found for p in one.params for o in (*p.opts, *p.secondary_opts)}
    if getattr(found[0], "context_settings", {}).get("ignore_unknown_options"):
        return None  # it passes them on: tests/process/cli/test_addresses.py has those
    for word in words:
        if word == "--":
            return None
        for option in alternatives(word):
            if re.match(r"--?[a-z]", option) and option not in known | {"--help"}:
                return f"option {option}"
    return None


def _child(group: Any, name: str) -> Any:
    return getattr(group, "commands", {}).get(name)


def every_option(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from every_option(child)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_commands_that_are_there(page: Path) -> None:
    text = page.read_text()
    made = {f"command {name}" for name in MADE.findall(text)}
    found = {" ".join(words): wrong(words) for words in commands(text)}
    assert {command: why for command, why in found.items() if why and why not in made} == {}


@cache
def declared() -> set[str]:
    """Options of our other programs: bench, simulator, checks."""
    sources = [p.read_text() for top in ("bench", "tests", "coordinator", "scripts")
               for p in (ROOT / top).rglob("*.py")]  # fmt: skip
    return {o for text in sources for o in re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_option_that_stands_alone_is_one_of_some_command(page: Path) -> None:
    settings = (ROOT / "docs" / "reference" / "settings.md").read_text()
    known = {
        *every_option(TOP),
        *every_option(benches()),
        *re.findall(r"`(--[\w-]+)`", settings),
        *declared(),
        *OF_OTHERS,
    }
    inline = INLINE.findall(BLOCK.sub("", page.read_text()))
    named = {o for text in inline for o in re.findall(r"^--[a-z][\w-]*", text)}
    assert named - known == set()


def test_many_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page.read_text())]
    assert len([words for words in found if words[0] == "logstore"]) > 100


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("logstore stats --heat", "option --heat"),
        ("logstore sttas", "command sttas"),
        ("logstore log creat x", "command creat"),
        ("logstore log delete orders --dry-run|--nwo", "option --nwo"),
        ("logstore move orders/0 b --option=ramp_step=1 --watch", None),
        ("logstore append orders -- --key", None),
        ("make no-such-target", "target no-such-target"),
        ("python -m bench migrate --quik", "option --quik"),
        (f"python -m {NOWHERE}", f"module {NOWHERE}"),
    ],
)
def test_what_is_not_there_is_named(line: str, why: str | None) -> None:
    assert wrong(next(commands(f"```\n{line}\n```\n"))) == why
