"""I4: (shard, offset) names the same bytes on every replica and for ever, until trimmed."""

from collections.abc import Iterable, Sequence

from tests.support.checkers.history import CopyState, ReadCall, Row, Violation


def check_copies(copies: Iterable[CopyState]) -> list[Violation]:
    """Below its high watermark every copy has the same chain at the same offset."""
    seen: dict[tuple[str, int], tuple[bytes, CopyState]] = {}
    found = []
    for copy in copies:
        end = copy.links[-1].end if copy.links else copy.base
        if copy.high_watermark > end:
            found.append(Violation("I4", f"{copy.instance} claims {copy.high_watermark} committed "
                                   f"records of {copy.shard}, it has {end}"))  # fmt: skip
        for link in copy.links:
            if link.end > copy.high_watermark:
                break
            chain, other = seen.setdefault((copy.shard, link.end), (link.chain, copy))
            if chain != link.chain:
                found.append(Violation("I4", f"{copy.shard} differs below offset {link.end} on "
                                       f"{other.instance} and {copy.instance}"))  # fmt: skip
                break
    return found


def check_reads(reads: Sequence[ReadCall], final: Iterable[Row]) -> list[Violation]:
    """No two readers, at whatever time, saw different records at one offset."""
    seen = {(row.shard, row.offset): row for row in final}
    found = []
    for call in reads:
        for row in call.rows:
            first = seen.setdefault((row.shard, row.offset), row)
            if first != row:
                found.append(Violation("I4", f"{call.client} read {row.value!r} at {row.shard}:"
                                       f"{row.offset}, another reader {first.value!r}",
                                       call.returned_s))  # fmt: skip
    return found


def check(
    copies: Iterable[CopyState], reads: Sequence[ReadCall], final: Iterable[Row]
) -> list[Violation]:
    return check_copies(copies) + check_reads(reads, final)
