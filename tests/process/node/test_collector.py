"""What a process has loaded is no work for the garbage collector once it serves."""

import subprocess
import sys

LOOK = (
    "import gc; import logstore.node.server; from logstore.base import collector;"
    "collector.settle(); young = len(gc.get_objects());"
    "print(gc.get_freeze_count(), young, gc.get_threshold()[0])"
)


def test_loaded_objects_are_not_looked_at_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    frozen, young, threshold = map(int, done.stdout.split())
    assert frozen > 20_000
    assert young < frozen / 100
    assert threshold > 700
