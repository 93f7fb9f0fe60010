"""Each page of docs/how-to, done as it says in a copy of the tree: its commands prove it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.howto.pages import PAGES, Hunk, apply, page_of, scratch_tree

BIN = Path(sys.executable).parent
LINES_MAX = 110


def shell(tree: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command as the reader types it, with the environment active, in the tree."""
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tree),
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tree, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_it_is_done_as_the_page_says(path: Path, tmp_path: Path) -> None:
    page = page_of(path.read_text(), path.name)
    new = {hunk.path for hunk in page.hunks if not hunk.before}
    test = [name for name in new if re.fullmatch(r"tests/.*/test_\w+\.py", name)]
    assert len(test) == 1, "a page adds one test, which shows the change"
    tree = scratch_tree(tmp_path)

    # Without the change its test fails: it can.
    [shown] = [hunk for hunk in page.hunks if hunk.path == test[0]]
    apply(tree, shown)
    assert any(test[0] in command for command in page.commands), "no command runs the test"
    assert shell(tree, f"python -m pytest -q {test[0]}").returncode != 0
    (tree / shown.path).unlink()

    for hunk in page.hunks:
        apply(tree, hunk)
    for command in page.commands:
        done = shell(tree, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_the_blocks_of_a_page_are_read() -> None:
    page = page_of(
        "# A\n```diff\n+++ a.txt\n one\n-two\n+2\n@@\n+++\n```\n\n```bash\nmake a  # why\n```\n",
        "a.md",
    )
    assert page.hunks == [
        Hunk("a.txt", "one\ntwo\n", "one\n2\n", "a.md"),
        Hunk("a.txt", "", "++\n", "a.md"),
    ]
    assert page.commands == ["make a"]
    with pytest.raises(ValueError, match=r"begins with ' one'"):
        page_of("```diff\n one\n```\n", "a.md")
    with pytest.raises(ValueError, match=r"'two' is no line"):
        page_of("```diff\n+++ a.txt\ntwo\n```\n", "a.md")


def test_lines_that_are_not_there_or_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\none\n")
    quoted = r"you changed lines that docs/how-to/a\.md quotes: update its context"
    with pytest.raises(ValueError, match=rf"{quoted}\na\.txt has these lines 0 times"):
        apply(tmp_path, Hunk("a.txt", "three\n", "3\n", "a.md"))
    with pytest.raises(ValueError, match="2 times"):
        apply(tmp_path, Hunk("a.txt", "one\n", "1\n", "a.md"))
    with pytest.raises(ValueError, match="exists"):
        apply(tmp_path, Hunk("a.txt", "", "1\n", "a.md"))
    apply(tmp_path, Hunk("a.txt", "two\n", "2\n", "a.md"))
    assert (tmp_path / "a.txt").read_text() == "one\n2\none\n"
