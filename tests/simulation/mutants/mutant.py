"""A deliberate fault as data: which snippet of which function becomes what."""

import ast
import textwrap
from dataclasses import dataclass
from pathlib import Path


class DoesNotApplyError(Exception):
    """The code changed: a file, a function or a snippet of a mutant is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `before` by `after` in one function.

    `function` is a qualified name (`Class.method`), a class for its own body, or "" for the module.
    White space does not count when `before` is looked for; it must be there exactly once.
    """

    file: str
    function: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """`what`: the fault in one sentence, with the rules that it breaks.

    `splits`: its seeds have splits and merges. `mistakes`: an operator errs in its seeds, in a way
    with this in its name. `behind`: it cannot be seen; the rule that stands behind the removed one.
    """

    number: int
    name: str
    what: str
    edits: tuple[Edit, ...]
    splits: bool = False
    mistakes: str | None = None
    behind: str = ""

    @property
    def title(self) -> str:
        return f"{self.number:02} {self.name}"

    def flags(self) -> list[str]:
        """Of `python -m tests.simulation`."""
        mistakes = [] if self.mistakes is None else [f"--mistakes={self.mistakes}"]
        return [*(["--splits"] if self.splits else []), *mistakes]

    def apply(self, root: Path) -> None:
        """Change the tree at `root`; `DoesNotApplyError` when the code is another one."""
        for edit in self.edits:
            path = root / edit.file
            if not path.is_file():
                raise DoesNotApplyError(f"{self.title}: no file {edit.file}")
            try:
                changed = replaced(path.read_text(encoding="utf-8"), edit)
            except DoesNotApplyError as e:
                raise DoesNotApplyError(f"{self.title}: {edit.file}: {e}") from None
            path.write_text(changed, encoding="utf-8")


def replaced(source: str, edit: Edit) -> str:
    """The source after the edit, which still parses."""
    first, last = _lines_of(source, edit.function)
    lines = source.splitlines(keepends=True)
    start = sum(map(len, lines[: first - 1]))
    body = "".join(lines[first - 1 : last])
    begin, end = _only_match(body, edit)
    line = body[body.rfind("\n", 0, begin) + 1 :]
    indent = line[: len(line) - len(line.lstrip())]
    after = textwrap.dedent(edit.after).strip().replace("\n", "\n" + indent)
    if "".join(after.split()) == "".join(edit.before.split()):
        raise DoesNotApplyError(f"{edit.function}: the edit changes nothing")
    changed = source[: start + begin] + after + source[start + end :]
    try:
        ast.parse(changed)
    except SyntaxError as e:
        raise DoesNotApplyError(f"{edit.function}: what comes out does not parse: {e}") from None
    return changed


def _lines_of(source: str, function: str) -> tuple[int, int]:
    """First and last line of a function or class, from 1; decorators are left out."""
    node: ast.AST = ast.parse(source)
    if not function:
        return 1, len(source.splitlines())
    for name in function.split("."):
        found = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and child.name == name
        ]
        if len(found) != 1:
            raise DoesNotApplyError(f"{len(found)} functions {function}")
        node = found[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return node.lineno, node.end_lineno or node.lineno


def _only_match(body: str, edit: Edit) -> tuple[int, int]:
    """Where `before` stands in the function's text, whatever its line breaks and indents are."""
    places = [i for i, char in enumerate(body) if not char.isspace()]
    compact, wanted = "".join(body[i] for i in places), "".join(edit.before.split())
    found: list[tuple[int, int]] = []
    at = compact.find(wanted) if wanted else -1
    while at >= 0:
        begin, end = places[at], places[at + len(wanted) - 1] + 1
        if not (_cuts_a_word(body, begin) or _cuts_a_word(body, end)):
            found.append((begin, end))
        at = compact.find(wanted, at + 1)
    if len(found) != 1:
        raise DoesNotApplyError(f"{edit.function} has the snippet {len(found)} times")
    return found[0]


def _cuts_a_word(text: str, at: int) -> bool:
    around = text[max(at - 1, 0) : at + 1]
    return len(around) == 2 and all(char.isalnum() or char == "_" for char in around)
