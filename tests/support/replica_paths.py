"""Attributes of `Replica` that other modules reach: `python -m tests.support.replica_paths`.

A path is what stands behind a copy in the code, as in `replica.machine.end.end`. A part that
reaches many of them cannot be tested without the whole instance.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

NODE = Path(__file__).parents[2] / "logstore/node"
HOME = "instance/replica.py"
NAMES = {"replica", "held", "own"}
"""Variables that hold a `Replica`; parts keep theirs in `_replica`."""
HANDLES = ("log", "copy")
"""What parts are given in place of a `Replica`: a path ends there."""


def is_replica(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id in NAMES) or (
        isinstance(node, ast.Attribute) and node.attr == "_replica"
    )


def chains(tree: ast.AST) -> Iterator[str]:
    """Each path as it is written, without those that it begins with."""
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        names: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute) and not is_replica(at):
            names = [] if at.attr in HANDLES else names
            names.append(at.attr)
            at = at.value
        if names and is_replica(at):
            yield ".".join(reversed(names))


def paths_by_module() -> dict[str, set[str]]:
    """Module of an instance -> the paths that it reaches; only modules that name `Replica`."""
    found = {}
    for file in sorted(NODE.rglob("*.py")):
        text, name = file.read_text(), file.relative_to(NODE).as_posix()
        if name != HOME and "node.instance.replica import Replica" in text:
            reached = set(chains(ast.parse(text)))
            if reached:
                found[name] = reached
    return found


def copy_members() -> dict[str, set[str]]:
    """Module -> members of the `Copy` that it is given; modules that reach a `Replica` aside."""
    found = {}
    for file in sorted(NODE.rglob("*.py")):
        text, name = file.read_text(), file.relative_to(NODE).as_posix()
        if name in (HOME, "resources/copy.py") or "node.resources.copy import" not in text:
            continue
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)]
        used = {n.attr for n in nodes if ast.unparse(n.value) in ("copy", "self._copy")}
        if used and "node.instance.replica import" not in text:
            found[name] = used
    return found


if __name__ == "__main__":
    by_module = paths_by_module()
    for module, paths in by_module.items():
        print(f"{module}: {len(paths)}: {', '.join(sorted(paths))}")
    print(f"members of Copy that parts use: {sorted(set().union(*copy_members().values()))}")
    print(f"{len(set().union(*by_module.values()))} paths from {len(by_module)} modules")
