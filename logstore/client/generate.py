"""Make `sync_client` from `client`: `python -m logstore.client.generate [--check]`.

Each public method keeps its signature and its docstring, without `async` and `await`. `--check`
writes nothing and exits 1 when what is checked in differs from what would be made.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "client.py"
TARGET = HERE / "sync_client.py"

HEADER = '''\
"""The client for code without asyncio: one background thread runs the event loop.

Generated from client.py by `python -m logstore.client.generate`; do not edit.
"""
'''
TWINS = {name: f"Sync{name}" for name in ("Client", "Log", "Scan", "Records", "Results")}
LOOPED = frozenset(TWINS.values())
"""Types made from an asynchronous object and the loop."""
MADE_HERE = frozenset({"SyncClient", "SyncLog", "SyncScan"})
BY_HAND = {"Client": frozenset({"close"})}
"""Methods that a base in sync_base has."""
BASES = {"Client": "SyncClientBase", "Log": "SyncBase[Log]", "Scan": "SyncBase[Scan]"}
LIVES = {
    "Client": (
        r"It lives in the event loop.*?when it ends\.",
        "It may be used from several threads at once, not in a forked child. A call in progress\n"
        "in another thread ends with ClientClosedError when the client is closed.",
    )
}
"""Sentences about asyncio, and their twins about threads."""
WORDS = (
    (r"\basync (with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\banext\(", "next("),
    (r"\baclose\b", "close"),
    (r"\bconnect\b(?=[(`])", "connect_sync"),
    (rf"\b({'|'.join(TWINS)})(?=[.`(])", r"Sync\1"),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def generate() -> str:
    """The text of sync_client.py."""
    tree = ast.parse(SOURCE.read_text())
    parts: list[str] = []
    used: set[str] = {"public"}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "connect":
            parts.append(_connect(node))
            used |= _names(node.args)
        elif isinstance(node, ast.ClassDef) and node.name in BASES:
            parts.append(_class(node))
            for function in _public(node):
                used |= _names(function.args) | _names(function.returns)
    return _tidy(HEADER + "\n".join(_imports(tree, used)) + "\n" + "\n\n".join(parts))


def _public(node: ast.ClassDef) -> Iterator[Function]:
    skipped = BY_HAND.get(node.name, frozenset())
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not item.name.startswith("_") and item.name not in skipped:
            yield item


def _connect(node: ast.FunctionDef) -> str:
    return (
        f"@public\ndef connect_sync({ast.unparse(node.args)}) -> 'SyncClient':\n"
        f"{_doc(node, 4)}"
        f"    return SyncClient(connect({_passed(node.args)}))\n"
    )


def _class(node: ast.ClassDef) -> str:
    lines = [f"@public\nclass {TWINS[node.name]}({BASES[node.name]}):\n{_doc(node, 4)}"]
    for at, item in enumerate(node.body):  # declared attributes, each with its docstring
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, kind = item.target.id, ast.unparse(item.annotation)
            text = _literal(node.body[at + 1])
            lines.append(
                f'    @property\n    def {name}(self) -> {kind}:\n        """{text}"""\n'
                f"        return self._target.{name}\n"
            )
    return "\n".join([*lines, *(_method(function) for function in _public(node))])


def _method(node: Function) -> str:
    """The twin: coroutines run in the loop; what comes from a plain method is wrapped."""
    plain = isinstance(node, ast.FunctionDef)
    is_property = any(ast.unparse(d) == "property" for d in node.decorator_list)
    assert node.returns is not None, f"{node.name} has no return type"
    returns = ast.unparse(node.returns).strip("'\"")
    twin = re.sub(rf"\b({'|'.join(TWINS)})\b", r"Sync\1", returns)
    call = f"self._target.{node.name}"
    if not is_property:
        call += f"({_passed(node.args)})"
    if not plain:
        call = f"self._run(lambda: {call})"
    head = twin.partition("[")[0]
    kind = f"'{twin}'" if head in MADE_HERE else twin
    if head in LOOPED:
        call = f"{head}({call}, self._open())"
    return (
        f"{'    @property' if is_property else ''}\n"
        f"    def {node.name}({ast.unparse(node.args)}) -> {kind}:\n{_doc(node, 8)}"
        f"        {'' if twin == 'None' else 'return '}{call}\n"
    )


def _passed(args: ast.arguments) -> str:
    """The arguments of the call that hands these on."""
    given = [a.arg for a in (*args.posonlyargs, *args.args) if a.arg != "self"]
    given += [f"{a.arg}={a.arg}" for a in args.kwonlyargs]
    if args.kwarg is not None:
        given.append(f"**{args.kwarg.arg}")
    return ", ".join(given)


def _doc(node: Function | ast.ClassDef, indent: int) -> str:
    text = ast.get_docstring(node)
    assert text, f"{node.name} has no docstring"
    if node.name in LIVES:
        pattern, words = LIVES[node.name]
        text, count = re.subn(pattern, words, text, flags=re.DOTALL)
        assert count == 1, f"{node.name} does not say where it lives"
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text)
    lines = [f"{' ' * indent}{line}".rstrip() for line in text.splitlines()]
    end = f'\n{" " * indent}"""' if len(lines) > 1 else '"""'
    return (
        f'{" " * indent}"""{lines[0].strip()}' + "".join(f"\n{x}" for x in lines[1:]) + end + "\n"
    )


def _literal(node: ast.stmt) -> str:
    assert isinstance(node, ast.Expr)
    assert isinstance(node.value, ast.Constant)
    return str(node.value.value)


def _names(node: ast.AST | None) -> set[str]:
    """Names that an annotation or a default uses."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node is not None else set()


def _imports(tree: ast.Module, used: set[str]) -> Iterator[str]:
    """The imports of client.py that the twins use, and their own."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    yield ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if alias.name in used - TWINS.keys():
                    yield f"from {node.module} import {alias.name}"
    yield "from logstore.client.client import TIMEOUT_S, Log, Scan, connect"
    yield (
        "from logstore.client.sync_base import SyncBase, SyncClientBase, SyncRecords, SyncResults"
    )


def _tidy(text: str) -> str:
    """Sorted and formatted as the rest."""
    ruff = [str(Path(sys.executable).with_name("ruff")), "--stdin-filename", str(TARGET)]
    for command in (["check", "--quiet", "--fix", "--select", "I,UP037"], ["format", "--quiet"]):
        ran = subprocess.run(
            [ruff[0], *command, *ruff[1:], "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = ran.stdout
    return text


def main() -> int:
    made = generate()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(made)
        return 0
    if TARGET.exists() and TARGET.read_text() == made:
        return 0
    print(f"{TARGET.name} is stale: run python -m logstore.client.generate", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
