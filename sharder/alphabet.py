"""Split keys for keys of text, of which only the characters are known. Pure."""

import re
from collections.abc import Sequence

from sharder.initial import SHARDS_MAX
from sharder.keys import KeyRange, RoutingKey

CHARS_MAX = 4_096
TEXT = KeyRange(b" ", b"\x7f")
"""The first bytes of printable ASCII."""

_PART = re.compile(r"(.)-(.)|(.)", re.DOTALL)


def characters(alphabet: str) -> list[str]:
    """`0-9a-f` as its characters, by rising UTF-8. ValueError: fewer than 2, more than CHARS_MAX,
    or a range that does not rise."""
    found: set[str] = set()
    for first, last, single in _PART.findall(alphabet):
        if first and last < first:
            raise ValueError(f"{first}-{last} does not rise")
        found.update(map(chr, range(ord(first), ord(last) + 1)) if first else single)
        if len(found) > CHARS_MAX:
            raise ValueError(f"it has more than {CHARS_MAX} characters")
    if len(found) < 2:
        raise ValueError(f"it has {len(found)} characters, it must have at least 2")
    return sorted(found, key=lambda c: c.encode("utf-8", "surrogatepass"))


def cuts_of_alphabet(alphabet: str, shards: int) -> list[RoutingKey]:
    """`shards` - 1 rising split keys that divide words over the characters evenly, each character
    as likely as the others at each place. ValueError as `characters` has it."""
    if not 1 <= shards <= SHARDS_MAX:
        raise ValueError(f"shards is {shards}, it must be within 1..{SHARDS_MAX}")
    chars = characters(alphabet)
    places = 1
    while len(chars) ** places < shards:
        places += 1
    words = [_word(i * len(chars) ** places // shards, chars, places) for i in range(1, shards)]
    return [word.encode() for word in words]


def _word(number: int, chars: Sequence[str], places: int) -> str:
    """In base `len(chars)`; without the lowest character at its end, for a key that ends there."""
    found = ""
    for _ in range(places):
        number, digit = divmod(number, len(chars))
        found = chars[digit] + found
    return found.rstrip(chars[0])


def holding_text(ranges: Sequence[KeyRange]) -> int:
    """How many of the ranges a key of printable ASCII can be in."""
    return sum(1 for range_ in ranges if range_.overlaps(TEXT))
