"""gRPC and `os.fork`: what was tried, and the rule that follows.

A child that is forked before gRPC opened anything works. One forked later hangs or ends with a
segmentation fault at its first call, also through new channels, also after all channels were
closed, with and without GRPC_ENABLE_FORK_SUPPORT (grpcio 1.85). So the child of a process that has
used gRPC never uses it: every channel and server passes `use`.

With gRPC's own fork handlers, on by default, 14 of 60 children that did nothing at all ended with a
segmentation fault; without them none of 60. So they are off, unless the environment sets them
or another module imported grpc before.
"""

import os

os.environ.setdefault(
    "GRPC_ENABLE_FORK_SUPPORT", "0"
)  # read when grpc is imported: see client/__init__.py

from logstore.base.errors import ClientUseError

_SPAWN = (
    "start processes with multiprocessing's 'spawn' or 'forkserver', or fork before the first"
    " client is opened"
)

_used = False
_lost = False
_generation = 0


def use() -> None:
    """Remember that gRPC runs here; ClientUseError in the child of a process where it did."""
    global _used
    if _lost:
        raise ClientUseError(
            f"process {os.getpid()} was forked from one that had used gRPC, which does not survive"
            f" a fork: {_SPAWN}"
        )
    _used = True


def generation() -> int:
    """Which process this is: the forks between it and the one that imported this module."""
    return _generation


def is_here(opened_in: int) -> bool:
    """Whether this is the process of that generation."""
    return opened_in == _generation


def check(opened_in: int) -> None:
    """ClientUseError unless this is the process of that generation."""
    if not is_here(opened_in):
        raise ClientUseError(
            f"the client was opened before process {os.getpid()} was forked, and its connections"
            f" stay with the parent: {_SPAWN}"
        )


def _after_fork_in_child() -> None:
    global _lost, _generation
    _lost = _lost or _used
    _generation += 1


os.register_at_fork(after_in_child=_after_fork_in_child)
