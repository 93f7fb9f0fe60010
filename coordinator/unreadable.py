"""Stored entries that cannot be decoded: shown beside the others, never in their way.

An entry is odd when another version, another tool or a person wrote it. Listings show
the good ones and name the odd ones; a person removes or repairs them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from logstore.base.errors import LogstoreError
from logstore.meta.port import Versioned

WHY_CHARS_MAX = 300

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Odd:
    """The entry's name, and in `odd` why it cannot be decoded."""

    name: str
    odd: str


def decoded(
    items: Iterable[Versioned], prefix: str, decode: Callable[[bytes], T]
) -> tuple[list[T], list[Odd]]:
    """The entries under `prefix` as records; those that `decode` refuses, as odd ones."""
    good: list[T] = []
    odd: list[Odd] = []
    for item in items:
        try:
            good.append(decode(item.value))
        except (msgspec.MsgspecError, ValueError, LogstoreError) as e:
            odd.append(Odd(item.key.removeprefix(prefix), str(e)[:WHY_CHARS_MAX]))
    return good, odd
