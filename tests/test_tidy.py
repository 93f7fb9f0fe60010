"""The tree's own rules: words, names, sizes, circles. Each check names what breaks it and where."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.support.replica_paths import copy_members, paths_by_module

ROOT = Path(__file__).parents[1]
PACKAGES = ("profiler", "sharder", "logstore", "coordinator", "bench")
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
REPLICA_PATHS_MAX = 42
"""Attributes of `Replica` that other modules of an instance reach: the count only falls."""
COPY_MEMBERS_MAX = 13
"""Members of `Copy` that parts of a copy use: more, and it is a second `Replica`."""

NAMES_OF_TWO_CLASSES: Mapping[str, str] = {}
"""Class names that more than one module defines, with the reason."""

LONG_FUNCTIONS: Mapping[str, str] = {
    "bench.forecast_table.verdicts": "a list of checks, one after the other",
    "coordinator.cli.logs.create": "its options",
    "coordinator.cli.recover.recover": "its options",
    "coordinator.cli.serve.up": "its options",
    "coordinator.cli.simulate.simulate_command": "its options",
    "coordinator.planning.views.make_view": "a list of facts, one after the other",
}
"""Functions above FUNCTION_LINES_MAX, with the reason."""

CIRCLES: tuple[frozenset[str], ...] = ()
"""Import circles that are accepted, with the reason."""

TASKS_ELSEWHERE: Mapping[str, str] = {
    "coordinator.planning.loop": "asks all instances at once, each may fail by itself",
    "coordinator.replicas.drain_service": "asks all primaries at once, each may fail by itself",
}
"""Modules that make or gather tasks beside `logstore.base.background`, with the reason."""

NOT_ENGLISH = ("reign", "hence", "whom", "shall", "unawares", "reckoned", "nothing to it")
"""Words that plain English does without; docs/contributing/style.md says what to write."""
SAID_BETTER = ("told", "foretold", "reckons?", "reckoning", "nobody", "whoever")
"""Words for which there is a better one: report and answer, the passive, the party's name."""
NOT_READ_YET: set[str] = set()
"""Modules that still use one of them."""
QUOTING = {"CHANGELOG.md", "docs/contributing/style.md", "docs/measurements/simulation.md"}
"""Pages that name such words, or keep what a release or a run said."""


