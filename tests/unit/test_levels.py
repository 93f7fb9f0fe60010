"""A test's folder says what it starts: the lower levels start no process, and none is outside."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
LEVELS = {"unit", "contract", "simulation", "process", "cluster", "compose", "acceptance"}
OUTSIDE = {"models", "test_rules.py", "test_tables.py", "test_tidy.py"}
"""Of level `unit`: the exhaustive models and the checks of the tree."""

STARTERS = ("subprocess", "multiprocessing", "bench.services", "coordinator.local.cluster")
CALLS = ("create_subprocess_exec", "create_subprocess_shell", "fork", "posix_spawn")


def starts(source: str) -> Iterator[str]:
    """What a module uses to start processes."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr in CALLS:
            yield node.attr
        yield from (
            name for name in names if f"{name}.".startswith(tuple(f"{s}." for s in STARTERS))
        )


def test_each_test_is_in_the_folder_of_a_level() -> None:
    found = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert found == LEVELS | OUTSIDE


@pytest.mark.parametrize("folder", ["unit", "models"])
def test_a_unit_test_starts_no_process(folder: str) -> None:
    found = {
        path.relative_to(TESTS).as_posix(): names
        for path in sorted((TESTS / folder).rglob("*.py"))
        if (names := list(starts(path.read_text(encoding="utf-8"))))
    }
    assert found == {}, "a test that starts processes is of tests/process"


@pytest.mark.parametrize("folder", ["unit", "contract", "simulation", "models", "support"])
def test_a_lower_level_imports_no_higher_one(folder: str) -> None:
    higher = [f"tests.{level}" for level in ("process", "cluster", "compose", "acceptance")]
    found = [
        path.relative_to(TESTS).as_posix()
        for path in sorted((TESTS / folder).rglob("*.py"))
        if any(f"from {name}" in path.read_text(encoding="utf-8") for name in higher)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from bench.services import etcd",
        "from coordinator.local.cluster import running",
        "asyncio.create_subprocess_exec('true')",
    ],
)
def test_a_planted_start_is_found(source: str) -> None:
    assert list(starts(source))
    assert not list(starts("from coordinator.local.journal import Journal\nimport asyncio"))
