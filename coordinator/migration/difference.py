"""The first difference of two copies: digests of ranges, narrowed to one stored batch."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

RANGES = 64
"""Each round of questions divides the span into this many ranges."""
ROUNDS_MAX = 12


@dataclass(frozen=True, slots=True)
class RangeDigest:
    """Stored batches that follow each other: half-open offsets and bytes, and their digest. Bytes
    count from the batch at the start of the question."""

    start: int
    end: int
    start_byte: int
    end_byte: int
    batches: int
    digest: bytes


Ask = Callable[[int, int, int], Awaitable[Sequence[RangeDigest]]]
"""(start, stop, ranges) -> the digests of one copy."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first stored batches that differ: half-open offsets, and bytes counted from `origin`."""

    origin: int
    start: int
    end: int
    start_byte: int
    end_byte: int

    def __str__(self) -> str:
        return (
            f"offsets {self.start}..{self.end - 1}, bytes {self.start_byte}..{self.end_byte - 1} "
            f"of what is stored from offset {self.origin} on"
        )


async def first_difference(one: Ask, other: Ask, start: int, stop: int) -> Difference | None:
    """None: both hold the same batches from `start` to `stop`, which both must have."""
    origin, byte = start, 0
    found: Difference | None = None
    for _ in range(ROUNDS_MAX):
        mine, theirs = await one(start, stop, RANGES), await other(start, stop, RANGES)
        pair = next(((a, b) for a, b in zip(mine, theirs, strict=False) if a != b), None)
        if pair is None and len(mine) == len(theirs):
            return found
        if pair is None:  # one of them is longer: the difference begins where the shorter one ends
            short, rest = sorted((mine, theirs), key=len)
            a = b = rest[len(short)]
        else:
            a, b = pair
        begin, end = min(a.start, b.start), max(a.end, b.end)
        first_byte = byte + min(a.start_byte, b.start_byte)
        found = Difference(origin, begin, end, first_byte, byte + max(a.end_byte, b.end_byte))
        if (a.batches <= 1 and b.batches <= 1) or (begin, end) == (start, stop):
            return found
        start, stop, byte = begin, end, first_byte
    return found