def modules(*tops: str) -> list[Path]:
    """The hand-written modules below these folders."""
    found = (p for top in tops for p in sorted((ROOT / top).rglob("*.py")))
    return [p for p in found if not p.stem.endswith(("_pb2", "_pb2_grpc"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a module, by line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(io.BytesIO(file.read()).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                yield token.start[0], token.string


def identifiers(path: Path) -> set[str]:
    nodes = list(ast.walk(tree(path)))
    return {
        *(n.id for n in nodes if isinstance(n, ast.Name)),
        *(n.attr for n in nodes if isinstance(n, ast.Attribute)),
        *(
            n.name
            for n in nodes
            if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ),
        path.name,
    }


def words_that_left() -> list[str]:
    """The words in code style in the glossary's column "not"."""
    lines = (ROOT / "docs/glossary.md").read_text().splitlines()
    last = [line.rsplit("|", 2)[1] for line in lines if line.startswith("| ")]
    return [word for cell in last for word in re.findall(r"`([^`]+)`", cell)]


def test_no_identifier_is_a_word_that_the_glossary_replaced() -> None:
    left = set(words_that_left())
    assert {"reign", "Door", "CellWork"} <= left
    found = {str(p): identifiers(p) & left for p in modules(*PACKAGES, "tests")}
    assert {path: names for path, names in found.items() if names} == {}


def words_found(text: str) -> list[str]:
    """The words in a text that do not belong; code in it (`told`, {told}, "told") is not read."""
    bare = re.sub(r"```.*?```|`[^`\n]*`|\{[^{}]*\}|^\"\w+\"$", "", text, flags=re.DOTALL)
    return re.findall(rf"\b(?:{'|'.join(NOT_ENGLISH + SAID_BETTER)})\b", bare, re.IGNORECASE)


def test_no_comment_and_no_text_uses_a_word_that_plain_english_does_without() -> None:
    assert words_found("it shall end; nobody reckons") == ["shall", "nobody", "reckons"]
    assert words_found('"told"') == words_found("`told`, {told}, retold") == []
    found = {
        str(p.relative_to(ROOT)): words
        for p in modules(*PACKAGES)
        if (words := [w for _, text in prose(p) for w in words_found(text)])
    }
    assert set(found) <= NOT_READ_YET, found


def test_no_page_uses_a_word_that_plain_english_does_without() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 30
    found = {
        name: words
        for p in pages
        if (words := words_found(p.read_text()))
        and (name := str(p.relative_to(ROOT))) not in QUOTING
    }
    assert found == {}


def test_a_class_name_is_used_once() -> None:
    seen = defaultdict(set)
    for path in modules(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                seen[node.name].add(name_of(path))
    twice = {name for name, where in seen.items() if len(where) > 1}
    assert twice == set(NAMES_OF_TWO_CLASSES), {name: seen[name] for name in sorted(twice)}


def test_no_module_is_too_long() -> None:
    lines = {str(p): len(p.read_text().splitlines()) for p in modules(*PACKAGES, "tests")}
    assert {path: count for path, count in lines.items() if count > MODULE_LINES_MAX} == {}


def test_no_function_is_too_long() -> None:
    found = set()
    for path in modules(*PACKAGES, "tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX:
                    found.add(f"{name_of(path)}.{node.name}")
    assert found == set(LONG_FUNCTIONS)


def test_few_attributes_of_a_copy_are_reached_from_outside() -> None:
    reached = paths_by_module()
    assert len(set().union(*reached.values())) <= REPLICA_PATHS_MAX, reached


def test_a_copy_is_a_small_thing_to_its_parts() -> None:
    used = copy_members()
    assert {"appends/append_gate.py", "replication/catch_up.py"} <= used.keys()
    assert len(set().union(*used.values())) <= COPY_MEMBERS_MAX, used


def test_every_package_says_what_lives_there() -> None:
    empty = [
        str(p.relative_to(ROOT))
        for p in modules(*PACKAGES)
        if p.name == "__init__.py" and not ast.get_docstring(tree(p))
    ]
    assert empty == []


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, anywhere in it, for types too."""
    known = {name_of(p): p for p in modules(*PACKAGES)}
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name].add(whole if whole in known else node.module)
            elif isinstance(node, ast.Import):
                found[name].update(alias.name for alias in node.names)
    return {name: {other for other in others if other in known} for name, others in found.items()}


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected parts of more than one node (Tarjan), without recursion."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()
    for start in graph:
        work = [(start, iter(sorted(graph[start])))] if start not in number else []
        if work:
            number[start] = low[start] = len(number)
            stack.append(start)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    work.append((other, iter(sorted(graph.get(other, set())))))
                    break
                if other in stack:
                    low[node] = min(low[node], number[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    part = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    if len(part) > 1:
                        found.add(frozenset(part))
    return found


def test_the_finder_of_circles_finds_them() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == {frozenset("abc")}
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()


def test_modules_import_in_no_circle_for_types_either() -> None:
    assert circles(imports()) == set(CIRCLES)


def rooms(depth: int) -> dict[str, set[str]]:
    """The imports between rooms whose names have `depth` parts, within the package around them; a
    module beside the rooms is one by itself."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, others in imports().items():
        for other in others:
            mine, its = name.split(".")[:depth], other.split(".")[:depth]
            if mine != its and mine[:-1] == its[:-1] and len(its) == depth:
                found[".".join(mine)].add(".".join(its))
    return dict(found) | {room: set() for others in found.values() for room in others - set(found)}


@pytest.mark.parametrize("depth", [2, 3])
def test_rooms_import_in_no_circle(depth: int) -> None:
    assert circles(rooms(depth)) == set()


# ---- ports ---------------------------------------------------------------------------------------

COMMANDS = ("cli/doctor", "cli/verify", "local/cluster", "local/survey", "local/demo/run",
            "local/demo/watch")  # fmt: skip
"""Modules of the coordinator that make a call or two and end."""


def imported(path: Path) -> set[str]:
    """Full names that a module imports: modules, and names out of modules."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_what_runs_for_long_reaches_others_by_its_transport_alone() -> None:
    opener = "logstore.proto.channel.open_channel"
    found = {name_of(p) for p in modules("logstore", "coordinator") if opener in imported(p)}
    commands = {f"coordinator.{path.replace('/', '.')}" for path in COMMANDS}
    assert found == {"logstore.proto.transport", *commands}


def test_the_simulator_can_patch_only_the_bounds_that_it_lowers() -> None:
    ours = {name_of(p) for p in modules(*PACKAGES)}
    found = {p.name for p in modules("tests/simulation") if imported(p) & ours}
    assert found == {"limits.py"}


def makes_tasks(path: Path) -> bool:
    """Whether it creates tasks, or gathers what it has cancelled: both are a Background's."""
    calls = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    return any(
        isinstance(call.func, ast.Attribute)
        and (
            call.func.attr in ("create_task", "ensure_future", "TaskGroup")
            or any(keyword.arg == "return_exceptions" for keyword in call.keywords)
        )
        for call in calls
    )


def test_tasks_belong_to_a_background() -> None:
    """A task that is created in passing ends unseen, or outlives who created it."""
    found = {name_of(p) for p in modules("profiler", "sharder", "logstore", "coordinator")
             if makes_tasks(p)}  # fmt: skip
    assert found == {"logstore.base.background", *TASKS_ELSEWHERE}
