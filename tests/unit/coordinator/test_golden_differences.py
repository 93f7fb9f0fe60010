"""What a change of answers says: which differ, where, and how they are accepted."""

from pathlib import Path

import pytest

from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from tests.support import golden
from tests.support.golden import Golden


def taken(**versions: int) -> Golden:
    """A scene that asked `Catalog.NAME` for each name."""
    found = Golden("scene", frozenset())
    for name, version in versions.items():
        json = b'{"same":true,"version":%d}' % version
        found.take(f"Catalog.{name}", pb.JsonResponse(json=json))
    return found


def test_what_differs_is_shown_and_how_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "WRITE", True)
    taken(Same=1, Changed=1, Gone=1).check()
    monkeypatch.setattr(golden, "WRITE", False)
    taken(Same=1, Changed=1, Gone=1).check()
    with pytest.raises(AssertionError) as raised:
        taken(Same=1, Changed=2, Came=1).check()
    said = str(raised.value).splitlines()
    files = [line for line in said if line.startswith("scene/")]
    assert files == [
        "scene/Catalog.Came.json is new",
        "scene/Catalog.Changed.json differs",
        "scene/Catalog.Gone.json is not answered",
    ]
    changed = said.index(files[1])
    assert '-    "version": 1' in said[changed:]
    assert '+    "version": 2' in said[changed:]
    command, _, test = said[-1].partition("::")
    assert test == "test_what_differs_is_shown_and_how_it_is_accepted"
    assert command.endswith(f"GOLDEN=write python -m pytest {__name__.replace('.', '/')}.py")


def test_of_a_long_answer_the_first_lines_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    found = Golden("scene", frozenset())
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "Catalog.Long.json").write_text("{}\n")
    found.take("Catalog.Long", pb.JsonResponse(json=b"[" + b"1," * 1_000 + b"1]"))
    with pytest.raises(AssertionError) as raised:
        found.check()
    assert len(str(raised.value).splitlines()) <= golden.LINES_SHOWN_MAX + 3
