"""Public names live in `logstore` for users, whatever module defines them."""

from typing import TypeVar

T = TypeVar("T")


def public(thing: T) -> T:
    """Make a class or function a member of `logstore`: in help, tracebacks and pickles."""
    thing.__module__ = "logstore"
    return thing
