"""One owner for a directory, which other processes can name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from logstore.base.directory_lock import DirectoryLock
from logstore.base.errors import DirectoryInUseError

HOLD = """
import sys
from pathlib import Path
from logstore.base.directory_lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]), "lock")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_owner_is_refused_and_told_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    lock = DirectoryLock(folder, "lock")
    with pytest.raises(DirectoryInUseError) as refused:
        DirectoryLock(folder, "lock")
    assert str(folder) in refused.value.message
    assert f"({os.getpid()})" in refused.value.message
    lock.release()
    DirectoryLock(folder, "lock").release()


def test_the_owner_is_another_process_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryInUseError, match=rf"\({process.pid}\)"):
            DirectoryLock(tmp_path, "lock")
        process.kill()
    DirectoryLock(tmp_path, "lock").release()


def test_a_shared_lock_is_held_until_both_are_released(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path, "lock")
    second = lock.share()
    lock.release()
    with pytest.raises(DirectoryInUseError):
        DirectoryLock(tmp_path, "lock")
    second.release()
    DirectoryLock(tmp_path, "lock").release()


def test_a_file_in_its_place_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(FileExistsError):
        DirectoryLock(tmp_path / "file", "lock")
