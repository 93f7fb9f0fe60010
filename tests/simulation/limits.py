"""Bounds that a short run would never reach, lower while a seed runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import logstore.base.limits
import logstore.client.sender
import logstore.node.appends.sealed
import logstore.node.appends.writer
import logstore.node.replication.peer_senders

CACHED_KEYS = 2
"""Keys whose version a copy keeps in mind."""


def _lower(window: int) -> list[tuple[ModuleType, str, float]]:
    return [
        (logstore.base.limits, "PRODUCER_WINDOW", window),
        (logstore.client.sender, "PRODUCER_WINDOW", window),
        (logstore.node.appends.writer, "VERSION_CACHE_KEYS", CACHED_KEYS),
        (logstore.node.appends.sealed, "VERSIONS_KEPT_MAX", CACHED_KEYS),
    ]


@contextmanager
def lowered(window: int, batches: int = 0) -> Iterator[None]:
    """`window`: appends of a producer that may be under way, and that a copy remembers. `batches`:
    in one message of a push, 0: as many as there are."""
    lower = _lower(window)
    if batches:
        lower.append((logstore.node.replication.peer_senders, "READ_BATCHES_MAX", batches))
    real = [getattr(module, name) for module, name, _ in lower]
    for module, name, bound in lower:
        setattr(module, name, bound)
    try:
        yield
    finally:
        for (module, name, _), bound in zip(lower, real, strict=True):
            setattr(module, name, bound)


def producer_window() -> int:
    """The bound that holds now, lowered or not."""
    return logstore.base.limits.PRODUCER_WINDOW
