"""Where a public name lives for whoever uses it: in `logstore`, whatever module defines it."""

from typing import TypeVar

T = TypeVar("T")


def public(thing: T) -> T:
    """A class or function that belongs to `logstore`: in help, tracebacks and pickles."""
    thing.__module__ = "logstore"
    return thing
