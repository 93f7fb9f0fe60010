"""What `logstore` shows of itself: names, types, help, version, and that to import it is cheap."""

import ast
import inspect
import pickle
import pydoc
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import logstore

ROOT = Path(__file__).resolve().parents[3]
THINGS = {name: getattr(logstore, name) for name in logstore.__all__ if name != "errors"}
WITHOUT_EXAMPLE = {"close", "aclose", "to_pandas", "to_polars"}
"""Plain as they are."""


def methods() -> Iterator[tuple[str, Any]]:
    """Public methods and properties of public classes, inherited ones of ours too."""
    for thing in filter(inspect.isclass, THINGS.values()):
        for kind in thing.__mro__:
            if not kind.__module__.startswith("logstore"):
                continue
            for name, member in vars(kind).items():
                if not name.startswith("_") and (
                    inspect.isfunction(member) or isinstance(member, property)
                ):
                    yield f"{thing.__name__}.{name}", member


def test_names_stub_and_dir_agree() -> None:
    stub = ast.parse((ROOT / "logstore/__init__.pyi").read_text())
    named = {alias.asname for n in stub.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert named == set(logstore.__all__)
    assert set(logstore.__all__) | {"__version__"} <= set(dir(logstore))
    assert logstore.__all__ == sorted(logstore.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'conect'"):
        _ = logstore.conect  # type: ignore[attr-defined]


def test_public_things_live_in_the_package() -> None:
    for name, thing in THINGS.items():
        assert (thing.__module__, thing.__qualname__) == ("logstore", name)
        assert pickle.loads(pickle.dumps(thing)) is thing
    ack = logstore.Ack("o/0", 1, 2)
    record = logstore.Record(b"k", b"v", 3, "o/0", 1, {"h": b""})
    assert pickle.loads(pickle.dumps([ack, record])) == [ack, record]
    assert repr(ack) == "Ack(shard='o/0', offset=1, timestamp=2, count=1, version=None)"


def test_the_version_is_the_distributions() -> None:
    assert logstore.__version__ == metadata.version("logstore")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "logstore.__version__"}


def test_help_shows_the_whole_interface() -> None:
    text = pydoc.plain(pydoc.render_doc(logstore))
    for name, thing in THINGS.items():
        assert f"class {name}(" in text or f"\n    {name}(" in text, name
        assert inspect.cleandoc(thing.__doc__).partition("\n")[0] in text, name
    for name in ("create_log(", "append_many(", "tail(", "to_arrow(", "poll("):
        assert text.count(f" |  {name}") >= 1, name
    assert logstore.__version__ in text


def test_everything_public_says_what_it_does_with_an_example() -> None:
    undocumented = [name for name, member in methods() if not member.__doc__]
    assert undocumented == []
    for name, thing in THINGS.items():
        assert "Example:\n" in (thing.__doc__ or ""), name
    for name, member in methods():
        plain = name == "TlsOptions.read" or name.partition(".")[2] in WITHOUT_EXAMPLE
        if inspect.isfunction(member) and not plain:
            assert "Example:\n" in (member.__doc__ or ""), name


def test_the_import_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import logstore; print(set(sys.modules) - before)"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(found.stdout) == {"logstore"}
