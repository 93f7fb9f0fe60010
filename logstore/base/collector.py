"""Python's garbage collector beside live traffic."""

import gc

YOUNG_OBJECTS = 10_000
"""New container objects between two looks at the young ones; Python's own 700 are those of a few
calls."""


def settle() -> None:
    """Call it once a process serves: what it has loaded by then is never looked at again.

    A full collection looks at every container object and stops all threads meanwhile: at the
    74,000 of an idle instance for 60 to 180 ms on two shared cores, in the midst of appends.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
